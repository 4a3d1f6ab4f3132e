package spool

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// testLog is a log behind HTTP, without witnesses.
type testLog struct {
	*tlog.Log
	client *client.Client

	origin   string
	operator *keys.Private
	changes  uint64 // statements of the operator

	before atomic.Value // func(http.ResponseWriter, *http.Request) bool: sees each request first, and may answer it
}

// newLog starts a log that has enrolled the producer.
func newLog(t *testing.T, producer keys.Public, options ...func(*tlog.Config)) *testLog {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	key, err := keys.Generate("log.example/test", keys.Ed25519)
	must(err)
	operator, err := keys.Generate("operator", keys.Ed25519)
	must(err)
	p, err := policy.New([]policy.Log{{Key: key.Public}}, nil, nil, policy.None, &operator.Public)
	must(err)
	dir := t.TempDir()
	store, err := sqlite.OpenLog(ctx, filepath.Join(dir, "log.db"))
	must(err)
	openings, err := sqlite.OpenOpenings(ctx, filepath.Join(dir, "openings.db"))
	must(err)
	l := &testLog{origin: key.Name, operator: operator}
	c := tlog.Config{Key: key, Operator: operator, Storage: store, Openings: openings, Policy: p, CheckpointInterval: time.Millisecond}
	for _, o := range options {
		o(&c)
	}
	l.Log, err = tlog.Open(ctx, c)
	must(err)
	handler := l.Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f, _ := l.before.Load().(func(http.ResponseWriter, *http.Request) bool); f == nil || !f(w, r) {
			handler.ServeHTTP(w, r)
		}
	}))
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	t.Cleanup(func() {
		server.Close()
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		store.Close()
		openings.Close()
	})
	l.client, err = client.New(server.URL, p, client.WithRetries(1, time.Millisecond))
	must(err)
	if producer.Name != "" {
		l.change(t, record.KeyChange{Enrol: []keys.Public{producer}})
	}
	return l
}

// change has the operator change keys.
func (l *testLog) change(t *testing.T, c record.KeyChange) {
	t.Helper()
	l.changes++
	c.Origin, c.Number = l.origin, l.changes
	entry, err := record.NewKeyChange(c, l.operator)
	l.state(t, entry, err)
}

