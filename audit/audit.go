// Package audit checks a whole log offline, and evidence files, trusting
// nothing but a policy (https://c2sp.org/tlog-policy) and the key of the log's
// operator. docs/audit.md says what is checked, what each finding means, and
// what cannot be found.
//
// Start with [Run], or with [VerifyEvidence].
package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

const (
	// DefaultSkew is how far apart the clocks of producers and witnesses may be.
	DefaultSkew = 5 * time.Second
	// DefaultHeartbeatSlack is how late a heartbeat may be.
	DefaultHeartbeatSlack = 10 * time.Second
	// DefaultMaxBracket is how closely the witnesses are expected to place records.
	DefaultMaxBracket = 10 * time.Minute

	defaultHeartbeat = 10 * time.Second
	maxHeartbeat     = 10 * time.Minute // a longer one would hide the end of a stream
)

// ErrConfig is wrapped where an audit cannot start for lack of something sound
// to compare with: a policy, or a state file of the same log.
var ErrConfig = errors.New("invalid audit configuration")

// Source is what is audited; *[client.Source] is one. Several goroutines call it.
type Source interface {
	client.Reader
	String() string
}

// Options say what to trust and what to tolerate.
type Options struct {
	// Policy names the log and its witnesses; it is needed.
	Policy *policy.Policy
	// Operator pins the operator's key. Where it is nil the policy's own pin
	// holds; where that is nil too the key in the genesis is believed, and the
	// report says so.
	Operator *keys.Public
	// State is the file that remembers the last checkpoint that passed. With ""
	// nothing is remembered, and neither rollback nor fork between two audits is
	// seen, nor that the operator's newest statement is left out. Beside it stands what
	// an audit needs to go on where it was interrupted.
	State string
	// Incremental keeps beside State all that an audit knows, and reads only what is
	// new since the last one that passed.
	Incremental bool
	// Full reads everything, whatever an earlier audit knows.
	Full bool
	// Statements is how many statements the operator says to have made in the log; a
	// log that shows fewer has left some out. With 0 nothing is expected.
	Statements uint64
	// Predecessor is the log that the audited one goes on from. It is asked how it
	// ended, and for the lives of producers that go on from there; it is not audited
	// otherwise. With nil nothing of that is checked, and the report says so.
	Predecessor Source
	// TreeOnly checks heads, signatures, quorum and every hash, and does not look at
	// what entries say: so it can be any log of C2SP tlog-tiles.
	TreeOnly bool
	// HeartbeatSlack is how late a heartbeat may be; 0 is [DefaultHeartbeatSlack].
	HeartbeatSlack time.Duration
	// Skew is how far apart clocks may be; 0 is [DefaultSkew].
	Skew time.Duration
	// MaxBracket is how far apart the times may be between which the witnesses
	// place a record, before a notice says so; 0 is [DefaultMaxBracket].
	MaxBracket time.Duration
	// Parallel is how many bundles are fetched at a time; 0 is 8. Each can
	// have up to 16 MiB.
	Parallel int
	// Openings returns the openings at hand of the record with this index and leaf
	// hash, each of which is checked. An error says that they are at hand and not
	// what was kept. It is called by several goroutines; nil gives none.
	Openings func(index uint64, leaf record.Hash) ([]*sealtapv1.Opening, error)
	// Coverage lets the report tell when the records of each producer stand, what the
	// witnesses did, and what was trusted.
	Coverage bool
	// Period makes it a report on that time, with Coverage: it does not pass unless the
	// data show that the period is complete.
	Period *Period
	// Progress, if not nil, is told how many entries are done, in order.
	Progress func(done, total uint64)
}

// auditor is one run. Apart from what says otherwise only the goroutine of Run
// uses it.
type auditor struct {
	Options
	src  Source
	tree *client.Tree // proven reads under the checkpoint; for any goroutine
	findings
	report    *Report
	head      *policy.Checkpoint
	before    state             // of the state file
	kept      *client.Retention // what the log says that it keeps
	keptErr   error             // why it could not say
	quorum    bool              // head satisfies the policy, so its time counts
	upper     int64             // when the quorum had cosigned head, in Unix seconds
	known     sync.Map          // keys.ID -> keys.Public, of enrolled producers; for any goroutine
	beacons   beaconCache       // for any goroutine
	consumed  sync.Pool         // of *bundle; for any goroutine
	heavy     atomic.Bool       // the bundle that was read last was; for any goroutine
	narrow    chan struct{}     // holds one for each heavy bundle that is being read
	opened    atomic.Uint64     // openings checked
	log       *logTree
	brackets  brackets
	doubts    []doubt // not more than limit
	producers *producers
	taken     uint64 // entries consumed so far
	bracketed uint64 // records behind a beacon, in good order of time
	goesOn    bool   // more entries are read later
	settled   mark   // the findings before what only the end of the log shows
	sides     *sides
	coverage  coverage

	remembers    bool      // what is known is kept beside the state file
	contradicted bool      // the log contradicts the head in a memory, which stays
	memories     []*memory // of earlier audits
	atHead       mark      // the findings before those in entries
	keptAt       time.Time // when that was last written
	keepErr      error     // of writing it
	ended        []byte    // a memory as of the end of the log; nil before
	endedAt      time.Time // when that was last written
	endedTaken   uint64    // entries read by then
}

