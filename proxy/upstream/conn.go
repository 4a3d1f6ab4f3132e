package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// glance is how long a round trip waits before it sees to being woken when its
	// context ends. Most answers are there before, and then it costs nothing.
	glance = 30 * time.Millisecond
	// settling is how long the end of a request may take after the end of its
	// answer for the connection to be used again, and an answer after a request
	// that could not be sent.
	settling = 50 * time.Millisecond
	lateness = time.Second
)

// conn is a connection to an upstream. It belongs to one round trip and its
// answer, or to the pool.
type conn struct {
	t    *Transport
	h    *host
	nc   net.Conn             // what is spoken over: link, or TLS over it
	link net.Conn             // as it was dialled
	raw  syscall.RawConn      // of link; nil where there is none
	tls  *tls.ConnectionState // nil without TLS
	shot shot
	in   reader
	buf  *[]byte // of the pool; what in begins with

	made time.Time
	idle time.Time // when it went into the pool
	used bool      // it has carried a round trip

	// Of the round trip:
	ctx     context.Context
	alarm   time.Time // the deadline that is set for reading, if there is no watch
	sent    int       // bytes of the request, as far as this goroutine sent them
	dropped bool      // the peer ended the connection before a byte of an answer
	send    *sender   // of what this goroutine did not send

	mu      sync.Mutex  // guards what follows, which senders and closers use too
	stop    func() bool // ends the watch over ctx; nil while there is none
	headed  bool        // the headers of the answer are there
	expires time.Time   // when they should be there; zero means not yet known, or never
	failure error       // of sending
}

// roundTrip sends a request and reads the beginning of its answer. After an error
// the connection is closed, and the caller still has to leave the host.
func (c *conn) roundTrip(req *http.Request, o Observer, out *outbound) (*http.Response, error) {
	c.ctx, c.sent, c.dropped, c.headed = req.Context(), 0, false, false
	c.stop, c.send, c.failure, c.expires = nil, nil, nil, time.Time{}
	c.buf = c.t.ins.Get().(*[]byte)
	c.in = reader{src: c, buf: *c.buf}
	err := c.launch(out)
	if c.sent > 0 && o != nil {
		o.Sent(c.nc, c.used)
	}
	var res *http.Response
	if err == nil {
		c.used = true
		res, err = c.readAnswer(req, o)
	}
	if err != nil {
		c.fail(out)
		if err != errStale {
			err = c.reason(err)
		}
		return nil, err
	}
	return res, nil
}

// fail closes the connection. What is sent by another goroutine ends then, and
// where that does not wait for anybody else, its end is waited for.
func (c *conn) fail(out *outbound) {
	c.unwatch()
	_ = c.link.Close()
	if s := c.send; s != nil {
		if _, buffered := s.body.(*Buffered); buffered || s.body == nil {
			<-s.done
			out.sending = false
		}
	}
}

// reason says why a round trip has failed.
func (c *conn) reason(err error) error {
	c.mu.Lock()
	failure := c.failure
	c.mu.Unlock()
	switch {
	case c.ctx.Err() != nil:
		return context.Cause(c.ctx)
	case failure != nil && !errors.Is(err, ErrMalformed):
		return failure
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrTimeout
	}
	return err
}

// launch sends the request, or leaves the rest of it to a sender.
func (c *conn) launch(out *outbound) error {
	if c.raw == nil || c.tls != nil {
		return c.launchSlowly(out)
	}
	n, err := c.glimpse(out)
	c.sent = c.shot.sent
	switch {
	case err == errStale:
		return err
	case err != nil && c.sent == 0:
		c.dropped = true // and nobody knows of the request
		return err
	case c.sent < len(out.b) || out.body != nil:
		return c.delegate(out)
	}
	c.begun()
	switch {
	case n > 0:
		c.in.w = n
	case err == nil, errors.Is(err, io.EOF):
		c.dropped = true
		return io.EOF
	case !c.extend(err):
		c.dropped = isReset(err)
		return err
	}
	return nil
}

// glimpse shoots, within a deadline that ends the first glance.
func (c *conn) glimpse(out *outbound) (n int, err error) {
	for range 10 {
		// One that was set for the last request may do: to set it costs something.
		if now := time.Now(); c.alarm.Sub(now) < glance/2 {
			c.alarm = now.Add(glance)
			if c.nc.SetReadDeadline(c.alarm) != nil {
				return 0, errStale
			}
		}
		if n, err = c.shoot(out.b, out.body == nil); c.shot.stage != shotPeek || err == errStale {
			return n, err
		}
		c.alarm = time.Time{} // was over before anything was done
	}
	return 0, errStale
}

// launchSlowly sends over connections that cannot be asked for less.
func (c *conn) launchSlowly(out *outbound) error {
	// On a new connection TLS may have more to say, tickets for example.
	if c.used && !c.silent() {
		return errStale
	}
	if err := c.watch(); err != nil {
		return err
	}
	if len(out.b) > inSize || out.body != nil {
		return c.delegate(out)
	}
	n, err := c.nc.Write(out.b)
	if c.sent = n; err != nil {
		// TLS tells nothing of how much was sent.
		c.sent = max(n, 1)
		c.dropped = isReset(err)
		return err
	}
	return c.sentAll()
}

// delegate leaves what is not sent yet to a goroutine.
func (c *conn) delegate(out *outbound) error {
	if !c.watched() {
		if err := c.watch(); err != nil {
			return err
		}
	}
	out.sending = true
	c.send = newSender(c, out)
	// Whether something will have been sent is not known; it may be.
	c.sent = max(c.sent, 1)
	go c.send.run()
	return nil
}

