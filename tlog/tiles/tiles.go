// Package tiles keeps Merkle trees as tiles of C2SP tlog-tiles
// (https://c2sp.org/tlog-tiles) and proves things from them, whoever owns the
// tree: the log, or one of its producers.
//
// Start with [NewWriter] to turn leaf hashes into tiles, and with
// [InclusionProof] over any [Reader] to prove a leaf.
package tiles

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"

	"github.com/transparency-dev/merkle/compact"

	"github.com/sealtap/sealtap/record"
)

const (
	// Height is the number of tree levels in a tile.
	Height = 8
	// Width is the number of hashes in a complete tile.
	Width = 1 << Height
	// Size is the number of bytes in a complete tile.
	Size = Width * sha256.Size
)

var (
	// ErrRange is wrapped where an index or a size lies outside the tree.
	ErrRange = errors.New("outside the tree")
	// ErrIncomplete is wrapped where a tile has fewer hashes than the tree asked
	// for needs.
	ErrIncomplete = errors.New("incomplete tile")
)

// Reader gives the tiles of one tree.
type Reader interface {
	// Tile returns the hashes of tile n of a level, one after the other: 256 of a
	// complete tile, as many as there are of a partial one. The caller does not
	// change them.
	Tile(ctx context.Context, level uint, n uint64) ([]byte, error)
}

// NodeReader is a [Reader] that also knows the nodes within tiles.
type NodeReader interface {
	Reader
	// Node returns the hash of a complete node of the tree: level 0 are the
	// leaves, level 1 their parents, and so on.
	Node(ctx context.Context, level uint, index uint64) (record.Hash, error)
}

// Tile is some or all of the hashes of a tile.
type Tile struct {
	Level  uint
	N      uint64
	Hashes []byte
}

// InclusionProof returns the audit path of RFC 6962, section 2.1.1, for the leaf
// at the index in the tree of the given size.
func InclusionProof(ctx context.Context, r Reader, index, size uint64) ([]record.Hash, error) {
	if index >= size {
		return nil, fmt.Errorf("%w: index %d, size %d", ErrRange, index, size)
	}
	w := newWalk(r)
	return w.path(ctx, make([]record.Hash, 0, bits.Len64(size-1)), 0, index, size)
}

// Inclusion is a leaf hash with its audit path.
type Inclusion struct {
	Index uint64
	Leaf  record.Hash
	Path  []record.Hash
}

// InclusionProofs returns the leaves at the indices with their audit paths in the
// tree of the given size, in the order of the indices.
func InclusionProofs(ctx context.Context, r Reader, indices []uint64, size uint64) ([]Inclusion, error) {
	list := make([]Inclusion, len(indices))
	hashes := make([]record.Hash, 0, len(indices)*bits.Len64(size)) // of all paths
	w := newWalk(r)
	for i, index := range indices {
		if index >= size {
			return nil, fmt.Errorf("%w: index %d, size %d", ErrRange, index, size)
		}
		leaf, err := w.node(ctx, 0, index)
		if err != nil {
			return nil, err
		}
		path, err := w.path(ctx, hashes, 0, index, size)
		if err != nil {
			return nil, err
		}
		n := len(hashes)
		hashes = path
		list[i] = Inclusion{Index: index, Leaf: leaf, Path: path[n:len(path):len(path)]}
	}
	return list, nil
}

// ConsistencyProof returns the proof of RFC 6962, section 2.1.2, that the tree
// of size from is a prefix of the tree of size to. It is empty if from is 0 or
// the sizes are equal.
func ConsistencyProof(ctx context.Context, r Reader, from, to uint64) ([]record.Hash, error) {
	if from > to {
		return nil, fmt.Errorf("%w: sizes %d and %d", ErrRange, from, to)
	}
	if from == 0 || from == to {
		return []record.Hash{}, nil
	}
	w := newWalk(r)
	path := make([]record.Hash, 0, bits.Len64(to-1)+1)
	// The last complete subtree of the smaller tree, and what lies beside its way
	// up in the larger one. The verifier has the subtree if it is the whole tree.
	level := uint(bits.TrailingZeros64(from))
	if from != 1<<level {
		h, err := w.node(ctx, level, (from-1)>>level)
		if err != nil {
			return nil, err
		}
		path = append(path, h)
	}
	return w.path(ctx, path, level, from-1, to)
}

// Root returns the root hash of the tree as it was with size leaves.
func Root(ctx context.Context, r Reader, size uint64) (record.Hash, error) {
	t, err := Edge(ctx, r, size)
	if err != nil {
		return record.Hash{}, err
	}
	return t.Root(), nil
}

