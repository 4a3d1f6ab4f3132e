package serve

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// wholeBytes is the most of a response that goes out in one piece: a complete tile
// with its headers, and small bundles.
const wholeBytes = 12 << 10

// Whole writes the body of a response, in one system call with the headers if it is
// short: net/http has a buffer of 4 KiB in front of the connection, and sends what is
// longer in two or three. The headers give its length, and nothing follows.
func Whole(w http.ResponseWriter, r *http.Request, body []byte) {
	// The client may be gone: there is nobody to tell.
	c, ok := r.Context().Value(connKey{}).(*conn)
	f, flushes := w.(http.Flusher)
	if !ok || !flushes || r.ProtoMajor != 1 || len(body) > wholeBytes-1<<10 {
		_, _ = w.Write(body)
		return
	}
	c.hold()
	_, _ = w.Write(body)
	f.Flush() // to the connection, what is left in the buffer
	_ = c.release()
}

type connKey struct{}

// withConn has requests know the connection that they came on.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// conns is a listener whose connections can hold back what is written.
type conns struct{ net.Listener }

// Accept implements [net.Listener].
func (l conns) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if t, ok := c.(*net.TCPConn); ok && err == nil {
		return &conn{TCPConn: t}, nil
	}
	return c, err
}

// conn is a connection whose writer, the goroutine that serves a request by HTTP/1.1,
// can hold back what it writes for a moment.
type conn struct {
	*net.TCPConn
	held *[]byte // nil: nothing is held back
}

var wholes = sync.Pool{New: func() any { b := make([]byte, 0, wholeBytes); return &b }}

func (c *conn) hold() { c.held = wholes.Get().(*[]byte) }

// Write implements [net.Conn].
func (c *conn) Write(p []byte) (int, error) {
	if c.held == nil {
		return c.TCPConn.Write(p)
	}
	if len(*c.held)+len(p) <= cap(*c.held) {
		*c.held = append(*c.held, p...)
		return len(p), nil
	}
	if err := c.release(); err != nil {
		return 0, err
	}
	return c.TCPConn.Write(p)
}

// release sends what was held back.
func (c *conn) release() (err error) {
	b := c.held
	if b == nil {
		return nil
	}
	c.held = nil
	if len(*b) > 0 {
		_, err = c.TCPConn.Write(*b)
	}
	*b = (*b)[:0]
	wholes.Put(b)
	return err
}
