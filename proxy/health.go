package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Health says how the targets of a pool are checked while a proxy runs. The
// checks are the proxy's own requests: no client's, so they leave no records.
type Health struct {
	Path      string        // asked for with GET; starts with a slash
	Interval  time.Duration // between two checks of a target; 5 s
	Timeout   time.Duration // for the answer's headers; 2 s
	Healthy   int           // how many good checks in a row bring a target back; 2
	Unhealthy int           // how many bad ones in a row take it out; 3
	Status    int           // of a good answer; 200
}

func (h Health) withDefaults() Health {
	or := func(d *time.Duration, zero time.Duration) {
		if *d <= 0 {
			*d = zero
		}
	}
	or(&h.Interval, 5*time.Second)
	or(&h.Timeout, 2*time.Second)
	for _, n := range []struct {
		value *int
		zero  int
	}{{&h.Healthy, 2}, {&h.Unhealthy, 3}, {&h.Status, http.StatusOK}} {
		if *n.value <= 0 {
			*n.value = n.zero
		}
	}
	return h
}

// checks runs the health checks for as long as any Run does.
type checks struct {
	mu   sync.Mutex
	runs int
	stop context.CancelFunc
	done sync.WaitGroup
}

// check starts the health checks, unless they run, and returns how to say that
// they are not needed any more.
func (p *Proxy) check() (done func()) {
	c := &p.checks
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.runs++; c.runs == 1 {
		var ctx context.Context
		ctx, c.stop = context.WithCancel(context.Background())
		for _, q := range p.pools {
			if q.health == nil {
				continue
			}
			for _, t := range q.targets {
				c.done.Go(func() { p.checkTargetHealth(ctx, q, t) })
			}
		}
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.runs--; c.runs == 0 {
			c.stop()
			c.done.Wait()
		}
	}
}

// checkTargetHealth watches one target. It is taken for healthy until the first
// check, which decides by itself.
func (p *Proxy) checkTargetHealth(ctx context.Context, q *pool, t *upstream) {
	h := q.health
	row := streak{down: t.down.Load(), needGood: 1, needBad: 1}
	for {
		err := t.probe(ctx, h)
		if ctx.Err() != nil {
			return
		}
		if row.add(err == nil) {
			t.down.Store(row.down)
			if row.down {
				p.log.Warn("upstream target is down", "upstream", q.name, "target", t.name, "error", err)
			} else {
				p.log.Info("upstream target is up", "upstream", q.name, "target", t.name)
			}
		}
		row.needGood, row.needBad = h.Healthy, h.Unhealthy
		// Many proxies that were started together must not ask in step.
		wait := h.Interval - h.Interval/10 + rand.N(h.Interval/5+1)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// streak counts checks of one kind in a row.
type streak struct {
	down              bool
	needGood, needBad int
	n                 int // checks in a row that speak against the state
}

// add takes the result of a check and reports whether it changes the state.
func (s *streak) add(good bool) (changed bool) {
	if good != s.down {
		s.n = 0
		return false
	}
	s.n++
	need := s.needBad
	if s.down {
		need = s.needGood
	}
	if s.n < need {
		return false
	}
	s.down, s.n = !s.down, 0
	return true
}

// probe asks a target once.
func (t *upstream) probe(ctx context.Context, h *Health) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	path, query, some := strings.Cut(t.prefix+h.Path, "?")
	u := &url.URL{Scheme: t.scheme, Host: t.host, Path: unescapePath(path), RawPath: path, RawQuery: query, ForceQuery: some && query == ""}
	req := (&http.Request{
		Method: http.MethodGet, URL: u, Host: t.host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"User-Agent": {"sealtap-health"}},
	}).WithContext(ctx)
	res, err := t.transport.RoundTrip(req)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("no answer within %v", h.Timeout)
		}
		return err
	}
	// A connection whose answer was read can be used again.
	const most = 16 << 10
	_, _ = io.CopyN(io.Discard, res.Body, most)
	if err := res.Body.Close(); err != nil {
		return err
	}
	if res.StatusCode != h.Status {
		return fmt.Errorf("it answered with status %d, want %d", res.StatusCode, h.Status)
	}
	return nil
}
