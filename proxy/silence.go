package proxy

import (
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"time"
)

// waits is how long an exchange waits for others, once it is under way.
type waits struct {
	write  time.Duration // for the client to make room
	body   time.Duration // for more of the client's body
	answer time.Duration // for more of an answer that has begun
	rate   int64         // bytes a second of a streamed body; 0: any
}

// with is what a route makes of it.
func (w waits) with(r *Route) waits {
	for _, d := range []struct {
		to   *time.Duration
		from time.Duration
	}{{&w.write, r.ClientStall}, {&w.body, r.ClientBody}, {&w.answer, r.AnswerIdle}} {
		if d.from > 0 {
			*d.to = d.from
		}
	}
	if r.BodyRate != 0 {
		w.rate = max(r.BodyRate, 0)
	}
	return w
}

func (x *exchange) waits() *waits {
	if x.route != nil {
		return &x.route.waits
	}
	return &x.p.waits
}

// silentError says that nothing came for too long.
type silentError string

func (e silentError) Error() string { return string(e) }
func (silentError) Timeout() bool   { return true }

var (
	errSilent     error = silentError("the upstream sent no more of its answer")
	errSilentBody error = silentError("the client sent no more of its request's body")
	errSlowBody   error = silentError("the client sends its request's body too slowly")
)

// hush ends an answer that has begun and of which no more comes. The time that the
// client takes to make room does not count, nor does one in which the body of the
// request moves: an upstream may first want to have all of it.
type hush struct {
	body    io.Closer
	timer   *time.Timer
	waiting atomic.Int64 // since when more is awaited, in nanoseconds from the exchange's start; 0 means that it is not

	watched bool // guarded by the answer's mu, as is what follows
	silent  bool
}

func (h *hush) reset() { h.body, h.watched, h.silent = nil, false, false }

func (h *hush) waits(start time.Time) { h.waiting.Store(max(int64(time.Since(start)), 1)) }
func (h *hush) over()                 { h.waiting.Store(0) }

// beginHush starts the watch. It is called with mu held.
func (a *answer) beginHush() {
	h := &a.hush
	if s := a.x.body.stream; s != nil {
		s.goesOn()
	}
	if h.watched || h.body == nil {
		return
	}
	h.watched = true
	limit := a.x.waits().answer
	if h.timer == nil {
		h.timer = time.AfterFunc(limit, a.listen)
		return
	}
	h.timer.Reset(limit)
}

// endHush ends the watch. When it returns nobody else uses the answer.
func (a *answer) endHush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.hush.watched {
		return
	}
	a.hush.watched = false
	if !a.hush.timer.Stop() {
		a.x.reuse = false // its function may only begin now, and must not find another exchange
	}
}

func (a *answer) silenced() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hush.silent
}

// listen is what the timer does.
func (a *answer) listen() {
	a.mu.Lock()
	h := &a.hush
	if !h.watched {
		a.mu.Unlock()
		return
	}
	limit := a.x.waits().answer
	var quiet time.Duration
	if since := h.waiting.Load(); since > 0 {
		quiet = time.Since(a.x.start) - time.Duration(since)
		if s := a.x.body.stream; s != nil {
			quiet = min(quiet, time.Since(s.last()))
		}
	}
	if quiet < limit {
		h.timer.Reset(limit - quiet)
		a.mu.Unlock()
		return
	}
	h.silent = true
	body := h.body
	a.mu.Unlock()
	_ = body.Close() // ends the reading
}

// last is when something of the body passed.
func (s *streamBody) last() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moved
}

// goesOn says that the answer has begun: whoever sends its request bit by bit as
// the answer comes may be silent for as long as that.
func (s *streamBody) goesOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered = true
}

// watchSilence ends a body of HTTP/2 of which nothing comes. There the deadline of a
// stream is costly to set for each read.
func (s *streamBody) watchSilence(x *exchange) {
	if strings.HasPrefix(x.r.Header.Get("Content-Type"), "application/grpc") {
		s.stall, s.rate = x.waits().answer, 0 // a call can be open long before it says something
	}
	body := x.r.Body
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silence = time.AfterFunc(s.stall, func() {
		if s.tooSilent() {
			_ = body.Close() // ends the reading
		}
	})
}

// tooSilent reports whether the client let a reader wait for too long, and else
// looks again later.
func (s *streamBody) tooSilent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.ended || s.err != nil {
		return false
	}
	if !s.reading || s.answered {
		s.silence.Reset(s.stall)
		return false
	}
	left, slow := s.grace()
	if left -= time.Since(s.began); left > 0 {
		s.silence.Reset(left)
		return false
	}
	if s.err = errSilentBody; slow {
		s.err = errSlowBody
	}
	return true
}

// grace is how long the client may let the next read wait: until it is silent for too
// long, or has let the body wait, all in all, for longer than its size allows. Without
// that a client could keep the exchange and a connection of the upstream with a byte now
// and then. It is called with mu held.
func (s *streamBody) grace() (d time.Duration, slow bool) {
	if s.rate <= 0 || s.answered {
		return s.stall, false
	}
	const most = 1e9 // seconds
	earned := min(float64(s.seen.size)/float64(s.rate), most) * float64(time.Second)
	if left := s.stall + time.Duration(earned) - s.waited; left < s.stall {
		return left, true
	}
	return s.stall, false
}

// whyStalled says what a client did that let its body wait for too long.
func (s *streamBody) whyStalled() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slow || errors.Is(s.err, errSlowBody) {
		return errSlowBody.Error()
	}
	return errSilentBody.Error()
}
