package proxy

import (
	"sync"
	"time"
)

// answer is the upstream's answer on its way to the client.
//
// What is small is held until it is whole, recorded, and written at once. It is
// held for no longer than patience: then a timer lets pass what is there, and
// from there on bytes pass as they come. In every case the end waits for the
// record.
type answer struct {
	x        *exchange
	captured bool // its headers are in the statement
	status   int  // as sent, or about to be sent, to the client
	major    int  // version of HTTP in which it came; 0 while there is none
	sent     digest
	received digest // if it is apart; else it is what was sent
	apart    bool
	got      uint64 // bytes of a body that flows
	declared uint64 // how many there are to be; 0 if that is not known

	tunnelled bool
	messages  messages // of those that were sent

	data  *buffer
	timer *time.Timer
	hush  hush

	mu      sync.Mutex // guards what follows while the timer runs
	n       int        // bytes in data that are not sent
	flowing bool       // headers were sent, and bytes pass as they come
	over    bool       // the timer has nothing to do any more
	stuck   error      // of writing to the client
}

func (a *answer) reset() {
	a.captured, a.status, a.major, a.tunnelled = false, 0, 0, false
	a.sent.reset()
	a.apart, a.got, a.declared = false, 0, 0
	a.n, a.flowing, a.over, a.stuck = 0, false, true, nil
	a.hush.reset()
	a.messages.reset(framingNone)
}

// release gives back what the answer holds.
func (a *answer) release() {
	if a.data != nil {
		a.data.put()
		a.data = nil
	}
}

// arm starts the timer.
func (a *answer) arm() {
	a.over = false
	if a.timer == nil {
		a.timer = time.AfterFunc(patience, a.lapse)
		return
	}
	a.timer.Reset(patience)
}

// stop ends the timer. When it returns nobody else uses the answer.
func (a *answer) stop() {
	a.endHush()
	if a.over {
		return
	}
	if !a.timer.Stop() {
		// Its function may only begin now, and must not find another exchange.
		a.x.reuse = false
	}
	a.mu.Lock()
	a.over = true
	a.mu.Unlock()
}

// lapse lets pass what is held.
func (a *answer) lapse() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.over && !a.flowing {
		a.flow()
	}
}

// flow sends the headers and what is held, and lets what follows pass.
func (a *answer) flow() {
	a.flowing = true
	a.beginHush()
	x := a.x
	x.streams()
	x.begun = true
	x.showReceipts(true)
	x.writeDeadline(true)
	x.w.WriteHeader(a.status)
	held := a.data.b[:a.n]
	a.got, a.n = uint64(a.n), 0
	a.passAll(held)
}

// passAll writes to the client, but for the last byte that was declared: that waits
// for the record, at the beginning of data.
func (a *answer) passAll(p []byte) {
	rest := len(p)
	if a.declared > 0 && a.got >= a.declared && rest > 0 {
		rest--
	}
	a.pass(p[:rest])
	a.flush()
	if rest < len(p) {
		a.data.b[0], a.n = p[rest], 1
	}
}

// pass writes to the client.
func (a *answer) pass(p []byte) {
	if len(p) == 0 {
		return
	}
	if a.stuck != nil {
		a.keep(p)
		return
	}
	n, err := a.x.w.Write(p)
	a.sent.add(p[:n])
	a.messages.feed(p[:n])
	a.stuck = err
	a.keep(p[n:])
	a.x.progress.moved(n)
}

// keep adds to what was received bytes that were not sent. What passes is hashed
// once as long as there are none.
func (a *answer) keep(p []byte) {
	if len(p) > 0 {
		a.part()
		a.received.add(p)
	}
}

// part lets what was sent go on without what was received.
func (a *answer) part() {
	if !a.apart {
		a.received.set(&a.sent)
		a.apart = true
	}
}

// whatCame is the digest of what was received.
func (a *answer) whatCame() *digest {
	if a.apart {
		return &a.received
	}
	return &a.sent
}

func (a *answer) flush() {
	if a.stuck == nil {
		if f, ok := a.x.w.(interface{ FlushError() error }); ok {
			a.stuck = f.FlushError()
		}
	}
	a.x.writeDeadline(false)
}

func (a *answer) held() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

// take adds n bytes that were read at off, and passes on what must not wait.
func (a *answer) take(off, n int, declared int64, end error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	fresh := a.data.b[off : off+n]
	if !a.flowing {
		a.n = off + n
		if end == nil && declared < 0 && n > 0 {
			// Its length is not known, so the client may wait for just this.
			a.flow()
		}
		return a.stuck
	}
	if n == 0 {
		return a.stuck
	}
	a.got += uint64(n)
	if a.n != off {
		copy(a.data.b[a.n:], fresh) // the timer sent what stood before them, or all but a byte of it
	}
	fresh = a.data.b[:a.n+n]
	a.n = 0
	a.x.writeDeadline(true)
	a.passAll(fresh)
	return a.stuck
}
