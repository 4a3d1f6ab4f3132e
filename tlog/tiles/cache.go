package tiles

import (
	"context"
	"crypto/sha256"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/sealtap/sealtap/record"
)

// CachedBytes is about what one tile takes in a [Cache].
const CachedBytes = 2 * Size

// maxWays is the number of tiles that compete for one place in a [Cache].
const maxWays = 8

// Cache keeps the nodes of the tiles used last in memory, so that proofs neither
// read nor hash. It can be used by many goroutines: those that find what they look
// for take no lock.
type Cache struct {
	r    Reader
	ways int
	sets []set
	edge atomic.Pointer[edge] // of the largest size that was asked for
}

// set is the tiles that compete for one place. Which of them goes is settled by
// second chance: the next one that has not been used since the hand was there.
type set struct {
	slots [maxWays]atomic.Pointer[cached]
	mu    sync.Mutex // of those who change slots
	hand  int
}

type tileKey struct {
	level uint
	n     uint64
}

// cached is a tile. But for the mark, and for the nodes above its hashes and their
// digest, which are computed when they are asked for, it is not changed once it is
// made.
type cached struct {
	key    tileKey
	width  int
	used   atomic.Bool
	hashes []byte
	above  atomic.Pointer[nodes]
	sum    atomic.Uint64 // of the hashes of a complete tile; 0: not computed yet
}

// nodes are the complete nodes above the hashes of a tile: 128 of height 1, 64 of
// height 2, … 2 of height 7.
type nodes [Width - 2]record.Hash

// NewCache returns a cache of at most max tiles of the reader's tree, at least one.
func NewCache(r Reader, max int) *Cache {
	c := &Cache{r: r, ways: maxWays, sets: make([]set, 1)}
	if max < maxWays {
		c.ways = 1
		if max > 1 {
			c.ways = max
		}
	} else {
		c.sets = make([]set, max/maxWays)
	}
	return c
}

// Tile implements [Reader]. Of a tile that grows the caller may get less than there
// is by now.
func (c *Cache) Tile(ctx context.Context, level uint, n uint64) ([]byte, error) {
	t, err := c.tile(ctx, tileKey{level, n}, 1)
	if err != nil {
		return nil, err
	}
	return t.hashes, nil
}

// Prefix returns the first width hashes of a tile, and a digest of them to tell
// copies apart, which withstands no attack.
func (c *Cache) Prefix(ctx context.Context, level uint, n uint64, width int) (hashes []byte, sum uint64, err error) {
	t, err := c.tile(ctx, tileKey{level, n}, width)
	if err != nil {
		return nil, 0, err
	}
	if width < Width {
		hashes = t.hashes[:width*sha256.Size]
		return hashes, xxhash.Sum64(hashes), nil
	}
	sum = t.sum.Load()
	if sum == 0 {
		sum = xxhash.Sum64(t.hashes)
		t.sum.Store(sum) // whoever comes second has computed the same
	}
	return t.hashes, sum, nil
}

// Node implements [NodeReader].
func (c *Cache) Node(ctx context.Context, level uint, index uint64) (record.Hash, error) {
	w := walk{cache: c}
	return w.node(ctx, level, index)
}

// tile returns the tile with at least width hashes.
func (c *Cache) tile(ctx context.Context, key tileKey, width int) (*cached, error) {
	// A partial tile may have grown since.
	if t := c.get(key); t != nil && t.width >= width {
		return t, nil
	}
	hashes, err := c.r.Tile(ctx, key.level, key.n)
	if err != nil {
		return nil, err
	}
	if err := checkWidth(hashes, key.level, key.n, width); err != nil {
		return nil, err
	}
	t := &cached{key: key, width: len(hashes) / sha256.Size, hashes: hashes}
	c.put(t)
	return t, nil
}

// node returns the node over count hashes, the first of which is given.
func (t *cached) node(first, count int) record.Hash {
	if count == 1 {
		return record.Hash(t.hashes[first*sha256.Size:])
	}
	above := t.above.Load()
	if above == nil {
		above = t.expand()
		t.above.Store(above) // whoever comes second has computed the same
	}
	return above[offset(count)+first/count]
}

