package tiles

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/transparency-dev/merkle/compact"

	"github.com/sealtap/sealtap/record"
)

// Pruned reads a tree whose first leaves are no longer there, only the right edge
// of the tree that they made. That is enough for the root at every later size, and
// to prove every later leaf: all that such a proof needs of the leaves that are
// gone are nodes of that edge.
type Pruned struct {
	r    *memory
	size uint64
	edge map[compact.NodeID]record.Hash
}

// NewPruned returns the tree behind the reader, of which the first size leaves
// made a tree with this right edge. The reader gives tiles of the tree in which
// the hashes of what lies wholly among those leaves mean nothing, or lack at the
// tile's end.
func NewPruned(r Reader, size uint64, edge []record.Hash) (*Pruned, error) {
	ids := compact.RangeNodes(0, size, nil)
	if len(ids) != len(edge) {
		return nil, fmt.Errorf("%w: an edge of %d hashes for %d leaves", ErrRange, len(edge), size)
	}
	p := &Pruned{r: &memory{r: r}, size: size, edge: make(map[compact.NodeID]record.Hash, len(ids))}
	for i, id := range ids {
		p.edge[id] = edge[i]
	}
	return p, nil
}

// Tile implements [Reader]: in the place of hashes that are gone are zeroes.
func (p *Pruned) Tile(ctx context.Context, level uint, n uint64) ([]byte, error) {
	hashes, err := p.r.Tile(ctx, level, n)
	if err != nil {
		return nil, err
	}
	gone := p.size >> (Height * level)
	if gone <= n*Width {
		return hashes, nil
	}
	if missing := int(min(gone-n*Width, Width))*sha256.Size - len(hashes); missing > 0 {
		hashes = append(hashes[:len(hashes):len(hashes)], make([]byte, missing)...)
	}
	return hashes, nil
}

// Node implements [NodeReader].
func (p *Pruned) Node(ctx context.Context, level uint, index uint64) (record.Hash, error) {
	if h, ok := p.edge[compact.NodeID{Level: level, Index: index}]; ok {
		return h, nil
	}
	switch begin, end := index<<level, (index+1)<<level; {
	case begin >= p.size:
		return p.r.Node(ctx, level, index)
	case end <= p.size:
		return record.Hash{}, fmt.Errorf("%w: leaves %d to %d are no longer there", ErrRange, begin, end-1)
	}
	left, err := p.Node(ctx, level-1, 2*index)
	if err != nil {
		return record.Hash{}, err
	}
	right, err := p.Node(ctx, level-1, 2*index+1)
	if err != nil {
		return record.Hash{}, err
	}
	return parent(left[:], right[:]), nil
}
