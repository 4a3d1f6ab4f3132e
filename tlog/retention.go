package tlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/tiles"
	"github.com/sealtap/sealtap/witness/policy"
)

// The log lets go of its oldest entries as the operator's newest published
// statement about retention allows (tlog-tiles, "Pruning" and "Retention
// Policies"). Without one it never does. All that it takes for an auditor to see
// that it was allowed is kept and served: the policy stands in the log, and the
// age of what is gone shows in two checkpoints with the witnesses' times.

const (
	// pruneStep is how many bundles one move of the minimum index passes by.
	pruneStep = 256
	// sweepBundles and sweepOpenings bound what one transaction deletes, and
	// sweepPause is the time that others have between two.
	sweepBundles  = 64
	sweepOpenings = 4096
	sweepPause    = 5 * time.Millisecond
	// pruneRetry is the longest pause after a failure.
	pruneRetry = time.Minute
)

// PrunedError says that something lies below the minimum index. It wraps
// [storage.ErrPruned].
type PrunedError struct {
	What    string
	Minimum uint64
}

// Error implements error.
func (e *PrunedError) Error() string {
	return fmt.Sprintf("%s is %v: the log's entries begin at its minimum index, %d", e.What, storage.ErrPruned, e.Minimum)
}

// Unwrap implements the matching of [errors.Is].
func (e *PrunedError) Unwrap() error { return storage.ErrPruned }

// pruned says what is no longer there. It does not change.
type pruned struct {
	storage.Pruned
	kept map[uint64]bool // bundles below the minimum that hold statements of the operator
}

// Minimum is the index from which on all entries are there: 0 if the log was
// never pruned.
func (l *Log) Minimum() uint64 { return l.pruned.Load().Minimum }

// Statements returns the indices of the genesis and of the operator's
// statements, in order. They are there whatever the minimum index is.
func (l *Log) Statements() []uint64 {
	l.ringMu.RLock()
	defer l.ringMu.RUnlock()
	return l.statements[:len(l.statements):len(l.statements)]
}

// StreamAtMinimum returns the number of records that a stream has below the
// minimum index, and the right edge of the tree of that many.
func (l *Log) StreamAtMinimum(ctx context.Context, s record.Stream) (size uint64, edge []record.Hash, err error) {
	if l.pruner == nil {
		return 0, nil, nil
	}
	m := l.Minimum()
	p, _, err := l.pruner.PrunedStream(ctx, s)
	if err != nil {
		return 0, nil, err
	}
	return p.Size, p.Edge, l.unmoved(ctx, m)
}

// unmoved returns an error that wraps [ErrBusy] if the minimum index is another
// one, or about to be, than when the edges of streams were read.
func (l *Log) unmoved(ctx context.Context, minimum uint64) error {
	p, err := l.pruner.Pruned(ctx)
	if err == nil && p.Minimum != minimum {
		err = fmt.Errorf("%w: the minimum index moves on from %d", ErrBusy, minimum)
	}
	return err
}

// StreamsAtMinimum calls a function for every stream that has records below the
// minimum index, oldest first.
func (l *Log) StreamsAtMinimum(ctx context.Context, visit func(s record.Stream, size uint64, edge []record.Hash) error) error {
	if l.pruner == nil {
		return nil
	}
	m := l.Minimum()
	for place := uint64(0); ; {
		list, next, err := l.pruner.PrunedStreams(ctx, place, maxStreams)
		if err != nil {
			return err
		}
		for _, s := range list {
			if err := visit(s.Stream, s.Size, s.Edge); err != nil {
				return err
			}
		}
		if next == 0 {
			return l.unmoved(ctx, m)
		}
		place = next
	}
}

// restorePruned takes up what was pruned.
func (l *Log) restorePruned(ctx context.Context) error {
	p := new(pruned)
	if l.pruner != nil {
		var err error
		if p.Pruned, err = l.pruner.Pruned(ctx); err != nil {
			return err
		}
	}
	p.kept = make(map[uint64]bool)
	for _, index := range l.Statements() {
		if index < p.Minimum {
			p.kept[index/tiles.Width] = true
		}
	}
	l.pruned.Store(p)
	return nil
}

// checkKept returns an error if a bundle, and the tile of level 0 over it, are
// below the minimum index and not kept for the operator's statements.
func (l *Log) checkKept(n uint64) error {
	p := l.pruned.Load()
	if n >= p.Minimum/tiles.Width || p.kept[n] {
		return nil
	}
	return &PrunedError{fmt.Sprintf("what belongs to entries %d to %d", n*tiles.Width, n*tiles.Width+tiles.Width-1), p.Minimum}
}

