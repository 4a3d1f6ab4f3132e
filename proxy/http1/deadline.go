package http1

import (
	"net"
	"sync"
	"time"
)

// monitor keeps the deadlines of a connection. A deadline of a net.Conn costs a
// timer each time that it is set, and nearly none is ever reached; so these are
// noted only, and one timer, which is set at most once within each Patience
// while requests come, looks after them. One that is reached is set on the
// connection, in the past.
type monitor struct {
	c   *conn
	net net.Conn // whose reads and writes are ended

	mu       sync.Mutex // guards what follows
	timer    *time.Timer
	fire     time.Duration // when the timer does; 0 is never, here and below
	read     time.Duration
	write    time.Duration
	watch    time.Duration // when to look whether the client is there
	readCut  bool          // the connection has a deadline in the past
	writeCut bool
	over     bool
}

// set notes one of the deadlines.
func (m *monitor) set(which *time.Duration, at time.Duration) {
	m.mu.Lock()
	m.note(which, at)
	m.mu.Unlock()
}

func (m *monitor) note(which *time.Duration, at time.Duration) {
	*which = at
	switch {
	case which == &m.read && m.readCut:
		m.readCut = false
		_ = m.net.SetReadDeadline(time.Time{})
	case which == &m.write && m.writeCut:
		m.writeCut = false
		_ = m.net.SetWriteDeadline(time.Time{})
	}
	if at == 0 || m.over || m.fire != 0 && m.fire <= at {
		return
	}
	m.fire = at
	d := max(at-m.c.srv.now(), 0)
	if m.timer == nil {
		m.timer = time.AfterFunc(d, m.look)
		return
	}
	m.timer.Reset(d)
}

// begin starts the time of a handler.
func (m *monitor) begin(patience time.Duration) {
	now := m.c.srv.now()
	m.mu.Lock()
	m.note(&m.watch, now+patience)
	m.mu.Unlock()
}

// bound gives a write a deadline if the handler has not, and reports whether it
// did; unbound lifts that.
func (m *monitor) bound() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.write != 0 || m.writeCut {
		return false
	}
	m.note(&m.write, m.c.srv.now()+m.c.srv.limits.Load().WriteTimeout)
	return true
}

func (m *monitor) unbound(did bool) {
	if did {
		m.set(&m.write, 0)
	}
}

// end lifts all deadlines.
func (m *monitor) end() {
	m.mu.Lock()
	m.note(&m.read, 0)
	m.note(&m.write, 0)
	m.watch = 0
	m.mu.Unlock()
}

// stop is end for good.
func (m *monitor) stop() {
	m.end()
	m.mu.Lock()
	m.over = true
	if m.timer != nil {
		m.timer.Stop()
	}
	m.mu.Unlock()
}

// interrupt ends a read that is under way; set lifts that.
func (m *monitor) interrupt() {
	m.mu.Lock()
	m.cutRead()
	m.mu.Unlock()
}

func (m *monitor) cutRead() {
	m.read, m.readCut = 0, true
	_ = m.net.SetReadDeadline(time.Unix(1, 0))
}

// look is what the timer does.
func (m *monitor) look() {
	m.mu.Lock()
	now := m.c.srv.now()
	if m.over {
		m.mu.Unlock()
		return
	}
	if m.read != 0 && m.read <= now {
		m.cutRead()
	}
	if m.write != 0 && m.write <= now {
		m.write, m.writeCut = 0, true
		_ = m.net.SetWriteDeadline(time.Unix(1, 0))
	}
	due := m.watch != 0 && m.watch <= now
	if due {
		m.watch = 0
	}
	m.fire = 0
	for _, at := range [...]time.Duration{m.read, m.write, m.watch} {
		if at != 0 && (m.fire == 0 || at < m.fire) {
			m.fire = at
		}
	}
	if m.fire != 0 {
		m.timer.Reset(m.fire - now)
	}
	m.mu.Unlock()
	if due {
		m.c.watch()
	}
}

// since turns a deadline into the monitor's form.
func (m *monitor) since(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(t.Sub(m.c.srv.epoch), 1)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mon.set(&c.mon.read, c.mon.since(t))
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mon.set(&c.mon.write, c.mon.since(t))
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}
