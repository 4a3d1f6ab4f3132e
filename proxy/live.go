package proxy

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealtap/sealtap/proxy/http1"
)

// Live is a listener's worth of proxies that follow each other: a new exchange
// is the newest one's, and those under way end with the one with which they
// began. Listeners and connections of clients stay.
type Live struct {
	now  atomic.Pointer[Proxy]
	runs atomic.Pointer[run] // nil while it does not run
	over atomic.Bool         // what has not ended is not waited for any more

	mu      sync.Mutex // guards what follows
	ctx     context.Context
	stop    func()         // what runs beside the newest proxy
	heed    func(*Proxy)   // has the server hold clients to the limits of another; nil without a server
	leaving sync.WaitGroup // proxies that end
}

// NewLive returns a Live that begins with p.
func NewLive(p *Proxy) *Live {
	v := new(Live)
	v.now.Store(p)
	return v
}

// Replace has next take the place of the proxy so far. Of the configuration of
// next everything counts but ProxyProtocol and whether there is TLS: they are the
// first one's. Limits hold for connections and requests that begin; connections of
// HTTP/2 end with what is under way where what they are held to changes. Keys of tokens that are fetched are by the time it returns, if they can be.
// The channel is closed once the exchanges have ended that began with the proxy so far.
func (v *Live) Replace(next *Proxy) (over <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old, done := v.now.Load(), make(chan struct{})
	next.inherit(old)
	if v.ctx == nil { // it does not run
		v.now.Store(next)
		close(done)
		return done
	}
	stop := next.beside(v.ctx)
	v.now.Store(next)
	if v.heed != nil {
		v.heed(next)
	}
	quit := v.stop
	v.stop = stop
	v.leaving.Go(func() {
		for old.active.Load() > 0 && !v.over.Load() {
			time.Sleep(20 * time.Millisecond)
		}
		quit()
		old.closeIdle()
		close(done)
	})
	return done
}

// fronted notes how the server learns of limits. It has those of the newest proxy
// from then on.
func (v *Live) fronted(heed func(*Proxy)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.heed = heed
	heed(v.now.Load())
}

// InFlight is how many exchanges and tunnels are under way.
func (v *Live) InFlight() int64 {
	if rn := v.runs.Load(); rn != nil {
		return rn.active.Load()
	}
	return 0
}

// inherit takes over what a proxy has learnt.
func (p *Proxy) inherit(old *Proxy) {
	p.ids = old.ids
	p.listeners = old.listeners
	p.gaps = old.gaps // one count, which is declared once
	p.inheritBounds(old)
	if s, o := p.tokens.source, old.tokens.source; s != nil && o != nil && s.url == o.url {
		if keys := old.tokens.keys.Load(); keys != nil {
			p.tokens.replace(*keys)
		}
	}
	for _, q := range p.pools {
		i := slices.IndexFunc(old.pools, func(o *pool) bool { return o.name == q.name })
		if i < 0 {
			continue
		}
		for _, t := range q.targets {
			if j := slices.IndexFunc(old.pools[i].targets, func(o *upstream) bool { return o.name == t.name }); j >= 0 {
				o := old.pools[i].targets[j]
				t.pause.Store(o.pause.Load())
				t.down.Store(q.health != nil && o.down.Load()) // without checks nobody would bring it back
			}
		}
	}
}

// beside starts what runs beside a proxy that serves, and returns how to stop it.
func (p *Proxy) beside(ctx context.Context) (stop func()) {
	unchecked := p.check()
	unfollow := p.tokens.follow(ctx)
	return func() {
		unfollow()
		unchecked()
	}
}

// start starts the newest proxy, and returns how to stop whichever it is by then.
func (v *Live) start(ctx context.Context, own netip.AddrPort, rn *run) (stop func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ctx = ctx
	v.runs.Store(rn)
	forget := v.now.Load().listeners.add(own)
	v.stop = v.now.Load().beside(ctx)
	declared := v.now.Load().gaps.follow(context.WithoutCancel(ctx))
	return func() {
		v.mu.Lock()
		v.stop()
		v.ctx = nil
		v.runs.Store(nil)
		v.mu.Unlock()
		v.over.Store(true)
		v.leaving.Wait()
		forget()
		declared()
	}
}

// enter returns the newest proxy, with an exchange more that is under way there.
func (v *Live) enter() *Proxy {
	for {
		p := v.now.Load()
		p.active.Add(1)
		if v.now.Load() == p {
			return p // so it sees this exchange before it can end
		}
		p.active.Add(-1)
	}
}

// ServeHTTP implements [http.Handler].
func (v *Live) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := v.enter()
	defer p.active.Add(-1)
	p.serve(w, r)
}

func (v *Live) refused(w http.ResponseWriter, r *http.Request, e *http1.Error) {
	p := v.enter()
	defer p.active.Add(-1)
	p.refused(w, r, e)
}

func (v *Live) attempted(r *http.Request, why string) {
	p := v.enter()
	defer p.active.Add(-1)
	p.attempted(r, why)
}

// tls returns what listeners speak: what the newest proxy says, handshake by
// handshake. A client that resumes a session
// is held to the client authority of the newest.
func (v *Live) tls(protos []string) *tls.Config {
	if v.now.Load().cfg.TLS == nil {
		return nil
	}
	var mu sync.Mutex
	var of, made *tls.Config
	newest := func(*tls.ClientHelloInfo) (*tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		if c := v.now.Load().cfg.TLS; c != nil && c != of {
			of, made = c, c.Clone()
			for _, p := range protos {
				if !slices.Contains(made.NextProtos, p) {
					made.NextProtos = append(made.NextProtos, p)
				}
			}
		}
		return made, nil
	}
	c := v.now.Load().cfg.TLS.Clone()
	c.GetConfigForClient = newest
	return c
}
