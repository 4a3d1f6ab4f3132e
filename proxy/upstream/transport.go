// Package upstream is the side of a proxy that asks: an HTTP/1.1 client
// (RFC 9112) that is made to pass messages on, and a door to net/http's for
// HTTP/2.
//
// A round trip runs on the goroutine of its caller, over pooled connections that
// nobody watches in the meantime. Answers are read strictly: what two readers
// could understand in two ways is an error, and its connection is not used again
// (RFC 9112, section 11).
//
// Start with [New], then call [Transport.Do] or [Transport.RoundTrip].
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"time"
)

// Errors of round trips. Their texts, and those of the errors that wrap them,
// quote nothing that the peer sent.
var (
	// ErrRequest is wrapped where a request cannot be written without ambiguity.
	// Nothing of it was sent.
	ErrRequest = errors.New("the request cannot be sent")
	// ErrMalformed is wrapped where an answer is not HTTP/1, or not clearly so.
	ErrMalformed = errors.New("malformed answer")
	// ErrTimeout is wrapped where an answer did not begin in time. It has a method
	// Timeout that returns true.
	ErrTimeout error = timeoutError{}

	// errStale says that a connection turned out to be of no use before anything
	// was sent on it.
	errStale = errors.New("the connection was closed, or spoke unasked, before the request")
)

type timeoutError struct{}

func (timeoutError) Error() string { return "the upstream did not begin its answer in time" }
func (timeoutError) Timeout() bool { return true }

// Config says how a [Transport] reaches upstreams.
type Config struct {
	// Dial opens connections; nil means a plain net.Dialer. It must bound the time
	// it takes.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is used for https; nil means the system's roots. Its NextProtos are not
	// used.
	TLS *tls.Config
	// HandshakeTimeout bounds TLS handshakes; zero means 10 s.
	HandshakeTimeout time.Duration
	// ResponseHeaderTimeout bounds the time from the end of the request to the
	// end of the answer's headers; zero means no bound.
	ResponseHeaderTimeout time.Duration
	// MaxHeaderBytes bounds the headers of an answer, and its trailers; zero means
	// 64 KiB.
	MaxHeaderBytes int
	// IdleTimeout is how long a connection is kept without a request; zero means
	// 90 s.
	IdleTimeout time.Duration
	// MaxLifetime is how old a connection can be and still be used again; zero
	// means any age.
	MaxLifetime time.Duration
	// MaxConnsPerHost bounds the HTTP/1 connections to one host, those without a
	// request included; more round trips wait. Zero means no bound.
	MaxConnsPerHost int
	// H2C speaks HTTP/2 with prior knowledge to http URLs.
	H2C bool
}

const (
	defaultHandshake   = 10 * time.Second
	defaultHeaderBytes = 64 << 10
	defaultIdle        = 90 * time.Second

	// continueWait is how long a body is held back for an answer to Expect
	// (RFC 9110, section 10.1.1: not indefinitely).
	continueWait = time.Second
	// maxInformational bounds the 1xx answers before the answer.
	maxInformational = 32
	// maxLines bounds the header lines of an answer, and its trailers.
	maxLines = 4096
)

// Observer is told what a round trip does on its way. It may be told from
// another goroutine, and where HTTP/2 is spoken also after Do returned.
type Observer interface {
	// Sent is called once for every connection on which a request, or some of it,
	// was sent: twice where it was sent again.
	Sent(c net.Conn, reused bool)
	// Answered is called when the first byte of an answer, or of a 1xx, has come.
	// Until then a request whose connection ended was not answered.
	Answered()
	// Informational is called for every 1xx answer but 101. An error ends the
	// round trip.
	Informational(code int, h http.Header) error
}

// Transport is an http.RoundTripper. It can be used from many goroutines.
//
// Requests go out as they are: no header is added but Host and the framing, none
// of an answer is removed but the framing of chunked ones. The authority must be
// in ASCII.
type Transport struct {
	cfg   Config
	h2    *http.Transport // for HTTP/2
	pool  pool
	outs  sync.Pool // *outbound
	ins   sync.Pool // *[]byte of inSize bytes
	parts sync.Pool // *[]byte of partSize bytes

	protocols protocols
}

// New returns a transport.
func New(cfg Config) *Transport {
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = defaultHandshake
	}
	if cfg.MaxHeaderBytes <= 0 {
		cfg.MaxHeaderBytes = defaultHeaderBytes
	}
	if cfg.IdleTimeout <= 0 {
		cfg.IdleTimeout = defaultIdle
	}
	if cfg.TLS == nil {
		cfg.TLS = new(tls.Config)
	}
	cfg.TLS = cfg.TLS.Clone()
	if cfg.TLS.ClientSessionCache == nil {
		cfg.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	t := &Transport{cfg: cfg}
	t.pool.hosts = make(map[hostKey]*host)
	t.outs.New = func() any { return new(outbound) }
	t.ins.New = func() any { b := make([]byte, inSize); return &b }
	t.parts.New = func() any { b := make([]byte, partSize); return &b }
	t.h2 = t.newHTTP2()
	return t
}

// CloseIdleConnections closes the connections without a request, and those that
// lose theirs before the next round trip begins.
func (t *Transport) CloseIdleConnections() {
	t.pool.closeIdle()
	t.h2.CloseIdleConnections()
}

