package proxy

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/sealtap/sealtap/proxy/http1"
)

// serveConn serves the requests of one connection on which HTTP is spoken in the
// clear, HTTP/1 or HTTP/2 with prior knowledge, until it is closed (which ends
// the channel) and its exchanges have left their records. When the proxy is told to stop
// the connection ends after what is under way, when ctx ends at once.
func (p *Proxy) serveConn(ctx context.Context, cc *clientConn, closed <-chan struct{}) {
	l := &single{first: cc.Conn, addr: cc.LocalAddr(), closed: closed, stop: make(chan struct{})}
	srv := http1.New(p.frontOf(ctx, p.Handler(), p.refused, func(ctx context.Context, c net.Conn) context.Context {
		cc.Conn = c
		return context.WithValue(ctx, connKey{}, cc)
	}))
	defer srv.Close() //nolint:errcheck // its connection is closed
	stopping := ctx
	if cc.run != nil && cc.run.stopping != nil {
		stopping = cc.run.stopping
	}
	drained := context.AfterFunc(stopping, func() { _ = srv.Shutdown(ctx) })
	defer drained()
	cut := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer cut()
	_ = srv.Serve(l)
	if l.first != nil { // it was told to stop before it began
		l.first.Close()
	}
	<-closed
	for cc.inside.active.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
}

// single is a listener that one connection comes from.
type single struct {
	first  net.Conn
	addr   net.Addr
	closed <-chan struct{}
	stop   chan struct{}
	once   sync.Once
}

// Accept implements [net.Listener].
func (l *single) Accept() (net.Conn, error) {
	if c := l.first; c != nil {
		l.first = nil
		return c, nil
	}
	select {
	case <-l.closed:
	case <-l.stop:
	}
	return nil, net.ErrClosed
}

// Close implements [net.Listener].
func (l *single) Close() error {
	l.once.Do(func() { close(l.stop) })
	return nil
}

// Addr implements [net.Listener].
func (l *single) Addr() net.Addr { return l.addr }
