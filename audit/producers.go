package audit

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// producers follows who may write, and what each of them wrote.
type producers struct {
	a       *auditor
	ring    *record.Keyring // nil if the genesis is not one
	last    *stated         // the operator's newest statement; nil as long as there is only the genesis
	streams map[record.Stream]*stream
	latest  *stream // the one that was asked for last, if any
	// uncertain is set once an entry that may be a statement about keys cannot be
	// read: a key that nobody enrolled may then have been.
	uncertain  bool
	strays     []item // altered records, whose place in their stream is not known
	refused    map[record.Stream]bool
	consistent map[checkpoint.Body]bool // beacons' checkpoints compared already
	former     []former                 // lives that go on from the predecessor, which is to be asked for them
	own        *policy.Policy           // with all keys of the log, once it is needed; nil after another one was named
	weak       uint64                   // beacons whose checkpoints are the log's, but do not satisfy the policy
	firstWeak  Finding                  // about the first of them
	said       []said                   // the operator's statements that were accepted, oldest first

	held, maxHeld       int // see bounds.go
	waiting, maxWaiting int
	shedding            bool
}

// said is an entry with a statement of the operator.
type said struct {
	index uint64
	entry []byte
}

const (
	maxStrays  = 4096
	maxRefused = 4096
)

func newProducers(a *auditor) *producers {
	return &producers{a: a, streams: make(map[record.Stream]*stream), refused: make(map[record.Stream]bool), consistent: make(map[checkpoint.Body]bool),
		maxHeld: maxHeld, maxWaiting: maxWaiting}
}

// nameOf returns the name under which a key is enrolled. It may be called by
// any goroutine.
func (a *auditor) nameOf(id keys.ID) string {
	if key, ok := a.known.Load(id); ok {
		return key.(keys.Public).Name
	}
	return id.String()
}

// entry takes the next entry of the log.
func (p *producers) entry(ctx context.Context, it *item) {
	checked := &p.a.report.Checked
	checked.Entries++
	if it.index == 0 {
		p.openGenesis(it)
		return
	}
	if it.altered {
		p.stray(it)
		return
	}
	if it.err != nil {
		p.a.add(finding(EntryMalformed, "entry %d stands in the log as it was hashed, but is not an entry: %v", it.index, it.err).at(it.index))
		return
	}
	switch it.kind {
	case record.KindGenesis:
		p.a.add(finding(GenesisInvalid, "entry %d is a second genesis; a log has one, at index 0", it.index).at(it.index))
	case record.KindKeyChange:
		checked.KeyChanges++
		p.keyChange(it)
	case record.KindStatement:
		checked.Statements++
		p.statement(it)
	case record.KindRecord:
		checked.Records++
		p.record(ctx, it)
	case record.KindSeal:
		checked.Seals++
		p.seal(it)
	default:
		checked.Other++
	}
}

// openGenesis takes the entry at index 0.
func (p *producers) openGenesis(it *item) {
	a := p.a
	bad := func(format string, args ...any) { a.add(finding(GenesisInvalid, format, args...).at(0)) }
	if it.altered || it.err != nil || it.kind != record.KindGenesis {
		p.uncertain = true
		if !it.altered { // else it has been reported
			bad("entry 0 is not a genesis signed by the operator whom it names, so nothing says who may write to the log: %v", it.err)
		}
		return
	}
	ring, err := record.NewKeyring(it.genesis, a.Operator)
	if err != nil {
		bad("the log is not the operator's: %v", err)
		ring, _ = record.NewKeyring(it.genesis, nil)
	}
	p.ring = ring
	p.said = append(p.said, said{0, it.entry})
	a.report.Operator = it.genesis.Operator.String()
	a.openPredecessor(it.genesis)
	if a.Operator == nil {
		a.add(notice(OperatorNotPinned, "no operator's key is pinned, so the one in the genesis was believed: %s", it.genesis.Operator).at(0))
	}
}

func (p *producers) keyChange(it *item) {
	if p.ring == nil {
		return
	}
	if p.uncertain && it.change.Number > p.ring.Number+1 {
		p.ring.Number = it.change.Number - 1 // those between are among what cannot be read
	}
	if err := p.ring.Apply(it.change, it.index); err != nil {
		p.a.add(finding(KeyChangeInvalid, "the statement about keys at index %d is not the operator's next one: %v", it.index, err).at(it.index))
		return
	}
	p.stated(it)
	for _, k := range it.change.Enrol {
		p.a.known.Store(k.ID(), k)
	}
	if len(it.change.Log) > 0 {
		p.own = nil
	}
}

// statement takes what the operator says about the log.
func (p *producers) statement(it *item) {
	if p.ring == nil {
		return
	}
	if p.uncertain && it.statement.Number > p.ring.Number+1 {
		p.ring.Number = it.statement.Number - 1
	}
	if err := p.ring.ApplyStatement(it.statement, it.index); err != nil {
		p.a.add(finding(KeyChangeInvalid, "the statement about the log at index %d is not the operator's next one: %v", it.index, err).at(it.index))
		return
	}
	p.stated(it)
}

// stray keeps what an altered entry hashed to: it may fill the hole that the
// alteration leaves in its stream.
func (p *producers) stray(it *item) {
	if it.err != nil || it.kind != record.KindRecord && it.kind != record.KindSeal {
		p.uncertain = true
	}
	if it.kind != record.KindSeal && len(p.strays) < maxStrays {
		p.strays = append(p.strays, *it)
	}
}