// offset is where the nodes over count hashes each begin.
func offset(count int) int { return Width - 2*Width/count }

func (t *cached) expand() *nodes {
	above := new(nodes)
	for i := range t.width / 2 {
		above[i] = parent(t.hashes[2*i*sha256.Size:(2*i+1)*sha256.Size], t.hashes[(2*i+1)*sha256.Size:(2*i+2)*sha256.Size])
	}
	for count := 4; count < Width; count *= 2 {
		below := above[offset(count/2):]
		for i := range t.width / count {
			above[offset(count)+i] = parent(below[2*i][:], below[2*i+1][:])
		}
	}
	return above
}

// set returns where the tile is kept. Neighbours go to different places.
func (c *Cache) set(key tileKey) *set {
	mixed := (key.n ^ uint64(key.level)<<56) * 0x9e3779b97f4a7c15 // Fibonacci hashing
	i, _ := bits.Mul64(mixed, uint64(len(c.sets)))
	return &c.sets[i]
}

func (c *Cache) get(key tileKey) *cached {
	s := c.set(key)
	for i := range c.ways {
		if t := s.slots[i].Load(); t != nil && t.key == key {
			// Readers on other processors keep their copy if nothing is written.
			if !t.used.Load() {
				t.used.Store(true)
			}
			return t
		}
	}
	return nil
}

func (c *Cache) put(t *cached) {
	s := c.set(t.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	free := -1
	for i := range c.ways {
		switch old := s.slots[i].Load(); {
		case old == nil:
			free = i
		case old.key == t.key:
			if old.width < t.width {
				s.slots[i].Store(t)
			}
			return
		}
	}
	for free < 0 {
		if !s.slots[s.hand].Load().used.Swap(false) {
			free = s.hand
		}
		s.hand = (s.hand + 1) % c.ways
	}
	s.slots[free].Store(t)
}

// edge is the right edge of the tree of one size. Proofs in it share it, so that
// none but the first one hashes.
type edge struct {
	size uint64
	// rest[h] is the root over the leaves behind the last complete subtree of
	// height h; without meaning if there are none.
	rest [64]record.Hash
}

// EdgeSize is the size of the tree whose right edge its proofs share, 0 if there is
// none. It is the largest one in which something was proven.
func (c *Cache) EdgeSize() uint64 {
	if e := c.edge.Load(); e != nil {
		return e.size
	}
	return 0
}

// rest returns the root over the leaves of the tree of the given size that lie
// behind its last complete subtree of the height. There are some.
func (w *walk) rest(ctx context.Context, size uint64, height uint) (record.Hash, error) {
	if w.cache == nil {
		return w.fold(ctx, size, height, nil)
	}
	e := w.cache.edge.Load()
	if e == nil || e.size < size {
		e = &edge{size: size}
		if _, err := w.fold(ctx, size, uint(bits.Len64(size)), &e.rest); err != nil {
			return record.Hash{}, err
		}
		w.cache.edge.Store(e)
	}
	if e.size != size {
		return w.fold(ctx, size, height, nil)
	}
	return e.rest[height], nil
}

// fold hashes the complete subtrees of less than the height at the right edge into
// one, from the right. On the way it notes what it has for each height.
func (w *walk) fold(ctx context.Context, size uint64, height uint, rest *[64]record.Hash) (record.Hash, error) {
	var root record.Hash
	for h, begun := uint(0), false; h < height; h++ {
		if size>>h&1 == 1 {
			left, err := w.node(ctx, h, size>>h-1)
			switch {
			case err != nil:
				return record.Hash{}, err
			case begun:
				root = parent(left[:], root[:])
			default:
				root, begun = left, true
			}
		}
		if rest != nil && h+1 < uint(len(rest)) {
			rest[h+1] = root
		}
	}
	return root, nil
}
