package audit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sealtap/sealtap/audit"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
)

// alike fails the test unless an audit that went on from another one says what one
// of everything does. Only what it had to read may differ.
func alike(t *testing.T, got, want *audit.Report) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(audit.Report{}, "Duration", "Source", "Known", "ReadAnew"),
		cmpopts.IgnoreFields(audit.Checked{}, "Tiles", "Consistent")); d != "" {
		t.Fatalf("an audit of everything (-) and one that goes on (+) differ:\n%s", d)
	}
}

// flow writes what many kinds of writers may, out of order and with mistakes among
// it if harm is set.
func flow(r *rand.Rand, w *world, list []*producer, n int, harm bool) []*producer {
	for range n {
		list = act(r, w, list)
		p := list[r.IntN(len(list))]
		switch r.IntN(60) {
		case 0: // exchanges at two proxies on one path
			other := list[r.IntN(len(list))]
			id, caller := record.NewStream(p.key.ID()).Incarnation, record.NewStream(p.key.ID()).Incarnation
			exchanged(p, caller, record.Incarnation{}, 200)
			exchanged(other, id, caller, 200)
		case 1: // two records that come the wrong way round
			a, b := p.make(request("/a")), p.make(request("/b"))
			w.put(b, nil)
			w.put(a, nil)
		case 3: // everybody is silent for longer than a heartbeat, who then goes on, or not
			if r.IntN(3) == 0 {
				w.now += int64(time.Duration(21+r.IntN(40)) * time.Second)
			}
		case 4: // a life that was killed, and what the next one finds
			died(p, r.IntN(4))
		case 5: // a start behind a stop within an incarnation, and one behind none
			if r.IntN(2) == 0 {
				p.stop()
				w.now += int64(time.Minute)
			}
			p.seal()
			p.start(p.head())
		case 2: // a seal that comes late
			s := p.sealWith(p.key, p.tree.Size(), p.tree.Root())
			for range r.IntN(20) {
				p.request("/before")
			}
			w.put(s, nil)
		}
		if !harm {
			continue
		}
		switch r.IntN(300) {
		case 0:
			p.make(request("/lost"))
		case 1:
			w.put(w.entries[p.request("/twice")], nil)
		case 2:
			w.put([]byte{1, 2, 0xff}, nil)
		case 3:
			exchanged(p, record.NewStream(p.key.ID()).Incarnation, record.Incarnation{}, 500)
		}
	}
	for i, p := range list {
		if i < 2 { // to make a checkpoint is slow here
			p.beacon()
		}
		p.seal()
	}
	return list
}

// died lets a producer begin anew behind no stop record, with open exchanges.
func died(p *producer, open int) {
	ids := make([]record.Incarnation, open)
	for i := range ids {
		ids[i] = record.NewStream(p.key.ID()).Incarnation
		q := request("/open")
		q.Exchange = ids[i][:]
		p.write(q)
	}
	p.seal()
	p.begins(&sealtapv1.Start{Previous: p.head(), Reason: sealtapv1.StartReason_START_REASON_CRASH, Recovered: 2, Unfinished: uint64(open)})
	for _, id := range ids {
		p.write(&sealtapv1.Record{Exchange: id[:], About: &sealtapv1.Record_Response{Response: &sealtapv1.Response{Outcome: sealtapv1.Outcome_OUTCOME_UNKNOWN}}})
	}
}

// begins begins a new incarnation with a start record, and returns its index.
func (p *producer) begins(start *sealtapv1.Start) int {
	p.stream, p.tree, p.seq, p.entries = record.NewStream(p.key.ID()), record.NewTree(), 0, nil
	start.HeartbeatNs = uint64(10 * time.Second)
	return p.write(&sealtapv1.Record{About: &sealtapv1.Record_Start{Start: start}})
}

// exchanged writes both records of one.
func exchanged(p *producer, id, caller record.Incarnation, status uint32) {
	q := request("/x")
	q.Exchange = id[:]
	if caller != (record.Incarnation{}) {
		q.GetRequest().Caller = caller[:]
	}
	p.write(q)
	p.write(&sealtapv1.Record{Exchange: id[:], About: &sealtapv1.Record_Response{Response: &sealtapv1.Response{
		Status: status, Outcome: sealtapv1.Outcome_OUTCOME_COMPLETE,
	}}})
}

