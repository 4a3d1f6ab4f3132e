package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// peeked is what both sides of a tunnel said first.
type peeked struct {
	sent  []byte // by the client
	early []byte // by the upstream
	hello helloSniffer
}

// past is a deadline that ends a read.
func past() time.Time { return time.Unix(1, 0) }

// peek reads what the client sends first, until it is clear whether that is a
// TLS hello and for which name. It does not wait for the client where the
// upstream speaks first or ends.
func (x *exchange) peek(client net.Conn, buf *bufio.Reader, up net.Conn) (*peeked, error) {
	t := &x.p.cfg.Timeouts
	var spoke atomic.Bool
	first := make(chan []byte, 1)
	_ = client.SetReadDeadline(time.Now().Add(t.TunnelIdle))
	go func() {
		b := make([]byte, 4<<10)
		n, err := up.Read(b)
		if n > 0 || err != nil && !isTimeout(err) {
			spoke.Store(true)
			_ = client.SetReadDeadline(past())
		}
		first <- b[:n]
	}()
	stop := context.AfterFunc(x.r.Context(), func() { _ = client.SetReadDeadline(past()) })
	defer stop()
	p := new(peeked)
	b := make([]byte, 4<<10)
	var err error
	var until time.Time // for the hello to be whole
	for err == nil && !p.hello.done {
		var n int
		if rest := buf.Buffered(); rest > 0 { // sent together with the request
			n, err = buf.Read(b[:min(rest, len(b))])
		} else {
			n, err = client.Read(b)
		}
		p.sent = append(p.sent, b[:n]...)
		p.hello.feed(b[:n])
		now := time.Now()
		if n > 0 && until.IsZero() {
			until = now.Add(t.RequestHeader)
			_ = client.SetReadDeadline(until)
		}
		// The upstream does not cut short a hello that has begun.
		if isTimeout(err) && len(p.sent) > 0 && now.Before(until) && x.r.Context().Err() == nil {
			_ = client.SetReadDeadline(until)
			err = nil
		}
	}
	rest, _ := buf.Peek(buf.Buffered())
	p.sent = append(p.sent, rest...)
	_, _ = buf.Discard(len(rest))
	_ = up.SetReadDeadline(past())
	p.early = <-first
	_ = up.SetReadDeadline(time.Time{})
	_ = client.SetReadDeadline(time.Time{})
	switch {
	case x.r.Context().Err() != nil:
		return nil, context.Cause(x.r.Context())
	case err == io.EOF, isTimeout(err) && spoke.Load() && len(p.sent) == 0:
		return p, nil // what is there passes on, and the end like any other
	}
	return p, err
}

func looksLikeTLS(b []byte) bool { return len(b) > 1 && b[0] == 22 && b[1] == 3 }

// prefixed is a connection of which some was read already.
type prefixed struct {
	net.Conn
	rest []byte
}

// Read implements [net.Conn].
func (c *prefixed) Read(p []byte) (int, error) {
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// CloseWrite passes on that nothing more comes.
func (c *prefixed) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return http.ErrNotSupported
}

// NetConn returns the connection below.
func (c *prefixed) NetConn() net.Conn { return below(c.Conn) }

// below returns the innermost connection.
func below(c net.Conn) net.Conn {
	if n, ok := c.(interface{ NetConn() net.Conn }); ok {
		return n.NetConn()
	}
	return c
}

// counted counts what passes over a connection.
type counted struct {
	net.Conn
	in, out atomic.Int64
}

// Read implements [net.Conn].
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.in.Add(int64(n))
	return n, err
}

// Write implements [net.Conn].
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.Add(int64(n))
	return n, err
}

// errNotHTTP says that what a client sends inside TLS is not what was agreed on.
var errNotHTTP = errors.New("what the client sent inside TLS is not HTTP")

// clearConn is what a client says inside TLS.
type clearConn struct {
	net.Conn // of TLS; hidden, so that servers take it for one without
	rest     []byte
	once     sync.Once
	closed   chan struct{}
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// newClear reads enough of what a client says to know that it is HTTP: of
// HTTP/2 its preface (RFC 9113, section 3.4), of HTTP/1 a method. It returns nil
// if the client ends without a word.
func newClear(conn *tls.Conn, patience time.Duration) (*clearConn, error) {
	const longestMethod = 32
	c := &clearConn{Conn: conn, closed: make(chan struct{})}
	two := conn.ConnectionState().NegotiatedProtocol == "h2"
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	defer conn.SetReadDeadline(time.Time{}) //nolint:errcheck // a connection that is closed says so later
	b := make([]byte, 4<<10)
	for {
		n, err := conn.Read(b)
		c.rest = append(c.rest, b[:n]...)
		if two {
			k := min(len(c.rest), len(preface))
			if string(c.rest[:k]) != preface[:k] {
				return nil, errNotHTTP
			}
			if k == len(preface) {
				return c, nil
			}
		} else if i := bytes.IndexByte(c.rest, ' '); i > longestMethod || i < 0 && len(c.rest) > longestMethod {
			return nil, errNotHTTP
		} else if word := c.rest[:max(i, 0)]; i >= 0 {
			if !validName(string(word)) || bytes.HasPrefix(c.rest, []byte(preface[:6])) {
				return nil, errNotHTTP
			}
			return c, nil
		} else if len(c.rest) > 0 && !validName(string(c.rest)) {
			return nil, errNotHTTP
		}
		switch {
		case err == io.EOF && len(c.rest) == 0:
			return nil, nil
		case err == io.EOF:
			return nil, errNotHTTP
		case err != nil:
			return nil, err
		}
	}
}

// Read implements [net.Conn].
func (c *clearConn) Read(p []byte) (int, error) {
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// Close implements [net.Conn].
func (c *clearConn) Close() error {
	defer c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// NetConn returns the connection below.
func (c *clearConn) NetConn() net.Conn { return below(c.Conn) }

// CloseWrite passes on that nothing more comes.
func (c *clearConn) CloseWrite() error { return c.Conn.(*tls.Conn).CloseWrite() }