// admitted reports whether the stream may say anything up to the sequence.
func (p *producers) admitted(it *item, sequence uint64) bool {
	if p.ring == nil {
		return true
	}
	s := p.latest
	if s != nil && s.id == it.stream && s.clear == p.ring.Number+1 {
		return true
	}
	if p.beyondEnd(it) {
		return false
	}
	_, err := p.ring.Admit(it.stream, sequence)
	if err == nil {
		if _, err := p.ring.Admit(it.stream, math.MaxUint64); err == nil && s != nil && s.id == it.stream {
			s.clear = p.ring.Number + 1 // nobody has restricted it, until the next statement
		}
		return true
	}
	if p.uncertain && errors.Is(err, record.ErrUnknownProducer) {
		return true
	}
	if !p.refused[it.stream] && len(p.refused) < maxRefused {
		p.refused[it.stream] = true
		p.a.add(finding(UnknownProducer, "a %s that nobody may have written stands in the log, perhaps with more of the kind: %v", it.kind, err).
			at(it.index).of(p.a.nameOf(it.stream.Producer), it.stream, sequence))
	}
	return false
}

func (p *producers) stream(id record.Stream) *stream {
	if p.latest != nil && p.latest.id == id {
		return p.latest
	}
	s := p.streams[id]
	if s == nil {
		s = &stream{a: p.a, id: id, name: p.a.nameOf(id.Producer), heartbeat: defaultHeartbeat}
		p.streams[id] = s
	}
	p.latest = s
	return s
}

func (p *producers) record(ctx context.Context, it *item) {
	if !p.admitted(it, it.seq) {
		return
	}
	for _, err := range it.openings {
		p.a.add(finding(OpeningMismatch, "%v: the value that is shown is not the one that was recorded", err).
			at(it.index).of(p.a.nameOf(it.stream.Producer), it.stream, it.seq))
	}
	if seen, ok := it.about.(*sighting); ok {
		p.sight(ctx, it, seen)
	}
	if it.part != nil {
		p.a.sides.take(it)
		it.part = nil
	}
	p.stream(it.stream).take(it)
}

func (p *producers) seal(it *item) {
	last := it.seal.Size
	if last > 0 {
		last--
	}
	if !p.admitted(it, last) {
		return
	}
	if !it.sealKnown {
		key, ok := p.a.known.Load(it.stream.Producer)
		if !ok {
			return // uncertain: there is a finding already, and no key to verify it with
		}
		it.sealErr = it.seal.Verify(key.(keys.Public))
	}
	name := p.a.nameOf(it.stream.Producer)
	if it.sealErr != nil {
		p.a.add(finding(SealSignature, "the seal over %d records is not signed by producer %s, so it proves nothing: %v", it.seal.Size, name, it.sealErr).
			at(it.index).of(name, it.stream, last))
		return
	}
	p.stream(it.stream).takeSeal(sealed{size: it.seal.Size, root: it.seal.Root, index: it.index})
}

// sight checks that the checkpoint in a beacon is one of this log, and lets it
// bound the times of the records before it and after it.
func (p *producers) sight(ctx context.Context, it *item, seen *sighting) {
	a := p.a
	bad := func(c Code, heads []string, format string, args ...any) {
		f := finding(c, format, args...).at(it.index).of(a.nameOf(it.stream.Producer), it.stream, it.seq)
		f.Heads = heads
		a.add(f)
	}
	if p.formerBeacon(it, seen) {
		return
	}
	if seen = p.recognised(seen); seen.err != nil {
		bad(checkpointCode(seen.err), nil, "the checkpoint in the beacon is not to be trusted, so it bounds no time: %v", seen.err)
		return
	}
	cp := seen.cp
	if cp.Origin != a.head.Origin {
		bad(CheckpointSignature, nil, "the checkpoint in the beacon is of another log, %q", cp.Origin)
		return
	}
	good, err := p.isPrefix(ctx, checkpoint.Body{Origin: cp.Origin, Size: cp.Size, Root: cp.Root}, it.index)
	if err != nil {
		a.failedRead(err, TileAltered, "the checkpoint in the beacon cannot be compared with the log")
		return
	}
	if !good {
		bad(Fork, []string{string(cp.Note), string(a.head.Note)},
			"the log showed producer %s another history: the cosigned checkpoint of %d entries in its beacon is not one of this log", a.nameOf(it.stream.Producer), cp.Size)
		return
	}
	if seen.quorum != nil {
		if p.weak++; p.weak == 1 {
			p.firstWeak = notice(QuorumNotMet, "%v", seen.quorum).at(it.index).of(a.nameOf(it.stream.Producer), it.stream, it.seq)
		}
		return
	}
	a.report.Checked.Beacons++
	if t, ok := a.Policy.QuorumTime(cp.Cosignatures); ok {
		it.beacon = nanos(t)
		a.log.bound(cp.Size, it.beacon)
		a.brackets.bound(cp.Size, it.beacon)
		a.coverage.sighted(cp, t)
	}
}

// isPrefix reports whether the log's first entries have the head. Those who saw
// a head saw it before they wrote the entry at the index.
func (p *producers) isPrefix(ctx context.Context, head checkpoint.Body, index uint64) (bool, error) {
	if good, ok := p.consistent[head]; ok {
		return good && head.Size <= index, nil
	}
	if head.Size > index {
		return false, nil
	}
	if !p.a.comparable(head.Size) {
		return true, nil // nobody can tell any more; that it was cosigned bounds the time
	}
	root, ok := p.a.log.rootAt(head.Size)
	if !ok {
		var err error
		if root, err = p.a.tree.RootAt(ctx, head.Size); err != nil {
			return false, err
		}
	}
	if len(p.consistent) >= cachedBeacons {
		clear(p.consistent)
	}
	p.consistent[head] = root == record.Hash(head.Root)
	return root == record.Hash(head.Root), nil
}

// nanos converts Unix seconds, without overflow.
func nanos(unix int64) int64 {
	return min(max(unix, 0), farAway/int64(time.Second)) * int64(time.Second)
}
