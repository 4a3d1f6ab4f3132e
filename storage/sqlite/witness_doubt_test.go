package sqlite_test

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/witness"
)

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// appendLine leaves the file as a crash does between the two writes of a renewal.
func appendLine(t *testing.T, path, line string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(b, line+"\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// live opens a store, begins a life, and closes it. It returns the doubts.
func live(t *testing.T, path string, during func(*sqlite.Witness)) (why string, doubts []witness.Doubt) {
	t.Helper()
	w, err := sqlite.OpenWitness(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if why, err = w.BeginLife(t.Context()); err != nil {
		t.Fatal(err)
	}
	if during != nil {
		during(w)
	}
	if doubts, err = w.Doubts(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return why, doubts
}

// A database that is not the one that was used last is in doubt, for good.
func TestWitnessLife(t *testing.T) {
	for name, test := range map[string]struct {
		harm func(path string)
		why  string
	}{
		"nothing":               {func(string) {}, ""},
		"killed while renewing": {func(path string) { appendLine(t, path+".life", strings.Repeat("5a", 16)) }, ""},
		"an older copy":         {func(path string) { copyFile(t, path+".copy", path) }, "put back from a copy"},
		"a new database":        {func(path string) { os.Remove(path) }, "the database is a new one"},
		"comes from elsewhere":  {func(path string) { os.Remove(path + ".life") }, "comes from elsewhere"},
		"damaged":               {func(path string) { os.WriteFile(path+".life", []byte("x"), 0o600) }, "put back from a copy"},
	} {
		path := filepath.Join(t.TempDir(), "w.db")
		for i := range 3 {
			if why, doubts := live(t, path, nil); why != "" || len(doubts) != 0 {
				t.Fatalf("%s: life %d: %q, %+v", name, i, why, doubts)
			}
			if i == 1 {
				copyFile(t, path, path+".copy")
			}
		}
		test.harm(path)
		why, doubts := live(t, path, nil)
		if (why == "") != (test.why == "") || !strings.Contains(why, test.why) || (len(doubts) == 1) != (why != "") {
			t.Errorf("%s: %q, %+v", name, why, doubts)
		}
		// It is said once, and stays until it is settled.
		if again, still := live(t, path, nil); again != "" || !reflect.DeepEqual(still, doubts) {
			t.Errorf("%s: afterwards %q, %+v", name, again, still)
		}
	}
}

// A copy that is made while a witness runs is known for one once the identifier was
// renewed.
func TestWitnessLifeRenewed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.db")
	live(t, path, func(w *sqlite.Witness) {
		if err := w.Advance(t.Context(), nil, head("o", 1)); err != nil {
			t.Fatal(err)
		}
	})
	copyFile(t, path, path+".copy")
	live(t, path, func(w *sqlite.Witness) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		before, err := os.ReadFile(path + ".life")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			w.KeepLife(ctx, time.Millisecond, func(err error) { t.Error(err) })
			close(done)
		}()
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			now, err := os.ReadFile(path + ".life")
			if err == nil && string(now) != string(before) {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the identifier stays")
			}
		}
		cancel()
		<-done
	})
	if why, _ := live(t, path, nil); why != "" {
		t.Fatal(why)
	}
	copyFile(t, path+".copy", path)
	if why, _ := live(t, path, nil); why == "" {
		t.Error("the copy is not known for one")
	}
}

func TestWitnessDoubt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.db")
	w := openWitness(t, path)
	ctx := t.Context()
	now := time.Unix(1000, 0)
	check := func(want ...string) {
		t.Helper()
		doubts, err := w.Doubts(ctx)
		var got []string
		for _, d := range doubts {
			got = append(got, d.Origin+": "+d.Why)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("doubts %q, %v, want %q", got, err, want)
		}
	}
	one := head("known", 1)
	for _, err := range []error{
		w.Advance(ctx, nil, one),
		w.AddDoubt(ctx, witness.Doubt{Origin: "p", Why: "own", Since: now, Seen: []byte("head")}),
		w.AddDoubt(ctx, witness.Doubt{Why: "all", Since: now}),
		w.AddDoubt(ctx, witness.Doubt{Why: "later", Since: now}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	check(": all", "p: own")
	if err := w.SplitDoubt(ctx, []string{"p", "q"}); err != nil {
		t.Fatal(err)
	}
	check("known: all", "p: own", "q: all")
	three := head("known", 3)
	for _, err := range []error{w.Settle(ctx, "known", &three), w.Settle(ctx, "q", nil)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	check("p: own")
	if h, ok, err := w.Head(ctx, "known"); !ok || err != nil || !reflect.DeepEqual(h, three) {
		t.Errorf("head %+v, %v", h, err)
	}
	if err := w.Advance(ctx, &one, head("known", 2)); err == nil {
		t.Error("it goes on from the head before")
	}
}
