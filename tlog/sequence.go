package tlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// group is the submissions that one commit stores, as far as they are accepted.
type group struct {
	seq      *sequencer
	first    uint64 // index of the first new entry
	entries  [][]byte
	leaves   []record.Hash
	runs     []storage.Run
	streams  map[record.Stream]*record.Tree // that changed
	change   *change                        // the one new entry, if it is a statement of the operator
	openings []storage.Opening
	keys     []storage.WrappedKey
	accepted []accepted
	after    *snapshot // the log with it, once it is put behind the rest
}

type accepted struct {
	submission *submission
	response   *sealtapv1.SubmitResponse
}

func (s *sequencer) newGroup() *group {
	return &group{seq: s, first: s.tree.Size(), streams: make(map[record.Stream]*record.Tree)}
}

// add puts a submission into the group, or returns why it is refused and leaves
// the group as it was.
func (g *group) add(ctx context.Context, s *submission) error {
	d := draft{group: g, streams: make(map[record.Stream]*record.Tree, 1), response: new(sealtapv1.SubmitResponse)}
	entries, runs, openings := len(g.entries), len(g.runs), len(g.openings)
	var err error
	if s.change != nil {
		err = d.addChange(ctx, s.change)
	}
	for i := 0; i < len(s.runs) && err == nil; i++ {
		err = d.addRun(ctx, &s.runs[i])
	}
	if err != nil {
		g.entries, g.leaves, g.runs, g.openings = g.entries[:entries], g.leaves[:entries], g.runs[:runs], g.openings[:openings]
		return err
	}
	for st, tree := range d.streams {
		g.streams[st] = tree
	}
	if len(g.openings) > openings {
		g.keys = append(g.keys, s.keys...)
	}
	g.accepted = append(g.accepted, accepted{s, d.response})
	return nil
}

// draft is one submission while it is checked against what is stored and what
// the group has.
type draft struct {
	*group
	streams  map[record.Stream]*record.Tree
	response *sealtapv1.SubmitResponse
}

// tree returns the tree of a stream, for this submission to change.
func (d *draft) tree(s record.Stream) *record.Tree {
	if t := d.streams[s]; t != nil {
		return t
	}
	t := d.group.streams[s]
	if t == nil {
		t = d.seq.streams[s]
	}
	if t == nil {
		t = record.NewTree()
	} else {
		t = t.Clone()
	}
	d.streams[s] = t
	return t
}

// append adds a new entry, with its openings.
func (d *draft) append(n int, it item) {
	index := d.first + uint64(len(d.entries))
	d.entries = append(d.entries, it.entry)
	d.leaves = append(d.leaves, it.leaf)
	if len(it.box) > 0 {
		d.openings = append(d.openings, storage.Opening{Index: index, Leaf: it.leaf, Box: it.box})
	}
	d.place(n, index)
}

// place tells the caller that item n stands at the index. The openings of what is
// stored already are not taken: whoever repeats an entry need not be its producer.
func (d *draft) place(n int, index uint64) {
	if runs := d.response.Runs; len(runs) > 0 {
		if last := runs[len(runs)-1]; last.FirstIndex+last.Count == index && last.FirstItem+last.Count == uint64(n) {
			last.Count++
			return
		}
	}
	d.response.Runs = append(d.response.Runs, &sealtapv1.Run{FirstItem: uint64(n), FirstIndex: index, Count: 1})
}

// addRun adds the records of a run that are new, and its seal. Every stored
// record is covered by a stored seal, so a new seal comes with new records.
func (d *draft) addRun(ctx context.Context, r *run) error {
	if _, err := d.seq.log.admit(r); err != nil {
		return err
	}
	tree := d.tree(r.stream)
	if r.sequence() > tree.Size() {
		if err := d.seq.checkOpen(); err != nil {
			return err
		}
		return &SequenceError{What: "sequence of " + r.stream.Origin() + d.seq.former(tree.Size()), Got: r.sequence(), Expected: tree.Size()}
	}
	known, err := d.addKnown(ctx, r, tree.Size())
	if err != nil {
		return err
	}
	if known == len(r.records) {
		return d.repeatSeal(ctx, r)
	}
	if err := d.seq.checkOpen(); err != nil {
		return err
	}
	for _, it := range r.records[known:] {
		tree.Append(it.leaf, nil)
	}
	if tree.Root() != r.seal.Root {
		return d.fork(ctx, r, r.sequence()+uint64(known), &ForkError{Stream: r.stream, Sequence: r.seal.Size,
			Detail: "the seal's root is not that of the stored records with the new ones"})
	}
	first := d.first + uint64(len(d.entries))
	for i, it := range r.records[known:] {
		d.append(r.first+known+i, it)
	}
	d.append(r.first+len(r.records), r.sealed)
	d.runs = append(d.runs, storage.Run{Stream: r.stream, Sequence: r.sequence() + uint64(known),
		Index: first, Count: uint64(len(r.records) - known)})
	return nil
}

// addKnown answers for the records of a run that are stored already, and returns
// how many they are.
func (d *draft) addKnown(ctx context.Context, r *run, size uint64) (int, error) {
	known := int(min(size-r.sequence(), uint64(len(r.records))))
	for i := 0; i < known; {
		sequence := r.sequence() + uint64(i)
		at, err := d.find(ctx, r.stream, sequence)
		if err != nil {
			return 0, err
		}
		for ; i < known && r.sequence()+uint64(i) < at.Sequence+at.Count; i++ {
			sequence := r.sequence() + uint64(i)
			index := at.Index + sequence - at.Sequence
			stored, err := d.leaf(ctx, index)
			if err != nil {
				return 0, err
			}
			if stored != r.records[i].leaf {
				return 0, d.fork(ctx, r, sequence, &ForkError{Stream: r.stream, Sequence: sequence, Index: index, Known: true,
					Detail: "another record is stored for this sequence"})
			}
			d.place(r.first+i, index)
		}
	}
	return known, nil
}

