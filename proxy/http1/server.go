// Package http1 is the server side of HTTP/1.0 and HTTP/1.1 (RFC 9112) for a
// proxy: strict, and cheap for each request.
//
// It takes a request only if nobody who stands behind it can read other bytes
// as its head, its body or its end. Everything else is refused: not by an answer
// of the server's own, but through [Config.Refused], so that an attempt can be
// written down like any other request; the connection then ends. docs/strict.md
// lists the rules.
//
// A connection costs one goroutine, and no buffer while it waits. A request costs
// no goroutine and no context: the context of all requests of a connection ends
// when the client goes away, which is looked for only while an answer takes
// longer than [Config.Patience].
//
// What belongs to a request ([http.Request], its headers, URL and body) is made
// anew each time and never used again, since whoever forwards it may hold on to
// it. What belongs to an answer, [http.ResponseWriter.Header] included, is used
// for the next answer as soon as the handler returns.
//
// HTTP/2 is served by net/http, to which connections are handed over with what
// was read of them. Start with [New], then call [Server.Serve].
package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config says what a server does.
type Config struct {
	// Handler answers requests; required. It may read the body while it answers.
	// The answer's header map and the ResponseWriter are not its own once it
	// returns.
	Handler http.Handler
	// Refused answers requests that cannot be taken, with what could be read of
	// them: the method, the target and the URL are empty where the request line
	// was no such, the headers are those before the error. It is called at most
	// once for a connection, which ends afterwards. Nil means an answer with the
	// error's text.
	Refused func(w http.ResponseWriter, r *http.Request, err *Error)
	// Attempted learns of requests of HTTP/2 that net/http has refused by itself, and
	// of which nothing is known but the connection: r has its address, TLS and
	// context. It says how many there were, and what is known of why. Nil means nobody
	// does.
	Attempted func(r *http.Request, why string)
	// HTTP2 serves connections that speak HTTP/2; nil means that none do. Its
	// handler, contexts and limits are its own, TLS is not. It is changed.
	HTTP2 *http.Server
	// TLS is what connections begin with; nil means that they do not.
	TLS *tls.Config
	// Base is what the contexts of connections derive from; nil means the
	// background.
	Base context.Context
	// ConnContext makes the context of a connection; nil means Base with an end.
	// The deadlines of the connection that it is given are cheap to set.
	ConnContext func(context.Context, net.Conn) context.Context
	// Admit is asked about each connection before anything is read from it, with
	// the address of the client. Without ok it is closed; leave, if there is one,
	// is called once it has ended, whoever has taken it over. Nil admits all.
	Admit func(remote string) (leave func(), ok bool)
	// Limits hold until [Server.Follow].
	Limits
	// Patience is after how long the server looks whether a client that waits
	// for its answer is still there; zero means 50 ms.
	Patience time.Duration
	// Logger gets what goes wrong; nil means nobody does.
	Logger *slog.Logger
}

// Server serves connections. Its methods can be called from many goroutines.
type Server struct {
	cfg   Config
	log   *slog.Logger
	tls   *tls.Config
	epoch time.Time // deadlines are counted from here
	date  atomic.Pointer[date]

	buffers   sync.Pool // *buffer
	responses sync.Pool // *response

	limits atomic.Pointer[Limits]

	mu        sync.Mutex // guards what follows
	two       *second    // the newest server of HTTP/2; nil if there is none
	retired   []*second  // those before it that have connections
	listeners []net.Listener
	conns     map[*conn]struct{}
	closing   atomic.Bool // set under mu
	empty     chan struct{}
}

// New returns a server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, log: cfg.Logger, epoch: time.Now(), conns: make(map[*conn]struct{}), empty: make(chan struct{})}
	s.cfg.setDefaults()
	limits := s.cfg.Limits
	s.limits.Store(&limits)
	if cfg.HTTP2 != nil {
		s.two = newSecond(cfg.HTTP2)
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.buffers.New = func() any { return new(buffer) }
	s.responses.New = func() any { return newResponse() }
	if cfg.TLS != nil {
		s.tls = cfg.TLS.Clone()
		protos := []string{"http/1.1"}
		if cfg.HTTP2 != nil {
			protos = []string{"h2", "http/1.1"}
		}
		for _, p := range protos {
			if !slices.Contains(s.tls.NextProtos, p) {
				s.tls.NextProtos = append(s.tls.NextProtos, p)
			}
		}
	}
	return s
}

func (c *Config) setDefaults() {
	c.Limits.setDefaults()
	if c.Patience <= 0 {
		c.Patience = 50 * time.Millisecond
	}
	if c.Base == nil {
		c.Base = context.Background()
	}
}

// Serve serves the connections of a listener, which it closes, until Shutdown or
// Close is called: then it returns http.ErrServerClosed.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	if !s.listen(l) {
		return http.ErrServerClosed
	}
	var delay time.Duration
	for {
		rwc, err := l.Accept()
		switch {
		case err == nil:
			delay = 0
			if c := s.newConn(rwc); c != nil {
				go c.serve()
			} else {
				_ = rwc.Close()
			}
		case s.closing.Load():
			return http.ErrServerClosed
		case temporary(err):
			// No descriptors are left, say. Others may become free.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Error("accepting a connection failed", "error", err, "again_in", delay)
			time.Sleep(delay)
		default:
			return err
		}
	}
}

func temporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

// listen notes a listener, unless the server is closing, and starts what serves
// HTTP/2.
func (s *Server) listen(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.listeners = append(s.listeners, l)
	if s.two != nil {
		s.two.listen(l.Addr())
	}
	return true
}

func (s *Server) newConn(rwc net.Conn) *conn {
	c := &conn{Conn: rwc, accepted: rwc, srv: s, first: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return nil
	}
	s.conns[c] = struct{}{}
	return c
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[c]; ok {
		delete(s.conns, c)
		s.settle()
	}
}

// settle says once that there are no connections any more. It is called with mu
// held.
func (s *Server) settle() {
	if !s.closing.Load() || len(s.conns) > 0 {
		return
	}
	select {
	case <-s.empty:
	default:
		close(s.empty)
	}
}

// close stops accepting, and closes the connections that pick names.
func (s *Server) close(pick func(*conn) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing.Store(true)
	for _, l := range s.listeners {
		_ = l.Close()
	}
	s.listeners = nil
	for c := range s.conns {
		if pick(c) {
			_ = c.accepted.Close()
		}
	}
	s.settle()
}

// Shutdown stops accepting, closes connections that are idle, and waits for the
// others to finish the request that they are at, or for the context to end.
func (s *Server) Shutdown(ctx context.Context) error {
	s.close(func(c *conn) bool { return c.state.CompareAndSwap(stateIdle, stateClosed) })
	var err error
	for _, t := range s.seconds() {
		err = errors.Join(err, t.srv.Shutdown(ctx))
		t.handed.stop()
	}
	select {
	case <-s.empty:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close stops accepting and cuts all connections, except those that were
// hijacked.
func (s *Server) Close() error {
	s.close(func(*conn) bool { return true })
	var err error
	for _, t := range s.seconds() {
		err = errors.Join(err, t.srv.Close())
		t.handed.stop()
	}
	return err
}

// now is the time since the server was made.
func (s *Server) now() time.Duration { return time.Since(s.epoch) }
