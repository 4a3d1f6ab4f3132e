package upstream

import (
	"context"
	"slices"
	"sync"
	"time"
)

// hostKey names an upstream as its URLs do.
type hostKey struct {
	scheme, host string
	only1        bool // HTTP/2 is not offered
}

// host is an upstream that has round trips or idle connections.
type host struct {
	key   hostKey
	busy  int           // round trips, up to the end of their answers
	idle  []*conn       // the last one was used last
	slots chan struct{} // one for each round trip; nil without a bound
}

// pool keeps the connections without a round trip.
type pool struct {
	mu     sync.Mutex
	hosts  map[hostKey]*host
	timer  *time.Timer
	armed  bool
	closed bool // what is put is closed, until there is a new round trip
}

// enter returns the host, which has one more round trip until leave or put is
// called. Where the number of connections is bounded it waits for its turn.
func (t *Transport) enter(ctx context.Context, k hostKey) (*host, error) {
	p := &t.pool
	p.mu.Lock()
	h := p.hosts[k]
	if h == nil {
		h = &host{key: k}
		if n := t.cfg.MaxConnsPerHost; n > 0 {
			h.slots = make(chan struct{}, n)
		}
		p.hosts[k] = h
	}
	h.busy++
	p.closed = false
	p.mu.Unlock()
	if h.slots != nil {
		select {
		case h.slots <- struct{}{}:
		case <-ctx.Done():
			p.mu.Lock()
			defer p.mu.Unlock()
			p.less(h)
			return nil, context.Cause(ctx)
		}
	}
	return h, nil
}

// less takes one round trip from a host, and forgets the host if nothing is left
// of it: a forward proxy may see many.
func (p *pool) less(h *host) {
	if h.busy--; h.busy == 0 && len(h.idle) == 0 {
		delete(p.hosts, h.key)
	}
}

// leave ends a round trip whose connection is not kept.
func (t *Transport) leave(h *host) {
	t.pool.mu.Lock()
	t.pool.less(h)
	t.pool.mu.Unlock()
	h.free()
}

func (h *host) free() {
	if h.slots != nil {
		<-h.slots
	}
}

// take returns the idle connection that was used last, or nil.
func (t *Transport) take(h *host, now time.Time) *conn {
	p := &t.pool
	p.mu.Lock()
	var c *conn
	var old []*conn
	for c == nil && len(h.idle) > 0 {
		last := len(h.idle) - 1
		c, h.idle[last] = h.idle[last], nil
		h.idle = h.idle[:last]
		if t.expired(c, now) {
			old = append(old, c)
			c = nil
		}
	}
	p.mu.Unlock()
	closeAll(old)
	return c
}

// put ends a round trip and keeps its connection.
func (t *Transport) put(c *conn) {
	p, h := &t.pool, c.h
	c.idle = time.Now()
	p.mu.Lock()
	closed := p.closed || t.expired(c, c.idle)
	if !closed {
		h.idle = append(h.idle, c)
		t.arm()
	}
	p.less(h)
	p.mu.Unlock()
	if closed {
		closeAll([]*conn{c})
	}
	h.free()
}

func (t *Transport) expired(c *conn, now time.Time) bool {
	return now.Sub(c.idle) > t.cfg.IdleTimeout || t.cfg.MaxLifetime > 0 && now.Sub(c.made) > t.cfg.MaxLifetime
}

// sweeping is how often idle connections are looked at.
func (t *Transport) sweeping() time.Duration { return max(t.cfg.IdleTimeout/4, time.Millisecond) }

// arm sees to the next sweep. The pool is locked.
func (t *Transport) arm() {
	p := &t.pool
	switch {
	case p.armed:
	case p.timer == nil:
		p.timer = time.AfterFunc(t.sweeping(), t.sweep)
	default:
		p.timer.Reset(t.sweeping())
	}
	p.armed = true
}

// sweep closes the idle connections that are too old, and those that the peer has
// closed: nobody else would notice.
func (t *Transport) sweep() {
	p := &t.pool
	now := time.Now()
	p.mu.Lock()
	p.armed = false
	var quiet []*conn
	for _, h := range p.hosts {
		n := slices.IndexFunc(h.idle, func(c *conn) bool { return now.Sub(c.idle) < t.sweeping()/2 })
		if n < 0 {
			n = len(h.idle)
		}
		if n > 0 {
			// While they are looked at they count as in use.
			quiet = append(quiet, h.idle[:n]...)
			h.idle = slices.Delete(h.idle, 0, n)
			h.busy += n
		}
	}
	p.mu.Unlock()
	var old []*conn
	for i, c := range quiet {
		if t.expired(c, now) || !c.silent() {
			old = append(old, c)
			quiet[i] = nil
		}
	}
	p.mu.Lock()
	old = p.restore(quiet, old)
	if p.anyIdle() {
		t.arm()
	}
	p.mu.Unlock()
	closeAll(old)
}

// restore puts connections back below those that were used since, and returns
// those to close.
func (p *pool) restore(quiet, old []*conn) []*conn {
	for i := len(quiet) - 1; i >= 0; i-- {
		c := quiet[i]
		if c == nil {
			continue
		}
		if p.closed {
			old = append(old, c)
			continue
		}
		c.h.idle = slices.Insert(c.h.idle, 0, c)
		p.less(c.h)
	}
	for _, c := range old {
		p.less(c.h)
	}
	return old
}

func (p *pool) anyIdle() bool {
	for _, h := range p.hosts {
		if len(h.idle) > 0 {
			return true
		}
	}
	return false
}

func (p *pool) closeIdle() {
	p.mu.Lock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	p.armed = false
	var all []*conn
	for k, h := range p.hosts {
		all = append(all, h.idle...)
		h.idle = nil
		if h.busy == 0 {
			delete(p.hosts, k)
		}
	}
	p.mu.Unlock()
	closeAll(all)
}

func closeAll(conns []*conn) {
	for _, c := range conns {
		_ = c.nc.Close()
	}
}