// An audit that goes on from another one says what one of everything does, wherever
// the log was cut, and reads little more than what is new.
func TestIncrementalIsWhole(t *testing.T) {
	for seed := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t)
		list := []*producer{w.producer("shop"), w.producer("second")}
		g := &rising{}
		state := filepath.Join(t.TempDir(), "state")
		for range 8 {
			was := len(w.entries)
			list = flow(r, w, list, r.IntN(120), false)
			g.files = w.publish()
			want := w.audit(g.files, audit.Options{})
			if want.Verdict != audit.Pass {
				t.Fatalf("seed %d: %s", seed, want.Text())
			}
			g.bundles.Store(0)
			got := incremental(t, w, g, state)
			alike(t, got, want)
			if read := g.bundles.Load(); read > int64(len(w.entries)/256-was/256+1) {
				t.Fatalf("%d bundles were read for entries %d to %d", read, was, len(w.entries))
			}
		}
	}
}

func incremental(t *testing.T, w *world, g *rising, state string) *audit.Report {
	t.Helper()
	r, err := audit.Run(t.Context(), g.source(), audit.Options{Policy: w.policy, Incremental: true, State: state})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What is wrong behind the cut is found just as by an audit of everything, again and
// again, until it is not there any more.
func TestIncrementalFinds(t *testing.T) {
	found := 0
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 2))
		w := newWorld(t)
		list := flow(r, w, []*producer{w.producer("shop"), w.producer("second")}, 50+r.IntN(300), false)
		g := &rising{files: w.publish()}
		state := filepath.Join(t.TempDir(), "state")
		if got := incremental(t, w, g, state); got.Verdict != audit.Pass {
			t.Fatalf("seed %d: %s", seed, got.Text())
		}
		for range 3 {
			list = flow(r, w, list, r.IntN(200), true)
			g.files = w.publish()
			want := w.audit(g.files, audit.Options{})
			got := incremental(t, w, g, state)
			alike(t, got, want)
			if want.Verdict == audit.Fail {
				found++
			} else if got.Known == nil {
				t.Fatal("everything was read again")
			}
		}
	}
	if found < 3 {
		t.Fatalf("only %d logs had something wrong with them", found)
	}
}

// A byte altered behind the cut is found as ever; before the cut it is not looked for
// unless all is read; a root that changes is a fork, and all is read.
func TestIncrementalTampers(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(t)
		list := flow(r, w, []*producer{w.producer("shop")}, 350, false)
		g := &rising{files: w.publish()}
		state := filepath.Join(t.TempDir(), "state")
		incremental(t, w, g, state)
		cut := len(w.entries)
		flow(r, w, list, 300, false)
		kept := slices.Clone(w.entries)
		n := r.IntN(len(w.entries))
		w.entries[n] = slices.Clone(w.entries[n])
		w.entries[n][len(w.entries[n])-1] ^= 1
		tampered, _ := clienttest.Tiles(w.entries)
		head := func(entries [][]byte) []byte {
			w.entries = entries
			return w.checkpoint(len(entries), w.witnesses...)
		}
		switch rewritten := seed%2 == 1; {
		case rewritten && n < cut: // the log and all witnesses sign another history
			tampered["checkpoint"] = head(w.entries)
			g.files = tampered
			got := incremental(t, w, g, state)
			fork := slices.ContainsFunc(got.Findings, func(f audit.Finding) bool { return f.Code == audit.Fork && f.Index == nil && len(f.Heads) == 2 })
			if !fork || got.Known != nil || got.ReadAnew == "" {
				t.Fatalf("seed %d: %s", seed, got.Text())
			}
			full := audit.Options{State: copyOf(t, state)}
			alike(t, got, w.audit(g.files, full))
		case n >= cut-cut%256:
			tampered["checkpoint"] = head(kept)
			g.files = tampered
			got, want := incremental(t, w, g, state), w.audit(g.files, audit.Options{State: copyOf(t, state)})
			alike(t, got, want)
			if want.Verdict != audit.Fail {
				t.Fatalf("seed %d: nothing is wrong with entry %d of %d", seed, n, len(kept))
			}
		default:
			g.files = w.publish()
			for path, b := range tampered {
				if strings.HasPrefix(path, fmt.Sprintf("tile/entries/%03d", n/256)) {
					g.files[path] = b
				}
			}
			g.files["checkpoint"] = head(kept)
			good, _ := clienttest.Tiles(kept)
			for path, b := range good {
				if !strings.HasPrefix(path, "tile/entries/") {
					g.files[path] = b
				}
			}
			got := incremental(t, w, g, state)
			if got.Verdict != audit.Pass || got.Known == nil || got.Known.Entries != uint64(cut) || !strings.Contains(got.Text(), "--full reads") {
				t.Fatalf("seed %d: %s", seed, got.Text())
			}
			if full := w.audit(g.files, audit.Options{State: state, Incremental: true, Full: true}); full.Verdict != audit.Fail || full.Known != nil {
				t.Fatalf("seed %d: %s", seed, full.Text())
			}
		}
	}
}

