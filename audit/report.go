package audit

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sealtap/sealtap/record"
)

// Verdict is what an audit comes to.
type Verdict string

// The verdicts.
const (
	Pass       Verdict = "pass"
	Fail       Verdict = "fail"       // something was proven to be wrong
	Incomplete Verdict = "incomplete" // something could not be fetched; nothing is concluded
)

// Severity says whether a finding speaks against the log.
type Severity string

// The severities.
const (
	Finds Severity = "finding" // the verdict is fail
	Notes Severity = "notice"  // the verdict stays as it is
)

// Code names the kind of a finding.
type Code string

// The codes, the most serious first. docs/audit.md explains each.
const (
	Rollback            Code = "rollback"
	Fork                Code = "fork"
	CheckpointSignature Code = "checkpoint-signature"
	QuorumNotMet        Code = "quorum-not-met"
	GenesisInvalid      Code = "genesis-invalid"
	KeyChangeInvalid    Code = "key-change-invalid"
	PredecessorMismatch Code = "predecessor-mismatch"
	RootMismatch        Code = "root-mismatch"
	EntryAltered        Code = "entry-altered"
	RecordMissing       Code = "record-missing"
	SealMismatch        Code = "seal-mismatch"
	SealSignature       Code = "seal-signature"
	UnknownProducer     Code = "unknown-producer"
	RecordDuplicated    Code = "record-duplicated"
	TimeOrder           Code = "time-order"
	OpeningMismatch     Code = "opening-mismatch"
	OpeningClosed       Code = "opening-closed"
	SidesDiffer         Code = "sides-differ"
	TileAltered         Code = "tile-altered"
	BackupAltered       Code = "backup-altered"
	EntryMalformed      Code = "entry-malformed"
	StartMissing        Code = "start-missing"
	UnsealedTail        Code = "unsealed-tail"
	BracketWide         Code = "bracket-wide"
	GapDeclared         Code = "gap-declared"
	ProducerSilent      Code = "producer-silent"
	SilentInterval      Code = "silent-interval"
	UncleanStop         Code = "unclean-stop"
	IncarnationUnlinked Code = "incarnation-unlinked"
	IncarnationBranched Code = "incarnation-branched"
	Pruned              Code = "pruned"
	Continues           Code = "continues"
	Closed              Code = "closed"
	OperatorNotPinned   Code = "operator-not-pinned"
)

// rank orders the codes by how serious they are.
func (c Code) rank() int {
	return slices.Index([]Code{
		Rollback, Fork, CheckpointSignature, QuorumNotMet, GenesisInvalid, KeyChangeInvalid, PredecessorMismatch, RootMismatch, EntryAltered,
		RecordMissing, SealMismatch, SealSignature, UnknownProducer, RecordDuplicated, TimeOrder, OpeningMismatch, SidesDiffer, TileAltered, BackupAltered,
		EntryMalformed, StartMissing, UnsealedTail, BracketWide, GapDeclared, OpeningClosed, ProducerSilent, SilentInterval, UncleanStop, IncarnationUnlinked, IncarnationBranched, Pruned, Continues, Closed, OperatorNotPinned,
	}, c)
}