// Run audits the log behind src. It returns an error only where it cannot start,
// or cannot write the state file; whatever the log does or fails to do is in the
// report.
func Run(ctx context.Context, src Source, o Options) (*Report, error) {
	a, err := newAuditor(src, o)
	if err != nil {
		return nil, err
	}
	if err := a.loadMemories(); err != nil {
		return nil, err
	}
	start := time.Now()
	a.keptAt = start
	if err := a.run(ctx); err != nil {
		return nil, err
	}
	return a.report, a.end(start)
}

func newAuditor(src Source, o Options) (*auditor, error) {
	if o.Policy == nil {
		return nil, fmt.Errorf("%w: there is no policy", ErrConfig)
	}
	if o.Operator == nil {
		o.Operator = o.Policy.Operator
	}
	if o.Skew == 0 {
		o.Skew = DefaultSkew
	}
	if o.MaxBracket == 0 {
		o.MaxBracket = DefaultMaxBracket
	}
	if o.HeartbeatSlack == 0 {
		o.HeartbeatSlack = DefaultHeartbeatSlack
	}
	if o.Parallel == 0 {
		o.Parallel = 8
	}
	if o.Period != nil && !o.Period.Since.Before(o.Period.Until) {
		return nil, fmt.Errorf("%w: a period begins before it ends", ErrConfig)
	}
	a := &auditor{Options: o, src: src, narrow: make(chan struct{}, heavyAtATime)}
	a.coverage = coverage{on: o.Coverage || o.Period != nil, period: newPeriodScan(o.Period)}
	if a.coverage.on && o.TreeOnly {
		return nil, fmt.Errorf("%w: a report on producers needs what their records say, and not the tree alone", ErrConfig)
	}
	a.report = a.newReport()
	var err error
	a.before, err = loadState(o.State, o.Policy)
	return a, err
}

func (a *auditor) newReport() *Report {
	return &Report{Source: a.src.String(), CosignedBy: []string{}, Producers: []Producer{}, TreeOnly: a.TreeOnly}
}

// end draws the conclusion, and remembers what passed.
func (a *auditor) end(start time.Time) error {
	if a.coverage.on {
		a.report.Time = start.UTC()
		a.report.Witnesses, a.report.Trust, a.report.NotProven = a.witnesses(), trust(a.Policy, a.Operator), a.notProven()
		if a.head != nil {
			a.report.Checkpoint = string(a.head.Note)
		}
		if p := a.coverage.period; p != nil && a.report.Period == nil {
			p.report.Lacking = []string{"The audit did not come to its end."}
			a.report.Period = &p.report
		}
	}
	a.conclude(a.report)
	a.report.Duration = time.Since(start)
	if a.report.Verdict == Pass && a.State != "" {
		last := a.producers.last
		if a.TreeOnly {
			last = a.before.last // none were looked at
		}
		if err := errors.Join(a.keepEnded(), saveState(a.State, state{a.head, a.log.edge(), last})); err != nil {
			return err
		}
	}
	if len(a.report.Unfinished) == 0 {
		return a.dropStarted()
	}
	return nil
}

func (a *auditor) run(ctx context.Context) error {
	a.askRetention(ctx)
	if !a.openHead(ctx) {
		return nil
	}
	if err := a.compareState(); err != nil {
		return err
	}
	a.tree = client.NewTree(a.src, a.head.Size, a.head.Root)
	a.producers = newProducers(a)
	a.brackets.a = a
	a.sides = newSides(a)
	a.log = newLogTree(a)
	resumed, err := a.resume(ctx)
	if err != nil {
		return err
	}
	if !resumed && !a.startPruned(ctx) {
		return nil
	}
	a.finish(ctx)
	return nil
}

// finish reads the entries that have not been, and checks what only the end of the
// log can show.
func (a *auditor) finish(ctx context.Context) {
	whole := a.scan(ctx)
	if a.vouched() {
		a.report.Checked.Bracketed = a.bracketed
	}
	if whole && a.keeps() && a.keepsEnded() {
		a.ended = a.encode(true)
	}
	if whole {
		a.producers.settle()
	}
	a.settled = a.mark()
	if !whole {
		return // what the end of the log would show is not known
	}
	a.finishTree(ctx)
	a.finishPruned(ctx)
	if a.TreeOnly {
		return
	}
	a.compareStatements()
	a.producers.finishStreams()
	if !a.goesOn {
		a.sides.finish()
	}
	a.finishPredecessor(ctx)
}

