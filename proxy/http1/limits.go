package http1

import (
	"context"
	"net"
	"net/http"
	"slices"
	"time"
)

// Limits bound what clients can take of the server.
type Limits struct {
	// HeaderTimeout is how long a head, or a TLS handshake, may take from its
	// first byte on; zero means 10 s.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection may stay without a request; zero
	// means 2 min.
	IdleTimeout time.Duration
	// WriteTimeout is how long the client may leave the server no room for what it
	// writes next, unless the handler sets a deadline; zero means 1 min.
	WriteTimeout time.Duration
	// MaxHeaderBytes bounds the head of a request; zero means 64 KiB.
	MaxHeaderBytes int
	// MaxTarget bounds the target in the request line; zero means half of
	// MaxHeaderBytes.
	MaxTarget int
	// MaxHeaders bounds the lines of a head; zero means one for each 64 bytes of
	// MaxHeaderBytes.
	MaxHeaders int
}

func (l *Limits) setDefaults() {
	for _, d := range []struct {
		value *time.Duration
		zero  time.Duration
	}{{&l.HeaderTimeout, 10 * time.Second}, {&l.IdleTimeout, 2 * time.Minute}, {&l.WriteTimeout, time.Minute}} {
		if *d.value <= 0 {
			*d.value = d.zero
		}
	}
	if l.MaxHeaderBytes <= 0 {
		l.MaxHeaderBytes = 64 << 10
	}
	if l.MaxTarget <= 0 {
		l.MaxTarget = l.MaxHeaderBytes / 2
	}
	if l.MaxHeaders <= 0 {
		l.MaxHeaders = l.MaxHeaderBytes / 64
	}
}

// Follow has other limits hold for what begins from now on: a request, the wait
// for one, a write. Connections of HTTP/2 that begin are served by h2, if there is
// one, in the place of Config.HTTP2, and those under way are told to go once their
// requests are answered (GOAWAY). Without Config.HTTP2 there can be none.
func (s *Server) Follow(l Limits, h2 *http.Server) {
	l.setDefaults()
	s.limits.Store(&l)
	s.mu.Lock()
	defer s.mu.Unlock()
	if h2 == nil || s.two == nil || s.closing.Load() {
		return
	}
	old := s.two
	s.two = newSecond(h2)
	if old.handed == nil {
		return // nobody listens yet
	}
	s.two.listen(old.handed.addr)
	s.retired = append(s.retired, old)
	go s.retire(old)
}

// second is a server of HTTP/2 with the connections that it is given.
type second struct {
	srv    *http.Server
	handed *handover // nil until somebody listens
}

type handedKey struct{}

// newSecond has a server tell its handler of the TLS that it does not see, and us
// of the requests that reach the handler.
func newSecond(srv *http.Server) *second {
	handler, contexts := srv.Handler, srv.ConnContext
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, ok := r.Context().Value(handedKey{}).(*handed); ok {
			r.TLS = h.tls
			if h.frames != nil {
				h.frames.entered.Add(1)
			}
		}
		handler.ServeHTTP(w, r)
	})
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if contexts != nil {
			ctx = contexts(ctx, c)
		}
		h, ok := c.(*handed)
		if !ok {
			return ctx
		}
		h.ctx = ctx
		return context.WithValue(ctx, handedKey{}, h)
	}
	return &second{srv: srv}
}

func (t *second) listen(addr net.Addr) {
	if t.handed != nil {
		return
	}
	t.handed = newHandover(addr)
	h := t.handed
	go func() { _ = t.srv.Serve(h) }() // until the handover is closed
}

// retire lets a server end with the requests that are under way there, or when
// the whole is closed.
func (s *Server) retire(t *second) {
	t.handed.stop()
	_ = t.srv.Shutdown(context.WithoutCancel(s.cfg.Base))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = slices.DeleteFunc(s.retired, func(o *second) bool { return o == t })
}

// seconds are all servers of HTTP/2.
func (s *Server) seconds() []*second {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Clone(s.retired)
	if s.two != nil {
		list = append(list, s.two)
	}
	return list
}

// handOver gives a connection to the newest server of HTTP/2.
func (s *Server) handOver(c net.Conn) {
	for {
		s.mu.Lock()
		t := s.two.handed
		over := s.closing.Load()
		s.mu.Unlock()
		switch {
		case over:
			_ = c.Close()
			return
		case t.give(c):
			return
		}
	}
}