// Report is the outcome of an audit.
type Report struct {
	Verdict    Verdict  `json:"verdict"`
	Source     string   `json:"source"`
	Origin     string   `json:"origin"`
	Size       uint64   `json:"size"`
	Root       string   `json:"root"` // standard base64
	CosignedBy []string `json:"cosigned_by"`
	CosignedAt string   `json:"cosigned_at,omitempty"` // when the quorum was met (RFC 3339)
	Operator   string   `json:"operator,omitempty"`    // vkey that the producers' keys rest on
	// Statements is what the operator has said in the log since its genesis.
	Statements Statements `json:"operator_statements"`
	// Predecessor is absent where the log begins by itself.
	Predecessor *Predecessor `json:"predecessor,omitempty"`
	Producers   []Producer   `json:"producers"`
	Lives       []Life       `json:"-"` // of all producers, oldest first; as far as the audit came
	Findings    []Finding    `json:"findings"`
	Omitted     map[Code]int `json:"omitted,omitempty"`    // further findings of a code, above the limit
	Unfinished  []string     `json:"unfinished,omitempty"` // what could not be fetched
	Checked     Checked      `json:"checked"`
	// Known is what earlier audits had read already and this one did not read again;
	// absent where it has read everything.
	Known *Known `json:"known,omitempty"`
	// TreeOnly is set where nobody looked at what entries say.
	TreeOnly bool `json:"tree_only,omitempty"`
	// ReadAnew says why everything was read although an earlier audit knew a part.
	ReadAnew string `json:"read_anew,omitempty"`
	// GoesOnFrom is the index at which the next audit goes on where this one was not
	// finished; 0 if it begins anew.
	GoesOnFrom uint64        `json:"goes_on_from,omitempty"`
	Duration   time.Duration `json:"duration_ns"`

	// The rest is there where [Options] ask for it.
	Time         time.Time     `json:"time,omitzero"` // when the audit began, by the auditor's clock
	Period       *PeriodReport `json:"period,omitempty"`
	Coverage     []Coverage    `json:"coverage,omitempty"`
	SpansOmitted int           `json:"spans_omitted,omitempty"` // above the limit
	Witnesses    []WitnessSeen `json:"witnesses,omitempty"`
	Trust        *Trust        `json:"trust,omitempty"`
	Checkpoint   string        `json:"checkpoint,omitempty"` // the signed head, verbatim
	NotProven    []string      `json:"not_proven,omitempty"`
}

// Known is how far earlier audits have read. What was altered there since shows only
// where it changes a root.
type Known struct {
	Entries uint64 `json:"entries"` // those below this index
	At      string `json:"at"`      // when they had been read (RFC 3339)
	Ended   bool   `json:"ended"`   // by an audit that passed; else by one that was interrupted
}

// Statements counts the operator's statements about keys and about the log. A log
// that was pruned could leave out the newest: compare with what the operator made.
type Statements struct {
	Count     uint64 `json:"count"`                // the number of the newest
	LastIndex uint64 `json:"last_index,omitempty"` // of the newest, in the log
	LastLeaf  string `json:"last_leaf,omitempty"`  // its leaf hash, standard base64
}

// Producer is one key that writes to the log.
type Producer struct {
	Name         string `json:"name"`
	Key          string `json:"key"` // identifier of the key, hexadecimal
	Incarnations int    `json:"incarnations"`
	Records      uint64 `json:"records"`
	Sealed       uint64 `json:"sealed"`          // of them, those under a verified seal
	First        string `json:"first,omitempty"` // when the first record says it was made (RFC 3339)
	Last         string `json:"last,omitempty"`
	FirstIndex   uint64 `json:"first_index"`
	LastIndex    uint64 `json:"last_index"`
}

// Life is one incarnation of a producer.
type Life struct {
	Stream  record.Stream
	Pruned  uint64 // records below the log's minimum index, by its word
	Records uint64 // in all
	Sealed  uint64 // of all, those under the largest seal that holds good; 0 if none does
	SealAt  uint64 // index of that seal, if there is one
}

// Finding is one thing that an audit found.
type Finding struct {
	Code        Code     `json:"code"`
	Severity    Severity `json:"severity"`
	Index       *uint64  `json:"index,omitempty"` // in the log
	Producer    string   `json:"producer,omitempty"`
	ProducerKey string   `json:"producer_key,omitempty"` // identifier of its key, hexadecimal
	Incarnation string   `json:"incarnation,omitempty"`
	Sequence    *uint64  `json:"sequence,omitempty"`
	Detail      string   `json:"detail"`
	Heads       []string `json:"heads,omitempty"` // signed checkpoints that prove it
}

