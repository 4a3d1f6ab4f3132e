package audit

import (
	"context"

	"github.com/sealtap/sealtap/record"
)

// What bundles are read into is used again and again: an audit allocates nothing for
// an entry.

// emptyBundle returns a bundle to read into: one that has been consumed, if there is one.
func (a *auditor) emptyBundle(n uint64) *bundle {
	b, ok := a.consumed.Get().(*bundle)
	if !ok {
		b = &bundle{leaves: make([]record.Hash, 0, tileWidth), items: make([]item, 0, tileWidth), parts: make([]part, 0, tileWidth), entries: make([][]byte, 0, tileWidth)}
	}
	*b = bundle{n: n, leaves: b.leaves[:0], items: b.items[:0], parts: b.parts[:0], entries: b.entries[:0], raw: b.raw, tile: b.tile}
	return b
}

// reuse takes a bundle of which nothing is needed any more.
func (a *auditor) reuse(b *bundle) {
	clear(b.items) // what they point at
	clear(b.entries[:cap(b.entries)])
	a.consumed.Put(b)
}

// reusing is a Source that can read into memory that is there. *[client.Source] is one.
type reusing interface {
	TileInto(ctx context.Context, level uint, n uint64, width int, buf []byte) ([]byte, error)
	BundleInto(ctx context.Context, n uint64, width int, buf []byte) ([]byte, error)
}

// mostReused bounds the memory that is kept for the next bundle.
const mostReused = 1 << 20

func (a *auditor) fetchBundle(ctx context.Context, b *bundle, width int) ([]byte, error) {
	src, ok := a.src.(reusing)
	if !ok {
		return a.src.Bundle(ctx, b.n, width)
	}
	raw, err := src.BundleInto(ctx, b.n, width, b.raw)
	if b.raw = raw; cap(raw) > mostReused {
		b.raw = nil
	}
	return raw, err
}

func (a *auditor) fetchTile(ctx context.Context, b *bundle, width int) ([]byte, error) {
	src, ok := a.src.(reusing)
	if !ok {
		return a.src.Tile(ctx, 0, b.n, width)
	}
	tile, err := src.TileInto(ctx, 0, b.n, width, b.tile)
	b.tile = tile
	return tile, err
}

// heavy is how many bytes a bundle has of which only heavyAtATime are read at a time: it
// can have 16 MiB, and most have a hundredth of that.
const (
	heavy        = 2 << 20
	heavyAtATime = 2
)

// enter waits until a bundle may be read, if those of late were heavy, and returns what
// is to be called with its size then.
func (a *auditor) enter() (leave func(size int)) {
	narrow := a.heavy.Load()
	if narrow {
		a.narrow <- struct{}{}
	}
	return func(size int) {
		a.heavy.Store(size > heavy)
		if narrow {
			<-a.narrow
		}
	}
}
