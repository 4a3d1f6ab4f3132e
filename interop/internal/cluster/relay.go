package cluster

import (
	"net"
	"sync"
)

// Relay stands before a server, the database most of all, and can be cut: then nothing passes
// any more in either direction, and nobody is told, as when a network is partitioned.
type Relay struct {
	Addr   string
	ln     net.Listener
	to     [2]string // network and address of the server
	mu     sync.Mutex
	whole  *sync.Cond
	cut    bool
	closed bool
	conns  []net.Conn
}

func newRelay(host, network, address string) (*Relay, error) {
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	r := &Relay{Addr: ln.Addr().String(), ln: ln, to: [2]string{network, address}}
	r.whole = sync.NewCond(&r.mu)
	go r.accept()
	return r, nil
}

// Cut lets nothing pass, until Heal.
func (r *Relay) Cut() { r.set(func() { r.cut = true }) }

// Heal lets everything pass that was held up.
func (r *Relay) Heal() { r.set(func() { r.cut = false }) }

// Close ends all connections.
func (r *Relay) Close() {
	r.ln.Close()
	r.set(func() {
		r.closed = true
		for _, c := range r.conns {
			c.Close()
		}
	})
}

func (r *Relay) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.whole.Broadcast()
}

// pass waits while the relay is cut, and reports whether anything can pass.
func (r *Relay) pass() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.cut && !r.closed {
		r.whole.Wait()
	}
	return !r.closed
}

func (r *Relay) accept() {
	for {
		from, err := r.ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			if !r.pass() {
				return
			}
			to, err := net.Dial(r.to[0], r.to[1])
			if err != nil {
				return
			}
			defer to.Close()
			r.set(func() { r.conns = append(r.conns, from, to) })
			var both sync.WaitGroup
			both.Go(func() { r.copy(to, from) })
			both.Go(func() { r.copy(from, to) })
			both.Wait()
		}()
	}
}

func (r *Relay) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && r.pass() {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil || !r.pass() {
			break
		}
	}
	to.Close()
	from.Close()
}
