package tlog

import (
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
)

func TestBudgets(t *testing.T) {
	b := newBudgets(100, 1000)
	now := time.Unix(1, 0)
	one, two := keys.ID{1}, keys.ID{2}
	take := func(id keys.ID, n int, want bool) (left uint64, wait time.Duration) {
		t.Helper()
		left, wait, ok := b.take(id, n, now)
		if ok != want {
			t.Fatalf("taking %d: %t, want %t", n, ok, want)
		}
		return left, wait
	}
	take(one, 1000, true) // the largest batch, at once
	if left, wait := take(one, 250, false); left != 0 || wait != 3*time.Second {
		t.Errorf("%d are left, wait %s", left, wait)
	}
	take(two, 600, true) // another's is not touched
	if !b.low(two, now) || b.low(keys.ID{3}, now) {
		t.Error("low is less than half")
	}
	now = now.Add(2500 * time.Millisecond)
	take(one, 250, true)
	take(one, 1, false)
	b.give(one, 50, now)
	take(one, 50, true)
	now = now.Add(time.Hour)
	take(one, 1001, false) // never more than the burst
	take(one, 1000, true)
	now = now.Add(-time.Minute) // a clock that goes back gives nothing
	take(one, 1, false)
	now = now.Add(time.Minute)
	take(one, 1, false)
}