// repeatSeal answers for a seal without new records. It is stored, or it is needed
// no more: a spool that was put back from an older copy seals the records that it
// finds at a size of which the log never had a seal, because by then it had more of
// them. A stored seal covers these records, so this one is left out, and no run of
// the answer names it. Its root is not looked at: it vouches for nothing here. Were
// it refused, the spool could never get past it.
func (d *draft) repeatSeal(ctx context.Context, r *run) error {
	stored, index, err := d.storedSeal(ctx, r.stream, r.seal.Size)
	if err != nil {
		return err
	}
	switch {
	case stored == r.sealed.leaf:
		d.place(r.first+len(r.records), index)
		return nil
	case index > 0:
		return d.fork(ctx, r, r.seal.Size-1, &ForkError{Stream: r.stream, Sequence: r.seal.Size, Index: index, Known: true,
			Detail: "another seal of this size is stored"})
	case r.seal.Size > 0:
		return nil
	}
	return &SequenceError{What: "seal of " + r.stream.Origin() + " without new records", Got: r.seal.Size, Expected: d.tree(r.stream).Size() + 1}
}

// storedSeal returns leaf hash and index of the stored seal of a size; the index
// is 0 if there is none.
func (d *draft) storedSeal(ctx context.Context, s record.Stream, size uint64) (record.Hash, uint64, error) {
	if size == 0 || size > d.tree(s).Size() {
		return record.Hash{}, 0, nil
	}
	at, err := d.find(ctx, s, size-1)
	if err != nil || at.Sequence+at.Count != size {
		return record.Hash{}, 0, err
	}
	leaf, err := d.leaf(ctx, at.Index+at.Count)
	return leaf, at.Index + at.Count, err
}

// find returns the run that holds a stored record, or one of this group or of the
// one that is being stored.
func (d *draft) find(ctx context.Context, s record.Stream, sequence uint64) (storage.Run, error) {
	for _, g := range []*group{d.group, d.seq.committing} {
		if g == nil || g.streams[s] == nil && d.streams[s] == nil {
			continue
		}
		for i := len(g.runs) - 1; i >= 0; i-- {
			if r := g.runs[i]; r.Stream == s && sequence >= r.Sequence && sequence-r.Sequence < r.Count {
				return r, nil
			}
		}
	}
	at, ok, err := d.seq.log.config.Storage.Run(ctx, s, sequence)
	if err != nil {
		return at, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !ok {
		if err := d.seq.log.checkRecordKept(ctx, s, sequence); err != nil {
			return at, err
		}
		return at, fmt.Errorf("%w: %w: no run has record %d of %s", ErrUnavailable, storage.ErrCorrupt, sequence, s.Origin())
	}
	return at, nil
}

// leaf returns the leaf hash of a stored entry, or of one of this group or of the
// one that is being stored.
func (d *draft) leaf(ctx context.Context, index uint64) (record.Hash, error) {
	for _, g := range []*group{d.group, d.seq.committing} {
		if g != nil && index >= g.first && index-g.first < uint64(len(g.leaves)) {
			return g.leaves[index-g.first], nil
		}
	}
	h, err := d.seq.log.LeafHash(ctx, index)
	if errors.Is(err, storage.ErrPruned) {
		return h, err // to wait does not help
	}
	if err != nil {
		return h, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return h, nil
}

// fork keeps what proves a fork, if it does: the producer signed the seal, and
// the seal is not one that is stored already, which anybody could send along
// with a record of his own making.
func (d *draft) fork(ctx context.Context, r *run, sequence uint64, fork *ForkError) error {
	d.seq.log.config.Logger.Warn("a submission contradicts what is stored", "error", fork)
	stored, _, err := d.storedSeal(ctx, r.stream, r.seal.Size)
	if err != nil || stored == r.sealed.leaf {
		return fork
	}
	// What is still being stored may fail to be. The producer comes again.
	if c := d.seq.committing; d.group.streams[r.stream] != nil || c != nil && c.streams[r.stream] != nil {
		return fork
	}
	f := storage.Fork{Stream: r.stream, Sequence: sequence, Index: fork.Index, Seal: r.sealed.entry, Seen: time.Now()}
	if i := sequence - r.sequence(); i < uint64(len(r.records)) {
		f.Entry = r.records[i].entry
	} else {
		f.Entry = r.sealed.entry
	}
	kept, err := d.seq.log.config.Storage.AddFork(ctx, f)
	if err != nil {
		d.seq.log.config.Logger.Error("the evidence of a fork could not be kept", "error", err)
	}
	if kept {
		d.seq.log.metrics.forks.Inc()
	}
	return fork
}

// addChange adds a statement of the operator, or answers for one that is stored.
func (d *draft) addChange(ctx context.Context, it *item) error {
	ring := d.seq.log.ring // the writer alone changes it
	if n := it.change.number(); n <= ring.Number {
		index := d.seq.keyChanges[n]
		stored, err := d.leaf(ctx, index)
		if err != nil {
			return err
		}
		if stored == it.leaf {
			d.place(0, index)
			return nil
		}
	}
	if err := d.seq.checkOpen(); err != nil {
		return err
	}
	if it.change.number() != ring.Number+1 {
		return &SequenceError{What: "number of the operator's statement", Got: it.change.number(), Expected: ring.Number + 1}
	}
	if err := it.change.check(ring); err != nil {
		return err
	}
	d.change = it.change
	d.append(0, *it)
	return nil
}
