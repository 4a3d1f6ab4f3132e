package tlog_test

import (
	"context"
	"errors"
	"iter"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/storage/storagetest"
	"github.com/sealtap/sealtap/tlog"
)

// all yields entries, and then an error if there is one.
func all(entries [][]byte, err error) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// TestReplay stores the entries of a log again from its genesis on: state, tiles
// and runs come out the same.
func TestReplay(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t).start()
	p, q := f.producer("proxy-1"), f.producer("proxy-2")
	for range 30 {
		f.mustSubmit(p.batch(100)...)
		f.mustSubmit(append(q.batch(2), p.batch(1)...)...)
	}
	f.change(record.KeyChange{Enrol: []keys.Public{newKey(t, "proxy-3", keys.Ed25519).Public}})
	f.mustSubmit(q.batch(4000)...)
	f.mustSubmit(q.batch(1)...)
	size := f.log.Size()
	f.published(size)
	var entries [][]byte
	for i := range size {
		e, err := f.log.Entry(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	want, err := f.storage.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "log.db")
	s, err := sqlite.OpenLog(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// The genesis is where every copy begins.
	leaf := record.LeafHash(entries[0])
	first := &storage.Batch{Entries: entries[:1], Tiles: []storage.Tile{{Hashes: leaf[:]}}, Root: leaf, KeyChanges: []uint64{0}}
	if err := s.Commit(ctx, first); err != nil {
		t.Fatal(err)
	}
	// The head that it may not go below, as a restored log has it.
	if err := sqlite.WriteSigned(path, want.Signed.Note); err != nil {
		t.Fatal(err)
	}
	c := tlog.Config{Key: f.key, Policy: f.policy, Storage: s}
	if _, err := tlog.Open(ctx, c); !errors.Is(err, tlog.ErrBehind) {
		t.Fatalf("a log with its genesis alone opens: %v", err)
	}

	// A source that breaks off in the middle, and one that ends within a run.
	broken := errors.New("broken off")
	at, err := tlog.Replay(ctx, c, all(entries[1:2500], broken))
	if !errors.Is(err, broken) || at.Size <= 1 || at.Size > 2500 {
		t.Fatalf("at %d with %v", at.Size, err)
	}
	if got, err := tlog.Replay(ctx, c, all(entries[at.Size:at.Size+50], nil)); !errors.Is(err, tlog.ErrRefused) || got != at {
		t.Fatalf("a run without its seal: at %d with %v", got.Size, err)
	}
	// Entries that are not the next ones.
	if got, err := tlog.Replay(ctx, c, all(entries[1:3], nil)); !errors.Is(err, storage.ErrCorrupt) || got != at {
		t.Fatalf("entries that are there already: at %d with %v", got.Size, err)
	}
	if got, err := tlog.Replay(ctx, c, all(entries[size-2:], nil)); err == nil || got != at {
		t.Fatalf("entries of later: at %d with %v", got.Size, err)
	}
	got, err := tlog.Replay(ctx, c, all(entries[at.Size:], nil))
	if err != nil || got.Size != size || got.Root != want.Root {
		t.Fatalf("at %d with root %x, %v; want %d with %s", got.Size, got.Root, err, size, want.Root)
	}
	state, err := s.Load(ctx)
	if err != nil || !slices.Equal(state.KeyChanges, want.KeyChanges) || string(state.Head) != string(want.Head) || len(state.Streams) != 2 {
		t.Fatalf("state %+v, %v", state, err)
	}
	for _, st := range state.Streams { // in no order
		i := slices.IndexFunc(want.Streams, func(w storage.Stream) bool { return w.Stream == st.Stream })
		if i < 0 || st.Size != want.Streams[i].Size || !slices.Equal(st.Edge, want.Streams[i].Edge) {
			t.Errorf("stream %s has %d records, want what is in %+v", st.Stream.Origin(), st.Size, want.Streams)
		}
	}
	for sequence := range p.tree.Size() {
		a, okA, errA := f.storage.Run(ctx, p.stream, sequence)
		b, okB, errB := s.Run(ctx, p.stream, sequence)
		if errA != nil || errB != nil || !okA || !okB || a != b {
			t.Fatalf("run of %d is %+v, was %+v", sequence, b, a)
		}
	}
	if state.Published != nil {
		t.Error("a replay has published")
	}
	if _, err := tlog.Open(ctx, c); err != nil {
		t.Errorf("opening what was replayed: %v", err)
	}
}

// TestReplayFails: storage that fails ends the replay.
func TestReplayFails(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	f.published(2)
	f.stop()
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	defer f.stop()
	f.storage.Fail("Commit", storagetest.Failed)
	got, err := tlog.Replay(ctx, tlog.Config{Key: f.key, Policy: f.policy, Storage: f.storage}, all(p.batch(10), nil))
	if !errors.Is(err, tlog.ErrUnavailable) || got.Size != 2 {
		t.Errorf("at %d with %v", got.Size, err)
	}
}
