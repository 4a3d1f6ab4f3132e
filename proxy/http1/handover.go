package http1

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
)

// preface is what HTTP/2 by prior knowledge begins with (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// handover is a listener of connections that were accepted elsewhere.
type handover struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandover(addr net.Addr) *handover {
	return &handover{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// give hands a connection over, and reports whether somebody took it.
func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handover) Addr() net.Addr { return h.addr }

func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// stop is Close of a handover that may not be there.
func (h *handover) stop() {
	if h != nil {
		_ = h.Close()
	}
}

// handed is a connection that was handed over: of it some bytes may have been read
// already, and what it says was possibly said in TLS. net/http takes it for one
// without, or else it would not take it.
type handed struct {
	net.Conn
	ahead   []byte
	tls     *tls.ConnectionState
	release func()
	once    sync.Once
	ctx     context.Context // of the connection
	frames  *frames         // nil: nobody looks at them
}

func (c *handed) Read(p []byte) (int, error) {
	n, err := len(c.ahead), error(nil)
	if n > 0 {
		n = copy(p, c.ahead)
		c.ahead = c.ahead[n:]
	} else {
		n, err = c.Conn.Read(p)
	}
	if c.frames != nil && n > 0 {
		c.frames.came(p[:n])
	}
	return n, err
}

func (c *handed) Write(p []byte) (int, error) {
	if c.frames != nil {
		c.frames.said(p)
	}
	return c.Conn.Write(p)
}

func (c *handed) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		if c.release != nil {
			c.release()
		}
		if c.frames != nil && c.ctx != nil {
			c.frames.ended()
		}
	})
	return err
}

// NetConn returns the connection beneath, without TLS.
func (c *handed) NetConn() net.Conn {
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c.Conn
}

// fitsHTTP2 reports whether HTTP/2 may be spoken: over TLS 1.2 only with ciphers
// that RFC 9113, section 9.2.2, does not prohibit.
func fitsHTTP2(s *tls.ConnectionState) bool {
	if s.Version >= tls.VersionTLS13 {
		return true
	}
	switch s.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return s.Version == tls.VersionTLS12
	}
	return false
}
