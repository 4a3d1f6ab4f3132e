package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
)

const (
	tileHeight  = 8
	parallel    = 8   // requests at a time
	cachedTiles = 512 // of at most 8 KiB
)

// Tree reads a log under one head: all that it returns has been proven to stand
// under the root, by way of tiles that were themselves proven. It may be used by
// several goroutines.
type Tree struct {
	reader Reader
	size   uint64
	root   record.Hash

	mu    sync.Mutex
	tiles map[tlog.Tile][]byte // proven ones only; guarded by mu
}

// NewTree returns the tree of the given head, which the caller has verified.
func NewTree(r Reader, size uint64, root record.Hash) *Tree {
	return &Tree{reader: r, size: size, root: root, tiles: make(map[tlog.Tile][]byte)}
}

// Size is the number of entries in the tree.
func (t *Tree) Size() uint64 { return t.size }

// Root is the root hash of the tree.
func (t *Tree) Root() record.Hash { return t.root }

// Leaves returns the leaf hashes of the entries from begin to before end.
func (t *Tree) Leaves(ctx context.Context, begin, end uint64) ([]record.Hash, error) {
	if begin > end || end > t.size {
		return nil, t.outOfRange(end)
	}
	ids := make([]int64, 0, end-begin)
	for i := begin; i < end; i++ {
		ids = append(ids, tlog.StoredHashIndex(0, int64(i)))
	}
	return t.hashes(ctx, ids)
}

// Entry returns the entry at the index, once its leaf hash is proven.
func (t *Tree) Entry(ctx context.Context, index uint64) ([]byte, error) {
	list, err := t.Entries(ctx, index)
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// Entries returns the entries at the indices, in their order, once the leaf
// hashes of all are proven. It fetches each bundle once and holds all of them in
// memory until it is done.
func (t *Tree) Entries(ctx context.Context, indices ...uint64) ([][]byte, error) {
	ids := make([]int64, len(indices))
	place := make(map[uint64]int) // bundle number -> its place in bundles
	var bundles []uint64
	for i, index := range indices {
		if index >= t.size {
			return nil, t.outOfRange(index)
		}
		ids[i] = tlog.StoredHashIndex(0, int64(index))
		if n := index / TileWidth; !contains(place, n) {
			place[n] = len(bundles)
			bundles = append(bundles, n)
		}
	}
	leaves, err := t.hashes(ctx, ids)
	if err != nil {
		return nil, err
	}
	raw := make([][]byte, len(bundles))
	err = each(ctx, len(bundles), func(ctx context.Context, i int) (err error) {
		raw[i], err = t.reader.Bundle(ctx, bundles[i], width(bundles[i], t.size))
		return err
	})
	if err != nil {
		return nil, err
	}
	entries := make([][]byte, len(indices))
	for i, index := range indices {
		n := index / TileWidth
		list, err := SplitBundle(raw[place[n]], width(n, t.size))
		if k := int(index % TileWidth); k < len(list) {
			entries[i] = list[k]
		} else {
			return nil, fmt.Errorf("entry %d: %w", index, err)
		}
		if record.LeafHash(entries[i]) != leaves[i] {
			return nil, fmt.Errorf("entry %d: %w: it does not hash to the leaf that stands under the checkpoint", index, ErrVerification)
		}
	}
	return entries, nil
}

func contains(m map[uint64]int, k uint64) bool { _, ok := m[k]; return ok }

// Consistent proves that the tree of an older head is a prefix of this one.
// Where it is not, the error wraps [ErrVerification]: the log has rewritten what
// it had signed.
func (t *Tree) Consistent(ctx context.Context, older checkpoint.Body) error {
	root, err := t.RootAt(ctx, older.Size)
	if err != nil {
		return err
	}
	if root != record.Hash(older.Root) {
		return fmt.Errorf("%w: the first %d of %d entries do not have the root of the older checkpoint", ErrVerification, older.Size, t.size)
	}
	return nil
}

// RootAt returns the root hash of the first size entries, computed from subtrees
// that stand proven under the root.
func (t *Tree) RootAt(ctx context.Context, size uint64) (record.Hash, error) {
	switch {
	case size > t.size:
		return record.Hash{}, fmt.Errorf("%w: a tree of %d entries is no prefix of one of %d", ErrVerification, size, t.size)
	case size == t.size:
		return t.root, nil
	case size == 0:
		return checkpoint.EmptyRoot(), nil
	}
	root, err := tlog.TreeHash(int64(size), t.hashReader(ctx))
	if err != nil {
		return record.Hash{}, fmt.Errorf("computing root at %d: %w", size, kind(err))
	}
	return record.Hash(root), nil
}

// InclusionProof returns the proof of the entry at the index, leaf to root, as
// RFC 6962 orders it.
func (t *Tree) InclusionProof(ctx context.Context, index uint64) ([]record.Hash, error) {
	if index >= t.size {
		return nil, t.outOfRange(index)
	}
	p, err := tlog.ProveRecord(int64(t.size), int64(index), t.hashReader(ctx))
	if err != nil {
		return nil, fmt.Errorf("proving entry %d: %w", index, kind(err))
	}
	return convert(p), nil
}

// ConsistencyProof returns the proof from the tree of the first size entries, at
// least one and fewer than all, to this one, as RFC 6962 orders it.
func (t *Tree) ConsistencyProof(ctx context.Context, size uint64) ([]record.Hash, error) {
	if size == 0 || size >= t.size {
		return nil, t.outOfRange(size)
	}
	p, err := tlog.ProveTree(int64(t.size), int64(size), t.hashReader(ctx))
	if err != nil {
		return nil, fmt.Errorf("proving consistency from %d: %w", size, kind(err))
	}
	return convert(p), nil
}

func (t *Tree) outOfRange(index uint64) error {
	return fmt.Errorf("%w: %w: index %d, the checkpoint covers %d entries", ErrUnavailable, ErrNotFound, index, t.size)
}

// hashes returns the proven hashes with the given storage indices.
func (t *Tree) hashes(ctx context.Context, ids []int64) ([]record.Hash, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	list, err := t.hashReader(ctx).ReadHashes(ids)
	if err != nil {
		return nil, fmt.Errorf("reading tiles: %w", kind(err))
	}
	return convert(list), nil
}

func convert(list []tlog.Hash) []record.Hash {
	out := make([]record.Hash, len(list))
	for i, h := range list {
		out[i] = record.Hash(h)
	}
	return out
}

// kind makes every error one of the two kinds: what is not about fetching is a
// tile that does not hash to its parent.
func kind(err error) error {
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrVerification) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrVerification, err)
}

