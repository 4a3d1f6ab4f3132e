package tlog

import (
	"context"
	"fmt"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// restore brings the writer to what is stored. It runs at start, and again after
// a commit of which nobody knows whether it took place.
func (l *Log) restore(ctx context.Context) (*storage.State, error) {
	state, err := l.config.Storage.Load(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkBehind(state); err != nil {
		return nil, err
	}
	if shown := l.Published(); state.Size < shown {
		return nil, wentBack(state.Size, shown)
	}
	if state.Size == 0 {
		if err := l.begin(ctx); err != nil {
			return nil, err
		}
		if state, err = l.config.Storage.Load(ctx); err != nil {
			return nil, err
		}
	}
	tree, err := l.restoreTree(ctx, state)
	if err != nil {
		return nil, err
	}
	ring := l.knownRing(state)
	if ring == nil {
		if ring, err = l.restoreRing(ctx, state); err != nil {
			return nil, err
		}
	}
	s := &sequencer{log: l, tree: tree, streams: make(map[record.Stream]*record.Tree), keyChanges: state.KeyChanges}
	// The head grows in place behind what readers see.
	s.head = append(make([]byte, 0, 2*len(state.Head)), state.Head...)
	for _, st := range state.Streams {
		if s.streams[st.Stream], err = record.RestoreTree(st.Size, st.Edge); err != nil {
			return nil, fmt.Errorf("%w: stream %s: %w", storage.ErrCorrupt, st.Stream.Origin(), err)
		}
	}
	l.ringMu.Lock()
	l.ring, l.statements = ring, state.KeyChanges
	l.ringMu.Unlock()
	l.seq = s
	l.show(s.snapshot())
	return state, nil
}

func checkBehind(state *storage.State) error {
	if state.Signed == nil || state.Signed.Size <= state.Size {
		return nil
	}
	return fmt.Errorf("%w: %d entries are stored, and a checkpoint of size %d was signed. "+
		"The stored entries are an older copy; going on would fork the log. "+
		"Put back a copy that has at least %d entries; if there is none, start a new log under a new name",
		ErrBehind, state.Size, state.Signed.Size, state.Signed.Size)
}

// begin stores the genesis of a new log.
func (l *Log) begin(ctx context.Context) error {
	if l.config.Begin != nil {
		return l.beginWith(ctx, l.config.Begin)
	}
	if l.config.Operator == nil {
		return fmt.Errorf("%w: the storage is empty, and there is no operator key to start a log with", ErrConfig)
	}
	entry, err := record.NewGenesis(l.config.Key.Public, l.config.Operator, time.Now(), l.config.moreKeys()...)
	if err != nil {
		return fmt.Errorf("making genesis: %w", err)
	}
	leaf := record.LeafHash(entry)
	first := storage.Tile{Hashes: leaf[:]}
	return l.config.Storage.Commit(ctx, &storage.Batch{Entries: [][]byte{entry}, Tiles: []storage.Tile{first}, Root: leaf, KeyChanges: []uint64{0}})
}

// restoreTree restores the right edge and compares it with the root that was
// stored with it.
func (l *Log) restoreTree(ctx context.Context, state *storage.State) (*tiles.Writer, error) {
	tree, err := tiles.RestoreWriter(ctx, l.config.Storage, state.Size)
	if err != nil {
		return nil, err
	}
	if tree.Root() != state.Root {
		return nil, fmt.Errorf("%w: the tiles of %d entries give root %s, stored with them was %s", storage.ErrCorrupt, state.Size, tree.Root(), state.Root)
	}
	return tree, l.checkHead(state, tree)
}

// checkHead compares the newest entries with their leaf hashes. An entry that was
// altered is told, and served as it is: what auditors find at a place must not
// keep them from looking.
func (l *Log) checkHead(state *storage.State, tree *tiles.Writer) error {
	index := state.Size - state.Size%tiles.Width
	var leaves []byte
	for _, t := range tree.Partial() {
		if t.Level == 0 {
			leaves = t.Hashes
		}
	}
	for entry, err := range storage.Entries(state.Head) {
		if err == nil && len(leaves) < len(record.Hash{}) {
			err = fmt.Errorf("%w: there are more entries than leaf hashes", storage.ErrCorrupt)
		}
		if err != nil {
			return err
		}
		if record.LeafHash(entry) != record.Hash(leaves[:len(record.Hash{})]) {
			l.config.Logger.Error("a stored entry has been altered: it does not hash to its leaf; put back a copy of the storage that is whole, and run an audit", "index", index)
		}
		leaves, index = leaves[len(record.Hash{}):], index+1
	}
	if len(leaves) > 0 {
		return fmt.Errorf("%w: %d of the newest entries are gone", storage.ErrCorrupt, len(leaves)/len(record.Hash{}))
	}
	return nil
}

// restoreRing replays the operator's statements. It costs O(number of them).
func (l *Log) restoreRing(ctx context.Context, state *storage.State) (*record.Keyring, error) {
	var ring *record.Keyring
	for i, index := range state.KeyChanges {
		entry, err := storedEntry(ctx, l.config.Storage, index)
		if err != nil {
			return nil, err
		}
		e, err := record.Parse(entry)
		switch {
		case err != nil:
		case i == 0 && e.Genesis != nil && index == 0:
			ring, err = l.checkGenesis(e.Genesis)
		case i > 0 && newChange(e) != nil:
			err = newChange(e).apply(ring, index)
		default:
			err = fmt.Errorf("%w: a %s entry", storage.ErrCorrupt, e.Kind)
		}
		if err != nil {
			return nil, fmt.Errorf("replaying statement %d, entry %d: %w", i, index, err)
		}
	}
	if ring == nil {
		return nil, fmt.Errorf("%w: the log has no genesis", storage.ErrCorrupt)
	}
	return ring, nil
}

func (l *Log) checkGenesis(g *record.Genesis) (*record.Keyring, error) {
	if g.Log.String() != l.config.Key.Public.String() {
		return nil, fmt.Errorf("%w: the storage belongs to log %s, the key is of %s", ErrConfig, g.Log, l.config.Key.Public)
	}
	return record.NewKeyring(g, l.config.Policy.Operator)
}

// storedEntry returns one entry.
func storedEntry(ctx context.Context, s storage.Log, index uint64) ([]byte, error) {
	bundle, err := s.Bundle(ctx, index/tiles.Width)
	if err != nil {
		return nil, err
	}
	i := index % tiles.Width
	for entry, err := range storage.Entries(bundle) {
		if err != nil {
			return nil, err
		}
		if i == 0 {
			return entry, nil
		}
		i--
	}
	return nil, fmt.Errorf("%w: bundle %d lacks entry %d", storage.ErrCorrupt, index/tiles.Width, index)
}

// restoreHeads checks the checkpoints that were signed and published against the
// tree. One that was published and does not satisfy the policy of this log is not shown:
// doubt says so.
func (l *Log) restoreHeads(ctx context.Context, state *storage.State) (doubt, err error) {
	if l.signed = state.Signed; l.signed != nil {
		body, _, err := checkpoint.Open(l.signed.Note, l.verifier)
		if err != nil {
			return nil, fmt.Errorf("reading the last signed checkpoint: %w", err)
		}
		if body != (checkpoint.Body{Origin: l.origin, Size: l.signed.Size, Root: l.signed.Root}) {
			return nil, fmt.Errorf("%w: the last signed checkpoint is not what it was stored as", storage.ErrCorrupt)
		}
		root, err := tiles.Root(ctx, l.cache, l.signed.Size)
		if err != nil {
			return nil, fmt.Errorf("recomputing the last signed root: %w", err)
		}
		if root != l.signed.Root {
			return nil, fmt.Errorf("%w: the tiles give root %s for size %d, but root %s was signed; put back a copy of the storage that is whole",
				storage.ErrCorrupt, root, l.signed.Size, l.signed.Root)
		}
	}
	if state.Published == nil {
		return nil, nil
	}
	cp, err := l.config.Policy.Verify(state.Published.Note)
	if err != nil {
		return fmt.Errorf("the published checkpoint of size %d does not satisfy the policy: %w", state.Published.Size, err), nil
	}
	root, err := tiles.Root(ctx, l.cache, cp.Size)
	if err != nil {
		return nil, fmt.Errorf("recomputing the published root: %w", err)
	}
	if root != record.Hash(cp.Root) || cp.Origin != l.origin {
		return nil, fmt.Errorf("%w: the tiles give root %s for size %d, published was %s", storage.ErrCorrupt, root, cp.Size, record.Hash(cp.Root))
	}
	l.published.Store(cp)
	return nil, nil
}

// doubts tells an operator of a checkpoint that is published and in doubt.
func (l *Log) doubts(doubt error) {
	if doubt != nil {
		l.config.Logger.Warn("the published checkpoint is not shown until it is cosigned again", "error", doubt)
	}
}
