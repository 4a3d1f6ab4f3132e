package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// errStopping is the cause of contexts that end because the proxy does.
var errStopping = errors.New("the proxy stopped")

// run is one call of Run.
type run struct {
	active   atomic.Int64    // exchanges and tunnels under way
	stopping context.Context // ends when no more are to begin
}

// clientConn is what is known of a client's connection.
type clientConn struct {
	net.Conn // nil under a server that Run did not start
	addr     netip.AddrPort
	text     string
	run      *run
	inside   *inside    // of what is said in a tunnel; else nil
	socks    *socksUser // of SOCKS5; else nil

	certificate peerCertificate
}

type connKey struct{}

// Run serves the listener until the context ends, then stops accepting, lets
// exchanges finish until the drain deadline, and cuts the rest: those leave a
// response record too. It closes the listener. It returns nil after it was told
// to stop and everything is recorded.
func (p *Proxy) Run(ctx context.Context, l net.Listener) error { return NewLive(p).Run(ctx, l) }

// Run serves the listener as [Proxy.Run] does. It is called once.
func (v *Live) Run(ctx context.Context, l net.Listener) error {
	p, rn := v.now.Load(), &run{stopping: ctx}
	defer v.start(ctx, parseAddr(l.Addr().String()), rn)()
	l = p.behindProxies(l)
	base, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	srv := p.front(base, rn, v)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		cut(errStopping)
		_ = srv.Close()
		return errors.Join(fmt.Errorf("serving %s: %w", l.Addr(), err), p.settle(rn))
	case <-ctx.Done():
	}
	p = v.now.Load()
	drain, cancel := context.WithTimeout(base, p.cfg.Timeouts.Drain)
	defer cancel()
	err := srv.Shutdown(drain)
	rn.wait(drain) // tunnels are not the server's any more
	cut(errStopping)
	if err != nil {
		_ = srv.Close()
	}
	<-served //nolint:errcheck // it is ErrServerClosed
	p.closeIdle()
	return p.settle(rn)
}

// settle waits until exchanges that were cut have left their records.
func (p *Proxy) settle(rn *run) error {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.Timeouts.Drain)
	defer cancel()
	rn.wait(ctx)
	if n := rn.active.Load(); n > 0 {
		return fmt.Errorf("stopping: %d exchanges could not be recorded to their end", n)
	}
	return nil
}

func (rn *run) wait(ctx context.Context) {
	for rn.active.Load() > 0 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func parseAddr(text string) netip.AddrPort {
	ap, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// listeners are the addresses that this process listens on. They outlive a proxy that
// another one follows.
type listeners struct {
	mu   sync.Mutex // held while the list is replaced
	list atomic.Pointer[[]netip.AddrPort]
}

func newListeners(others []netip.AddrPort) *listeners {
	l := new(listeners)
	l.list.Store(&others)
	return l
}

// add takes in an address, and returns how to take it out.
func (l *listeners) add(own netip.AddrPort) (remove func()) {
	l.change(func(list []netip.AddrPort) []netip.AddrPort { return append(list, own) })
	return func() {
		l.change(func(list []netip.AddrPort) []netip.AddrPort {
			if i := slices.Index(list, own); i >= 0 {
				list = slices.Delete(list, i, i+1)
			}
			return list
		})
	}
}

func (l *listeners) change(f func([]netip.AddrPort) []netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := f(slices.Clone(*l.list.Load()))
	l.list.Store(&list)
}