// failing is a log that goes away after some bundles.
type failing struct {
	audit.Source
	left atomic.Int64
}

func (f *failing) Bundle(ctx context.Context, n uint64, width int) ([]byte, error) {
	if f.left.Add(-1) < 0 {
		return nil, fmt.Errorf("%w: away", client.ErrUnavailable)
	}
	return f.Source.Bundle(ctx, n, width)
}

// An audit that is interrupted, however often, comes to the same end as one in one go,
// and reads no bundle twice but those under way.
func TestResume(t *testing.T) {
	for n := range 4 {
		harm, incremental := n%2 == 1, n/2 == 1
		r := rand.New(rand.NewPCG(4, 4))
		w := newWorld(t)
		flow(r, w, []*producer{w.producer("shop"), w.producer("second")}, 2000, harm)
		g := &rising{files: w.publish()}
		state := filepath.Join(t.TempDir(), "state")
		want := w.audit(g.files, audit.Options{})
		if (want.Verdict == audit.Fail) != harm {
			t.Fatal(want.Text())
		}
		for turn := 0; ; turn++ {
			src := &failing{Source: g.source()}
			src.left.Store(3)
			got, err := audit.Run(t.Context(), src, audit.Options{Policy: w.policy, Incremental: incremental, State: state, Parallel: 1})
			if err != nil {
				t.Fatal(err)
			}
			if got.Verdict != audit.Incomplete && len(got.Unfinished) == 0 {
				alike(t, got, want)
				if turn < 3 {
					t.Fatalf("it came to its end at turn %d", turn)
				}
				break
			}
			if turn > 40 {
				t.Fatalf("it does not come to its end: %s", got.Text())
			}
			if turn > 0 && (got.Known == nil || got.Known.Ended || got.Known.Entries != uint64(turn)*3*256) {
				t.Fatalf("turn %d goes on from %+v\n%s", turn, got.Known, got.Text())
			}
		}
		if _, err := os.Stat(state + ".started"); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("what the interrupted audit left is still there: %v", err)
		}
		if _, err := os.Stat(state + ".known"); (err == nil) != (incremental && !harm) {
			t.Fatalf("harm %v, incremental %v: %v", harm, incremental, err)
		}
	}
}

// A memory that is damaged, of another version or of another log is one clear error;
// under another policy everything is read.
func TestMemoryFiles(t *testing.T) {
	w, p := shop(t)
	state := filepath.Join(t.TempDir(), "state")
	g := &rising{files: w.publish()}
	incremental(t, w, g, state)
	p.restart(p.head())
	p.seal()
	g.files = w.publish()
	good, err := os.ReadFile(state + ".known")
	if err != nil {
		t.Fatal(err)
	}
	refuses := func(b []byte, what string) {
		t.Helper()
		if err := os.WriteFile(state+".known", b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := audit.Run(t.Context(), g.source(), audit.Options{Policy: w.policy, Incremental: true, State: state})
		if !errors.Is(err, audit.ErrConfig) || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "--full") || strings.Contains(err.Error(), "\n") {
			t.Fatalf("%v, want %s", err, what)
		}
	}
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if i < len("sealtap/audit-memory/v1\n") {
			refuses(bad, "")
		} else if i%7 == 0 {
			refuses(bad, "is damaged")
		}
	}
	for n := 0; n < len(good); n += 11 {
		refuses(good[:n], "")
	}
	refuses(append(slices.Clone(good), 0), "is damaged")
	full, err := audit.Run(t.Context(), g.source(), audit.Options{Policy: w.policy, Incremental: true, State: state, Full: true})
	if err != nil || full.Verdict != audit.Pass {
		t.Fatalf("%v, %v", full, err)
	}

	if err := os.WriteFile(state+".known", good, 0o600); err != nil {
		t.Fatal(err)
	}
	older := incremental(t, w, g, state) // than the state file: only slower
	if older.Verdict != audit.Pass || older.Known == nil || !older.Checked.Consistent {
		t.Fatal(older.Text())
	}
	strict, err := audit.Run(t.Context(), g.source(), audit.Options{Policy: w.policy, Incremental: true, State: state, Skew: 1})
	if err != nil || strict.Known != nil || strict.ReadAnew == "" {
		t.Fatalf("%+v, %v", strict, err)
	}
	elsewhere, err := audit.Run(t.Context(), g.files.Source(), audit.Options{Policy: w.policy, Incremental: true, State: state})
	if err != nil || elsewhere.Known != nil || !strings.Contains(elsewhere.ReadAnew, "this copy") {
		t.Fatalf("%+v, %v", elsewhere, err)
	}
	other, _ := shop(t)
	g.files = other.publish()
	if _, err := audit.Run(t.Context(), g.source(), audit.Options{Policy: other.policy, Incremental: true, State: state}); !errors.Is(err, audit.ErrConfig) {
		t.Fatal(err)
	}
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Run(t.Context(), g.source(), audit.Options{Policy: other.policy, Incremental: true, State: state}); !errors.Is(err, audit.ErrConfig) || !strings.Contains(err.Error(), "no log of this policy") {
		t.Fatal(err)
	}
}