// pruneLoop prunes at intervals until the context ends.
func (l *Log) pruneLoop(ctx context.Context) {
	if l.pruner == nil {
		return
	}
	for {
		pause := l.config.PruneInterval
		if err := l.prune(ctx); err != nil && ctx.Err() == nil {
			pause = min(pause, pruneRetry)
			l.metrics.pruneFailures.Inc()
			l.config.Logger.Error("pruning failed; it is tried again", "after", pause, "error", err)
		}
		if !wait(ctx, nil, pause) {
			return
		}
	}
}

// prune remembers when the published checkpoint was cosigned, and moves the
// minimum index to where the policy allows. The order is that of durability: the
// index is kept before anything is denied, and denied before it is deleted.
func (l *Log) prune(ctx context.Context) error {
	cp := l.published.Load()
	if cp == nil {
		return nil
	}
	now := time.Now().Add(time.Second - 1).Truncate(time.Second) // not older than it is
	if t, vouched := l.config.Policy.QuorumTime(cp.Cosignatures); vouched {
		now = time.Unix(t, 0)
	}
	if err := l.pruner.AddMark(ctx, storage.Mark{Size: cp.Size, Time: now, Note: cp.Note}); err != nil {
		return err
	}
	// An earlier move may not have got to its end.
	if err := l.restorePruned(ctx); err != nil {
		return err
	}
	if err := l.sweep(ctx); err != nil {
		return err
	}
	for {
		// Each time anew: the operator may have thought better of it.
		cp = l.published.Load()
		target, old, err := l.allowed(ctx, cp, now)
		minimum := l.Minimum()
		if err != nil || minimum >= target {
			return err
		}
		to := min(target, minimum+pruneStep*tiles.Width)
		edges, err := l.edgesAt(ctx, to)
		if err != nil {
			return err
		}
		if err := l.pruner.SetPruned(ctx, storage.Pruned{Minimum: to, At: cp.Note, Old: old}, edges); err != nil {
			return errors.Join(err, l.restorePruned(ctx)) // it may have been kept
		}
		if err := l.restorePruned(ctx); err != nil {
			return err
		}
		l.config.Logger.Info("pruned: entries below the minimum index are no longer kept", "minimum", to, "before", minimum, "size", cp.Size)
		if l.config.OnPrune != nil {
			l.config.OnPrune(to)
		}
		if err := l.sweep(ctx); err != nil {
			return err
		}
	}
}

// allowed returns how far the minimum index may go under the published
// checkpoint, and the checkpoint that shows the age of what is below.
func (l *Log) allowed(ctx context.Context, cp *policy.Checkpoint, now time.Time) (minimum uint64, old []byte, err error) {
	l.ringMu.RLock()
	r, ok := l.ring.Retention(cp.Size)
	l.ringMu.RUnlock()
	if !ok || r.Policy.Forever {
		return 0, nil, nil
	}
	// Whatever the policy, what goes was published for a while: producers free their
	// spools, and others follow, by what they see published. Where the policy asks for
	// no age the log need prove none, and goes by its own clock: the newest head of an
	// idle log grows no older by the witnesses'.
	if r.Policy.Keep == 0 {
		now = time.Now()
	}
	mark, ok, err := l.pruner.MarkBefore(ctx, now.Add(-max(r.Policy.Keep, l.config.PruneInterval)))
	if err != nil || !ok {
		return 0, nil, err
	}
	minimum = min(cp.Size-min(cp.Size, r.Policy.Entries), mark.Size)
	if r.Policy.Keep > 0 {
		old = mark.Note
	}
	return minimum - minimum%tiles.Width, old, nil
}

// edgesAt returns the trees of the streams that have grown between the minimum
// index and a later one, as they are there. Entries of a stream stand in the log
// in the order of their sequences, because the log takes them in no other.
func (l *Log) edgesAt(ctx context.Context, to uint64) ([]storage.Stream, error) {
	names, err := l.pruner.StreamNames(ctx)
	if err != nil {
		return nil, err
	}
	from := l.Minimum()
	leaves := leafReader{l, make(map[uint64][]byte)}
	found := statementsBetween(l.Statements(), from, to)
	var list []storage.Stream
	for _, name := range names {
		before, _, err := l.pruner.PrunedStream(ctx, name)
		if err != nil {
			return nil, err
		}
		tree, err := record.RestoreTree(before.Size, before.Edge)
		if err != nil {
			return nil, fmt.Errorf("%w: the edge of %s: %w", storage.ErrCorrupt, name.Origin(), err)
		}
		n, err := l.grow(ctx, name, tree, from, to, leaves)
		if err != nil {
			return nil, err
		}
		found += n
		if tree.Size() > before.Size {
			list = append(list, storage.Stream{Stream: name, Size: tree.Size(), Edge: tree.Edge()})
		}
	}
	return list, l.checkFound(ctx, from, to, found)
}

