package spool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/client"
)

// said collects what a spool logs.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *said) logger() *slog.Logger { return slog.New(slog.NewTextHandler(s, nil)) }

// lines returns how many lines hold all of the words.
func (s *said) lines(words ...string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
next:
	for line := range strings.Lines(s.buf.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		n++
	}
	return n
}

func prunes(c *tlog.Config) { c.PruneInterval = 5 * time.Millisecond }

// fill writes so much from another spool that nothing from before is among the
// newest entries.
func (l *testLog) fill(t *testing.T, cfg Config) {
	t.Helper()
	cfg.Dir, cfg.Log = t.TempDir(), l.client
	s := openSpool(t, cfg)
	write(t, s, 300)
	confirmed(t, s)
	closeSpool(t, s)
}

// prune has the log let go of all but its newest entries, and waits for it.
func (l *testLog) prune(t *testing.T) {
	t.Helper()
	l.changes++
	entry, err := record.NewRetention(l.origin, l.changes, record.Retention{Entries: 1}, l.operator)
	l.state(t, entry, err)
	want := (l.Size() - 1) / 256 * 256
	for end := time.Now().Add(30 * time.Second); l.Minimum() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the log was pruned to %d, waiting for %d", l.Minimum(), want)
		}
	}
}

// crashed is a spool of which everything was confirmed but for its last records,
// which the log has not seen. It returns its directory, as it was before it stopped.
func crashed(t *testing.T, l *testLog, cfg Config) (dir string) {
	t.Helper()
	cfg.Log, cfg.SegmentSize = l.client, 1<<20
	s := openSpool(t, cfg)
	for range 3 {
		write(t, s, 300)
		confirmed(t, s)
	}
	s.keep()
	write(t, s, 10)
	dir = snapshot(t, cfg.Dir)
	cut, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Close(cut, "test"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// keep writes down at once what was confirmed.
func (s *Spool) keep() {
	s.sub.mu.Lock()
	defer s.sub.mu.Unlock()
	s.keepConfirmed(true)
}

// TestPrunedAfterAStop: what was confirmed and pruned does not keep a proxy that
// was stopped from going on.
func TestPrunedAfterAStop(t *testing.T) {
	key := testKey(t)
	l := newLog(t, key.Public, prunes)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.Log = l.client
	s := openSpool(t, cfg)
	write(t, s, 700)
	closeSpool(t, s) // sees the last of it confirmed
	if n := waiting(s); n > 0 {
		t.Errorf("%d batches were not confirmed when the spool was closed", n)
	}
	l.fill(t, cfg)
	l.prune(t)
	logged := new(said)
	cfg.Logger = logged.logger()
	s = openSpool(t, cfg)
	defer closeSpool(t, s)
	write(t, s, 10)
	confirmed(t, s)
	write(t, s, 10)
	confirmed(t, s)
	if st := s.Status(); st.Confirmed < 41 || st.Sealed != st.Records {
		t.Errorf("status %+v: 41 records were written", st)
	}
	if logged.lines("they are not sent again") != 1 || logged.lines("level=ERROR") > 0 {
		t.Errorf("said: %s", &logged.buf)
	}
	if n, _ := listSegments(cfg.Dir); len(n) > 2 { // the current one and the next
		t.Errorf("%d segments are left", len(n))
	}
}

// TestPrunedBeforeACrash: behind what was confirmed and pruned there are records
// that the log has not seen. They are sent, with the key of their openings, which
// stands far before them.
func TestPrunedBeforeACrash(t *testing.T) {
	key := testKey(t)
	l := newLog(t, key.Public, prunes)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.Dir, cfg.SegmentSize = crashed(t, l, cfg), 1<<20
	l.prune(t)
	var batches []*sealtapv1.SubmitRequest
	l.before.Store(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		b, err := io.ReadAll(r.Body)
		batch := new(sealtapv1.SubmitRequest)
		if err := errors.Join(err, proto.Unmarshal(b, batch)); err != nil {
			t.Error(err)
		}
		batches = append(batches, batch)
		r.Body = io.NopCloser(bytes.NewReader(b))
		return false
	})
	cfg.Log = l.client
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	write(t, s, 10)
	confirmed(t, s)
	seen := 0
	for _, b := range batches {
		for _, it := range b.GetItems() {
			e, err := record.Parse(it.GetEntry())
			if err != nil {
				t.Fatal(err)
			}
			if e.Record == nil || e.Record.GetSequence() < 1801 || e.Record.Stream == s.stream || len(it.GetOpenings()) == 0 {
				continue
			}
			seen++
			id, err := record.BoxKey(it.GetOpenings())
			if err != nil || len(b.GetKeys()) == 0 || !bytes.Equal(b.GetKeys()[0].GetId(), id[:]) {
				t.Errorf("record %d is sent without the key of its openings: %v", e.Record.GetSequence(), err)
			}
		}
	}
	if seen != 10 {
		t.Errorf("%d of 10 records with openings were sent from behind what was confirmed", seen)
	}
}

// TestConfirmedIsAHint: a file that is damaged, or not of this spool, costs nothing
// but that everything is sent again, and never a record.
func TestConfirmedIsAHint(t *testing.T) {
	key := testKey(t)
	l := newLog(t, key.Public, prunes)
	cfg := testConfig(t, t.TempDir(), key)
	dir := crashed(t, l, cfg)
	cfg.SegmentSize = 1 << 20
	good, err := os.ReadFile(filepath.Join(dir, confirmedFile))
	if err != nil {
		t.Fatal(err)
	}
	c, err := readConfirmed(dir)
	if err != nil {
		t.Fatal(err)
	}
	form := func(change func(*extent)) []byte {
		other := c
		change(&other)
		at := t.TempDir()
		if err := other.write(at); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(at, confirmedFile))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	files := map[string][]byte{
		"none":                  nil,
		"empty":                 {},
		"cut short":             good[:len(good)/2],
		"another segment":       form(func(c *extent) { c.first, c.end.segment = 7, 7 }),
		"far ahead":             form(func(c *extent) { c.end.offset = 1 << 19 }),
		"beyond the file":       form(func(c *extent) { c.end.offset = 1 << 40 }),
		"before the file":       form(func(c *extent) { c.end.offset = -1 }),
		"between two frames":    form(func(c *extent) { c.end.offset-- }),
		"the seal of another":   form(func(c *extent) { c.seal[0] ^= 1 }),
		"ends before it begins": form(func(c *extent) { c.first = c.end.segment + 1 }),
		"of a later part of it": form(func(c *extent) { c.first, c.end.segment = c.end.segment+1, c.end.segment+1 }),
		"as it was":             good,
	}
	open := func(t *testing.T, b []byte) (*Spool, *said) {
		logged := new(said)
		cfg.Dir, cfg.Log, cfg.Logger = snapshot(t, dir), l.client, logged.logger()
		path := filepath.Join(cfg.Dir, confirmedFile)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if b != nil {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return openSpool(t, cfg), logged
	}
	for name, b := range files {
		t.Run(name, func(t *testing.T) {
			s, _ := open(t, b)
			defer closeSpool(t, s)
			if err := submitAll(s); err != nil {
				t.Fatal(err)
			}
			confirmed(t, s)
		})
	}
	l.fill(t, cfg)
	l.prune(t)
	for name, b := range files {
		t.Run("pruned, "+name, func(t *testing.T) {
			s, logged := open(t, b)
			defer s.Close(context.Background(), "test")
			var err error
			for range 3 {
				err = submitAll(s)
				if wait := s.retry(err); errors.Is(err, client.ErrPruned) && wait < 30*time.Second {
					t.Errorf("tries again after %s", wait)
				}
			}
			if !errors.Is(err, client.ErrPruned) {
				t.Fatalf("what was pruned is sent without an answer to that: %v", err)
			}
			if n, err := listSegments(s.cfg.Dir); err != nil || n[0] != c.end.segment {
				t.Errorf("segments %v, %v: what was not confirmed is gone", n, err)
			}
			first := "records=\"0 to "
			if name == "as it was" {
				first = "records=\"1801 to " // the log has them, and this copy of the spool cannot know
			}
			if logged.lines("level=ERROR", "never saw under a cosigned checkpoint", first, segmentPath(s.cfg.Dir, c.end.segment)) != 1 || logged.lines("level=ERROR") != 1 {
				t.Errorf("said: %s", &logged.buf)
			}
		})
	}
}

// TestConfirmedAndPutBack: a segment that somebody puts back was not confirmed with
// those behind it.
func TestConfirmedAndPutBack(t *testing.T) {
	c := extent{first: 4, end: position{6, 100}}
	for _, x := range []struct {
		start, end position
		want       bool
	}{
		{position{4, 0}, position{4, 50}, true},
		{position{4, 0}, position{6, 100}, true},
		{position{6, 50}, position{6, 101}, false},
		{position{6, 100}, position{6, 150}, false},
		{position{3, 0}, position{3, 50}, false},
		{position{3, 0}, position{4, 50}, false},
	} {
		if got := c.covers(x.start, x.end); got != x.want {
			t.Errorf("from %v to %v: %v", x.start, x.end, got)
		}
	}
	if (extent{}).holds(position{}) {
		t.Error("nothing holds something")
	}
}

// TestPrunedWhileConfirming: what is sent again, and pruned before it is found
// again, was found before.
func TestPrunedWhileConfirming(t *testing.T) {
	key := testKey(t)
	l := newLog(t, key.Public)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.Log = l.client
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	write(t, s, 140)
	confirmed(t, s)
	if err := s.rewind(); err != nil {
		t.Fatal(err)
	}
	if err := submitAll(s); err != nil {
		t.Fatal(err)
	}
	l.before.Store(func(w http.ResponseWriter, r *http.Request) bool {
		gone := strings.HasPrefix(r.URL.Path, "/tile/0/000")
		if gone {
			w.WriteHeader(http.StatusGone)
		}
		return gone
	})
	if _, err := s.confirm(context.Background()); err != nil || waiting(s) > 0 {
		t.Errorf("%d batches wait, %v", waiting(s), err)
	}
	// But not what was not.
	write(t, s, 10)
	if err := submitAll(s); err != nil {
		t.Fatal(err)
	}
	l.before.Store(func(w http.ResponseWriter, r *http.Request) bool {
		gone := strings.HasPrefix(r.URL.Path, "/tile/0/")
		if gone {
			w.WriteHeader(http.StatusGone)
		}
		return gone
	})
	for end := time.Now().Add(10 * time.Second); l.Published() < l.Size() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if _, err := s.confirm(context.Background()); !errors.Is(err, client.ErrPruned) || waiting(s) == 0 {
		t.Errorf("%d batches wait, %v", waiting(s), err)
	}
	l.before.Store(func(http.ResponseWriter, *http.Request) bool { return false })
	confirmed(t, s)
}

// TestRotatesByAge: a segment of which something was confirmed is left after a
// time, and goes once all of it was confirmed; one that waits for the log is not.
func TestRotatesByAge(t *testing.T) {
	key := testKey(t)
	l := newLog(t, key.Public)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.Log, cfg.SegmentAge, cfg.SegmentSize = l.client, time.Millisecond, 4<<20
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	for range 5 {
		time.Sleep(2 * time.Millisecond)
		write(t, s, 1)
	}
	if s.seg.number != 0 {
		t.Fatalf("segment %d, although nothing was confirmed", s.seg.number)
	}
	for end := time.Now().Add(20 * time.Second); s.seg.number < 2; time.Sleep(time.Millisecond) {
		confirmed(t, s)
		write(t, s, 1)
		if time.Now().After(end) || s.seg.end > 3<<20 {
			t.Fatalf("segment %d is not left, with %d bytes in it", s.seg.number, s.seg.end)
		}
	}
	confirmed(t, s)
	if numbers, err := listSegments(cfg.Dir); err != nil || numbers[0] != s.seg.number {
		t.Errorf("segments %v are there, the current one is %d: %v", numbers, s.seg.number, err)
	}
	if st := s.Status(); st.Bytes != cfg.SegmentSize {
		t.Errorf("status %+v: one segment is there", st)
	}
}

// TestAgeWithoutRoom: where there is no room for another segment the old one is not
// left, and nothing fails for it.
func TestAgeWithoutRoom(t *testing.T) {
	key := testKey(t)
	l := newLog(t, key.Public)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.Log, cfg.SegmentAge = l.client, time.Millisecond
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	// Something stands where segments are made.
	if err := os.MkdirAll(filepath.Join(segmentPath(cfg.Dir, s.seg.number+2)+".new", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	leaving := s.seg.number
	for end := time.Now().Add(20 * time.Second); s.Ready() == nil; time.Sleep(time.Millisecond) {
		s.Record(context.Background(), response(1), nil)
		if err := s.seal(); err != nil {
			t.Fatal(err)
		}
		confirmed(t, s)
		if time.Now().After(end) {
			t.Fatal("there is always room")
		}
	}
	for range 50 {
		time.Sleep(time.Millisecond)
		if err := errors.Join(s.Record(context.Background(), response(1), nil), s.seal()); err != nil {
			t.Fatal(err)
		}
		confirmed(t, s)
	}
	if s.seg.number != leaving+1 || s.Err() != nil {
		t.Errorf("segment %d, %v", s.seg.number, s.Err())
	}
	if err := os.RemoveAll(segmentPath(cfg.Dir, leaving+2) + ".new"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "room again", func() bool { return s.Ready() == nil })
}

// TestAgeLeavesRoom: a spool that is as small as it may be does not become full by
// leaving a segment early.
func TestAgeLeavesRoom(t *testing.T) {
	key := testKey(t)
	l := newLog(t, key.Public)
	cfg := testConfig(t, t.TempDir(), key)
	cfg.Log, cfg.SegmentAge, cfg.MaxBytes = l.client, time.Millisecond, 4*cfg.SegmentSize
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	for i := range 200 {
		write(t, s, 1)
		if i%3 == 0 {
			confirmed(t, s)
		}
	}
}
