package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/proxy"
)

// socksListener is where a proxy speaks SOCKS5. It can move while the proxy runs.
type socksListener struct {
	live *proxy.Live
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	addr   string     // as configured; empty for nowhere
	ln     net.Listener
	stop   context.CancelFunc // of what is served there
	ctx    context.Context    // nil while nothing is served
	failed chan error
	runs   sync.WaitGroup
}

// listenSOCKS opens the listener for SOCKS5, if there is to be one.
func listenSOCKS(c *config.SOCKS, logger *slog.Logger) (*socksListener, error) {
	s := &socksListener{log: logger, failed: make(chan error, 1)}
	move, _, err := s.prepare(c)
	if err == nil {
		move()
	}
	return s, err
}

// prepare opens the listener that the configuration wants, if it is not there. move
// has it take the place of the one before, whose connections may end as the proxy's
// do; without it abandon closes it.
func (s *socksListener) prepare(c *config.SOCKS) (move, abandon func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	addr := ""
	if c != nil {
		addr = c.Listen
	}
	if addr == s.addr {
		return func() {}, func() {}, nil
	}
	var ln net.Listener
	if addr != "" {
		if ln, err = listen("proxy.forward.socks", addr); err != nil {
			return nil, nil, err
		}
	}
	move = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end()
		s.addr, s.ln = addr, ln
		s.begin()
	}
	abandon = func() {
		if ln != nil {
			_ = ln.Close()
		}
	}
	return move, abandon, nil
}

// begin serves the listener, if there is one and it is time. It is called with mu held.
func (s *socksListener) begin() {
	if s.ln == nil || s.ctx == nil {
		return
	}
	ctx, stop := context.WithCancel(s.ctx)
	ln := s.ln
	s.stop = stop
	s.runs.Go(func() {
		defer stop()
		err := s.live.RunSOCKS(ctx, ln)
		switch {
		case err == nil:
		case ctx.Err() != nil && s.running():
			s.log.Error("ending the connections of a SOCKS5 listener that has moved", "error", err)
		default:
			select {
			case s.failed <- err:
			default:
			}
		}
	})
}

func (s *socksListener) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx != nil && s.ctx.Err() == nil
}

// end lets the listener end, if there is one. It is called with mu held.
func (s *socksListener) end() {
	switch {
	case s.stop != nil:
		s.stop()
	case s.ln != nil:
		_ = s.ln.Close()
	}
	s.ln, s.stop = nil, nil
}

// close gives back a listener that is not served.
func (s *socksListener) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
}

// run serves until ctx ends or a listener fails, and waits for what is under way.
func (s *socksListener) run(ctx context.Context) error {
	s.mu.Lock()
	s.ctx = ctx
	s.begin()
	s.mu.Unlock()
	var err error
	select {
	case err = <-s.failed:
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.end()
	s.ctx = nil
	s.mu.Unlock()
	s.runs.Wait()
	select {
	case late := <-s.failed:
		err = errors.Join(err, late)
	default:
	}
	return err
}