// RoundTrip is [Transport.Do] with the context's httptrace as its observer: of it
// GotConn, GotFirstResponseByte and Got1xxResponse are called.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if tr := httptrace.ContextClientTrace(req.Context()); tr != nil {
		return t.Do(req, traced{tr})
	}
	return t.Do(req, nil)
}

type traced struct{ *httptrace.ClientTrace }

func (t traced) Sent(c net.Conn, reused bool) {
	if t.GotConn != nil {
		t.GotConn(httptrace.GotConnInfo{Conn: c, Reused: reused, WasIdle: reused})
	}
}

func (t traced) Answered() {
	if t.GotFirstResponseByte != nil {
		t.GotFirstResponseByte()
	}
}

func (t traced) Informational(code int, h http.Header) error {
	if t.Got1xxResponse != nil {
		return t.Got1xxResponse(code, textproto.MIMEHeader(h))
	}
	return nil
}

// Do sends a request and returns the beginning of its answer, as RoundTrip of
// http.RoundTripper does. The observer may be nil.
//
// A request is sent again, once and on a new connection, if one that had been
// used before ended without a byte of answer, and either nothing at all was sent,
// or its method is idempotent (RFC 9110, section 9.2.2) or it has an
// Idempotency-Key, and its body can be had again.
func (t *Transport) Do(req *http.Request, o Observer) (*http.Response, error) {
	only1 := false
	switch ctx := req.Context(); {
	case req.URL == nil || req.URL.Host == "":
		return nil, refuse(req, fmt.Errorf("%w: it names no host", ErrRequest))
	case ctx.Err() != nil:
		return nil, refuse(req, context.Cause(ctx))
	case req.URL.Scheme == "http":
		if t.cfg.H2C {
			return t.roundTrip2(req, o)
		}
	case req.URL.Scheme == "https":
		// There is no upgrade in HTTP/2.
		if only1 = len(req.Header["Upgrade"]) > 0; !only1 && t.protocols.is2(req.URL.Host) {
			return t.roundTrip2(req, o)
		}
	default:
		return nil, refuse(req, fmt.Errorf("%w: its scheme is neither http nor https", ErrRequest))
	}
	h, err := t.enter(req.Context(), hostKey{req.URL.Scheme, req.URL.Host, only1})
	if err != nil {
		return nil, refuse(req, err)
	}
	res, err := t.ask(req, o, h)
	if err == errHTTP2 {
		res, err = t.roundTrip2(req, o)
		if address, bad := h.key.address(); bad == nil {
			if c := t.protocols.fetch(address); c != nil {
				_ = c.Close() // there was another one that would do
			}
		}
	}
	return res, err
}

// refuse closes the body of a request that is not sent, as RoundTrip must.
func refuse(req *http.Request, err error) error {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	return err
}

// ask takes connections until one has answered. The host is entered; whatever
// ends the use of the last connection leaves it.
func (t *Transport) ask(req *http.Request, o Observer, h *host) (*http.Response, error) {
	out := t.outs.Get().(*outbound)
	err := out.write(req)
	for again := false; err == nil; {
		var c *conn
		if c, err = t.connect(req.Context(), h, again); err != nil {
			break
		}
		var res *http.Response
		reused := c.used
		if res, err = c.roundTrip(req, o, out); err == nil {
			t.give(out)
			return res, nil
		}
		switch {
		case err == errStale && reused:
			err = nil // nothing was sent, and it is not in the pool any more
		case reused && c.mayRepeat(req) && out.rewind(req):
			again, err = true, nil // on a new connection, after which there is no other
		}
	}
	if !out.sending && err != errHTTP2 {
		_ = refuse(req, err)
	}
	t.give(out)
	t.leave(h)
	return nil, err
}

// give puts an outbound back, unless somebody may still be sending it.
func (t *Transport) give(out *outbound) {
	if !out.sending && cap(out.b) <= 2*inlineLimit {
		out.clear()
		t.outs.Put(out)
	}
}

// connect returns a pooled connection, or a new one.
func (t *Transport) connect(ctx context.Context, h *host, fresh bool) (*conn, error) {
	if !fresh {
		if c := t.take(h, time.Now()); c != nil {
			return c, nil
		}
	}
	return t.dial(ctx, h)
}

// mayRepeat reports whether a request that got no answer on c can be sent again.
func (c *conn) mayRepeat(req *http.Request) bool {
	switch {
	case !c.dropped || c.ctx.Err() != nil:
		return false
	case c.sent == 0:
		return true
	}
	switch req.Method {
	case "", "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return len(req.Header["Idempotency-Key"]) > 0 || len(req.Header["X-Idempotency-Key"]) > 0
}

// Buffered is the body of a request that is in memory. It goes out together with
// the request's headers, and can be sent again.
type Buffered struct {
	data []byte
	off  int
}

// Reset makes b a body of these bytes, which must not change until the round
// trip is over; where HTTP/2 is spoken, they must not change at all.
func (b *Buffered) Reset(data []byte) { b.data, b.off = data, 0 }

// Read implements io.Reader.
func (b *Buffered) Read(p []byte) (int, error) {
	if b.off == len(b.data) {
		return 0, io.EOF
	}
	n := copy(p, b.data[b.off:])
	b.off += n
	return n, nil
}

// Close does nothing.
func (b *Buffered) Close() error { return nil }
