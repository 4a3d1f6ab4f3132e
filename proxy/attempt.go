package proxy

import (
	"crypto/sha256"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	h1 "github.com/sealtap/sealtap/proxy/upstream"
)

// maxAttempts is how many attempts a record names; the last one is among them.
const maxAttempts = 8

// attempt sends a request to a target of its route's pool, and to another one
// where that failed and is safe to do again.
func (x *exchange) attempt(out *http.Request, upgrade bool) (*http.Response, error) {
	q := x.route.pool
	var tried uint64
	var failed error
	for left := q.retries; ; left-- {
		u, bit, err := q.pick(tried)
		if err != nil {
			if failed != nil {
				err = failed // the checks have taken out the rest in the meantime
			}
			return nil, err
		}
		x.leave()
		x.at = u
		tried |= bit
		t := x.tries.begin(u.name)
		if failed != nil {
			out = x.again(out)
		}
		x.aim(out, u)
		res, err := u.transport.Do(out, t)
		t.finish(res, err)
		if err == nil || left <= 0 || x.r.Context().Err() != nil || !x.mayRetry(out, t, err, upgrade) {
			return res, err
		}
		failed = err
	}
}

// again returns a request once more: a transport may still hold the one of the
// attempt before.
func (x *exchange) again(out *http.Request) *http.Request {
	next := *out
	next.URL = new(url.URL)
	if x.body.kind == bodyBuffered {
		b := new(h1.Buffered)
		b.Reset(x.body.data)
		next.Body = b
	}
	return &next
}

// leave says that the exchange occupies its upstream no longer.
func (x *exchange) leave() {
	if x.at != nil {
		x.at.release()
		x.at = nil
	}
}

func (x *exchange) mayRetry(out *http.Request, t *tracer, err error, upgrade bool) bool {
	connected, answered := t.state()
	// A connection may still be about to read a streamed body.
	replayable := x.body.kind != bodyStreamed || !connected && x.body.stream.untouched()
	return mayRetry(retryCase{
		method: out.Method, replayable: replayable, connected: connected, answered: answered, timeout: isTimeout(err), upgrade: upgrade,
	})
}

// retryCase is what decides whether a request may be sent again.
type retryCase struct {
	method     string
	replayable bool // nothing of its body is lost
	connected  bool // it had a connection, so some of it may have been sent
	answered   bool // a byte of an answer came
	timeout    bool // the answer took too long to begin
	upgrade    bool
}

// mayRetry reports whether sending a request again can do no harm: nothing of it
// was sent, or doing it twice is the same as doing it once (RFC 9110, section
// 9.2.2). Where the upstream is slow, not dead, it would only get more to do.
func mayRetry(c retryCase) bool {
	switch {
	case c.answered || !c.replayable:
		return false
	case !c.connected:
		return true
	case c.timeout || c.upgrade:
		return false
	}
	switch c.method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// untouched reports whether nothing of a streamed body was asked for.
func (s *streamBody) untouched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.reading && !s.ended && s.err == nil && s.seen.size == 0
}

// attempts is the request as it goes out. It watches what becomes of it: each attempt, also those that a
// transport makes by itself, and the 1xx answers, which it would swallow. It is
// not part of the exchange because a transport may still call it afterwards.
type attempts struct {
	first tracer
	out   http.Request
	url   url.URL
	body  h1.Buffered
	rules *headerRules

	mu    sync.Mutex
	notes []note
	slab  [1]note
	extra int                 // attempts that are not noted
	w     http.ResponseWriter // nil once the answer itself is there
	info  []informational
	room  int // bytes that the heads of more of them can have
	over  bool
}

// note is one attempt.
type note struct {
	upstream    string
	start       time.Time
	took        time.Duration
	status      int
	detail      string
	certificate []byte
}

// tracer watches the attempts of one call of a transport.
type tracer struct {
	all *attempts

	// guarded by all.mu
	at       int // its last note
	conns    int
	conn     net.Conn
	answered bool
	over     bool
}

func newAttempts(w http.ResponseWriter, rules *headerRules, room int) *attempts {
	t := &attempts{w: w, rules: rules, room: room}
	t.notes = t.slab[:0]
	t.first.all = t
	return t
}

// begin notes an attempt.
func (t *attempts) begin(upstream string) *tracer {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &t.first
	if len(t.notes) > 0 {
		r = &tracer{all: t}
	}
	r.at = t.note(upstream)
	return r
}

func (t *attempts) note(upstream string) int {
	if len(t.notes) == maxAttempts {
		copy(t.notes[1:], t.notes[2:])
		t.notes = t.notes[:maxAttempts-1]
		t.extra++
	}
	t.notes = append(t.notes, note{upstream: upstream, start: time.Now()})
	return len(t.notes) - 1
}

// Sent learns of each connection that a request is given. A second one means
// that the first had been closed, which a transport sees when it uses it.
func (r *tracer) Sent(c net.Conn, _ bool) {
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	if r.over {
		return
	}
	if r.conns++; r.conns > 1 {
		n := &r.all.notes[r.at]
		n.took, n.detail = time.Since(n.start), "the connection had been closed"
		r.at = r.all.note(n.upstream)
	}
	r.conn = c
}

// Answered learns that something of an answer came.
func (r *tracer) Answered() {
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	r.answered = true
}

// state reports whether the request was given a connection, and whether a byte
// of an answer came.
func (r *tracer) state() (connected, answered bool) {
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	return r.conns > 0, r.answered
}

// finish notes how the call of the transport ended.
func (r *tracer) finish(res *http.Response, err error) {
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	n := &r.all.notes[r.at]
	n.took = time.Since(n.start)
	state := connectionState(res, r.conn)
	if state != nil && len(state.VerifiedChains) > 0 {
		sum := sha256.Sum256(state.PeerCertificates[0].Raw)
		n.certificate = sum[:]
	}
	if err != nil {
		n.detail = brief(err)
	} else {
		n.status = max(res.StatusCode, 0)
	}
	r.over, r.conn = true, nil
}

func connectionState(res *http.Response, conn net.Conn) *tls.ConnectionState {
	if res != nil {
		return res.TLS
	}
	if c, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
		s := c.ConnectionState()
		return &s
	}
	return nil
}

// end lets nothing more pass to the client.
func (t *attempts) end() {
	if t == nil {
		return
	}
	t.mu.Lock()
	t.over, t.w = true, nil
	t.mu.Unlock()
}

func (t *attempts) count() int {
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.notes) + t.extra
}

// captureAttempts records the attempts where they tell something: which target
// it was, whose certificate, or that there was more than one.
func (x *exchange) captureAttempts(p *sealtapv1.Response) {
	t := x.tries
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	choice := x.route != nil && len(x.route.pool.targets) > 1
	if len(t.notes) == 0 || len(t.notes) == 1 && !choice && t.notes[0].certificate == nil {
		return
	}
	for i := range t.notes {
		n := &t.notes[i]
		a := new(sealtapv1.Attempt)
		if i < len(x.st.attempts) {
			a = &x.st.attempts[i]
			a.Reset()
		}
		a.Upstream, a.Status, a.Detail = capped(n.upstream, maxPlace), uint32(n.status), capped(n.detail, maxAttemptDetail)
		a.DurationNs, a.Certificate = uint64(max(n.took, 0)), n.certificate
		p.Attempts = append(p.Attempts, a)
	}
}
