// Package serve runs an HTTP server for as long as a context lives, with the time
// limits that every server of Sealtap has and a stop that does not dawdle.
//
// Call [HTTP]; a [Mux] says what it serves.
package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// grace is how long requests under way may take once the server is to stop.
const grace = 5 * time.Second

// HTTP answers requests on ln until ctx ends, finishes those under way, and
// closes ln. It returns nil when ctx ended. It speaks HTTP/1.1 and, to clients that
// begin so, HTTP/2 without TLS, which gRPC needs.
func HTTP(ctx context.Context, ln net.Listener, h http.Handler) error {
	fresh := connections{list: make(map[net.Conn]bool)}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 32},
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      2 * time.Minute,
		IdleTimeout:       2 * time.Minute, // clients keep connections
		MaxHeaderBytes:    16 << 10,
		ConnState:         fresh.track,
		ConnContext:       withConn,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(conns{ln}) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	// Shutdown waits for connections that have not sent anything yet, which
	// clients open ahead of need and may never use.
	fresh.closeAll()
	until, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := srv.Shutdown(until); err != nil {
		return errors.Join(fmt.Errorf("stopping server on %s: %w", ln.Addr(), err), srv.Close())
	}
	return nil
}

// connections are those that no request has come on.
type connections struct {
	mu     sync.Mutex
	list   map[net.Conn]bool
	closed bool
}

func (c *connections) track(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(c.list, conn)
	case c.closed:
		conn.Close()
	default:
		c.list[conn] = true
	}
}

func (c *connections) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.list {
		conn.Close()
	}
}
