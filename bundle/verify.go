package bundle

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	merkle "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// Malformed is the code of what is not in the form of a bundle, or damaged.
const Malformed audit.Code = "bundle-malformed"

// Report says what a bundle proves.
type Report struct {
	Verdict    audit.Verdict   `json:"verdict"`
	Origin     string          `json:"origin"`
	Size       uint64          `json:"size"`
	Root       string          `json:"root"`
	CosignedBy []string        `json:"cosigned_by"`
	CosignedAt string          `json:"cosigned_at,omitempty"` // when the quorum was met (RFC 3339)
	Pinned     bool            `json:"operator_pinned"`
	Records    uint64          `json:"records"` // proven, with those of gaps
	Gaps       uint64          `json:"gaps"`    // of them
	Openings   uint64          `json:"openings"`
	Statements uint64          `json:"operator_statements"`
	Older      *Head           `json:"goes_on_from,omitempty"` // the head that it is proven to go on from
	Compared   bool            `json:"compared"`               // that head, or this one, is the one that the caller has
	Range      *RangeReport    `json:"range,omitempty"`        // of a complete bundle
	Filter     string          `json:"filter"`                 // as the maker says
	Unsealed   uint64          `json:"unsealed"`               // as the maker says
	Proven     []string        `json:"proven"`
	NotProven  []string        `json:"not_proven"`
	Findings   []audit.Finding `json:"findings"`
	Omitted    int             `json:"omitted,omitempty"` // further findings
}

// Head is a head of the log.
type Head struct {
	Size uint64 `json:"size"`
	Root string `json:"root"`
}

// RangeReport says what stands in the range of a complete bundle.
type RangeReport struct {
	Range
	Records   uint64        `json:"records"`   // under seals: all of them, each at its place in its producer's tree
	Shown     uint64        `json:"shown"`     // of them, those that the bundle shows in full
	Others    uint64        `json:"others"`    // entries that are no records, shown in full
	Unsettled uint64        `json:"unsettled"` // leaves of which no seal shows what they are
	Streams   []StreamRange `json:"streams"`
}

// StreamRange is what of one producer tree stands in the range.
type StreamRange struct {
	Producer    string `json:"producer"`
	Key         string `json:"key"`
	Incarnation string `json:"incarnation"`
	First       uint64 `json:"first_sequence"`
	End         uint64 `json:"end_sequence"` // behind the last
}

// VerifyOptions say what to trust.
type VerifyOptions struct {
	// Policy names the log and its witnesses; it is needed. That in the bundle is for
	// people to compare.
	Policy *policy.Policy
	// Operator pins the operator's key; nil: the policy's pin.
	Operator *keys.Public
	// Known, if not nil, is a checkpoint that the caller trusts from before. The
	// bundle's head must be the same one, or go on from it.
	Known *policy.Checkpoint
	// Progress, if not nil, is told how many bytes are done.
	Progress func(done, total uint64)
}

// Verify verifies the bundle at a path. It returns an error only where it cannot
// start, or cannot read; whatever is wrong with the bundle is in the report.
func Verify(path string, o VerifyOptions) (*Report, error) {
	if o.Policy == nil {
		return nil, fmt.Errorf("%w: there is no policy", audit.ErrConfig)
	}
	src, err := open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return verify(src, o)
}

func verify(src files, o VerifyOptions) (*Report, error) {
	if o.Operator == nil {
		o.Operator = o.Policy.Operator
	}
	v := &verifier{VerifyOptions: o, src: src, disclosed: make(map[uint64]leaf), seals: make(map[record.Stream]*record.Seal)}
	v.report = &Report{CosignedBy: []string{}, Pinned: o.Operator != nil, Proven: []string{}, NotProven: []string{}, Findings: []audit.Finding{}}
	if err := v.run(); err != nil {
		return nil, err
	}
	v.conclude()
	return v.report, nil
}

