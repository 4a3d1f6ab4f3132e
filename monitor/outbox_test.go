package monitor_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/monitor"
)

// fussy is a sink that takes nothing while it has an error.
type fussy struct {
	kept
	err   error
	tries int
}

func (f *fussy) Tell(ctx context.Context, a monitor.Alert) error {
	f.tries++
	if f.err != nil {
		return f.err
	}
	return f.kept.Tell(ctx, a)
}

// fork has the log show another history for one look.
func (w *world) fork(t *testing.T, m *monitor.Monitor, tag string) {
	t.Helper()
	honest := w.entries
	w.entries = append([][]byte{honest[0]}, []byte("\x01\x09"+tag))
	w.entries = append(w.entries, honest[1:]...)
	w.publish()
	if _, err := m.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.entries = honest
	w.publish()
}

// An alert that a sink cannot take now is kept, for another life of the monitor too,
// and comes once. What it refuses for good does not come again.
func TestUndelivered(t *testing.T) {
	w := newWorld(t)
	w.enrol("shop")
	f := &fussy{err: fmt.Errorf("%w: away", monitor.ErrLater)}
	both := func(c *monitor.Config) { c.Sinks = append(c.Sinks, f) }
	soon := func(c *monitor.Config) { c.Patience = time.Millisecond }
	m, k := w.monitor(both)
	looks(t, m, k, "")
	w.fork(t, m, "one")
	if got := k.take(); got != "fork" || f.tries != 1 {
		t.Fatalf("told %q, and tried the other sink %d times", got, f.tries)
	}
	// It is left alone for a while, and nobody else hears of it again.
	looks(t, m, k, "")
	if f.tries != 1 {
		t.Errorf("tried %d times at once", f.tries)
	}
	// The log has regretted by the time of another life, which tells all the same.
	f.err = nil
	m, k = w.monitor(both)
	looks(t, m, k, "")
	if got := f.take(); got != "fork" {
		t.Errorf("told later: %q", got)
	}
	m, k = w.monitor(both, soon)
	looks(t, m, k, "")
	if got := f.take(); got != "" {
		t.Errorf("told twice: %q", got)
	}
	time.Sleep(2 * time.Millisecond)
	looks(t, m, k, "") // and the fork is over

	f.err, f.tries = errors.New("no such address"), 0
	w.fork(t, m, "two")
	if got := k.take(); got != "fork" || f.tries != 1 {
		t.Fatalf("told %q, and tried the other sink %d times", got, f.tries)
	}
	f.err = nil
	m, k = w.monitor(both)
	looks(t, m, k, "")
	if got := f.take(); got != "" {
		t.Errorf("told what was refused: %q", got)
	}
}

// A log that forks, regrets, and forks again is told of twice; one that forks and
// stays so, once.
func TestForksAgain(t *testing.T) {
	w := newWorld(t)
	w.enrol("shop")
	m, k := w.monitor(func(c *monitor.Config) { c.Patience = time.Millisecond })
	looks(t, m, k, "")
	for _, tag := range []string{"one", "two"} {
		w.fork(t, m, tag)
		if got := k.take(); !strings.Contains(got, "fork") {
			t.Fatalf("fork %s: told %q", tag, got)
		}
		for range 3 {
			time.Sleep(2 * time.Millisecond)
			looks(t, m, k, "")
		}
	}
	honest := w.entries
	for i := range 4 {
		w.entries = append([][]byte{honest[0]}, fmt.Appendf(nil, "\x01\x09fork %d", i), []byte("\x01\x09more"))
		w.publish()
		time.Sleep(2 * time.Millisecond)
		if _, err := m.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := k.take(); strings.Count(got, "fork") != 1 {
		t.Errorf("a fork that stays: %q", got)
	}
}
