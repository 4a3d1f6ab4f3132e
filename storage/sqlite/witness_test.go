package sqlite_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/fork"
)

func openWitness(t *testing.T, path string) *sqlite.Witness {
	t.Helper()
	w, err := sqlite.OpenWitness(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func head(origin string, size uint64) witness.Head {
	return witness.Head{Origin: origin, Size: size, Root: [32]byte{byte(size), byte(size >> 8)}, Note: fmt.Appendf(nil, "note %d", size)}
}

func TestWitnessHead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.db")
	w := openWitness(t, path)
	ctx := t.Context()
	if h, ok, err := w.Head(ctx, "o"); ok || err != nil {
		t.Fatalf("Head of nothing = %+v, %v, %v", h, ok, err)
	}
	zero, one, top := head("o", 0), head("o", 1), head("o", 1<<64-1)
	fork := one
	fork.Root[31] = 1
	for i, step := range []struct {
		from *witness.Head
		next witness.Head
		want error
	}{
		{&zero, one, witness.ErrMoved},
		{nil, zero, nil},
		{nil, one, witness.ErrMoved},
		{&zero, one, nil},
		{&zero, one, witness.ErrMoved},
		{&fork, top, witness.ErrMoved},
		{&one, top, nil},
	} {
		if err := w.Advance(ctx, step.from, step.next); !errors.Is(err, step.want) {
			t.Errorf("step %d: %v, want %v", i, err, step.want)
		}
	}
	w.Close()
	if err := w.Advance(ctx, &top, one); err == nil {
		t.Error("Advance after Close")
	}
	w = openWitness(t, path)
	if h, ok, err := w.Head(ctx, "o"); !ok || err != nil || !reflect.DeepEqual(h, top) {
		t.Errorf("Head = %+v, %v, %v", h, ok, err)
	}
}

func TestWitnessPublished(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.db")
	w := openWitness(t, path)
	ctx := t.Context()
	one, two := head("o", 1), head("o", 2)
	check := func(want string) {
		t.Helper()
		if got, err := w.Published(ctx, "o"); string(got) != want || err != nil {
			t.Errorf("Published = %q, %v, want %q", got, err, want)
		}
	}
	check("")
	if err := errors.Join(w.Advance(ctx, nil, one), w.Publish(ctx, "o", []byte("first"))); err != nil {
		t.Fatal(err)
	}
	check("first")
	if err := w.Advance(ctx, &one, two); err != nil {
		t.Fatal(err)
	}
	check("first") // now from the database
	if err := w.Publish(ctx, "o", []byte("second")); err != nil {
		t.Fatal(err)
	}
	w.Close()
	w = openWitness(t, path)
	check("second")
}

func TestWitnessForks(t *testing.T) {
	w := openWitness(t, filepath.Join(t.TempDir(), "w.db"))
	ctx := t.Context()
	f := witness.Fork{Kind: fork.Root, Offered: head("o", 5), Latest: head("o", 5), Proof: [][32]byte{{1}, {2}}, Seen: time.Unix(7, 8)}
	for i, want := range []bool{true, false} {
		if added, err := w.AddFork(ctx, f); added != want || err != nil {
			t.Errorf("AddFork %d = %v, %v", i, added, err)
		}
	}
	none := witness.Fork{Kind: fork.Empty, Offered: head("p", 0), Latest: witness.Head{Origin: "p"}, Seen: time.Unix(9, 0)}
	if added, err := w.AddFork(ctx, none); !added || err != nil {
		t.Errorf("AddFork without latest = %v, %v", added, err)
	}
	for origin, want := range map[string]witness.Fork{"o": f, "p": none} {
		want.ID = map[string]int64{"o": 1, "p": 2}[origin]
		if got, err := w.Forks(ctx, origin); err != nil || !reflect.DeepEqual(got, []witness.Fork{want}) {
			t.Errorf("Forks = %+v, %v", got, err)
		}
	}
	// The number is bounded for each log and kind.
	for i := range 200 {
		f.Offered = head("o", uint64(100+i))
		if _, err := w.AddFork(ctx, f); err != nil {
			t.Fatal(err)
		}
	}
	f.Kind = fork.Unproven
	if added, err := w.AddFork(ctx, f); !added || err != nil {
		t.Errorf("AddFork of another kind = %v, %v", added, err)
	}
	if got, err := w.Forks(ctx, "o"); err != nil || len(got) != 17 {
		t.Errorf("%d forks, %v", len(got), err)
	}
	// So is what is kept of heads that are huge, but for the first.
	for i := range 4 {
		f.Kind, f.Offered = fork.Prefix, head("o", uint64(1000+i))
		f.Offered.Note = make([]byte, 600<<10)
		if added, err := w.AddFork(ctx, f); added != (i == 0) || err != nil {
			t.Errorf("huge fork %d: %v, %v", i, added, err)
		}
	}
	// What was not proven to fit, and does, is dropped; what is proven is not.
	for _, kind := range []fork.Kind{fork.Root, fork.Unproven} {
		f.Kind, f.Offered = kind, head("q", 9)
		if added, err := w.AddFork(ctx, f); !added || err != nil {
			t.Errorf("AddFork of %s: %v, %v", kind, added, err)
		}
	}
	other := head("q", 9)
	other.Root[5]++
	for _, fits := range []struct {
		head witness.Head
		want int
	}{{head("q", 8), 0}, {other, 0}, {head("q", 9), 1}, {head("q", 9), 0}} {
		if n, err := w.DropFork(ctx, fits.head); n != fits.want || err != nil {
			t.Errorf("DropFork of %d: %d, %v", fits.head.Size, n, err)
		}
	}
	counts, err := w.CountForks(ctx)
	if want := map[string]map[fork.Kind]int{"o": {fork.Root: 16, fork.Unproven: 1, fork.Prefix: 1}, "p": {fork.Empty: 1}, "q": {fork.Root: 1}}; err != nil || !reflect.DeepEqual(counts, want) {
		t.Errorf("CountForks = %v, %v", counts, err)
	}
}

// Many advance many logs at once; of those from one head, one succeeds.
func TestWitnessConcurrent(t *testing.T) {
	w := openWitness(t, filepath.Join(t.TempDir(), "w.db"))
	const logs, rivals, steps = 16, 3, 20
	var won [logs][steps]atomic.Int32
	var wg sync.WaitGroup
	for l := range logs {
		origin := fmt.Sprint("log", l)
		for range rivals {
			wg.Go(func() {
				var from *witness.Head
				for i := range steps {
					next := head(origin, uint64(i))
					switch err := w.Advance(t.Context(), from, next); {
					case err == nil:
						won[l][i].Add(1)
					case !errors.Is(err, witness.ErrMoved):
						t.Error(err)
					}
					from = &next
				}
			})
		}
	}
	wg.Wait()
	for l := range logs {
		for i := range steps {
			if n := won[l][i].Load(); n != 1 {
				t.Errorf("log %d: %d advanced to %d", l, n, i)
			}
		}
	}
}