// begun notes that the request was sent.
func (c *conn) begun() {
	if d := c.t.cfg.ResponseHeaderTimeout; d > 0 {
		c.expires = c.alarm.Add(d)
	}
}

// sentAll notes that the request was sent, where a watch is kept: from now on the
// answer is awaited.
func (c *conn) sentAll() error {
	d := c.t.cfg.ResponseHeaderTimeout
	c.mu.Lock()
	defer c.mu.Unlock()
	if d <= 0 || c.headed {
		return nil
	}
	c.expires = time.Now().Add(d)
	return c.nc.SetReadDeadline(c.expires)
}

// watch sees to it that reads and writes end when the context does.
func (c *conn) watch() error {
	c.alarm = time.Time{}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop = func() bool { return true }
	if c.ctx.Done() != nil {
		link := c.link
		c.stop = context.AfterFunc(c.ctx, func() { _ = link.Close() })
	}
	t := c.expires
	if c.headed {
		t = time.Time{}
	}
	return c.nc.SetReadDeadline(t)
}

func (c *conn) watched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop != nil
}

// unwatch ends the watch. It reports whether the connection was left alone.
func (c *conn) unwatch() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop == nil || c.stop()
}

// extend reports whether err says only that the first glance is over. Then it
// keeps a watch from now on.
func (c *conn) extend(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && !c.watched() && c.ctx.Err() == nil && c.watch() == nil
}

// Read reads what the upstream sends.
func (c *conn) Read(p []byte) (int, error) {
	for {
		n, err := c.nc.Read(p)
		switch {
		case n > 0:
			return n, nil
		case err == io.EOF:
			return 0, err
		case !c.extend(err):
			return 0, c.reason(err)
		}
	}
}

// readAnswer reads up to the headers of the answer, and on its way those that are
// no answer yet.
func (c *conn) readAnswer(req *http.Request, o Observer) (*http.Response, error) {
	if c.in.buffered() == 0 {
		if err := c.in.fill(); err != nil {
			c.dropped = err == io.EOF || isReset(err)
			return nil, err
		}
	}
	if o != nil {
		o.Answered()
	}
	for range maxInformational {
		a, kind, keep, err := readHead(&c.in, c.t.cfg.MaxHeaderBytes, req.Method)
		if err != nil {
			return nil, cut(err)
		}
		code := a.res.StatusCode
		if code >= 200 || code == http.StatusSwitchingProtocols {
			return c.accept(a, kind, keep, req)
		}
		if c.send != nil && code == http.StatusContinue {
			c.send.proceed(true)
		}
		if o != nil {
			if err := o.Informational(code, a.res.Header); err != nil {
				return nil, err
			}
		}
	}
	return nil, malformed("there are too many informational answers")
}

// accept makes the answer one that can be returned.
func (c *conn) accept(a *answer, kind bodyKind, keep bool, req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.headed = true
	watched := c.stop != nil
	c.mu.Unlock()
	if watched {
		if err := c.nc.SetReadDeadline(time.Time{}); err != nil {
			return nil, err
		}
	}
	if c.send != nil {
		c.send.proceed(false)
	}
	r := &a.res
	r.Request, r.TLS = req, c.tls
	if r.StatusCode == http.StatusSwitchingProtocols {
		return r, c.switchTo(r, req)
	}
	keep = keep && !req.Close && !hasElement(req.Header["Connection"], "close")
	if kind == bodyNone {
		c.finish(keep)
		return r, nil
	}
	a.body = body{c: c, in: &c.in, res: r, kind: kind, keep: keep, limit: c.t.cfg.MaxHeaderBytes, left: max(r.ContentLength, 0)}
	r.Body = &a.body
	return r, nil
}

// finish ends the use of the connection by an answer that is over, and gives it
// to the pool if it can be used again.
func (c *conn) finish(keep bool) {
	if !c.unwatch() {
		keep = false // the context has ended, and closes it
	}
	if !keep || c.in.buffered() > 0 || c.send != nil && !c.send.settled() {
		// The reader may still be at work, so its buffer is not given back.
		_ = c.link.Close()
		c.t.leave(c.h)
		return
	}
	c.t.ins.Put(c.buf)
	c.in, c.buf, c.ctx, c.stop, c.send = reader{}, nil, nil, nil, nil
	c.t.put(c)
}

// sendingFailed reports whether the rest of the request could not be sent, once the
// connection has come to its end. A reset is told once only: where it was told to who
// sends, reading ends as if the upstream had ended its answer in good order.
func (c *conn) sendingFailed() bool {
	if c.send == nil {
		return false
	}
	t := time.NewTimer(settling)
	defer t.Stop()
	select {
	case <-c.send.done:
	case <-t.C: // it waits for more to send
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failure != nil
}

// silent reports whether a connection that should be silent is: nothing was
// received that nobody has asked for, and it was not closed.
func (c *conn) silent() bool {
	c.alarm = time.Time{}
	if c.tls != nil || c.raw == nil {
		// What TLS has unpacked and not handed out is returned in spite of the
		// deadline, and the connection itself is not read.
		past := time.Unix(1, 0)
		if c.raw == nil {
			past = time.Now().Add(100 * time.Microsecond)
		}
		if c.nc.SetReadDeadline(past) != nil {
			return false
		}
		if n, err := c.nc.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
	}
	return c.nc.SetReadDeadline(time.Time{}) == nil && (c.raw == nil || c.peek())
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
