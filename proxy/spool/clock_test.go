package spool

import (
	"context"
	"testing"
	"time"
)

// TestClockStepsBack sets the clock back by an hour, as far as the spool can tell.
// Times go on in order, and the next beacon says what happened; the one after it
// says so as long as the clock has not caught up.
func TestClockStepsBack(t *testing.T) {
	const hour = int64(time.Hour)
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	s := openSpool(t, cfg)
	write := func(back int64) {
		t.Helper()
		s.mu.Lock()
		s.clock += back
		s.mu.Unlock()
		for i := range byte(3) {
			if err := s.Record(context.Background(), request(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.beacon(always); err != nil {
			t.Fatal(err)
		}
	}
	write(0)
	write(hour)
	write(0)
	write(-hour) // it has caught up
	closeSpool(t, s)

	var said []uint64
	var last int64
	for _, r := range readBack(t, cfg.Dir, key)[0].records {
		if b := r.GetBeacon(); b != nil {
			said = append(said, b.GetClockBackNs())
		}
		// Where the test itself moves the time back there is nothing to compare.
		if len(said) < 3 && r.GetTime() <= last {
			t.Errorf("record %d has time %d, the one before it %d", r.GetSequence(), r.GetTime(), last)
		}
		last = r.GetTime()
	}
	if len(said) != 4 || said[0] != 0 || said[3] != 0 {
		t.Fatalf("beacons say %d", said)
	}
	for _, ns := range said[1:3] {
		if d := time.Duration(ns); d > time.Hour+time.Second || d < time.Hour-time.Minute {
			t.Errorf("a beacon says %v, want about an hour", d)
		}
	}
}