// verifier verifies one bundle, member after member.
type verifier struct {
	VerifyOptions
	src    files
	m      *Manifest
	report *Report

	head      *policy.Checkpoint
	older     *policy.Checkpoint
	ring      *record.Keyring
	disclosed map[uint64]leaf // records shown in full
	seals     map[record.Stream]*record.Seal
	ranged    *ranger
	first     time.Time
	last      time.Time
	after     string // the earliest lower bound of a record (RFC 3339)
	loose     uint64 // records without a lower bound
	done      uint64
	total     uint64
}

// leaf is what is known of an entry that was shown.
type leaf struct {
	hash   record.Hash
	stream record.Stream
	seq    uint64
}

func (v *verifier) find(c audit.Code, format string, args ...any) {
	v.add(audit.Finding{Code: c, Severity: audit.Finds, Detail: fmt.Sprintf(format, args...)})
}

func (v *verifier) add(x audit.Finding) {
	if len(v.report.Findings) > maxFindings {
		v.report.Omitted++
		return
	}
	v.report.Findings = append(v.report.Findings, x)
}

func (v *verifier) run() error {
	b, err := v.src.manifest()
	if err == nil {
		v.m, err = parseManifest(b)
	}
	if err != nil {
		return v.broken(err)
	}
	for _, x := range v.m.Members {
		v.total += uint64(x.Size)
	}
	if lacks := v.m.lacks(); len(lacks) > 0 {
		v.find(Malformed, "the bundle lacks %q, without which it does not prove what it says to", lacks)
	}
	for _, x := range v.m.Members {
		if err := v.member(x); errors.Is(err, errStop) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return v.broken(v.src.end(v.m))
}

// errStop says that nothing behind can be read, and that this has been reported.
var errStop = errors.New("the rest cannot be read")

// broken makes what is wrong with the form a finding; other errors stay.
func (v *verifier) broken(err error) error {
	if errors.Is(err, ErrMalformed) {
		v.find(Malformed, "%v", err)
		return nil
	}
	return err
}

func (v *verifier) member(x Member) error {
	r, err := v.src.next(x)
	if err != nil {
		if err := v.broken(err); err != nil {
			return err
		}
		if _, ok := v.src.(*directory); ok {
			return nil // the others are there all the same
		}
		return errStop
	}
	h := newHashed(r)
	if err := v.read(x, h); err != nil {
		return err
	}
	v.done += uint64(x.Size)
	if v.Progress != nil {
		v.Progress(v.done, v.total)
	}
	err = h.finish(x)
	if errors.Is(err, ErrMalformed) {
		v.find(Malformed, "%v", err)
		return nil
	}
	return err
}

// read verifies what stands in a member. It returns errors of reading only.
func (v *verifier) read(x Member, r io.Reader) error {
	switch x.Name {
	case headFile, olderFile, consistent:
		b, err := small(x, r, maxSmall)
		if err != nil {
			return v.broken(err)
		}
		v.readHead(x.Name, b)
	case keysFile, recordsFile, gapsFile, sealsFile:
		if v.head != nil {
			return v.documents(x.Name, r)
		}
	case rangeFile:
		b, err := small(x, r, maxRange)
		if err != nil {
			return v.broken(err)
		}
		if v.head != nil && v.m.Range != nil {
			v.readRange(b)
		}
	case leavesFile:
		if v.ranged != nil {
			return v.readLeaves(r)
		}
	}
	return nil
}

func small(x Member, r io.Reader, limit int64) ([]byte, error) {
	if x.Size > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than any has", ErrMalformed, x.Name, x.Size)
	}
	b, err := io.ReadAll(io.LimitReader(r, limit))
	if err == nil && int64(len(b)) != x.Size {
		err = fmt.Errorf("%w: %s ends after %d of %d bytes", ErrMalformed, x.Name, len(b), x.Size)
	}
	return b, err
}

