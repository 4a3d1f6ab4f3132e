package backup

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/tiles"
	"github.com/sealtap/sealtap/witness/policy"
)

// prunedStreams is how many edges are read at a time.
const prunedStreams = 1000

// drop forgets the checkpoints of less than a size: the entries that they are of
// are not all there.
func (w *walk) drop(size uint64) {
	for len(w.marks) > 0 && w.marks[0].size < size {
		w.marks = w.marks[1:]
	}
}

// kept verifies what a pruned log keeps from below its minimum index: the tiles
// above level 0, the statements of the operator with the bundles around them, and
// the edges of the streams, from which these go on. The hashes at the edge of the
// tree are compared with the checkpoints once the walk comes to their sizes.
func (w *walk) kept(ctx context.Context, minimum uint64, statements []uint64) error {
	w.streams.first = minimum
	if minimum == 0 {
		return nil
	}
	if minimum > w.state.Size || minimum%storage.BundleWidth != 0 {
		return fmt.Errorf("%w: %d entries are stored, and the minimum index is %d", ErrDamaged, w.state.Size, minimum)
	}
	for level := uint(1); minimum>>(tiles.Height*level) >= tiles.Width; level++ {
		for n := range minimum >> (tiles.Height * (level + 1)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := w.under(ctx, level, n); err != nil {
				return err
			}
		}
	}
	for i, index := range statements {
		if n := index / storage.BundleWidth; i == 0 || n != statements[i-1]/storage.BundleWidth {
			if err := w.keptBundle(ctx, n); err != nil {
				return err
			}
		}
	}
	return w.edges(ctx)
}

// under compares a complete tile with its root in the tile above it.
func (w *walk) under(ctx context.Context, level uint, n uint64) error {
	hashes, err := w.store.Tile(ctx, level, n, tiles.Width)
	if err != nil {
		return damaged(err)
	}
	tree := record.NewTree()
	for ; len(hashes) > 0; hashes = hashes[len(record.Hash{}):] {
		tree.Append(record.Hash(hashes[:len(record.Hash{})]), nil)
	}
	i := int(n % tiles.Width)
	above, err := w.store.Tile(ctx, level+1, n/tiles.Width, i+1)
	if err != nil {
		return damaged(err)
	}
	if tree.Root() != record.Hash(above[i*len(record.Hash{}):]) {
		return fmt.Errorf("%w: tile %d/%d is not what the tile above it was made of", ErrDamaged, level, n)
	}
	return nil
}

// keptBundle compares a bundle below the minimum index with its tiles, and notes
// the statements in it.
func (w *walk) keptBundle(ctx context.Context, n uint64) error {
	bundle, err := w.store.Bundle(ctx, n, storage.BundleWidth)
	if err != nil {
		return damaged(err)
	}
	leaves, err := w.store.Tile(ctx, 0, n, tiles.Width)
	if err != nil {
		return damaged(err)
	}
	index := n * storage.BundleWidth
	for entry, err := range storage.Entries(bundle) {
		if err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrDamaged, index, err)
		}
		if leaf := record.LeafHash(entry); leaf != record.Hash(leaves[:len(leaf)]) {
			return fmt.Errorf("%w: entry %d has been altered: it does not hash to its leaf", ErrDamaged, index)
		}
		leaves = leaves[len(record.Hash{}):]
		e, err := record.Parse(entry)
		if err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrDamaged, index, err)
		}
		if isStatement(e) {
			if err := w.streams.statement(index, e); err != nil {
				return err
			}
		}
		index++
	}
	return w.under(ctx, 0, n)
}

// edges begins with the streams as they were at the minimum index. That the edges
// are those shows with the next seals.
func (w *walk) edges(ctx context.Context) error {
	for place := uint64(0); ; {
		list, next, err := w.store.PrunedStreams(ctx, place, prunedStreams)
		if err != nil {
			return damaged(err)
		}
		for _, s := range list {
			tree, err := record.RestoreTree(s.Size, s.Edge)
			if err != nil {
				return fmt.Errorf("%w: the tree of %s at the minimum index: %w", ErrDamaged, s.Stream.Origin(), err)
			}
			w.streams.trees[s.Stream] = tree
		}
		if next == 0 {
			return nil
		}
		place = next
	}
}

// begun lets the run of the first record begin where it is stored to: the minimum
// index can lie within it.
func (s *streams) begun(ctx context.Context) error {
	have, ok, err := s.store.Run(ctx, s.run.Stream, s.run.Sequence)
	if err != nil {
		return damaged(err)
	}
	if before := s.run.Sequence - have.Sequence; ok && have.Index+before == s.first {
		have.Count = before
		s.run = have
	}
	return nil
}

// statement notes a statement of the operator. Statements come in the order of their
// indices, those below the minimum index first.
func (s *streams) statement(index uint64, e record.Entry) (err error) {
	s.keyChanges = append(s.keyChanges, index)
	switch {
	case e.Genesis != nil && s.operator != nil && e.Genesis.Operator.ID() != s.operator.ID():
		return fmt.Errorf("%w: its operator is %s, the policy names %s", ErrOther, e.Genesis.Operator, s.operator)
	case e.Genesis != nil && s.ring == nil:
		s.ring, err = record.NewKeyring(e.Genesis, s.operator)
	case e.Genesis != nil || s.ring == nil:
		err = errors.New("a genesis is the first one, and the only one")
	case e.KeyChange != nil:
		err = s.ring.Apply(e.KeyChange, index)
	default:
		err = s.ring.ApplyStatement(e.Statement, index)
	}
	if err != nil {
		return fmt.Errorf("%w: entry %d: the operator's statement there: %w", ErrDamaged, index, err)
	}
	return nil
}

// allowed verifies what the log shows for its minimum index, as an audit does. A
// policy that does not know the witnesses of that time cannot tell how old was what
// is gone; that is no damage, and said in the first result.
func (w *walk) allowed(ctx context.Context, p *policy.Policy, gone storage.Pruned) (unsure, err error) {
	if gone.Minimum == 0 {
		return nil, nil
	}
	if w.streams.ring == nil {
		return nil, fmt.Errorf("%w: the first %d entries are gone, and there is no statement of the operator", ErrDamaged, gone.Minimum)
	}
	d := client.Decision{
		Minimum: gone.Minimum, At: gone.At, Old: gone.Old, Origin: w.streams.ring.Genesis.Log.Name, Size: w.state.Size, Policy: p, Ring: w.streams.ring,
		IsPrefix: func(ctx context.Context, head checkpoint.Body) (bool, error) {
			root, err := tiles.Root(ctx, whole{w.store, w.state.Size}, head.Size)
			return root == record.Hash(head.Root), err
		},
	}
	_, err = d.Check(ctx)
	switch {
	case errors.As(err, new(*client.ForkedError)):
		return nil, fmt.Errorf("%w: %w: the first %d entries are gone: %w", ErrDamaged, ErrForked, gone.Minimum, err)
	case errors.Is(err, client.ErrNotAllowed):
		return nil, fmt.Errorf("%w: the first %d entries are gone: %w", ErrDamaged, gone.Minimum, err)
	case errors.Is(err, client.ErrUnavailable):
		return fmt.Errorf("whether the first %d entries may be gone cannot be told: %w", gone.Minimum, err), nil
	}
	return nil, damaged(err)
}

// isStatement reports whether an entry is one of the operator's.
func isStatement(e record.Entry) bool {
	return e.Genesis != nil || e.KeyChange != nil || e.Statement != nil
}
