package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/tiles"
	"github.com/sealtap/sealtap/witness/policy"
)

// Store is a stored log that does not change. *sqlite.LogFile is one.
type Store interface {
	Load(ctx context.Context) (*storage.State, error)
	Bundle(ctx context.Context, n uint64, width int) ([]byte, error)
	Tile(ctx context.Context, level uint, n uint64, width int) ([]byte, error)
	Run(ctx context.Context, s record.Stream, sequence uint64) (storage.Run, bool, error)
	Pruned(ctx context.Context) (p storage.Pruned, statements []uint64, err error)
	PrunedStreams(ctx context.Context, place uint64, limit int) (list []storage.Stream, next uint64, err error)
}

// verification says what a log is verified with.
type verification struct {
	policy *policy.Policy
	// marks are checkpoints that it has to agree with, as far as it goes.
	marks []sighting
	// progress may be nil.
	progress func(done, total uint64)
}

// verified is what was found while a log was verified.
type verified struct {
	sealed uint64 // records with sealed fields, from the minimum index on
	unsure error  // why it cannot be told whether the minimum index is allowed
}

// walk recomputes a stored log from its entries.
type walk struct {
	store Store
	state *storage.State
	// marks are checkpoints of at most the stored size, smallest first: what the
	// tree has to look like at their sizes.
	marks   []sighting
	tree    *tiles.Writer
	streams *streams
}

// verify recomputes every leaf hash, tile and root of a stored log from the
// entries, and compares them with what is stored, and with the checkpoints. So it does
// with the streams of producers, their seals and runs, and the operator's statements.
// The first entry of a pruned log is the one at its minimum index; what it keeps below
// is compared with the tiles that it keeps, and these with the checkpoints; and its
// operator must have allowed that index.
func verify(ctx context.Context, s Store, state *storage.State, v verification) (found verified, err error) {
	w := &walk{store: s, state: state, tree: tiles.NewWriter(), streams: newStreams(s, v.policy.Operator)}
	for _, m := range v.marks {
		if m.size <= state.Size {
			w.marks = append(w.marks, m)
		}
	}
	p, statements, err := s.Pruned(ctx)
	if err != nil {
		return found, damaged(err)
	}
	if err := w.kept(ctx, p.Minimum, statements); err != nil {
		return found, err
	}
	w.drop(p.Minimum)
	if p.Minimum > 0 {
		w.tree, err = tiles.RestoreWriter(ctx, whole{s, state.Size}, p.Minimum)
	}
	if err != nil {
		return found, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := w.check(); err != nil { // at the size it begins with
		return found, err
	}
	for n := p.Minimum / storage.BundleWidth; n*storage.BundleWidth < state.Size; n++ {
		if err := w.bundle(ctx, n); err != nil {
			return found, err
		}
		if v.progress != nil {
			v.progress(w.tree.Size(), state.Size)
		}
	}
	if err := w.finish(ctx); err != nil {
		return found, err
	}
	found.sealed = w.streams.sealed
	found.unsure, err = w.allowed(ctx, v.policy, p)
	return found, err
}

// whole reads tiles as far as a tree of the given size has them.
type whole struct {
	Store
	size uint64
}

// Tile implements [tiles.Reader].
func (r whole) Tile(ctx context.Context, level uint, n uint64) ([]byte, error) {
	nodes := r.size >> (tiles.Height * level)
	return r.Store.Tile(ctx, level, n, int(min(tiles.Width, nodes-n*tiles.Width)))
}

// bundle walks through one bundle.
func (w *walk) bundle(ctx context.Context, n uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	index := n * storage.BundleWidth
	width := int(min(storage.BundleWidth, w.state.Size-index))
	bundle, err := w.store.Bundle(ctx, n, width)
	if err != nil {
		return damaged(err)
	}
	leaves, err := w.store.Tile(ctx, 0, n, width)
	if err != nil {
		return damaged(err)
	}
	for entry, err := range storage.Entries(bundle) {
		if err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrDamaged, index, err)
		}
		leaf := record.LeafHash(entry)
		if leaf != record.Hash(leaves[:len(leaf)]) {
			return fmt.Errorf("%w: entry %d has been altered: it does not hash to its leaf", ErrDamaged, index)
		}
		leaves = leaves[len(leaf):]
		w.tree.Append(leaf)
		if err := w.streams.add(ctx, index, entry, leaf); err != nil {
			return err
		}
		if err := w.check(); err != nil {
			return err
		}
		index++
	}
	return w.compare(ctx, w.tree.Complete())
}