// readHead takes the three members about heads of the log.
func (v *verifier) readHead(name string, b []byte) {
	switch name {
	case headFile:
		head, err := v.Policy.Verify(b)
		if err != nil {
			c := audit.CheckpointSignature
			if errors.Is(err, policy.ErrQuorum) {
				c = audit.QuorumNotMet
			}
			v.find(c, "the checkpoint that everything is proven under is not to be trusted: %v", err)
			return
		}
		v.head = head
		r := v.report
		r.Origin, r.Size, r.Root = head.Origin, head.Size, b64(head.Root)
		for _, c := range head.Cosignatures {
			r.CosignedBy = append(r.CosignedBy, c.Witness)
		}
		if t, ok := v.Policy.QuorumTime(head.Cosignatures); ok {
			r.CosignedAt = time.Unix(t, 0).UTC().Format(time.RFC3339)
		}
		if v.m.Origin != head.Origin || v.m.Size != head.Size || v.m.Root != r.Root {
			v.find(Malformed, "the manifest is about another checkpoint, of %d entries of %s, than the one in the bundle", v.m.Size, v.m.Origin)
		}
	case olderFile:
		if v.head == nil {
			return
		}
		older, err := v.Policy.VerifyLogOnly(b)
		if err == nil && older.Origin != v.head.Origin {
			err = fmt.Errorf("it is of log %q", older.Origin)
		}
		if err != nil {
			v.find(audit.CheckpointSignature, "the older checkpoint is not to be trusted: %v", err)
			return
		}
		v.older = older
	case consistent:
		if v.older == nil {
			return
		}
		if _, err := readConsistency(b, v.older, v.head); err != nil {
			v.find(audit.Fork, "that the log goes on from the older checkpoint of %d entries is not proven: %v", v.older.Size, err)
			return
		}
		v.report.Older = &Head{v.older.Size, b64(v.older.Root)}
	}
}

// readConsistency takes a request of tlog-witness (add-checkpoint), and verifies it.
func readConsistency(b []byte, older, head *policy.Checkpoint) ([][]byte, error) {
	want := fmt.Appendf(nil, "old %d\n", older.Size)
	rest, ok := bytes.CutPrefix(b, want)
	if !ok {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrMalformed, want)
	}
	var hashes [][]byte
	for {
		line, more, ok := bytes.Cut(rest, []byte("\n"))
		if !ok || len(hashes) > 63 {
			return nil, fmt.Errorf("%w: it has no end, or too many hashes", ErrMalformed)
		}
		if rest = more; len(line) == 0 {
			break
		}
		h, err := hashOf(string(line))
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, h[:])
	}
	if !bytes.Equal(rest, head.Note) {
		return nil, fmt.Errorf("%w: it ends in another checkpoint", ErrMalformed)
	}
	if older.Size == 0 {
		if len(hashes) > 0 || older.Root != checkpoint.EmptyRoot() {
			return nil, fmt.Errorf("%w: of an empty log there is nothing to prove", ErrMalformed)
		}
		return nil, nil
	}
	if err := merkle.VerifyConsistency(rfc6962.DefaultHasher, older.Size, head.Size, hashes, older.Root[:], head.Root[:]); err != nil {
		return nil, checkpoint.Unproven(err)
	}
	return hashes, nil
}

// hashOf takes base64 of a hash, in its one spelling.
func hashOf(s string) (h record.Hash, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(h) || b64([32]byte(b)) != s {
		return h, fmt.Errorf("%w: %.60q is no hash", ErrMalformed, s)
	}
	return record.Hash(b), nil
}

// sortedFilter is the filter in one line.
func sortedFilter(m map[string]string) string {
	text := ""
	for _, k := range slices.Sorted(maps.Keys(m)) {
		text += fmt.Sprintf(" --%s %q", k, m[k])
	}
	if text == "" {
		return "none: all records"
	}
	return text[1:]
}
