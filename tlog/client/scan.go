package client

import (
	"context"
	"fmt"
	"iter"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sealtap/sealtap/record"
)

// Proven is an entry that stands under the head of its tree.
type Proven struct {
	Index uint64
	Leaf  record.Hash
	Entry []byte
}

// Scan returns all entries from the index begin on, which is a multiple of 256, in
// their order, each proven. It reads bundles ahead, and no tile of level 0 but the
// last: whole bundles are proven by the nodes over them. After an error there are
// no more.
func (t *Tree) Scan(ctx context.Context, begin uint64) iter.Seq2[Proven, error] {
	return func(yield func(Proven, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if begin%TileWidth != 0 || begin > t.size {
			yield(Proven{}, t.outOfRange(begin))
			return
		}
		for first := begin / TileWidth; first*TileWidth < t.size; {
			end := min(first-first%TileWidth+TileWidth, (t.size+TileWidth-1)/TileWidth)
			for b := range t.ahead(ctx, first, end) {
				if b.err != nil {
					yield(Proven{}, b.err)
					return
				}
				for i, e := range b.entries {
					if !yield(Proven{b.n*TileWidth + uint64(i), b.leaves[i], e}, nil) {
						return
					}
				}
			}
			if err := ctx.Err(); err != nil {
				yield(Proven{}, unavailable(err))
				return
			}
			first = end
		}
	}
}

// scanned is a bundle, proven.
type scanned struct {
	n       uint64
	entries [][]byte
	leaves  []record.Hash
	err     error
}

// ahead returns bundles in their order and fetches a few of them at a time. They
// lie under one tile of level 1, the last one perhaps under none.
func (t *Tree) ahead(ctx context.Context, first, end uint64) iter.Seq[scanned] {
	return func(yield func(scanned) bool) {
		full := min(end, t.size/TileWidth)
		var nodes []record.Hash
		if first < full {
			var err error
			if nodes, err = t.Nodes(ctx, tileHeight, first, full); err != nil {
				yield(scanned{err: err})
				return
			}
		}
		pending := make(chan chan scanned, parallel)
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			defer close(pending)
			for n := first; n < end; n++ {
				c := make(chan scanned, 1)
				select {
				case pending <- c:
				case <-stop:
					return
				}
				go func() {
					if n < full {
						c <- t.wholeBundle(ctx, n, nodes[n-first])
					} else {
						c <- t.lastBundle(ctx, n)
					}
				}()
			}
		}()
		for c := range pending {
			if !yield(<-c) {
				return
			}
		}
	}
}

func (t *Tree) wholeBundle(ctx context.Context, n uint64, node record.Hash) scanned {
	s := t.bundle(ctx, n)
	if s.err == nil && Subtree(s.leaves) != node {
		s.err = fmt.Errorf("bundle %d: %w: its entries do not hash to what stands under the checkpoint", n, ErrVerification)
	}
	return s
}

func (t *Tree) lastBundle(ctx context.Context, n uint64) scanned {
	want, err := t.Leaves(ctx, n*TileWidth, t.size)
	if err != nil {
		return scanned{err: err}
	}
	s := t.bundle(ctx, n)
	for i := range s.leaves {
		if s.err == nil && s.leaves[i] != want[i] {
			s.err = fmt.Errorf("entry %d: %w: it does not hash to the leaf that stands under the checkpoint", n*TileWidth+uint64(i), ErrVerification)
		}
	}
	return s
}

func (t *Tree) bundle(ctx context.Context, n uint64) scanned {
	s := scanned{n: n}
	raw, err := t.reader.Bundle(ctx, n, width(n, t.size))
	if err != nil {
		s.err = unavailable(err)
		return s
	}
	if s.entries, s.leaves, err = BundleLeaves(raw, width(n, t.size)); err != nil {
		s.err = fmt.Errorf("bundle %d: %w", n, err)
	}
	return s
}

// BundleLeaves cuts a bundle apart as [SplitBundle] does, and hashes its entries.
func BundleLeaves(raw []byte, width int) ([][]byte, []record.Hash, error) {
	entries, err := SplitBundle(raw, width)
	if err != nil {
		return nil, nil, err
	}
	leaves := make([]record.Hash, len(entries))
	for i, e := range entries {
		leaves[i] = record.LeafHash(e)
	}
	return entries, leaves, nil
}

// Subtree returns the root over the hashes of a complete tile.
func Subtree(leaves []record.Hash) record.Hash {
	level := append([]record.Hash(nil), leaves...)
	for ; len(level) > 1; level = level[:len(level)/2] {
		for i := range len(level) / 2 {
			level[i] = record.Hash(rfc6962.DefaultHasher.HashChildren(level[2*i][:], level[2*i+1][:]))
		}
	}
	return level[0]
}
