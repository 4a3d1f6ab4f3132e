package spool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// within fails the test if f does not return soon.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not return", what)
	}
}

// TestCrashAfterRotationWithinABatch leaves a spool as a crash would, right after
// one batch was written across the border of two segments.
func TestCrashAfterRotationWithinABatch(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.SegmentSize = 16 << 10
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	b := newBatch()
	s.mu.Lock()
	for i := range byte(200) {
		if err := s.append(b, request(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	s.batch = b
	if err := s.await(b); err != nil {
		t.Fatal(err)
	}
	if s.seg.number == 0 {
		t.Fatal("the test did not rotate")
	}
	if st := s.Status(); st.Records != 201 || st.Open != 200 {
		t.Errorf("status %+v, want 201 records and 200 open exchanges", st)
	}
	cfg.Dir = snapshot(t, cfg.Dir)
	closeSpool(t, openSpool(t, cfg))
	lives := readBack(t, cfg.Dir, key)
	if len(lives) != 2 || len(lives[0].records) != 201 {
		t.Fatalf("%d lives, %d records in the first", len(lives), len(lives[0].records))
	}
	if p := lives[1].records[0].GetStart(); p.GetUnfinished() != 200 || p.GetPrevious().GetSize() != 201 {
		t.Errorf("start %v", p)
	}
}

// TestNoRoom takes away the room for further segments. The spool refuses new
// exchanges, ends those under way, and goes on by itself once there is room.
func TestNoRoom(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), testKey(t))
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	ctx := context.Background()
	if err := s.Record(ctx, request(1), nil); err != nil {
		t.Fatal(err)
	}
	// Something stands where segments are made.
	unmade := filepath.Join(segmentPath(cfg.Dir, 2)+".new", "x")
	if err := os.MkdirAll(unmade, 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	for end := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(end); {
		err = s.Record(ctx, request(2), nil)
	}
	if !errors.Is(err, ErrFull) || s.Err() != nil {
		t.Fatalf("a new exchange: %v; the spool: %v", err, s.Err())
	}
	if err := s.Record(ctx, response(1), nil); err != nil {
		t.Errorf("an exchange under way cannot end: %v", err)
	}
	if err := os.RemoveAll(filepath.Dir(unmade)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		err = s.Record(ctx, request(3), nil)
	}
	if err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestCloseAfterFailure closes a spool that could not go on to a new segment.
func TestCloseAfterFailure(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), testKey(t))
	s := openSpool(t, cfg)
	ctx := context.Background()
	if err := os.MkdirAll(filepath.Join(segmentPath(cfg.Dir, 2)+".new", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := 0; s.Err() == nil && i < 10000; i++ {
		s.Record(ctx, response(1), nil)
	}
	if s.Err() == nil {
		t.Fatal("the spool did not fail")
	}
	within(t, "Close", func() {
		if err := s.Close(ctx, "test"); err == nil {
			t.Error("closing a spool that has failed: no error")
		}
	})
	if err := os.RemoveAll(segmentPath(cfg.Dir, 2) + ".new"); err != nil {
		t.Fatal(err)
	}
	closeSpool(t, openSpool(t, cfg))
	readBack(t, cfg.Dir, cfg.Key)
}

// TestFullSpoolOpens restarts a proxy whose spool is full, while the log is down.
func TestFullSpoolOpens(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), testKey(t))
	cfg.MaxBytes = 4 * cfg.SegmentSize
	big := request(1)
	big.GetRequest().Path = "/" + strings.Repeat("x", 60000)
	for life := range 5 {
		s := openSpool(t, cfg)
		var err error
		for range 100 {
			if err = s.Record(context.Background(), big, nil); err != nil {
				break
			}
		}
		if !errors.Is(err, ErrFull) {
			t.Fatalf("life %d: error %v, want ErrFull", life, err)
		}
		closeSpool(t, s)
	}
	readBack(t, cfg.Dir, cfg.Key)
}

func TestTooSmall(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), testKey(t))
	cfg.SegmentSize, cfg.MaxBytes = 0, 1<<20
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "too small") {
		t.Errorf("a spool that could never take a request: %v", err)
	}
	cfg.MaxBytes = 4 << 20
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	if err := s.Record(context.Background(), request(1), nil); err != nil {
		t.Errorf("the smallest spool: %v", err)
	}
}

// TestTooLargeRecord refuses a record whose openings fit into no segment, and
// nothing but that record.
func TestTooLargeRecord(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), testKey(t))
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	huge := query()
	huge[0].Value = make([]byte, cfg.SegmentSize)
	if err := s.Record(context.Background(), request(1), huge); err == nil {
		t.Error("a record larger than a segment was taken")
	}
	if err := s.Record(context.Background(), request(2), query()); err != nil {
		t.Errorf("the next record: %v", err)
	}
}