// checkFound returns an error unless as many entries were found between two minimum
// indices as there are. Every entry is a statement of the operator, or belongs to a
// run: were a run missing, the trees would be too small, and nobody could make them
// right once its entries are gone.
func (l *Log) checkFound(ctx context.Context, from, to, found uint64) error {
	// The seal at the minimum index itself belongs to a run that was swept.
	if found+1 == to-from {
		entry, err := l.Entry(ctx, from)
		if err != nil {
			return err
		}
		if kind, _, err := record.Split(entry); err == nil && kind == record.KindSeal {
			found++
		}
	}
	if found != to-from {
		return fmt.Errorf("%w: of the entries from %d to before %d, only %d of %d are in a run or statements of the operator: nothing is pruned",
			storage.ErrCorrupt, from, to, found, to-from)
	}
	return nil
}

func statementsBetween(all []uint64, from, to uint64) (n uint64) {
	for _, index := range all {
		if index >= from && index < to {
			n++
		}
	}
	return n
}

// grow appends to a stream's tree its records below an index, and returns how many
// entries of the stream, seals with them, it found there from another index on.
// Where there is no further run the stream ends.
func (l *Log) grow(ctx context.Context, name record.Stream, tree *record.Tree, from, to uint64, leaves leafReader) (found uint64, err error) {
	for {
		r, ok, err := l.config.Storage.Run(ctx, name, tree.Size())
		if err != nil || !ok {
			return found, err
		}
		index, end := r.Index+tree.Size()-r.Sequence, min(r.Index+r.Count, to)
		if index < from && index < end {
			return found, fmt.Errorf("%w: record %d of %s stands at index %d, below the minimum index %d, and is not in the tree that was kept",
				storage.ErrCorrupt, tree.Size(), name.Origin(), index, from)
		}
		for ; index < end; index++ {
			leaf, err := leaves.leaf(ctx, index)
			if err != nil {
				return found, err
			}
			tree.Append(leaf, nil)
			found++
		}
		if r.Index+r.Count >= to {
			return found, nil
		}
		found++ // its seal
	}
}

// leafReader remembers the tiles of one step: streams share them.
type leafReader struct {
	log   *Log
	tiles map[uint64][]byte
}

func (r leafReader) leaf(ctx context.Context, index uint64) (record.Hash, error) {
	n, i := index/tiles.Width, int(index%tiles.Width)*len(record.Hash{})
	tile, ok := r.tiles[n]
	if !ok {
		var err error
		if tile, err = (treeReader{r.log}).Tile(ctx, 0, n); err != nil {
			return record.Hash{}, err
		}
		r.tiles[n] = tile
	}
	if len(tile) < i+len(record.Hash{}) {
		return record.Hash{}, fmt.Errorf("%w: tile 0/%d ends before entry %d", storage.ErrCorrupt, n, index)
	}
	return record.Hash(tile[i:]), nil
}

// sweep deletes what is below the minimum index, a little at a time.
func (l *Log) sweep(ctx context.Context) error {
	if l.Minimum() == 0 {
		return nil
	}
	for more := true; more; {
		var err error
		if more, err = l.pruner.Sweep(ctx, sweepBundles); err != nil {
			return err
		}
		if more && !wait(ctx, nil, sweepPause) {
			return ctx.Err()
		}
	}
	trimmer, ok := l.config.Openings.(storage.OpeningsTrimmer)
	for more := ok; more; {
		var err error
		if more, err = trimmer.Trim(ctx, l.Minimum(), sweepOpenings); err != nil {
			return err
		}
		if more && !wait(ctx, nil, sweepPause) {
			return ctx.Err()
		}
	}
	return nil
}

// change is a statement of the operator: about keys, or about the log.
type change struct {
	keys *record.KeyChange
	log  *record.Statement
}

// newChange returns the statement that an entry holds, nil if it holds none.
func newChange(e record.Entry) *change {
	if e.KeyChange == nil && e.Statement == nil {
		return nil
	}
	return &change{e.KeyChange, e.Statement}
}

func (c *change) number() uint64 {
	if c.log != nil {
		return c.log.Number
	}
	return c.keys.Number
}

func (c *change) check(ring *record.Keyring) error {
	if c.log != nil {
		return ring.CheckStatement(c.log)
	}
	return ring.Check(c.keys)
}

func (c *change) apply(ring *record.Keyring, index uint64) error {
	if c.log != nil {
		return ring.ApplyStatement(c.log, index)
	}
	return ring.Apply(c.keys, index)
}

// checkRecordKept returns an error if a stored record lies below the minimum
// index, so that nothing can be compared with it.
func (l *Log) checkRecordKept(ctx context.Context, s record.Stream, sequence uint64) error {
	size, _, err := l.StreamAtMinimum(ctx, s)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if sequence < size {
		return &PrunedError{fmt.Sprintf("record %d of %s", sequence, s.Origin()), l.Minimum()}
	}
	return nil
}
