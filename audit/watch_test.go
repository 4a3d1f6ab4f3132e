package audit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
)

// rising is a log whose files a test replaces, and which counts what is asked for.
type rising struct {
	files   clienttest.Files
	bundles atomic.Int64
	down    bool
}

func (g *rising) source() audit.Source { return countingSource{g} }

type countingSource struct{ g *rising }

func (s countingSource) String() string { return "rising" }

func (s countingSource) Checkpoint(ctx context.Context) ([]byte, error) {
	if s.g.down {
		return nil, fmt.Errorf("%w: away", client.ErrUnavailable)
	}
	return s.g.files.Source().Checkpoint(ctx)
}

func (s countingSource) Tile(ctx context.Context, level uint, n uint64, width int) ([]byte, error) {
	return s.g.files.Source().Tile(ctx, level, n, width)
}

func (s countingSource) Bundle(ctx context.Context, n uint64, width int) ([]byte, error) {
	s.g.bundles.Add(1)
	return s.g.files.Source().Bundle(ctx, n, width)
}

// same fails the test unless a report of a watch is that of a whole audit. What is
// counted along the way may differ.
func same(t *testing.T, got, want *audit.Report) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(audit.Report{}, "Duration", "Source", "Checked")); d != "" {
		t.Fatalf("a whole audit (-) and what the watch says (+) differ:\n%s", d)
	}
	a, b := want.Checked, got.Checked
	if a.Entries != b.Entries || a.Records != b.Records || a.Seals != b.Seals || a.Beacons != b.Beacons || a.KeyChanges != b.KeyChanges {
		t.Fatalf("checked %+v, want %+v", b, a)
	}
}

// act does something that a writer may do at any time.
func act(r *rand.Rand, w *world, list []*producer) []*producer {
	p := list[r.IntN(len(list))]
	switch n := r.IntN(40); {
	case n == 0:
		list = append(list, w.producer(fmt.Sprintf("shop%d", len(list))))
	case n == 1:
		p.seal()
		head := p.head()
		p.restart(head)
	case n < 6:
		p.beacon()
	case n < 10:
		p.seal()
	default:
		p.request("/x")
	}
	return list
}

// A watch says at every size what an audit of everything would, and reads little
// more than what is new.
func TestWatch(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	w := newWorld(t)
	list := []*producer{w.producer("shop")}
	g := &rising{files: w.publish()}
	watch, err := audit.NewWatch(g.source(), audit.Options{Policy: w.policy})
	if err != nil {
		t.Fatal(err)
	}
	for range 60 {
		for range r.IntN(60) {
			list = act(r, w, list)
		}
		g.files = w.publish()
		before := g.bundles.Load()
		got, err := watch.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n := g.bundles.Load() - before; n > 3 {
			t.Fatalf("%d bundles were read for less than 60 entries", n)
		}
		same(t, got, w.audit(g.files, audit.Options{}))
	}
	if len(w.entries) < 1000 {
		t.Fatalf("only %d entries were watched", len(w.entries))
	}
}

// A watch that is started anew goes on from what the last one knew, and says what an audit
// of everything would; with Full it reads everything.
func TestWatchRestarts(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	w := newWorld(t)
	list := flow(r, w, []*producer{w.producer("shop"), w.producer("second")}, 600, false)
	g := &rising{}
	o := audit.Options{Policy: w.policy, State: filepath.Join(t.TempDir(), "state"), Incremental: true}
	kept := 0 // entries that the memory file has
	for life := range 6 {
		o.Full = life == 5
		watch, err := audit.NewWatch(g.source(), o)
		if err != nil {
			t.Fatal(err)
		}
		for look := range 3 {
			list = flow(r, w, list, r.IntN(120), false)
			g.files = w.publish()
			from := kept
			if look == 0 {
				kept = len(w.entries)
			}
			g.bundles.Store(0)
			got, err := watch.Next(t.Context())
			if err != nil || got.Verdict != audit.Pass {
				t.Fatalf("%+v, %v", got, err)
			}
			again := life == 0 || o.Full
			if look == 0 && (got.Known == nil) != again || look == 0 && !again && got.Known.Entries != uint64(from) {
				t.Fatalf("life %d: known %+v, want %d", life, got.Known, from)
			}
			if read := g.bundles.Load(); !again && read > int64(len(w.entries)/256-from/256+1) {
				t.Fatalf("life %d: %d bundles were read for entries %d to %d", life, read, from, len(w.entries))
			}
			got.Known = nil
			same(t, got, w.audit(g.files, audit.Options{}))
		}
	}
}

// What is wrong is found when it comes, with the same words, and stays.
func TestWatchFinds(t *testing.T) {
	for name, harm := range map[string]func(w *world, p *producer){
		"missing": func(w *world, p *producer) { w.without(p.request("/lost")); p.request("/next"); p.seal() },
		"swapped": func(w *world, p *producer) {
			f := request("/false")
			f.Producer, f.Incarnation, f.Sequence, f.Time = p.stream.Producer[:], p.stream.Incarnation[:], p.seq, w.now
			p.make(request("/true"))
			w.put(record.Encode(f))
			p.seal()
		},
		"stranger": func(w *world, p *producer) { (&producer{w: w, key: key(w.t, "x", keys.Ed25519)}).restart(nil) },
		"duplicate": func(w *world, p *producer) {
			w.put(w.entries[p.request("/twice")], nil)
			p.seal()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := shop(t)
			p := w.producer("second")
			p.seal()
			g := &rising{files: w.publish()}
			watch, err := audit.NewWatch(g.source(), audit.Options{Policy: w.policy})
			if err != nil {
				t.Fatal(err)
			}
			if r, err := watch.Next(t.Context()); err != nil || r.Verdict != audit.Pass {
				t.Fatalf("%+v, %v", r, err)
			}
			harm(w, p)
			for range 3 {
				g.files = w.publish()
				r, err := watch.Next(t.Context())
				if err != nil || r.Verdict != audit.Fail {
					t.Fatalf("%+v, %v", r, err)
				}
				same(t, r, w.audit(g.files, audit.Options{}))
				p.request("/later")
			}
		})
	}
}

// A log that rewrites what it showed, or goes back, is found with both heads.
func TestWatchHistory(t *testing.T) {
	w, p := shop(t)
	short := w.publish()
	p.request("/d")
	p.seal()
	g := &rising{files: w.publish()}
	watch, err := audit.NewWatch(g.source(), audit.Options{Policy: w.policy})
	if err != nil {
		t.Fatal(err)
	}
	next := func(want audit.Verdict, code audit.Code) {
		t.Helper()
		r, err := watch.Next(t.Context())
		if err != nil || r.Verdict != want {
			t.Fatalf("%v: %+v, %v", want, r, err)
		}
		if code == "" {
			return
		}
		for _, f := range r.Findings {
			if f.Code == code && len(f.Heads) == 2 && strings.Contains(f.Heads[1], origin) {
				return
			}
		}
		t.Fatalf("no %s with two heads: %+v", code, r.Findings)
	}
	next(audit.Pass, "")
	g.down = true
	next(audit.Incomplete, "")
	g.down = false
	next(audit.Pass, "")
	good := g.files
	g.files = short
	next(audit.Fail, audit.Rollback)
	g.files = good
	next(audit.Fail, audit.Rollback) // it has happened
	other, q := shop(t)
	other.log, other.witnesses, other.policy = w.log, w.witnesses, w.policy
	for range 20 {
		q.request("/fork")
	}
	g.files = other.publish()
	next(audit.Fail, audit.Fork)
}