func (l *testLog) state(t *testing.T, statement []byte, err error) {
	t.Helper()
	if err == nil {
		_, err = l.Submit(context.Background(), &sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{{Entry: statement}}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// confirmed drives a spool that does not run until all that is sealed is
// confirmed.
func confirmed(t *testing.T, s *Spool) {
	t.Helper()
	if err := submitAll(s); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); waiting(s) > 0; time.Sleep(time.Millisecond) {
		if _, err := s.confirm(context.Background()); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatalf("%d batches are not confirmed: %+v", waiting(s), s.Status())
		}
	}
}

func submitAll(s *Spool) error {
	for {
		if more, err := s.submit(context.Background()); err != nil || !more {
			return err
		}
	}
}

func waiting(s *Spool) int {
	s.sub.mu.Lock()
	defer s.sub.mu.Unlock()
	return len(s.sub.sent)
}

// write records n exchanges and seals them.
func write(t *testing.T, s *Spool, n int) {
	t.Helper()
	for i := range n {
		if err := errors.Join(s.Record(context.Background(), request(byte(i)), query()), s.Record(context.Background(), response(byte(i)), nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.seal(); err != nil {
		t.Fatal(err)
	}
}

// TestOlderCopies goes on with older copies of a spool, one after the other and
// while the spool itself goes on. Each seals what it finds of the copied life, at
// sizes that the log may be beyond.
func TestOlderCopies(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	l := newLog(t, key.Public)
	cfg.Log = l.client
	s := openSpool(t, cfg)
	defer s.Close(context.Background(), "test")
	ctx := context.Background()
	var copies []string
	for range 3 {
		write(t, s, 5)
		for i := range byte(2) { // in the copy, and not sealed
			if err := s.Record(ctx, request(100+i), nil); err != nil {
				t.Fatal(err)
			}
		}
		copies = append(copies, snapshot(t, s.cfg.Dir))
		write(t, s, 5)
	}
	resumed := func(dir string) *Spool {
		c := cfg
		c.Dir = dir
		r := openSpool(t, c)
		t.Cleanup(func() { r.Close(ctx, "test") })
		write(t, r, 3)
		return r
	}
	// The log hears of this one before it hears of the rest of the life.
	confirmed(t, resumed(copies[2]))
	confirmed(t, s)
	write(t, s, 5)
	confirmed(t, s)
	for _, dir := range copies[:2] {
		r := resumed(dir)
		confirmed(t, r)
		write(t, r, 3)
		confirmed(t, r)
		// Its segments now begin with a seal whose records were freed.
		confirmed(t, resumed(snapshot(t, dir)))
	}
	if s.Err() != nil {
		t.Error(s.Err())
	}
}

// TestConfirmsUnderAHeadSeenBefore sends again what the log has, which makes it no
// larger: it has no newer head to offer.
func TestConfirmsUnderAHeadSeenBefore(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.Log = newLog(t, key.Public).client
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	write(t, s, 10)
	confirmed(t, s)
	if err := s.rewind(); err != nil {
		t.Fatal(err)
	}
	if err := submitAll(s); err != nil || waiting(s) == 0 {
		t.Fatalf("nothing was sent again: %v", err)
	}
	if _, err := s.confirm(context.Background()); err != nil || waiting(s) > 0 {
		t.Errorf("%d batches are not confirmed, %v", waiting(s), err)
	}
}

// TestRewindWhileConfirming sends everything again while a batch is being proven.
// What was sent before is none of the new list, and nothing is freed that is
// about to be read again.
func TestRewindWhileConfirming(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.SegmentSize = 32 << 10
	l := newLog(t, key.Public)
	cfg.Log = l.client
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	for range 60 {
		write(t, s, 20)
	}
	if err := submitAll(s); err != nil || waiting(s) < 2 {
		t.Fatalf("%d batches were sent, %v", waiting(s), err)
	}
	var rewound atomic.Bool
	l.before.Store(func(_ http.ResponseWriter, r *http.Request) bool {
		if filepath.Dir(r.URL.Path) != "/" && r.Method == http.MethodGet && rewound.CompareAndSwap(false, true) {
			if err := s.rewind(); err != nil {
				t.Error(err)
			}
		}
		return false
	})
	for end := time.Now().Add(10 * time.Second); l.Published() < l.Size() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if _, err := s.confirm(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !rewound.Load() || waiting(s) > 0 || s.Status().Confirmed > 0 {
		t.Fatalf("rewound %t; %d batches wait, status %+v", rewound.Load(), waiting(s), s.Status())
	}
	confirmed(t, s)
	if n, _ := listSegments(cfg.Dir); len(n) > 2 { // the current one and the next
		t.Errorf("%d segments are left", len(n))
	}
}

// TestAnswerThatPlacesNothing gets an answer that says of no record where it is.
// The batch is sent again.
func TestAnswerThatPlacesNothing(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	l := newLog(t, key.Public)
	cfg.Log = l.client
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	write(t, s, 10)
	l.before.Store(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			w.Header().Set("Content-Type", client.ContentType)
		}
		return r.Method == http.MethodPost
	})
	if err := submitAll(s); err == nil {
		t.Error("the answer was taken")
	}
	l.before.Store(func(http.ResponseWriter, *http.Request) bool { return false })
	confirmed(t, s)
	if st := s.Status(); st.Confirmed < 21 {
		t.Errorf("status %+v: 21 records were written", st)
	}
}

// TestOverTheRate sends faster than the log lets a producer. It backs off, and
// everything gets there in the end.
func TestOverTheRate(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	l := newLog(t, key.Public, func(c *tlog.Config) { c.MaxBatchBytes, c.ProducerBytesPerSecond = 20_000, 10_000 })
	cfg.Log = l.client
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	var err error
	for err == nil {
		write(t, s, 10)
		err = submitAll(s)
	}
	var p *client.Problem
	if !errors.As(err, &p) || p.Status != http.StatusTooManyRequests || p.RetryAfter < time.Second || !errors.Is(err, client.ErrUnavailable) {
		t.Fatal(err)
	}
	if got := s.retry(err); got < time.Second {
		t.Errorf("tries again after %s, asked for are %s", got, p.RetryAfter)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	for end := time.Now().Add(30 * time.Second); s.Status().Confirmed < s.Status().Records; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("not everything got through: %+v", s.Status())
			break
		}
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

func TestLostSegmentFailsClosed(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.SegmentSize = 32 << 10
	cfg.Log = newLog(t, key.Public).client
	s := openSpool(t, cfg)
	defer s.Close(context.Background(), "test")
	for range 20 {
		write(t, s, 20)
	}
	s.free(position{segment: 2})
	if err := submitAll(s); err == nil {
		t.Error("a segment that the log has not seen is gone, and nobody notices")
	}
	if err := s.Record(context.Background(), request(1), nil); err == nil {
		t.Error("the spool goes on")
	}
}

// TestFirstBeaconOfAFullSpool opens a spool that is full while the log shows heads
// and takes nothing. What follows must be bounded in time nevertheless.
func TestFirstBeaconOfAFullSpool(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.MaxBytes = 4 * cfg.SegmentSize
	s := openSpool(t, cfg)
	var err error
	for i := 0; err == nil && i < 1e6; i++ { // not only beyond what requests may use
		r := response(1)
		r.GetResponse().Detail = strings.Repeat("x", 10000)
		err = s.Record(context.Background(), r, nil)
	}
	if !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	closeSpool(t, s)
	l := newLog(t, key.Public)
	l.before.Store(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return r.Method == http.MethodPost
	})
	cfg.Log = l.client
	s = openSpool(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	for end := time.Now().Add(5 * time.Second); s.Status().Records < 2 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	closeSpool(t, s)
	lives := readBack(t, cfg.Dir, key)
	if r := lives[len(lives)-1].records[1]; len(r.GetBeacon().GetCheckpoint()) == 0 {
		t.Errorf("no beacon follows the start: %v", r.Record)
	}
}

// TestPrunedBeyondTheHeadSeen: a log that has let go of what would prove that it
// extends the last head that was seen does not stop the spool for ever.
func TestPrunedBeyondTheHeadSeen(t *testing.T) {
	key := testKey(t)
	log := newLog(t, key.Public)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.Log = log.client
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	write(t, s, 140) // 280 records: the head seen ends within the second tile
	confirmed(t, s)
	var gone atomic.Bool
	log.before.Store(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/tile/0/001") || gone.Swap(true) {
			return false
		}
		w.WriteHeader(http.StatusGone)
		return true
	})
	write(t, s, 10)
	confirmed(t, s)
	if !gone.Load() {
		t.Error("nothing asked for the tile that is gone")
	}
}
