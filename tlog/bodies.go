package tlog

import (
	"container/list"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// bodies bounds the memory of all requests together that are being read: of each
// the body, from its first byte until its submission waits in the queue, which
// counts on, or is answered. A body is counted as it comes, so that nobody takes room
// by announcing much.
type bodies struct {
	max      int64
	patience time.Duration // how long a body may take to come while there is no room
	used     atomic.Int64

	mu     sync.Mutex
	coming list.List // of *body, in the order in which they began
}

// bodyPatience is far more than a batch takes, and less than the minute that the
// server gives every request.
const bodyPatience = 5 * time.Second

// body is one of the bodies. All but what the lock guards belongs to the goroutine
// that serves the request.
type body struct {
	of      *bodies
	from    io.ReadCloser
	control *http.ResponseController
	began   time.Time
	taken   int64
	ended   bool

	place   *list.Element // in coming, nil once all is read; under of.mu
	evicted bool          // under of.mu
}

type bodyKey struct{}

// reading has an endpoint read the body of its requests within the bound.
func (l *Log) reading(e endpoint) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.Body == nil || r.Body == http.NoBody {
			return e(w, r)
		}
		b := &body{of: &l.bodies, from: r.Body, control: http.NewResponseController(w), began: time.Now()}
		b.begin()
		defer b.end()
		r = r.WithContext(context.WithValue(r.Context(), bodyKey{}, b))
		r.Body = b
		return e(w, r)
	}
}

// bodyOf returns the body of the request that the context is of, nil if it is of none.
func bodyOf(ctx context.Context) *body {
	b, _ := ctx.Value(bodyKey{}).(*body)
	return b
}

func (b *body) begin() {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	b.place = b.of.coming.PushBack(b)
}

// end gives back what the body has taken: what it held is counted elsewhere, or let
// go of. More of it may still be read, and is not kept.
func (b *body) end() {
	if b == nil || b.ended {
		return
	}
	b.arrived()
	b.ended = true
	b.of.used.Add(-b.taken)
}

// arrived says that no more is read, and reports whether the body was evicted.
func (b *body) arrived() bool {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	if b.place != nil {
		b.of.coming.Remove(b.place)
		b.place = nil
	}
	return b.evicted
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	if b.ended {
		return n, err
	}
	if full := b.take(int64(n)); full != nil {
		return n, full
	}
	if err != nil && b.arrived() && !errors.Is(err, io.EOF) {
		return n, b.of.full(b.of.used.Load())
	}
	return n, err
}

// Close implements [io.Closer].
func (b *body) Close() error { return b.from.Close() }

// take counts more bytes. If there is no room it says so, and the body that has been
// coming for longest makes some, if that is long.
func (b *body) take(n int64) error {
	if b == nil || b.ended {
		return nil
	}
	b.taken += n
	used := b.of.used.Add(n)
	if used <= b.of.max || n <= 0 {
		return nil
	}
	b.of.evict()
	return b.of.full(used)
}

func (s *bodies) full(used int64) error {
	return &LimitError{Kind: ErrBusy, Limit: limitReadingBytes, What: "bytes of requests would be read at once", Got: uint64(max(used, 0)), Max: uint64(s.max)}
}

// evict ends the reading of the body that has been coming for longest: whoever sends
// slowly, or has stopped to send, must not keep the others out.
func (s *bodies) evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.coming.Front()
	if first == nil {
		return
	}
	b := first.Value.(*body)
	if time.Since(b.began) < s.patience {
		return
	}
	s.coming.Remove(first)
	b.place, b.evicted = nil, true
	// It is still being served, for it would have left the list under the lock. Where
	// the server cannot end the reading, its time limit does.
	_ = b.control.SetReadDeadline(time.Unix(1, 0))
}
