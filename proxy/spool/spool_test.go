package spool

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

func testKey(t testing.TB) *keys.Private {
	t.Helper()
	k, err := keys.Generate("example.com/proxy", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testConfig(t testing.TB, dir string, key *keys.Private) Config {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return Config{Dir: dir, Key: key, Recipients: []age.Recipient{id.Recipient()}, SegmentSize: 256 << 10, MaxBytes: 64 << 20}
}

func openSpool(t testing.TB, cfg Config) *Spool {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeSpool(t testing.TB, s *Spool) {
	t.Helper()
	if err := s.Close(context.Background(), "test"); err != nil {
		t.Fatal(err)
	}
}

func request(id byte) *sealtapv1.Record {
	return &sealtapv1.Record{
		Exchange: []byte{id, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
		About:    &sealtapv1.Record_Request{Request: &sealtapv1.Request{Method: "GET", Path: "/x"}},
	}
}

func response(id byte) *sealtapv1.Record {
	r := request(id)
	r.About = &sealtapv1.Record_Response{Response: &sealtapv1.Response{Status: 200}}
	return r
}

func query() []*sealtapv1.Opening {
	return []*sealtapv1.Opening{{Field: record.FieldQuery, Type: record.TypeString, Value: []byte("q=1")}}
}

// life is what the spool holds of one incarnation.
type life struct {
	stream  record.Stream
	records []record.Record
	seals   []record.Seal
	tree    *record.Tree
}

// readBack reads a spool's files as the submitter would and checks everything
// that must hold in them: sequences without a hole, and seals that match.
func readBack(t testing.TB, dir string, key *keys.Private) []*life {
	t.Helper()
	numbers, err := listSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := reader{dir: dir, pos: position{segment: numbers[0]}, keys: make(map[record.KeyID]*sealtapv1.WrappedKey)}
	defer r.close()
	var lives []*life
	at := make(map[record.Stream]*life)
	for {
		fr, err := r.next(position{segment: numbers[len(numbers)-1], offset: 1 << 40})
		if errors.Is(err, errNoFrame) || errors.Is(err, ErrDamaged) {
			return lives
		} else if err != nil {
			t.Fatal(err)
		}
		var entry []byte
		switch fr.typ {
		case frameRecord:
			if entry, _, err = splitRecord(fr.payload); err != nil {
				t.Fatal(err)
			}
		case frameSeal:
			entry = fr.payload
		default:
			continue
		}
		e, err := record.Parse(entry)
		if err != nil {
			t.Fatal(err)
		}
		if e.Record != nil {
			l := at[e.Record.Stream]
			if l == nil {
				l = &life{stream: e.Record.Stream, tree: record.NewTree()}
				at[l.stream] = l
				lives = append(lives, l)
			}
			if e.Record.GetSequence() != l.tree.Size() {
				t.Fatalf("record %d follows %d", e.Record.GetSequence(), l.tree.Size())
			}
			l.records = append(l.records, *e.Record)
			l.tree.Append(e.Leaf, nil)
			continue
		}
		l := at[e.Seal.Stream]
		if l == nil || e.Seal.Size != l.tree.Size() || e.Seal.Root != l.tree.Root() {
			t.Fatalf("seal of %d does not match the tree before it", e.Seal.Size)
		}
		if err := e.Seal.Verify(key.Public); err != nil {
			t.Fatal(err)
		}
		l.seals = append(l.seals, *e.Seal)
	}
}

func TestManyWritersShareCommits(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	s := openSpool(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	var wg sync.WaitGroup
	const writers, each = 32, 100
	for w := range writers {
		wg.Go(func() {
			for range each {
				if err := errors.Join(s.Record(ctx, request(byte(w)), query()), s.Record(ctx, response(byte(w)), nil)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	st := s.Status()
	if st.Open != 0 || st.Records != 2*writers*each+1 {
		t.Errorf("status %+v, want %d records and nothing open", st, 2*writers*each+1)
	}
	if st.Commits > st.Records/2 {
		t.Errorf("%d commits for %d records: writers do not share them", st.Commits, st.Records)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	closeSpool(t, s)
	lives := readBack(t, cfg.Dir, key)
	if len(lives) != 1 || len(lives[0].records) != 2*writers*each+2 {
		t.Fatalf("%d lives, %d records", len(lives), len(lives[0].records))
	}
	l := lives[0]
	if l.records[0].GetStart().GetReason() != sealtapv1.StartReason_START_REASON_NEW || l.records[len(l.records)-1].GetStop() == nil {
		t.Error("the first record is not a start, or the last is not a stop")
	}
	if last := l.seals[len(l.seals)-1]; last.Size != uint64(len(l.records)) {
		t.Errorf("the last seal covers %d of %d records", last.Size, len(l.records))
	}
	if n, _ := listSegments(cfg.Dir); len(n) < 2 {
		t.Errorf("%d segments: the test did not rotate", len(n))
	}
	if !slices.IsSortedFunc(l.records, func(a, b record.Record) int { return int(a.GetTime() - b.GetTime()) }) {
		t.Error("times run backwards")
	}
}

func TestRestartContinuesTheChain(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	s := openSpool(t, cfg)
	first := s.Stream()
	closeSpool(t, s)
	s = openSpool(t, cfg)
	if s.Stream() == first {
		t.Error("the second life has the incarnation of the first")
	}
	closeSpool(t, s)
	lives := readBack(t, cfg.Dir, key)
	if len(lives) != 2 {
		t.Fatalf("%d lives, want 2", len(lives))
	}
	start, seal := lives[1].records[0].GetStart(), lives[0].seals[len(lives[0].seals)-1]
	p := start.GetPrevious()
	if start.GetReason() != sealtapv1.StartReason_START_REASON_CLEAN || p.GetSize() != seal.Size || record.Hash(p.GetRoot()) != seal.Root ||
		record.Incarnation(p.GetIncarnation()) != first.Incarnation {
		t.Errorf("start %v does not name the last seal %+v", start, seal)
	}
}

// snapshot copies a spool that is in use, as a crash would leave it.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	numbers, err := listSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range numbers {
		data, err := os.ReadFile(segmentPath(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(segmentPath(to, n), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, confirmedFile)); err == nil {
		if err := os.WriteFile(filepath.Join(to, confirmedFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func TestCrashLeavesUnknownOutcome(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	s := openSpool(t, cfg)
	ctx := context.Background()
	for _, r := range []*sealtapv1.Record{request(1), request(2), response(1)} {
		if err := s.Record(ctx, r, nil); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Dir = snapshot(t, cfg.Dir)
	closeSpool(t, s)
	closeSpool(t, openSpool(t, cfg))

	lives := readBack(t, cfg.Dir, key)
	if len(lives) != 2 || len(lives[0].records) != 4 {
		t.Fatalf("%d lives, %d records in the first", len(lives), len(lives[0].records))
	}
	if n := len(lives[0].seals); n != 1 || lives[0].seals[0].Size != 4 {
		t.Errorf("the crashed life was not sealed by the next: %+v", lives[0].seals)
	}
	start := lives[1].records[0].GetStart()
	if start.GetReason() != sealtapv1.StartReason_START_REASON_CRASH || start.GetRecovered() != 4 || start.GetUnfinished() != 1 {
		t.Errorf("start %v", start)
	}
	if r := lives[1].records[1]; r.GetResponse().GetOutcome() != sealtapv1.Outcome_OUTCOME_UNKNOWN || r.GetExchange()[0] != 2 {
		t.Errorf("the exchange that was cut has no unknown outcome: %v", r.Record)
	}
	if len(lives[1].records) != 3 {
		t.Errorf("%d records after the crash: a start, one unknown outcome and a stop are wanted", len(lives[1].records))
	}
}

func TestTornTail(t *testing.T) {
	for _, tear := range []struct {
		name string
		do   func(data []byte, end int) []byte
		want int // records that survive of start, request, response
	}{
		{"cut within the last frame", func(d []byte, end int) []byte { clear(d[end-5:]); return d }, 2},
		{"bit flipped in the last frame", func(d []byte, end int) []byte { d[end-5] ^= 1; return d }, 2},
		{"garbage behind", func(d []byte, end int) []byte { copy(d[end:], "garbage garbage"); return d }, 3},
		{"file cut short", func(d []byte, end int) []byte { return d[:end-1] }, 2},
		{"absurd length", func(d []byte, end int) []byte { copy(d[end:], "\xff\xff\xff\xff"); return d }, 3},
	} {
		t.Run(tear.name, func(t *testing.T) {
			key := testKey(t)
			cfg := testConfig(t, t.TempDir(), key)
			s := openSpool(t, cfg)
			for _, r := range []*sealtapv1.Record{request(1), response(1)} {
				if err := s.Record(context.Background(), r, nil); err != nil {
					t.Fatal(err)
				}
			}
			end := int(s.end.offset)
			cfg.Dir = snapshot(t, cfg.Dir)
			closeSpool(t, s)
			path := segmentPath(cfg.Dir, 0)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tear.do(data, end), 0o600); err != nil {
				t.Fatal(err)
			}
			closeSpool(t, openSpool(t, cfg))
			lives := readBack(t, cfg.Dir, key)
			if len(lives) != 2 || len(lives[0].records) != tear.want {
				t.Fatalf("%d lives, %d records, want 2 and %d", len(lives), len(lives[0].records), tear.want)
			}
			torn := tear.name != "file cut short"
			if n := lives[1].records[0].GetStart().GetDiscardedBytes(); torn && n == 0 {
				t.Error("the start record does not say that bytes were discarded")
			}
		})
	}
}

func TestFailsClosed(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(dir string) error
	}{
		{"segment deleted", func(dir string) error { return os.Remove(segmentPath(dir, 0)) }},
		{"segment truncated", func(dir string) error { return os.Truncate(segmentPath(dir, 0), 0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig(t, t.TempDir(), testKey(t))
			s := openSpool(t, cfg)
			if err := c.do(cfg.Dir); err != nil {
				t.Fatal(err)
			}
			// The write makes a truncated file grow again, but not to its size.
			if err := s.Record(context.Background(), request(1), nil); !errors.Is(err, ErrDamaged) {
				t.Errorf("error %v, want ErrDamaged", err)
			}
			if s.Err() == nil {
				t.Error("the spool goes on")
			}
			if err := s.Close(context.Background(), "test"); !errors.Is(err, ErrDamaged) {
				t.Errorf("closing: %v", err)
			}
		})
	}
}

func TestFull(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), testKey(t))
	cfg.MaxBytes = 4 * cfg.SegmentSize
	s := openSpool(t, cfg)
	defer s.Close(context.Background(), "test")
	big := request(1)
	big.GetRequest().Path = "/" + strings.Repeat("x", 60000)
	var err error
	for range 100 {
		if err = s.Record(context.Background(), big, nil); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("error %v, want ErrFull", err)
	}
	if err := s.Record(context.Background(), response(1), nil); err != nil {
		t.Errorf("what is in flight cannot be finished: %v", err)
	}
}

func TestOversizeRecordChangesNothing(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), testKey(t))
	s := openSpool(t, cfg)
	big := request(1)
	big.GetRequest().Path = "/" + strings.Repeat("x", record.MaxEntry)
	if err := s.Record(context.Background(), big, nil); !errors.Is(err, record.ErrMalformed) {
		t.Fatalf("error %v", err)
	}
	if err := s.Record(context.Background(), request(1), nil); err != nil {
		t.Fatal(err)
	}
	closeSpool(t, s)
	readBack(t, cfg.Dir, cfg.Key) // no hole
}

func TestInUse(t *testing.T) {
	cfg := testConfig(t, t.TempDir(), testKey(t))
	s := openSpool(t, cfg)
	if _, err := Open(cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("second process: %v", err)
	}
	closeSpool(t, s)
	cfg.Key = testKey(t)
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "holds records of producer") {
		t.Errorf("another producer's key: %v", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	buf := appendFrame(nil, frameSeal, []byte("payload"))
	sumFrames(buf, 3, 0)
	f.Add(buf)
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 2})
	f.Fuzz(func(t *testing.T, data []byte) {
		fr, err := readFrame(strings.NewReader(string(data)), 3, 0, int64(len(data)))
		if err != nil {
			if !errors.Is(err, errNoFrame) && !errors.Is(err, io.EOF) {
				t.Errorf("error %v", err)
			}
			return
		}
		again := appendFrame(nil, fr.typ, fr.payload)
		sumFrames(again, 3, 0)
		if string(again) != string(data[:fr.next]) {
			t.Error("a frame was read that would be written differently")
		}
		if fr.typ == frameRecord {
			splitRecord(fr.payload)
		}
		parseHeader(fr)
	})
}

func BenchmarkRecord(b *testing.B) {
	cfg := testConfig(b, b.TempDir(), testKey(b))
	cfg.SegmentSize, cfg.MaxBytes = 16<<20, 1<<40
	s := openSpool(b, cfg)
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Record(context.Background(), request(1), query()); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(s.Status().Commits)/float64(b.N), "commits/op")
	s.Close(context.Background(), "test")
}
