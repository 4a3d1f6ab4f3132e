package bastion

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// dialler is a listener whose connections it dials, one at a time.
type dialler struct {
	bastion *Bastion
	ctx     context.Context
	cancel  context.CancelFunc
	last    *link // is touched by Accept alone
	failed  int   // in a row, likewise
}

// Accept returns the next connection once the last one has ended and a pause is over.
func (d *dialler) Accept() (net.Conn, error) {
	if d.last != nil {
		select {
		case <-d.last.closed:
		case <-d.ctx.Done():
			return nil, net.ErrClosed
		}
		d.ended(d.last)
		d.last = nil
	}
	for {
		if !d.pause() {
			return nil, net.ErrClosed
		}
		conn, err := d.bastion.dial(d.ctx)
		if err == nil {
			d.last = &link{Conn: conn, bastion: d.bastion, closed: make(chan struct{})}
			context.AfterFunc(d.ctx, d.last.end)
			return d.last, nil
		}
		d.fail("the bastion cannot be reached", err)
	}
}

// ended says how a connection ended. With TLS 1.3 a bastion refuses a key only after
// the handshake is over for its client, so that the connection ends at once.
func (d *dialler) ended(l *link) {
	l.mu.Lock()
	spoke, began, err := l.spoke, l.began, l.err
	l.mu.Unlock()
	switch {
	case d.ctx.Err() != nil:
	case !spoke:
		d.fail("the bastion closed the connection; if it does not know the key, ask its operator to allow key_hash", err)
	default:
		// One that is lost again and again is not dialled in a tight loop.
		if time.Since(began) > d.bastion.config.MaxBackoff {
			d.failed = 0
		}
		d.fail("the connection to the bastion ended", err)
	}
}

func (d *dialler) fail(what string, err error) {
	if d.ctx.Err() != nil {
		return
	}
	d.failed++
	d.bastion.failures.Add(1)
	d.bastion.logger.Warn(what, "err", err, "dialled_again_within", d.limit().String())
}

// limit bounds the pause after so many failures.
func (d *dialler) limit() time.Duration {
	c := d.bastion.config
	return min(c.MinBackoff<<min(d.failed-1, 16), c.MaxBackoff)
}

// pause waits before a bastion is dialled again, not all of its servers at once,
// and reports whether it is to be.
func (d *dialler) pause() bool {
	if d.failed == 0 {
		return d.ctx.Err() == nil
	}
	half := d.limit() / 2
	t := time.NewTimer(half + rand.N(half+1))
	defer t.Stop()
	select {
	case <-d.ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Close ends dialling. A connection that is there is not closed.
func (d *dialler) Close() error {
	d.cancel()
	return nil
}

// Addr is the bastion's.
func (d *dialler) Addr() net.Addr { return address(d.bastion.config.Address) }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// link is a connection to the bastion. That it is TLS is hidden from net/http, which
// would take the other side for a client of its own.
type link struct {
	net.Conn
	bastion *Bastion
	closed  chan struct{}
	once    sync.Once

	mu    sync.Mutex
	spoke bool      // the bastion has sent something
	gone  bool      // it was closed
	began time.Time // when it first did
	err   error     // why nothing more can be read
}

func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	if n > 0 && !l.spoke && !l.gone {
		l.spoke, l.began = true, time.Now()
		l.bastion.links.Add(1)
		l.bastion.linked.Store(true)
		l.bastion.logger.Info("reachable through the bastion", "path", "/"+l.bastion.hash+"/")
	}
	if err != nil && l.err == nil {
		l.err = err
	}
	return n, err
}

// end closes a connection that nothing came on, for which the server would wait.
func (l *link) end() {
	l.mu.Lock()
	spoke := l.spoke
	l.mu.Unlock()
	if !spoke {
		_ = l.Close() // its error would tell nobody anything
	}
}

// Close ends the connection, which lets the dialler go on.
func (l *link) Close() error {
	err := l.Conn.Close()
	l.once.Do(func() {
		l.mu.Lock()
		l.gone = true
		l.bastion.linked.Store(false)
		l.mu.Unlock()
		close(l.closed)
	})
	return err
}
