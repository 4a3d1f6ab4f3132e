package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The states of a connection.
const (
	stateIdle   = iota // nothing of a request is there
	stateActive        // a request is read or answered
	stateClosed        // by Shutdown, while it was idle
)

// How a connection is closed whose client may still be sending: a reset would
// destroy the answer on its way (RFC 9112, section 9.6).
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// conn is a connection of a client. To others it is a net.Conn whose deadlines
// are cheap.
type conn struct {
	net.Conn // the accepted one, or TLS over it
	accepted net.Conn
	srv      *Server
	remote   string
	tls      *tls.ConnectionState
	template *http.Request // with the context of the connection
	cancel   context.CancelFunc
	state    atomic.Int32
	mon      monitor
	first    bool   // no request was read yet
	taken    bool   // hijacked, or handed over
	release  func() // says that the connection has ended; nil if nobody asks, or another one says it
	in       *buffer

	ready syscall.RawConn    // of connections that can wait without a buffer
	try   func(uintptr) bool // reads from ready
	tried error              // what try got instead of bytes

	watching sync.Mutex    // guards what follows
	asked    *body         // of the request under way
	seen     chan struct{} // closed when the look for the client is over
	early    [1]byte       // what it found instead
	found    int
}

func (c *conn) serve() {
	defer c.srv.forget(c)
	defer c.leave()
	c.mon.c, c.mon.net = c, c.Conn
	c.remote = c.accepted.RemoteAddr().String() // a listener may have to read for it
	if admit := c.srv.cfg.Admit; admit != nil {
		release, ok := admit(c.remote)
		if !ok {
			return
		}
		c.release = release
	}
	ctx, cancel := context.WithCancel(c.srv.cfg.Base)
	defer cancel()
	c.cancel = cancel
	problem, ok := c.handshake(ctx)
	if !ok {
		return
	}
	c.mon.net = c.Conn
	if f := c.srv.cfg.ConnContext; f != nil {
		ctx = f(ctx, c)
	}
	c.template = new(http.Request).WithContext(ctx)
	if problem != nil {
		c.refuse(c.newRequest(), problem)
		return
	}
	c.prepare()
	for c.next() {
	}
}

// leave closes the connection if it is still the server's.
func (c *conn) leave() {
	c.mon.stop()
	c.dropBuffer()
	if !c.taken {
		_ = c.Conn.Close()
	}
	if c.release != nil {
		c.release() // a handler that took it over is done with it too
	}
}

// handshake begins TLS, if that is spoken. Without ok the connection is of no
// further use here; a problem is for the client.
func (c *conn) handshake(ctx context.Context) (problem *Error, ok bool) {
	if c.srv.tls == nil {
		return nil, true
	}
	t := tls.Server(c.accepted, c.srv.tls)
	c.mon.set(&c.mon.read, c.srv.now()+c.srv.limits.Load().HeaderTimeout)
	c.mon.set(&c.mon.write, c.srv.now()+c.srv.limits.Load().HeaderTimeout)
	err := t.HandshakeContext(ctx)
	c.mon.end()
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &plain) && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader):
		return bad("HTTP without TLS was sent to a port that speaks TLS"), true
	case err != nil:
		c.srv.log.Debug("TLS handshake failed", "client", c.remote, "error", err)
		return nil, false
	}
	c.Conn = t
	state := t.ConnectionState()
	c.tls = &state
	if state.NegotiatedProtocol == "h2" {
		if fitsHTTP2(&state) {
			c.handOver(t, nil)
		}
		return nil, false
	}
	return nil, true
}

