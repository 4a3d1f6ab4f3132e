package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/sealtap/sealtap/durable"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/socks"
)

// gapEvery is how often a hole in the records is tried to be declared, and its
// count kept.
const gapEvery = time.Second

// gaps counts the exchanges that passed without all of their records, where a
// route allows that, and declares them by a gap record once records can be made
// again.
type gaps struct {
	p    *Proxy
	path string // of the file that outlives the process; empty means none

	mu    sync.Mutex
	open  hole
	saved hole // in the file
}

// hole is what is to be declared.
type hole struct {
	Since     time.Time `json:"since"`
	Until     time.Time `json:"until"`
	Exchanges uint64    `json:"exchanges"`
	Reason    string    `json:"reason"`
}

// newGaps takes up what a former process could not declare.
func (p *Proxy) newGaps(path string) (*gaps, error) {
	g := &gaps{p: p, path: path}
	if path == "" {
		return g, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return g, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &g.open)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: reading how many exchanges passed without records: %w; move %s away if it cannot be mended, and tell the auditors", ErrConfig, err, path)
	}
	g.saved = g.open
	return g, nil
}

// add counts an exchange that passed although it could not be recorded.
func (g *gaps) add(at time.Time, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open.Exchanges++; g.open.Exchanges == 1 {
		g.open.Since, g.open.Reason = at, capped(why.Error(), maxDetail)
		g.p.log.Error("exchanges pass without records, as their routes allow; they are counted, and declared once recording works", "error", why)
		g.keep()
	}
	if at.After(g.open.Until) {
		g.open.Until = at
	}
}

// follow declares holes until the context ends, and what is left then.
func (g *gaps) follow(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(gapEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				g.declare()
			}
		}
	}()
	return func() {
		cancel()
		<-done
		g.declare()
	}
}

// declare makes the record of a hole, if there is one.
func (g *gaps) declare() {
	g.mu.Lock()
	h := g.open
	g.mu.Unlock()
	if h.Exchanges == 0 {
		return
	}
	err := g.p.cfg.Recorder.Record(context.Background(), &sealtapv1.Record{
		Time: time.Now().UnixNano(),
		About: &sealtapv1.Record_Gap{Gap: &sealtapv1.Gap{
			Since: h.Since.UnixNano(), Until: h.Until.UnixNano(), Exchanges: h.Exchanges, Reason: h.Reason,
		}},
	}, nil)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.keep()
		return
	}
	g.p.log.Info("recording works again; what passed without records is declared", "exchanges", h.Exchanges, "since", h.Since.UTC(), "until", h.Until.UTC())
	// What came meanwhile is another hole.
	g.open.Exchanges -= h.Exchanges
	if g.open.Since = h.Until; g.open.Exchanges == 0 {
		g.open = hole{}
	}
	g.keep()
}

// keep writes the count down, as far as that goes: the disk may be what fails. The
// caller holds mu.
func (g *gaps) keep() {
	if g.path == "" || g.open == g.saved {
		return
	}
	var err error
	if g.open.Exchanges == 0 {
		err = os.Remove(g.path)
	} else {
		var b []byte
		if b, err = json.Marshal(g.open); err == nil {
			err = durable.Replace(g.path, append(b, '\n'), 0o600)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.p.log.Warn("how many exchanges passed without records cannot be written down; a crash would lose the count", "error", err)
		return
	}
	g.saved = g.open
}

// failsOpen reports whether the exchange passes although it cannot be recorded.
func (x *exchange) failsOpen() bool {
	if x.route != nil {
		return x.route.open
	}
	return x.p.cfg.FailOpen
}

// pass lets an exchange go on whose record could not be made, if it may, and
// counts it once.
func (x *exchange) pass(why error) bool {
	if !x.failsOpen() {
		return false
	}
	if !x.unrecorded {
		x.unrecorded = true
		x.p.gaps.add(x.start, why)
	}
	return true
}

// markUnrecorded says in the headers of an answer that its exchange lacks a record.
// Where there is none at all they do not name it.
func (x *exchange) markUnrecorded(h http.Header) {
	if !x.unrecorded {
		return
	}
	if !x.opened {
		delete(h, "Sealtap-Exchange")
	}
	h["Sealtap-Unrecorded"] = []string{"true"}
}

// established tells the client that its tunnel is there.
func (x *exchange) established() []byte {
	if x.conn.socks != nil {
		return socks.Answer(socks.Succeeded)
	}
	const head = "HTTP/1.1 200 Connection Established\r\n"
	if x.unrecorded {
		return []byte(head + "Sealtap-Unrecorded: true\r\n\r\n")
	}
	return []byte(head + "Sealtap-Exchange: " + x.idText + "\r\n\r\n")
}
