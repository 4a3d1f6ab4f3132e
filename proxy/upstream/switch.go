package upstream

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// switchTo makes the body of an answer the connection, after 101 (RFC 9110,
// section 15.2.2).
func (c *conn) switchTo(r *http.Response, req *http.Request) error {
	switch {
	case len(req.Header["Upgrade"]) == 0 || c.send != nil:
		return malformed("it switches to another protocol unasked")
	case len(r.Header["Upgrade"]) == 0 || !hasElement(r.Header["Connection"], "upgrade"):
		return malformed("it switches to another protocol, but does not say to which")
	}
	// What happens with the connection from here on is up to the caller.
	if !c.unwatch() {
		return c.ctx.Err()
	}
	if err := c.nc.SetDeadline(time.Time{}); err != nil {
		return err
	}
	early := append([]byte(nil), c.in.buf[c.in.r:c.in.w]...)
	c.t.ins.Put(c.buf)
	c.in, c.buf = reader{}, nil
	r.Body = &switched{Conn: c.nc, c: c, early: early}
	return nil
}

// switched is a connection on which another protocol is spoken.
type switched struct {
	net.Conn
	c      *conn
	early  []byte // was read together with the answer
	closed atomic.Bool
}

var _ io.ReadWriteCloser = (*switched)(nil)

func (s *switched) Read(p []byte) (int, error) {
	if len(s.early) > 0 {
		n := copy(p, s.early)
		s.early = s.early[n:]
		return n, nil
	}
	return s.Conn.Read(p)
}

// CloseWrite ends what is sent.
func (s *switched) CloseWrite() error {
	if w, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return http.ErrNotSupported
}

func (s *switched) Close() error {
	if s.closed.Swap(true) {
		return net.ErrClosed
	}
	s.c.t.leave(s.c.h)
	return s.Conn.Close()
}