func looksLikeHTTP(b [5]byte) bool {
	for _, c := range b {
		if c != ' ' && c != '/' && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

// handOver gives the connection to the server of HTTP/2, with what was read of it.
func (c *conn) handOver(to net.Conn, ahead []byte) {
	if c.srv.cfg.HTTP2 == nil {
		return
	}
	c.taken = true
	c.mon.stop()
	h := &handed{Conn: to, ahead: ahead, tls: c.tls, release: c.release}
	c.release = nil
	h.watch(c.srv)
	c.srv.handOver(h)
}

// next serves one request and reports whether another may follow.
func (c *conn) next() bool {
	if !c.await() {
		return false
	}
	q, err := c.readRequest()
	c.first = false
	switch {
	case err != nil:
		c.refuse(q, err)
		return false
	case q == nil:
		return false
	}
	return c.answer(q)
}

// await waits for the first bytes of a request. Meanwhile the connection holds
// no buffer, if it can.
func (c *conn) await() bool {
	if c.in != nil && c.in.r < c.in.w {
		return !c.srv.closing.Load() // the next request came along with the last one
	}
	c.state.Store(stateIdle)
	if c.srv.closing.Load() {
		return false
	}
	err := c.firstBytes()
	c.mon.set(&c.mon.read, 0)
	return err == nil && c.state.CompareAndSwap(stateIdle, stateActive)
}

// answer has the handler answer, and reports whether the connection can go on.
func (c *conn) answer(q *request) bool {
	w := c.srv.responses.Get().(*response)
	w.begin(c, &q.Request)
	q.body.w = w
	switch b := &q.body; {
	case b.err != nil: // there is none
	case b.expect, !b.chunked && b.left > maxDrain:
		w.doubt = b
	}
	c.startWatch(&q.body)
	ok := c.run(w, q, nil)
	c.endWatch()
	if c.taken {
		q.body.over.Store(true)
		c.in = nil // somebody may still look into it
		return false
	}
	ok = ok && w.finish()
	whole := q.body.finish(ok && !w.close)
	c.mon.end()
	closing := w.close
	if ok {
		w.release()
	}
	if ok && (!whole || closing && (!q.Close || c.in.r < c.in.w)) {
		c.linger() // the client may send more, or is
	}
	return ok && whole && !closing
}

// refuse answers a request that is not taken.
func (c *conn) refuse(q *request, e *Error) {
	c.state.Store(stateActive)
	q.ContentLength, q.Body, q.Close = -1, http.NoBody, true
	q.body.err = io.EOF
	w := newResponse()
	w.begin(c, &q.Request)
	ok := c.run(w, q, e)
	if !c.taken && ok && w.finish() {
		c.linger()
	}
}

// run calls the handler and reports whether it returned.
func (c *conn) run(w *response, q *request, e *Error) (ok bool) {
	defer func() {
		r := recover()
		if r != nil && r != any(http.ErrAbortHandler) {
			c.srv.log.Error("a handler panicked", "client", c.remote, "panic", r, "stack", string(debug.Stack()))
		}
	}()
	switch refused := c.srv.cfg.Refused; {
	case e == nil:
		c.srv.cfg.Handler.ServeHTTP(w, &q.Request)
	case refused != nil:
		refused(w, &q.Request, e)
	default:
		http.Error(w, e.Reason, e.Status)
	}
	return true
}

// linger waits until the client has stopped sending, for a while.
func (c *conn) linger() {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.mon.set(&c.mon.read, c.srv.now()+lingerTime)
	_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
}

// startWatch begins to care whether the client goes away.
func (c *conn) startWatch(b *body) {
	c.watching.Lock()
	c.asked = b
	c.watching.Unlock()
	c.mon.begin(c.srv.cfg.Patience)
}

// watch looks for a client that waits for its answer: its end ends the context.
// What it sends instead belongs to its next request, and ends the looking.
func (c *conn) watch() {
	c.watching.Lock()
	defer c.watching.Unlock()
	switch {
	case c.asked == nil || c.seen != nil:
		return
	case !c.asked.done.Load():
		// Whoever reads the body notices. Afterwards nobody does.
		c.mon.begin(c.srv.cfg.Patience)
		return
	case c.in.r < c.in.w:
		return
	}
	c.seen = make(chan struct{})
	go func() {
		defer close(c.seen)
		n, err := c.Conn.Read(c.early[:])
		if c.found = n; n == 0 && err != nil && !isTimeout(err) {
			c.cancel()
		}
	}()
}

// endWatch ends the looking, which then is under way nowhere.
func (c *conn) endWatch() {
	c.watching.Lock()
	defer c.watching.Unlock()
	if c.asked = nil; c.seen == nil {
		return
	}
	c.mon.interrupt()
	<-c.seen
	c.seen = nil
	c.mon.set(&c.mon.read, 0)
	if c.found > 0 {
		c.in.b[0], c.in.r, c.in.w = c.early[0], 0, 1
		c.found = 0
	}
}

// NetConn returns the connection beneath, without TLS.
func (c *conn) NetConn() net.Conn { return c.accepted }

func (c *conn) newRequest() *request {
	q := new(request)
	q.Request = *c.template
	q.URL, q.Header, q.Body = &q.u, make(http.Header, 8), http.NoBody
	q.RemoteAddr, q.TLS = c.remote, c.tls
	q.body.c, q.body.r = c, &q.Request
	return q
}

// readRequest reads the head of a request. It returns neither a request nor an
// error if the connection is not for requests.
func (c *conn) readRequest() (*request, *Error) {
	var h head
	cfg := c.srv.limits.Load()
	timed := false
	for {
		b := c.in.b[c.in.r:c.in.w]
		if c.first && c.srv.cfg.HTTP2 != nil && c.tls == nil && strings.HasPrefix(preface, string(b[:min(len(b), len(preface))])) {
			if len(b) >= len(preface) {
				c.handOver(c.accepted, append([]byte(nil), b...))
				return nil, nil
			}
		} else if whole, err := h.scan(c.in, cfg); err != nil || whole {
			if timed {
				c.mon.set(&c.mon.read, 0)
			}
			q := c.newRequest()
			if wrong := q.parse(&h, c.in, cfg); err == nil {
				err = wrong
			}
			return q, err
		}
		if !timed {
			timed = true
			c.mon.set(&c.mon.read, c.srv.now()+cfg.HeaderTimeout)
		}
		if err := c.fill(); err != nil {
			q := c.newRequest()
			_ = q.parse(&h, c.in, cfg)
			if isTimeout(err) {
				c.mon.set(&c.mon.read, 0)
				return q, &Error{http.StatusRequestTimeout, "the head of the request did not arrive in time"}
			}
			return q, bad("the connection ended within the head of the request")
		}
	}
}
