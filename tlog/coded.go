package tlog

import (
	"container/list"
	"sync"
)

// coded is a complete entry bundle in a content coding that the storage does not
// keep. It does not change.
type coded struct {
	n    uint64
	body []byte
	tag  string // entity tag
}

// codedCache keeps the coded bundles used last, as far as their bytes fit: to make
// one takes as long as to serve a dozen.
type codedCache struct {
	max int // bytes

	mu   sync.Mutex
	used int
	of   map[uint64]*list.Element
	list list.List // of *coded, the one used last in front
}

// codedShare is the part of the memory for caches that is for coded bundles.
const codedShare = 8

func newCodedCache(max int) *codedCache {
	return &codedCache{max: max, of: make(map[uint64]*list.Element)}
}

func (c *codedCache) get(n uint64) (*coded, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.of[n]
	if !ok {
		return nil, false
	}
	c.list.MoveToFront(e)
	return e.Value.(*coded), true
}

// put keeps a bundle, unless somebody else has made it too.
func (c *codedCache) put(b *coded) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.of[b.n]; ok || cap(b.body) > c.max {
		return
	}
	c.of[b.n] = c.list.PushFront(b)
	for c.used += cap(b.body); c.used > c.max; {
		last := c.list.Back()
		old := c.list.Remove(last).(*coded)
		delete(c.of, old.n)
		c.used -= cap(old.body)
	}
}