// TestUnreadableSegmentIsKept damages the beginning of the newest segment. The
// records behind it were acknowledged: whatever becomes of them, they are not
// deleted, and the next life says so.
func TestUnreadableSegmentIsKept(t *testing.T) {
	for name, offset := range map[string]func(data []byte) int{
		"head":         func([]byte) int { return 10 },
		"first record": func(data []byte) int { return strings.Index(string(data), "test-version") },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, t.TempDir(), testKey(t))
			cfg.Version = "test-version"
			s := openSpool(t, cfg)
			for range 100 {
				if err := s.Record(context.Background(), request(1), nil); err != nil {
					t.Fatal(err)
				}
			}
			cfg.Dir = snapshot(t, cfg.Dir)
			closeSpool(t, s)
			path := segmentPath(cfg.Dir, 0)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			data[offset(data)] ^= 1
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			closeSpool(t, openSpool(t, cfg))
			kept, err := os.ReadFile(path + damagedSuffix)
			if err != nil || string(kept) != string(data) {
				t.Errorf("the segment was not kept: %v", err)
			}
			if n := readBack(t, cfg.Dir, cfg.Key)[0].records[0].GetStart().GetDiscardedBytes(); n == 0 {
				t.Error("the start record does not say that bytes were discarded")
			}
		})
	}
}

// TestCloseUnderLoad closes a spool while records come in. Each is durable or
// refused.
func TestCloseUnderLoad(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), testKey(t))
	for range 10 {
		s := openSpool(t, cfg)
		var wg sync.WaitGroup
		var mu sync.Mutex
		acknowledged := make(map[uint64]bool)
		for w := range byte(16) {
			wg.Go(func() {
				for {
					r := request(w)
					if err := s.Record(context.Background(), r, nil); err != nil {
						if !errors.Is(err, ErrClosed) {
							t.Error(err)
						}
						return
					}
					mu.Lock()
					acknowledged[r.GetSequence()] = true
					mu.Unlock()
				}
			})
		}
		time.Sleep(5 * time.Millisecond)
		within(t, "Close", func() { closeSpool(t, s) })
		wg.Wait()
		lives := readBack(t, cfg.Dir, cfg.Key)
		l := lives[len(lives)-1]
		if l.stream != s.Stream() {
			t.Fatal("the newest life is not the one that was closed")
		}
		for n := range acknowledged {
			if n >= uint64(len(l.records)) {
				t.Errorf("record %d was acknowledged, and there are %d", n, len(l.records))
			}
		}
	}
}

func TestNothingLeaks(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), testKey(t))
	cfg.Log = newLog(t, cfg.Key.Public).client
	cycle := func() {
		s := openSpool(t, cfg)
		ctx, cancel := context.WithCancel(context.Background())
		ran := make(chan error, 1)
		go func() { ran <- s.Run(ctx) }()
		if err := s.Record(ctx, request(1), query()); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(10 * time.Second); s.Status().Submitted == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		cancel()
		if err := <-ran; err != nil {
			t.Fatal(err)
		}
		closeSpool(t, s)
	}
	open := func() int {
		n := 0
		names, _ := os.ReadDir("/proc/self/fd")
		for _, d := range names {
			if to, _ := os.Readlink("/proc/self/fd/" + d.Name()); strings.HasPrefix(to, cfg.Dir) {
				n++
			}
		}
		return n
	}
	if _, err := os.ReadDir("/proc/self/fd"); err != nil {
		t.Skip("no /proc")
	}
	cycle()
	before := runtime.NumGoroutine()
	for range 20 {
		cycle()
		if n := open(); n > 0 {
			t.Fatalf("%d files stay open", n)
		}
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before+5; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, were %d", runtime.NumGoroutine(), before)
		}
	}
}

// TestStopRotates stops a spool whose last seal goes into a new segment, which
// then holds no record: the next start finds the stop all the same.
func TestStopRotates(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), testKey(t))
	s := openSpool(t, cfg)
	if err := s.record(&sealtapv1.Record{About: &sealtapv1.Record_Stop{Stop: &sealtapv1.Stop{Reason: "test"}}}, nil, always); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.stopped = true
	s.seg.end = s.cfg.SegmentSize // there is no room for the seal
	s.mu.Unlock()
	if err := s.seal(); err != nil {
		t.Fatal(err)
	}
	s.fail(ErrClosed)
	s.settled()
	if err := s.releaseFiles(); err != nil {
		t.Fatal(err)
	}
	closeSpool(t, openSpool(t, cfg))
	lives := readBack(t, cfg.Dir, cfg.Key)
	if r := lives[len(lives)-1].records[0].GetStart().GetReason(); r != sealtapv1.StartReason_START_REASON_CLEAN {
		t.Errorf("the next start says %v", r)
	}
}
