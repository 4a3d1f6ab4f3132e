package tlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// treeReader reads the tiles of the durable tree: the right edge from memory,
// the others from storage.
type treeReader struct{ log *Log }

func (r treeReader) Tile(ctx context.Context, level uint, n uint64) ([]byte, error) {
	for _, t := range r.log.durable.Load().partial {
		if t.Level == level && t.N == n {
			return t.Hashes, nil
		}
	}
	hashes, err := r.log.config.Storage.Tile(ctx, level, n)
	if level == 0 && errors.Is(err, storage.ErrNotFound) {
		err = errors.Join(r.log.checkGone(ctx, n), err)
	}
	return hashes, err
}

// Bundle returns entry bundle n in the form of C2SP tlog-tiles, complete or as
// far as the durable entries go. The caller does not change it.
func (l *Log) Bundle(ctx context.Context, n uint64) ([]byte, error) {
	if err := l.checkKept(n); err != nil {
		return nil, err
	}
	s := l.durable.Load()
	if n == s.size/tiles.Width && len(s.head) > 0 {
		return s.head, nil
	}
	if b, ok := s.recentBundle(n); ok {
		return b.entries, nil
	}
	bundle, err := l.config.Storage.Bundle(ctx, n)
	if errors.Is(err, storage.ErrPruned) {
		err = errors.Join(l.checkGone(ctx, n), err)
	}
	return bundle, err
}

// Entry returns a durable entry.
func (l *Log) Entry(ctx context.Context, index uint64) ([]byte, error) {
	if size := l.Size(); index >= size {
		return nil, fmt.Errorf("%w: entry %d of %d", ErrNotPublished, index, size)
	}
	return storedEntry(ctx, bundles{l.config.Storage, l}, index)
}

// bundles is a storage whose bundles are read through the log.
type bundles struct {
	storage.Log
	log *Log
}

func (b bundles) Bundle(ctx context.Context, n uint64) ([]byte, error) { return b.log.Bundle(ctx, n) }

// LeafHash returns the leaf hash of a durable entry.
func (l *Log) LeafHash(ctx context.Context, index uint64) (record.Hash, error) {
	if err := l.checkKept(index / tiles.Width); err != nil {
		return record.Hash{}, err
	}
	return l.cache.Node(ctx, 0, index)
}

// InclusionProof returns the audit path of the entry at the index in the tree of
// the given size, which is at most that of the published checkpoint.
func (l *Log) InclusionProof(ctx context.Context, index, size uint64) ([]record.Hash, error) {
	if err := l.checkPublished(size); err != nil {
		return nil, err
	}
	list, err := l.inclusionProofs(ctx, []uint64{index}, size)
	if err != nil {
		return nil, err
	}
	return list[0].Path, nil
}

// ConsistencyProof returns the proof that the tree of size from is a prefix of
// that of size to, which is at most that of the published checkpoint.
func (l *Log) ConsistencyProof(ctx context.Context, from, to uint64) ([]record.Hash, error) {
	if err := l.checkPublished(to); err != nil {
		return nil, err
	}
	if from > 0 && from < to {
		if err := errors.Join(l.checkEdge(from), l.checkEdge(to)); err != nil {
			return nil, err
		}
	}
	return tiles.ConsistencyProof(ctx, l.cache, from, to)
}

// inclusionProofs returns leaves with their audit paths. What was pruned may still
// be in the cache: whether it is kept is asked first.
func (l *Log) inclusionProofs(ctx context.Context, indices []uint64, size uint64) ([]tiles.Inclusion, error) {
	for _, index := range indices {
		if err := l.checkKept(index / tiles.Width); err != nil {
			return nil, err
		}
	}
	if err := l.checkEdge(size); err != nil {
		return nil, err
	}
	return tiles.InclusionProofs(ctx, l.cache, indices, size)
}

// checkEdge returns an error if the right edge of the tree of a size needs leaf
// hashes that are no longer kept.
func (l *Log) checkEdge(size uint64) error {
	if size%tiles.Width == 0 {
		return nil
	}
	return l.checkKept(size / tiles.Width)
}

func (l *Log) checkPublished(size uint64) error {
	if published := l.Published(); size > published {
		return fmt.Errorf("%w: size %d, published are %d entries", ErrNotPublished, size, published)
	}
	return nil
}

// tileBytes returns the first width hashes of a tile of the published tree, and a
// digest of them.
func (l *Log) tileBytes(ctx context.Context, p tiles.Path) (hashes []byte, sum uint64, err error) {
	if err := l.checkPath(p); err != nil {
		return nil, 0, err
	}
	return l.cache.Prefix(ctx, p.Level, p.N, p.Width)
}

// bundleBytes returns the first entries of a bundle of the published log.
func (l *Log) bundleBytes(ctx context.Context, p tiles.Path) ([]byte, error) {
	if err := l.checkPath(p); err != nil {
		return nil, err
	}
	bundle, err := l.Bundle(ctx, p.N)
	if err != nil {
		return nil, err
	}
	return storage.Truncate(bundle, p.Width)
}

// checkPath reports whether the published tree has the tile, and it is kept.
func (l *Log) checkPath(p tiles.Path) error {
	if p.Level*tiles.Height > 63 {
		return fmt.Errorf("%w: %s", ErrNotPublished, p)
	}
	have := l.Published() >> (p.Level * tiles.Height)
	if p.N >= 1<<56 || p.N*tiles.Width+uint64(p.Width) > have {
		return fmt.Errorf("%w: %s", ErrNotPublished, p)
	}
	if p.Level == 0 {
		return l.checkKept(p.N)
	}
	return nil
}

// packer is a storage that keeps complete bundles as zstd frames.
type packer interface {
	PackedBundle(ctx context.Context, n uint64) ([]byte, error)
}

// packedBundle returns a complete bundle as a zstd frame, and reports whether
// the storage has it like that.
func (l *Log) packedBundle(ctx context.Context, p tiles.Path) ([]byte, bool, error) {
	s, ok := l.config.Storage.(packer)
	if !ok || p.Width != tiles.Width {
		return nil, false, nil
	}
	if err := l.checkPath(p); err != nil {
		return nil, false, err
	}
	packed, err := s.PackedBundle(ctx, p.N)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, false, nil
	}
	return packed, err == nil, err
}