// hashReader returns a reader that proves each tile under the root before it
// returns a hash from it. The tree must have an entry.
func (t *Tree) hashReader(ctx context.Context) tlog.HashReader {
	if t.size > maxSize {
		return tlog.HashReaderFunc(func([]int64) ([]tlog.Hash, error) {
			return nil, fmt.Errorf("%w: a tree of %d entries", ErrVerification, t.size)
		})
	}
	return tlog.TileHashReader(tlog.Tree{N: int64(t.size), Hash: tlog.Hash(t.root)}, &tileReader{ctx, t})
}

// tileReader is one read of tiles.
type tileReader struct {
	ctx  context.Context // of the one call that the reader is made for
	tree *Tree
}

// Height implements [tlog.TileReader].
func (r *tileReader) Height() int { return tileHeight }

// ReadTiles implements [tlog.TileReader].
func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	err := each(r.ctx, len(tiles), func(ctx context.Context, i int) (err error) {
		r.tree.mu.Lock()
		data[i] = r.tree.tiles[tiles[i]]
		r.tree.mu.Unlock()
		if data[i] == nil {
			data[i], err = r.tree.reader.Tile(ctx, uint(tiles[i].L), uint64(tiles[i].N), tiles[i].W)
		}
		return err
	})
	return data, err
}

// SaveTiles implements [tlog.TileReader]: it is called with proven tiles.
func (r *tileReader) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	r.tree.mu.Lock()
	defer r.tree.mu.Unlock()
	for i, t := range tiles {
		for old := range r.tree.tiles { // any one
			if len(r.tree.tiles) < cachedTiles {
				break
			}
			delete(r.tree.tiles, old)
		}
		r.tree.tiles[t] = data[i]
	}
}

// each calls fn for 0 to n-1, a few at a time, until one fails; it returns that
// error once all calls have ended.
func each(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	if n == 1 {
		return unavailable(fn(ctx, 0))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(n, parallel) {
		wg.Go(func() {
			for i := range next {
				if err := fn(ctx, i); err != nil {
					cancel(err) // the first one stays
				}
			}
		})
	}
feed:
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	return unavailable(context.Cause(ctx))
}

// unavailable makes an error of a reader one of the two kinds: what does not say
// that it is about verification is about fetching, like the end of a context.
func unavailable(err error) error {
	if err == nil || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrVerification) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