// A log that goes back, or shows another history, to one whose audit was interrupted is
// caught by what that one had seen.
func TestInterruptedSawIt(t *testing.T) {
	w := newWorld(t)
	list := flow(rand.New(rand.NewPCG(5, 5)), w, []*producer{w.producer("shop")}, 900, false)
	short := w.publish()
	list[0].request("/more")
	list[0].seal()
	g := &rising{files: w.publish()}
	state := filepath.Join(t.TempDir(), "state")
	src := &failing{Source: g.source()}
	src.left.Store(2)
	if r, err := audit.Run(t.Context(), src, audit.Options{Policy: w.policy, Incremental: true, State: state, Parallel: 1}); err != nil || r.GoesOnFrom != 512 {
		t.Fatalf("%+v, %v", r, err)
	}
	g.files = short
	src = &failing{Source: g.source()} // again it does not come to its end, and keeps what the first one saw
	src.left.Store(2)
	if r, err := audit.Run(t.Context(), src, audit.Options{Policy: w.policy, Incremental: true, State: state, Parallel: 1}); err != nil || r.Findings[0].Code != audit.Rollback {
		t.Fatalf("%+v, %v", r, err)
	}
	for range 2 {
		if r := incremental(t, w, g, state); r.Verdict != audit.Fail || r.Findings[0].Code != audit.Rollback || len(r.Findings[0].Heads) != 2 {
			t.Fatal(r.Text())
		}
	}
}

// In a log that was pruned an audit goes on as well; once more of it is gone, what is
// left is read anew.
func TestIncrementalPruned(t *testing.T) {
	o := newOld(t)
	g := &rising{files: o.publish()}
	state := filepath.Join(t.TempDir(), "state")
	run := func() *audit.Report {
		t.Helper()
		r, err := audit.Run(t.Context(), g.files.Source(), audit.Options{Policy: o.policy, Incremental: true, State: state})
		if err != nil || r.Verdict != audit.Pass {
			t.Fatalf("%v, %v", r.Text(), err)
		}
		alike(t, r, o.audit(g.files, audit.Options{}))
		return r
	}
	run()
	prune := func() { g.files = o.decide(768, o.head(), o.aged).prune(t, o.publish()) }
	prune()
	if r := run(); r.Known != nil || !strings.Contains(r.ReadAnew, "pruned") {
		t.Fatal(r.Text())
	}
	size := uint64(len(o.entries))
	o.shop.restart(o.shop.head())
	o.shop.beacon()
	o.shop.stop()
	o.shop.seal()
	prune()
	if r := run(); r.Known == nil || r.Known.Entries != size {
		t.Fatal(r.Text())
	}
}

// What an interrupted audit read and nobody had proven yet is not believed by the next
// one, where it does not stand under the head.
func TestInterruptedReadOthers(t *testing.T) {
	w := newWorld(t)
	flow(rand.New(rand.NewPCG(5, 7)), w, []*producer{w.producer("shop")}, 900, false)
	good := w.publish()
	n := slices.IndexFunc(w.entries, func(e []byte) bool { return record.Kind(e[1]) == record.KindRecord })
	altered := slices.Clone(w.entries)
	altered[n] = slices.Clone(altered[n])
	altered[n][len(altered[n])-1] ^= 1
	bad, _ := clienttest.Tiles(altered) // with tiles that fit
	bad["checkpoint"] = good["checkpoint"]
	g := &rising{files: bad}
	state := filepath.Join(t.TempDir(), "state")
	src := &failing{Source: g.source()}
	src.left.Store(2)
	if r, err := audit.Run(t.Context(), src, audit.Options{Policy: w.policy, Incremental: true, State: state, Parallel: 1}); err != nil || r.GoesOnFrom != 512 {
		t.Fatalf("%+v, %v", r, err)
	}
	g.files = good
	r := incremental(t, w, g, state)
	if r.Verdict != audit.Pass || r.Known != nil || r.ReadAnew == "" {
		t.Fatal(r.Text())
	}
	alike(t, r, w.audit(good, audit.Options{}))
}