// Edge returns the tree as it was with size leaves, ready to be appended to. It
// reads O(log size) tiles.
func Edge(ctx context.Context, r Reader, size uint64) (*record.Tree, error) {
	ids := compact.RangeNodes(0, size, nil)
	w := newWalk(r)
	edge := make([]record.Hash, len(ids))
	for i, id := range ids {
		h, err := w.node(ctx, id.Level, id.Index)
		if err != nil {
			return nil, err
		}
		edge[i] = h
	}
	return record.RestoreTree(size, edge)
}

// parent is the interior node of RFC 6962, section 2.1.
func parent(left, right []byte) record.Hash {
	var buf [1 + 2*sha256.Size]byte
	buf[0] = 0x01
	copy(buf[1:], left)
	copy(buf[1+sha256.Size:], right)
	return sha256.Sum256(buf[:])
}

// place says where a node lies: the tile, and which of its hashes are the node's
// descendants.
func place(level uint, index uint64) (tileLevel uint, n uint64, first, count int) {
	up := level % Height
	begin := index << up
	return level / Height, begin >> Height, int(begin % Width), 1 << up
}

// walk reads the nodes of a proof, or of several.
type walk struct {
	nodes NodeReader // nil if there is a cache
	cache *Cache
	// last is the tile used last of each level: the nodes of a proof on one level
	// share it.
	last [maxTileLevel + 1]*cached
}

// maxTileLevel is the highest level of a tile in a tree of less than 2^64 leaves.
const maxTileLevel = 63 / Height

func newWalk(r Reader) walk {
	switch r := r.(type) {
	case *Cache:
		return walk{cache: r}
	case NodeReader:
		return walk{nodes: r}
	}
	return walk{nodes: &memory{r: r}}
}

// node returns the hash of a complete node.
func (w *walk) node(ctx context.Context, level uint, index uint64) (record.Hash, error) {
	if w.cache == nil {
		return w.nodes.Node(ctx, level, index)
	}
	tileLevel, n, first, count := place(level, index)
	t := w.last[tileLevel]
	if t == nil || t.key.n != n || t.width < first+count {
		var err error
		if t, err = w.cache.tile(ctx, tileKey{tileLevel, n}, first+count); err != nil {
			return record.Hash{}, err
		}
		w.last[tileLevel] = t
	}
	return t.node(first, count), nil
}

// path appends the siblings on the way up from the subtree of a level that holds
// the leaf at the index. The right one at the edge of the tree may be incomplete;
// there is at most one.
func (w *walk) path(ctx context.Context, path []record.Hash, level uint, index, size uint64) ([]record.Hash, error) {
	for ; (size-1)>>level > 0; level++ {
		var h record.Hash
		var err error
		switch sibling, complete := index>>level^1, size>>level; {
		case sibling < complete:
			h, err = w.node(ctx, level, sibling)
		case sibling == complete && size&(1<<level-1) != 0:
			h, err = w.rest(ctx, size, level)
		default:
			continue // the tree ends before
		}
		if err != nil {
			return nil, err
		}
		path = append(path, h)
	}
	return path, nil
}

// memory remembers the tiles of one proof: neighbouring nodes share them.
type memory struct {
	r     Reader
	tiles []Tile
}

func (m *memory) Tile(ctx context.Context, level uint, n uint64) ([]byte, error) {
	for _, t := range m.tiles {
		if t.Level == level && t.N == n {
			return t.Hashes, nil
		}
	}
	hashes, err := m.r.Tile(ctx, level, n)
	if err == nil {
		m.tiles = append(m.tiles, Tile{level, n, hashes})
	}
	return hashes, err
}

func (m *memory) Node(ctx context.Context, level uint, index uint64) (record.Hash, error) {
	tileLevel, n, first, count := place(level, index)
	hashes, err := m.Tile(ctx, tileLevel, n)
	if err != nil {
		return record.Hash{}, err
	}
	if err := checkWidth(hashes, tileLevel, n, first+count); err != nil {
		return record.Hash{}, err
	}
	return subtree(hashes[first*sha256.Size : (first+count)*sha256.Size]), nil
}

func checkWidth(hashes []byte, level uint, n uint64, width int) error {
	if len(hashes)%sha256.Size != 0 || len(hashes) > Size || len(hashes) < width*sha256.Size {
		return fmt.Errorf("%w: tile %d/%d has %d bytes, %d hashes are needed", ErrIncomplete, level, n, len(hashes), width)
	}
	return nil
}

// subtree returns the root of a perfect subtree of at most 256 hashes.
func subtree(hashes []byte) record.Hash {
	if len(hashes) == sha256.Size {
		return record.Hash(hashes)
	}
	half := len(hashes) / 2
	left, right := subtree(hashes[:half]), subtree(hashes[half:])
	return parent(left[:], right[:])
}
