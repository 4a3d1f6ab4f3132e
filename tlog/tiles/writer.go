package tiles

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/sealtap/sealtap/record"
)

// Writer appends to a tree and makes its tiles. It is not safe for concurrent
// use, but the bytes that it hands out are never changed by it: readers can go
// on with them.
type Writer struct {
	tree *record.Tree
	edge [][]byte // partial tiles by level; no element is complete
	full []Tile   // complete ones since the last call of Complete
}

// NewWriter starts an empty tree.
func NewWriter() *Writer { return &Writer{tree: record.NewTree()} }

// RestoreWriter continues the tree of the given size, whose right edge it reads.
func RestoreWriter(ctx context.Context, r Reader, size uint64) (*Writer, error) {
	m, ok := r.(NodeReader)
	if !ok {
		m = &memory{r: r}
	}
	tree, err := Edge(ctx, m, size)
	if err != nil {
		return nil, fmt.Errorf("restoring the right edge of a tree of %d: %w", size, err)
	}
	w := &Writer{tree: tree}
	for level := uint(0); size>>(Height*level) > 0; level++ {
		nodes := size >> (Height * level)
		width := int(nodes % Width)
		partial := make([]byte, 0, Size)
		if width > 0 {
			hashes, err := m.Tile(ctx, level, nodes/Width)
			if err == nil {
				err = checkWidth(hashes, level, nodes/Width, width)
			}
			if err != nil {
				return nil, fmt.Errorf("restoring the right edge of a tree of %d: %w", size, err)
			}
			partial = append(partial, hashes[:width*sha256.Size]...)
		}
		w.edge = append(w.edge, partial)
	}
	return w, nil
}

// Append adds a leaf.
func (w *Writer) Append(leaf record.Hash) {
	w.tree.Append(leaf, func(level uint, index uint64, h []byte) {
		if level%Height == 0 {
			w.add(level/Height, index, h)
		}
	})
}

func (w *Writer) add(level uint, index uint64, h []byte) {
	if int(level) == len(w.edge) {
		w.edge = append(w.edge, nil)
	}
	if w.edge[level] == nil {
		w.edge[level] = make([]byte, 0, Size)
	}
	// The capacity is there: slices handed out before keep their bytes.
	w.edge[level] = append(w.edge[level], h...)
	if len(w.edge[level]) == Size {
		w.full = append(w.full, Tile{level, index / Width, w.edge[level]})
		w.edge[level] = nil
	}
}

// Size is the number of leaves.
func (w *Writer) Size() uint64 { return w.tree.Size() }

// Root is the root hash.
func (w *Writer) Root() record.Hash { return w.tree.Root() }

// Complete returns the tiles completed since it was called last.
func (w *Writer) Complete() []Tile {
	full := w.full
	w.full = nil
	return full
}

// Partial returns the tiles of the right edge that are not complete, one a
// level; those without hashes are left out.
func (w *Writer) Partial() []Tile {
	var list []Tile
	for level, hashes := range w.edge {
		if len(hashes) > 0 {
			n := w.Size() >> (Height * (uint(level) + 1))
			list = append(list, Tile{uint(level), n, slices.Clip(hashes)})
		}
	}
	return list
}
