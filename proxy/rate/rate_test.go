package rate

import (
	"strconv"
	"testing"
	"time"
	"unsafe"
)

func TestTake(t *testing.T) {
	l := New(10, 3)
	at := func(ms int) int64 { return int64(ms) * int64(time.Millisecond) }
	for i, step := range []struct {
		client string
		ms     int
		ok     bool
		wait   time.Duration
	}{
		{"a", 0, true, 0}, {"a", 0, true, 0}, {"a", 0, true, 0}, // the burst
		{"a", 0, false, 100 * time.Millisecond},
		{"b", 0, true, 0}, // somebody else's bucket
		{"a", 60, false, 40 * time.Millisecond},
		{"a", 100, true, 0}, {"a", 100, false, 100 * time.Millisecond}, // what was refused took nothing
		{"a", 10_000, true, 0}, {"a", 10_000, true, 0}, {"a", 10_000, true, 0}, // not fuller than full
		{"a", 10_000, false, 100 * time.Millisecond},
	} {
		wait, ok := l.take(step.client, at(step.ms))
		if ok != step.ok || wait != step.wait {
			t.Errorf("step %d: %v, %v, want %v, %v", i, wait, ok, step.wait, step.ok)
		}
	}
}

// TestManyClients: memory does not grow, and who is at its limit stays there
// though many others come by.
func TestManyClients(t *testing.T) {
	l := New(1, 100)
	for range 100 {
		l.take("greedy", 0)
	}
	for i := range 2 * Clients {
		if _, ok := l.take("client "+strconv.Itoa(i), 0); !ok {
			t.Fatalf("client %d has no token", i)
		}
		if _, ok := l.take("greedy", 0); ok {
			t.Fatalf("a client at its limit got a token after %d others", i)
		}
	}
	if size := unsafe.Sizeof(*l); size > 2<<20 {
		t.Errorf("the table takes %d bytes", size)
	}
}

func TestSlowRates(t *testing.T) {
	l := New(0.1, 1)
	if _, ok := l.take("a", 0); !ok {
		t.Error("the first token is not there")
	}
	if wait, ok := l.take("a", int64(time.Second)); ok || wait != 9*time.Second {
		t.Errorf("%v, %v", wait, ok)
	}
}
