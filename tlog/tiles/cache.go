package tiles

import (
	"container/list"
	"context"
	"crypto/sha256"
	"sync"

	"github.com/sealtap/sealtap/record"
)

// CachedBytes is about what one tile takes in a [Cache].
const CachedBytes = 2 * Size

// Cache keeps the nodes of the tiles used last in memory, so that proofs neither
// read nor hash. It can be used by many goroutines.
type Cache struct {
	r   Reader
	max int

	mu    sync.Mutex
	byKey map[tileKey]*list.Element // of *cached
	order *list.List                // the one used last in front
}

type tileKey struct {
	level uint
	n     uint64
}

// cached is a tile with the complete nodes above its hashes. It is not changed
// once it is made.
type cached struct {
	key   tileKey
	width int
	nodes []record.Hash // 256 of height 0, 128 of height 1, … 2 of height 7
}

// NewCache returns a cache of at most max tiles of the reader's tree.
func NewCache(r Reader, max int) *Cache {
	return &Cache{r: r, max: max, byKey: make(map[tileKey]*list.Element), order: list.New()}
}

// Tile reads a tile, past the cache.
func (c *Cache) Tile(ctx context.Context, level uint, n uint64) ([]byte, error) {
	return c.r.Tile(ctx, level, n)
}

// Node implements [NodeReader].
func (c *Cache) Node(ctx context.Context, level uint, index uint64) (record.Hash, error) {
	tileLevel, n, first, count := place(level, index)
	key := tileKey{tileLevel, n}
	t := c.get(key)
	// A partial tile may have grown since.
	if t == nil || t.width < first+count {
		hashes, err := c.r.Tile(ctx, tileLevel, n)
		if err != nil {
			return record.Hash{}, err
		}
		if err := checkWidth(hashes, tileLevel, n, first+count); err != nil {
			return record.Hash{}, err
		}
		t = expand(key, hashes)
		c.put(t)
	}
	return t.nodes[offset(count)+first/count], nil
}

// offset is where the nodes over count hashes each begin.
func offset(count int) int { return 2*Width - 2*Width/count }

func expand(key tileKey, hashes []byte) *cached {
	t := &cached{key: key, width: len(hashes) / sha256.Size, nodes: make([]record.Hash, 2*Width-2)}
	for i := range t.width {
		t.nodes[i] = record.Hash(hashes[i*sha256.Size:])
	}
	for count := 2; count < Width; count *= 2 {
		below := t.nodes[offset(count/2):]
		for i := range t.width / count {
			t.nodes[offset(count)+i] = parent(below[2*i][:], below[2*i+1][:])
		}
	}
	return t
}

func (c *Cache) get(key tileKey) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[key]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached)
}

func (c *Cache) put(t *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byKey[t.key]; e != nil {
		if e.Value.(*cached).width < t.width {
			e.Value = t
		}
		c.order.MoveToFront(e)
		return
	}
	c.byKey[t.key] = c.order.PushFront(t)
	if c.order.Len() > c.max {
		last := c.order.Back()
		c.order.Remove(last)
		delete(c.byKey, last.Value.(*cached).key)
	}
}