// finishTree compares the recomputed root with the checkpoint's.
func (a *auditor) finishTree(ctx context.Context) {
	a.report.Checked.Openings = a.opened.Load()
	root := a.log.finish(ctx)
	right := root == record.Hash(a.head.Root)
	for _, d := range a.doubts {
		if right { // so the entries are
			a.add(finding(TileAltered, "%s has been altered: it does not hold the hash of entry %d, which stands proven under the checkpoint", d.path, d.index).at(d.index))
		} else {
			a.add(finding(EntryAltered, "entry %d does not hash to what %s says, and that tile does not stand under the checkpoint either", d.index, d.path).at(d.index))
		}
	}
	if !right {
		a.add(finding(RootMismatch, "the %d entries do not give the root hash that the log has signed: entries have been altered, removed, added or reordered",
			a.head.Size))
	}
}

// openHead fetches and verifies the checkpoint under audit. It reports whether
// there is anything to go on with: without the log's own signature there is not.
func (a *auditor) openHead(ctx context.Context) bool {
	signed, err := a.src.Checkpoint(ctx)
	if err != nil {
		a.failedRead(err, CheckpointSignature, "the checkpoint cannot be read")
		return false
	}
	a.head, err = a.Policy.Verify(signed)
	if err != nil {
		a.add(Finding{Code: checkpointCode(err), Severity: Finds, Heads: []string{string(signed)},
			Detail: fmt.Sprintf("the checkpoint of the log is not to be trusted: %v", err)})
		// The rest of the audit may still tell what was done to the entries.
		if a.head, err = a.Policy.VerifyLogOnly(signed); err != nil {
			return false
		}
	} else {
		a.quorum = true
		var vouched bool
		if a.upper, vouched = a.Policy.QuorumTime(a.head.Cosignatures); vouched {
			a.report.CosignedAt = seconds(a.upper)
		}
	}
	r := a.report
	r.Origin, r.Size, r.Root = a.head.Origin, a.head.Size, b64(a.head.Root)
	for _, c := range a.head.Cosignatures {
		r.CosignedBy = append(r.CosignedBy, c.Witness)
	}
	r.Checked.UnknownSignatures = signatures(signed) - 1 - len(a.head.Cosignatures)
	return true
}

// vouched reports whether witnesses say when the head was there.
func (a *auditor) vouched() bool { return a.quorum && a.upper > 0 }

func checkpointCode(err error) Code {
	if errors.Is(err, policy.ErrQuorum) {
		return QuorumNotMet
	}
	return CheckpointSignature
}

// compareState compares the head with the last one that passed, as far as the
// two heads alone can tell.
func (a *auditor) compareState() error {
	before := a.before.head
	if before == nil {
		return nil
	}
	if before.Origin != a.head.Origin {
		return fmt.Errorf("%w: state file %s is of log %q, this one is %q: give each log a file of its own", ErrConfig, a.State, before.Origin, a.head.Origin)
	}
	heads := []string{string(before.Note), string(a.head.Note)}
	switch {
	case a.head.Size < before.Size:
		a.add(Finding{Code: Rollback, Severity: Finds, Heads: heads, Detail: fmt.Sprintf(
			"the log has shrunk: it shows %d entries, and an earlier audit verified %d; the others have been taken away", a.head.Size, before.Size)})
	case a.head.Size == before.Size:
		a.compareRoot(a.head.Root)
	}
	return nil
}

// compareRoot compares the root at the size of the state file's checkpoint.
func (a *auditor) compareRoot(root record.Hash) {
	if root == record.Hash(a.before.head.Root) {
		a.report.Checked.Consistent = true
		return
	}
	a.add(Finding{Code: Fork, Severity: Finds, Heads: []string{string(a.before.head.Note), string(a.head.Note)}, Detail: fmt.Sprintf(
		"the log has another history than an earlier audit verified: its first %d entries have another root hash", a.before.head.Size)})
}

// failedRead reports an error of reading as what it is: one that says nothing
// about the log, or an answer that cannot be right.
func (a *auditor) failedRead(err error, c Code, what string) {
	if errors.Is(err, client.ErrVerification) {
		a.add(finding(c, "%s: %v", what, err))
		return
	}
	a.unavailable(err)
}

// trustedLogKey reports whether the policy has the key for the log's origin.
func (a *auditor) trustedLogKey(k keys.Public) bool {
	for _, l := range a.Policy.Logs {
		if l.Key.Name == a.head.Origin && l.Key.ID() == k.ID() {
			return k.Name == a.head.Origin
		}
	}
	return false
}
