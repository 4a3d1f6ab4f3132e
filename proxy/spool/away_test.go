package spool

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/sealtap/sealtap/record"
)

// TestLogAway has no log under load until the spool is full: up to there nothing is
// held up, and from there no exchange begins. When the log comes back everything gets
// there once, and exchanges begin again.
func TestLogAway(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.SegmentSize, cfg.MaxBytes = 64<<10, 1<<20
	l := newLog(t, key.Public)
	cfg.Log = l.client
	l.before.Store(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	s := openSpool(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()

	var mu sync.Mutex
	count := uint64(0)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for {
				r := request(byte(w))
				if err := s.Record(ctx, r, query()); err != nil {
					if !errors.Is(err, ErrFull) {
						t.Error(err)
					}
					return
				}
				if err := s.Record(ctx, response(byte(w)), nil); err != nil {
					t.Errorf("what is under way cannot be finished: %v", err)
					return
				}
				mu.Lock()
				count++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if st := s.Status(); st.Submitted > 0 || st.Bytes > cfg.MaxBytes || count < 100 {
		t.Errorf("%d exchanges, %+v", count, st)
	}
	l.before.Store(func(http.ResponseWriter, *http.Request) bool { return false })

	var err error
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if err = s.Record(ctx, request(9), nil); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Fatalf("with the log back no exchange begins: %v", err)
	}
	if err := s.Record(ctx, response(9), nil); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if st := s.Status(); st.Confirmed >= st.Records || time.Now().After(end) {
			if st.Confirmed < st.Records {
				t.Errorf("not everything got through: %+v", st)
			}
			break
		}
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	closeSpool(t, s)
	seen := stages(t, l)
	if seen["request"] != seen["response"] || seen["request"] != count+1 {
		t.Errorf("the log has %v, and %d exchanges took place", seen, count+1)
	}
}

// stages counts the records in the log.
func stages(t *testing.T, l *testLog) map[string]uint64 {
	t.Helper()
	cp, err := l.client.Checkpoint(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	indices := make([]uint64, cp.Size)
	for i := range indices {
		indices[i] = uint64(i)
	}
	entries, err := l.client.Tree(cp).Entries(context.Background(), indices...)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]uint64)
	for _, b := range entries {
		e, err := record.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if e.Record != nil {
			seen[e.Record.Stage()]++
		}
	}
	return seen
}