// damaged says of an error of the storage which of the two kinds it is.
func damaged(err error) error {
	// What is asked for is what a log keeps, pruned or not.
	if (errors.Is(err, storage.ErrCorrupt) || errors.Is(err, storage.ErrPruned)) && !errors.Is(err, ErrDamaged) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// check compares the tree with the checkpoints of its size.
func (w *walk) check() error {
	for ; len(w.marks) > 0 && w.marks[0].size == w.tree.Size(); w.marks = w.marks[1:] {
		if m := w.marks[0]; m.root != w.tree.Root() {
			return fmt.Errorf("%w: %w: the first %d entries have root %s; signed, and seen in %s, was %s",
				ErrDamaged, ErrForked, m.size, w.tree.Root(), m.where, m.root)
		}
	}
	return nil
}

// compare compares tiles with the stored ones.
func (w *walk) compare(ctx context.Context, list []tiles.Tile) error {
	for _, t := range list {
		have, err := w.store.Tile(ctx, t.Level, t.N, len(t.Hashes)/len(record.Hash{}))
		if err != nil {
			return damaged(err)
		}
		if !bytes.Equal(have, t.Hashes) {
			return fmt.Errorf("%w: tile %d/%d is not what the entries give", ErrDamaged, t.Level, t.N)
		}
	}
	return nil
}

func (w *walk) finish(ctx context.Context) error {
	if err := w.compare(ctx, w.tree.Partial()); err != nil {
		return err
	}
	if w.tree.Size() != w.state.Size || w.tree.Root() != w.state.Root && w.state.Size > 0 {
		return fmt.Errorf("%w: %d entries have root %s; stored with %d was %s", ErrDamaged, w.tree.Size(), w.tree.Root(), w.state.Size, w.state.Root)
	}
	return w.streams.compare(w.state)
}

// streams follow the trees of the producers through the entries of a log.
type streams struct {
	store      Store
	first      uint64 // index of the first entry
	trees      map[record.Stream]*record.Tree
	run        storage.Run // the records since the last seal
	keyChanges []uint64
	operator   *keys.Public    // the pin; nil if there is none
	ring       *record.Keyring // what the operator has stated
	sealed     uint64          // records with sealed fields
}

func newStreams(s Store, operator *keys.Public) *streams {
	return &streams{store: s, trees: make(map[record.Stream]*record.Tree), operator: operator}
}

func (s *streams) add(ctx context.Context, index uint64, entry []byte, leaf record.Hash) error {
	e, err := record.Parse(entry)
	if err != nil {
		return fmt.Errorf("%w: entry %d: %w", ErrDamaged, index, err)
	}
	switch {
	case isStatement(e):
		return s.statement(index, e)
	case e.Record != nil:
		tree := s.trees[e.Record.Stream]
		if tree == nil {
			tree = record.NewTree()
			s.trees[e.Record.Stream] = tree
		}
		if s.run.Count == 0 {
			s.run = storage.Run{Stream: e.Record.Stream, Sequence: tree.Size(), Index: index}
			if index == s.first {
				if err := s.begun(ctx); err != nil {
					return err
				}
			}
		}
		if e.Record.Stream != s.run.Stream || e.Record.GetSequence() != tree.Size() {
			return fmt.Errorf("%w: entry %d: sequence %d of %s does not follow", ErrDamaged, index, e.Record.GetSequence(), e.Record.Stream.Origin())
		}
		tree.Append(leaf, nil)
		s.run.Count++
		if len(e.Record.GetSealed()) > 0 {
			s.sealed++
		}
	case e.Seal != nil:
		return s.seal(ctx, index, e.Seal)
	}
	return nil
}

// seal compares a seal with the records before it, and their run with the stored
// one.
func (s *streams) seal(ctx context.Context, index uint64, seal *record.Seal) error {
	tree := s.trees[seal.Stream]
	if index == s.first && tree != nil && tree.Size() == seal.Size && tree.Root() == seal.Root {
		return nil // the records are below the minimum index, and their run with them
	}
	if tree == nil || s.run.Stream != seal.Stream || s.run.Count == 0 || tree.Size() != seal.Size || tree.Root() != seal.Root {
		return fmt.Errorf("%w: entry %d: the seal of size %d of %s is not that of the records before it", ErrDamaged, index, seal.Size, seal.Stream.Origin())
	}
	have, ok, err := s.store.Run(ctx, seal.Stream, seal.Size-1)
	if err != nil {
		return damaged(err)
	}
	if !ok || have != s.run {
		return fmt.Errorf("%w: entry %d: the run that its seal ends is not stored as it is", ErrDamaged, index)
	}
	s.run = storage.Run{}
	return nil
}

func (s *streams) compare(state *storage.State) error {
	if s.run.Count > 0 {
		return fmt.Errorf("%w: the last %d records lack their seal", ErrDamaged, s.run.Count)
	}
	if len(state.Streams) != len(s.trees) {
		return fmt.Errorf("%w: the entries are of %d streams, %d are stored", ErrDamaged, len(s.trees), len(state.Streams))
	}
	for _, have := range state.Streams {
		tree := s.trees[have.Stream]
		if tree == nil || tree.Size() != have.Size || !slices.Equal(tree.Edge(), have.Edge) {
			return fmt.Errorf("%w: the tree of %s is not stored as its records give it", ErrDamaged, have.Stream.Origin())
		}
	}
	if !slices.Equal(s.keyChanges, state.KeyChanges) {
		return fmt.Errorf("%w: the operator's statements are not stored where they are", ErrDamaged)
	}
	return nil
}

// genesis returns the key of the log that a store is of.
func genesis(ctx context.Context, s Store) (keys.Public, error) {
	bundle, err := s.Bundle(ctx, 0, 1)
	if err != nil {
		return keys.Public{}, damaged(err)
	}
	for entry, err := range storage.Entries(bundle) {
		if err != nil {
			return keys.Public{}, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if e, err := record.Parse(entry); err == nil && e.Genesis != nil {
			return e.Genesis.Log, nil
		}
		break
	}
	return keys.Public{}, fmt.Errorf("%w: entry 0 is not the genesis of a log", ErrDamaged)
}
