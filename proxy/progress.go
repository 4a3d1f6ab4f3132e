package proxy

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// errUnrecorded ends an exchange of which something passed that could not be
// recorded.
var errUnrecorded = errors.New("what has passed could not be recorded")

// Progress says when an exchange that lasts leaves a record of how far it has come.
type Progress struct {
	Every time.Duration // if anything has passed meanwhile; 30 s
	Bytes int64         // in both directions together; 64 MiB
}

const (
	defaultProgressEvery = 30 * time.Second
	defaultProgressBytes = 64 << 20
)

// passed is what has passed in one direction.
type passed struct {
	size     uint64
	sum      [sha256.Size]byte
	messages uint64
}

// progress leaves records of one exchange while it lasts. It belongs to that
// exchange alone: what calls it late finds it over.
type progress struct {
	p      *Proxy
	id     [16]byte
	idText string
	start  time.Time
	look   func() (up, down passed)
	failed func() // ends the exchange
	open   bool   // it goes on all the same; its end is counted then

	since atomic.Int64 // bytes that have passed since the last record

	mu     sync.Mutex // held while a record is made
	timer  *time.Timer
	number uint64
	over   bool
}

// lasts begins to leave records of the exchange. look is called by another
// goroutine, and so is failed, after a record could not be made.
func (x *exchange) lasts(look func() (up, down passed), failed func()) {
	if x.progress != nil || !x.opened {
		return
	}
	g := &progress{p: x.p, id: x.id, idText: x.idText, start: x.start, look: look, failed: failed, open: x.failsOpen()}
	g.mu.Lock() // it may go off before it has its place
	g.timer = time.AfterFunc(x.p.cfg.Progress.Every, g.tick)
	g.mu.Unlock()
	x.progress = g
}

// moved notes that bytes have passed.
func (g *progress) moved(n int) {
	if g == nil {
		return
	}
	if all, most := g.since.Add(int64(n)), g.p.cfg.Progress.Bytes; all >= most && all-int64(n) < most {
		g.timer.Reset(0)
	}
}

// stop leaves no more records. When it returns none is being made.
func (g *progress) stop() {
	if g == nil {
		return
	}
	g.timer.Stop()
	g.mu.Lock()
	g.over = true
	g.mu.Unlock()
}

func (g *progress) tick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return
	}
	if g.since.Swap(0) > 0 {
		if err := g.record(); err != nil && !g.open {
			g.over = true
			g.p.log.Error("recording failed", "exchange", g.idText, "error", err)
			g.failed()
			return
		}
	}
	g.timer.Reset(g.p.cfg.Progress.Every)
}

func (g *progress) record() error {
	up, down := g.look()
	g.number++
	now := time.Now()
	took := max(now.Sub(g.start), 0)
	return g.p.cfg.Recorder.Record(context.Background(), &sealtapv1.Record{
		Time: g.start.Add(took).UnixNano(), Exchange: g.id[:],
		About: &sealtapv1.Record_Progress{Progress: &sealtapv1.Progress{
			Number: g.number, DurationNs: uint64(took),
			Up: &sealtapv1.Body{Size: up.size, Sha256: up.sum[:]}, MessagesUp: up.messages,
			Down: &sealtapv1.Body{Size: down.size, Sha256: down.sum[:]}, MessagesDown: down.messages,
		}},
	}, nil)
}

// streams leaves records of an exchange whose bodies are streamed.
func (x *exchange) streams() {
	a, b := &x.answer, &x.body
	x.lasts(func() (up, down passed) {
		if b.kind == bodyStreamed {
			up = b.stream.look()
		} else {
			up = passed{b.size, b.sum, b.messages}
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		return up, passed{a.sent.size, a.sent.sum(), a.messages.count}
	}, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.stuck == nil {
			a.stuck = errUnrecorded
		}
		if b.kind == bodyStreamed {
			b.stream.stop()
		}
	})
	if b.kind == bodyStreamed {
		b.stream.watch(x.progress)
	}
}

// countMessages returns how many messages passed, where the protocol has some.
func (x *exchange) countMessages() (up, down uint64) {
	up, down = x.body.messages, x.answer.messages.count
	if x.body.kind == bodyStreamed {
		up = x.body.stream.look().messages
	}
	if x.tunnel != nil {
		up, down = x.tunnel.up.messages.count, x.tunnel.down.messages.count
	}
	return up, down
}