// Checked counts what was checked.
type Checked struct {
	Entries    uint64 `json:"entries"`
	Records    uint64 `json:"records"`
	Seals      uint64 `json:"seals"`
	KeyChanges uint64 `json:"key_changes"`
	Statements uint64 `json:"statements"` // of the operator about the log
	Pruned     uint64 `json:"pruned"`     // entries that the log no longer keeps: those below this index
	Beacons    uint64 `json:"beacons"`    // with a checkpoint that verifies and is consistent with the log
	Bracketed  uint64 `json:"bracketed"`  // records whose time is bounded on both sides
	// WidestBracket is the longest time between two bounds of a record.
	WidestBracket time.Duration `json:"widest_bracket_ns"`

	// Sides counts pairs of exchanges of two proxies on one path that were compared,
	// SidesUnpaired those that could not be: one was cut short, or tried again, or is
	// not in the log, or came too far behind the other.
	Sides         uint64 `json:"sides"`
	SidesUnpaired uint64 `json:"sides_unpaired"`

	Openings uint64 `json:"openings"`
	Tiles    uint64 `json:"tiles"`
	Other    uint64 `json:"other"` // entries of a kind that this program does not know
	// UnknownSignatures counts signature lines of the checkpoint under audit by
	// keys that the policy does not list: they mean nothing.
	UnknownSignatures int `json:"unknown_signatures"`
	// Consistent is set where an earlier audit's checkpoint was compared.
	Consistent bool `json:"consistent_with_state"`
}

// limit bounds the findings of one code, and the notices, that a report holds.
const limit = 200

// counted is what the limit is for: notices, which honest writers and others can
// make as many of as they like, must not keep findings from being named.
type counted struct {
	code     Code
	severity Severity
}

// findings collects findings. It may be used by several goroutines.
type findings struct {
	mu         sync.Mutex
	list       []Finding
	count      map[counted]int
	failed     bool
	unfinished []string
}

func (f *findings) add(x Finding) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == nil {
		f.count = make(map[counted]int)
	}
	f.failed = f.failed || x.Severity == Finds
	c := counted{x.Code, x.Severity}
	if f.count[c]++; f.count[c] <= limit {
		f.list = append(f.list, x)
	}
}

func (f *findings) unavailable(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.unfinished) < limit {
		f.unfinished = append(f.unfinished, err.Error())
	}
}

// conclude writes the findings and the verdict into the report.
func (f *findings) conclude(r *Report) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.Findings = append([]Finding{}, f.list...)
	sortFindings(r.Findings)
	for c, n := range f.count {
		if n > limit {
			if r.Omitted == nil {
				r.Omitted = make(map[Code]int)
			}
			r.Omitted[c.code] += n - limit
		}
	}
	r.Unfinished = f.unfinished
	switch {
	case f.failed: // what is proven stays proven, whatever else could not be had
		r.Verdict = Fail
	case len(f.unfinished) > 0, r.Period != nil && !r.Period.Complete:
		r.Verdict = Incomplete
	default:
		r.Verdict = Pass
	}
}

// Add adds a finding of somebody who knows more of the source than that it is a log.
func (r *Report) Add(x Finding) {
	if x.Severity == Finds {
		r.Verdict = Fail
	}
	r.Findings = append(r.Findings, x)
	sortFindings(r.Findings)
}

func sortFindings(list []Finding) {
	slices.SortStableFunc(list, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.severityRank(), b.severityRank()), cmp.Compare(a.Code.rank(), b.Code.rank()), cmp.Compare(value(a.Index), value(b.Index)))
	})
}

func (x Finding) severityRank() int {
	if x.Severity == Finds {
		return 0
	}
	return 1
}

func value(p *uint64) uint64 {
	if p == nil {
		return 0
	}
	return *p
}

// at gives a finding its place in the log.
func (x Finding) at(index uint64) Finding {
	x.Index = &index
	return x
}

// of gives a finding its place in a producer's tree.
func (x Finding) of(name string, s record.Stream, sequence uint64) Finding {
	x.Producer, x.ProducerKey, x.Incarnation, x.Sequence = name, s.Producer.String(), s.Incarnation.String(), &sequence
	return x
}

func finding(c Code, format string, args ...any) Finding {
	return Finding{Code: c, Severity: Finds, Detail: fmt.Sprintf(format, args...)}
}

func notice(c Code, format string, args ...any) Finding {
	return Finding{Code: c, Severity: Notes, Detail: fmt.Sprintf(format, args...)}
}

func b64(h record.Hash) string { return base64.StdEncoding.EncodeToString(h[:]) }

func clock(unixNano int64) string { return time.Unix(0, unixNano).UTC().Format(time.RFC3339Nano) }

func seconds(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
