package tiles_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// without returns tiles in which all hashes of what lies among the first leaves
// are garbage, and of which those that hold nothing else are not there at all.
func (m memoryTiles) without(base uint64) memoryTiles {
	out := make(memoryTiles)
	for id, hashes := range m {
		level, n := uint(id[0]), id[1]
		h := bytes.Clone(hashes)
		for i := range uint64(len(h) / len(record.Hash{})) {
			if (n*tiles.Width+i+1)<<(tiles.Height*level) <= base {
				copy(h[i*32:], bytes.Repeat([]byte{0xee}, 32))
			}
		}
		if bytes.Equal(h, bytes.Repeat([]byte{0xee}, len(h))) {
			h = nil
		}
		out[id] = h
	}
	return out
}

// TestPruned: the edge at any size proves everything that comes after it.
func TestPruned(t *testing.T) {
	ctx := context.Background()
	const most = 700
	ls := leaves(most)
	w := tiles.NewWriter()
	edges := [][]record.Hash{nil}
	all := make(memoryTiles)
	roots := []record.Hash{w.Root()}
	model := newNaive(ls)
	tree := record.NewTree()
	for _, l := range ls {
		w.Append(l)
		tree.Append(l, nil)
		edges = append(edges, tree.Edge())
		roots = append(roots, tree.Root())
	}
	all.save(w)
	for _, base := range []uint64{0, 1, 2, 3, 100, 127, 128, 255, 256, 257, 300, 511, 512, 600, 639, 699} {
		p, err := tiles.NewPruned(all.without(base), base, edges[base])
		if err != nil {
			t.Fatal(err)
		}
		for index := base; index < most; index += 1 + (index-base)/8 {
			for size := index + 1; size <= most; size += 1 + (size-index)/3 {
				checkProofs(t, p, model, int(index), int(size))
			}
		}
		for size := base; size <= most; size += 1 + (size-base)/16 {
			if root, err := tiles.Root(ctx, p, size); err != nil || root != roots[size] {
				t.Fatalf("root at %d from the edge at %d: %s, %v", size, base, root, err)
			}
		}
		if base > 3 {
			if _, err := tiles.InclusionProof(ctx, p, 0, most); !errors.Is(err, tiles.ErrRange) {
				t.Errorf("proving leaf 0 of a tree that begins at %d: %v", base, err)
			}
		}
		checkGrowth(t, all.without(base), base, edges[base], ls, roots)
	}
	if _, err := tiles.NewPruned(all, 3, edges[4]); err == nil {
		t.Error("an edge that does not fit the size was taken")
	}
}

// checkGrowth lets a tree go on of which nothing is there but the edge.
func checkGrowth(t *testing.T, m memoryTiles, base uint64, edge, ls, roots []record.Hash) {
	t.Helper()
	ctx := context.Background()
	for id := range m {
		m[id] = nil
	}
	for n := range uint64(4) {
		m[[2]uint64{0, n}], m[[2]uint64{1, n}] = nil, nil
	}
	for size := base; size < uint64(len(ls)); {
		p, err := tiles.NewPruned(m, base, edge)
		if err != nil {
			t.Fatal(err)
		}
		w, err := tiles.RestoreWriter(ctx, p, size)
		if err != nil {
			t.Fatalf("going on at %d from the edge at %d: %v", size, base, err)
		}
		end := min(size+97, uint64(len(ls)))
		for ; size < end; size++ {
			w.Append(ls[size])
		}
		if w.Root() != roots[size] {
			t.Fatalf("root at %d from the edge at %d is another one", size, base)
		}
		m.save(w)
	}
	p, err := tiles.NewPruned(m, base, edge)
	if err != nil {
		t.Fatal(err)
	}
	checkProofs(t, p, newNaive(ls), len(ls)-1, len(ls))
	checkProofs(t, p, newNaive(ls), int(base), len(ls))
}
