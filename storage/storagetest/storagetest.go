// Package storagetest is the contract of package storage as tests. Every
// implementation runs [Log] and [Openings].
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// Log runs the contract of [storage.Log]. open opens the storage that the test
// has, or makes it; it is called again after the function it returned, which
// closes it, and only then.
func Log(t *testing.T, open func(t *testing.T) (s storage.Log, closeIt func())) {
	t.Run("Empty", func(t *testing.T) { testEmpty(t, open) })
	t.Run("Grow", func(t *testing.T) { testGrow(t, open) })
	t.Run("Moved", func(t *testing.T) { testMoved(t, open) })
	t.Run("Cancelled", func(t *testing.T) { testCancelled(t, open) })
	t.Run("Runs", func(t *testing.T) { testRuns(t, open) })
	t.Run("Signed", func(t *testing.T) { testSigned(t, open) })
	t.Run("Forks", func(t *testing.T) { testForks(t, open) })
	t.Run("Readers", func(t *testing.T) { testReaders(t, open) })
}

// model is what the storage should hold.
type model struct {
	t       *testing.T
	s       storage.Log
	tree    *tiles.Writer
	entries [][]byte
	tiles   map[[2]uint64][]byte
	streams map[record.Stream]storage.Stream
	changes []uint64
}

func newModel(t *testing.T, s storage.Log) *model {
	return &model{t: t, s: s, tree: tiles.NewWriter(), tiles: make(map[[2]uint64][]byte), streams: make(map[record.Stream]storage.Stream)}
}

// batch returns the next n entries as a batch, and changes the model.
func (m *model) batch(n int) *storage.Batch {
	b := &storage.Batch{First: uint64(len(m.entries))}
	for range n {
		entry := fmt.Appendf(nil, "entry %d %s", len(m.entries), bytes.Repeat([]byte{'x'}, rand.IntN(200)))
		b.Entries = append(b.Entries, entry)
		m.entries = append(m.entries, entry)
		m.tree.Append(record.LeafHash(entry))
	}
	for _, tile := range append(m.tree.Complete(), m.tree.Partial()...) {
		b.Tiles = append(b.Tiles, storage.Tile(tile))
	}
	for _, tile := range b.Tiles {
		m.tiles[[2]uint64{uint64(tile.Level), tile.N}] = tile.Hashes
	}
	b.Root = m.tree.Root()
	return b
}

func (m *model) commit(n int) {
	m.t.Helper()
	if err := m.s.Commit(context.Background(), m.batch(n)); err != nil {
		m.t.Fatalf("committing %d entries at %d: %v", n, len(m.entries)-n, err)
	}
}

func bundleOf(entries [][]byte) []byte {
	var b []byte
	for _, e := range entries {
		b = storage.AppendEntry(b, e)
	}
	return b
}

// check compares everything.
func (m *model) check() {
	m.t.Helper()
	ctx := context.Background()
	state, err := m.s.Load(ctx)
	if err != nil {
		m.t.Fatalf("loading: %v", err)
	}
	size := len(m.entries)
	if state.Size != uint64(size) || size > 0 && state.Root != m.tree.Root() {
		m.t.Fatalf("loaded size %d, root %s; want %d, %s", state.Size, state.Root, size, m.tree.Root())
	}
	if want := bundleOf(m.entries[size-size%storage.BundleWidth:]); !bytes.Equal(state.Head, want) {
		m.t.Errorf("the loaded head at %d has %d bytes, want %d", size, len(state.Head), len(want))
	}
	if fmt.Sprint(state.KeyChanges) != fmt.Sprint(m.changes) {
		m.t.Errorf("key changes %v, want %v", state.KeyChanges, m.changes)
	}
	if len(state.Streams) != len(m.streams) {
		m.t.Errorf("%d streams, want %d", len(state.Streams), len(m.streams))
	}
	for _, s := range state.Streams {
		if want := m.streams[s.Stream]; fmt.Sprint(s) != fmt.Sprint(want) {
			m.t.Errorf("stream %v, want %v", s, want)
		}
	}
	for n := 0; n*storage.BundleWidth < size; n++ {
		got, err := m.s.Bundle(ctx, uint64(n))
		want := bundleOf(m.entries[n*storage.BundleWidth : min(size, (n+1)*storage.BundleWidth)])
		if err != nil || !bytes.Equal(got, want) {
			m.t.Errorf("bundle %d of %d entries: %v, or not what was stored", n, size, err)
		}
	}
	if _, err := m.s.Bundle(ctx, uint64((size+storage.BundleWidth-1)/storage.BundleWidth)); !errors.Is(err, storage.ErrNotFound) {
		m.t.Errorf("a bundle behind the last one, of %d entries: %v", size, err)
	}
	for id, want := range m.tiles {
		got, err := m.s.Tile(ctx, uint(id[0]), id[1])
		if err != nil || !bytes.Equal(got, want) {
			m.t.Errorf("tile %d/%d: %v, or not what was stored", id[0], id[1], err)
		}
	}
}

func testEmpty(t *testing.T, open func(*testing.T) (storage.Log, func())) {
	s, closeIt := open(t)
	defer closeIt()
	newModel(t, s).check()
	ctx := context.Background()
	for _, n := range []uint64{0, 1, 1 << 40, 1<<64 - 1} {
		if _, err := s.Bundle(ctx, n); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("bundle %d: %v", n, err)
		}
		for _, level := range []uint{0, 1, 7, 8, 63} {
			if _, err := s.Tile(ctx, level, n); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("tile %d/%d: %v", level, n, err)
			}
		}
		if _, ok, err := s.Run(ctx, record.Stream{}, n); ok || err != nil {
			t.Errorf("run of record %d: %v, %v", n, ok, err)
		}
	}
	state, err := s.Load(ctx)
	if err != nil || state.Signed != nil || state.Published != nil {
		t.Errorf("state of an empty log: %+v, %v", state, err)
	}
}

func testGrow(t *testing.T, open func(*testing.T) (storage.Log, func())) {
	s, closeIt := open(t)
	m := newModel(t, s)
	for i, n := range []int{1, 1, 253, 1, 1, 255, 256, 512, 513, 100, 700, 3, 255, 254, 1} {
		m.commit(n)
		m.check()
		if i%4 == 3 {
			closeIt()
			m.s, closeIt = open(t)
			m.check()
		}
	}
	m.changes = []uint64{uint64(len(m.entries)), uint64(len(m.entries)) + 2}
	b := m.batch(3)
	b.KeyChanges = m.changes
	if err := m.s.Commit(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	m.check()
	closeIt()
}

func testMoved(t *testing.T, open func(*testing.T) (storage.Log, func())) {
	s, closeIt := open(t)
	defer closeIt()
	m := newModel(t, s)
	m.commit(300)
	for _, first := range []uint64{0, 256, 299, 301} {
		b := &storage.Batch{First: first, Entries: [][]byte{[]byte("other")}, Root: record.Hash{1},
			Tiles: []storage.Tile{{Level: 0, N: 0, Hashes: make([]byte, tiles.Size)}}, KeyChanges: []uint64{first}}
		if err := s.Commit(context.Background(), b); !errors.Is(err, storage.ErrMoved) {
			t.Errorf("a batch at %d of 300: %v", first, err)
		}
	}
	m.check()
}

func testCancelled(t *testing.T, open func(*testing.T) (storage.Log, func())) {
	s, closeIt := open(t)
	defer closeIt()
	m := newModel(t, s)
	m.commit(10)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	before := *m
	b := m.batch(5)
	err := s.Commit(ctx, b)
	if state, loadErr := s.Load(context.Background()); loadErr != nil || state.Size != 10 && (err != nil || state.Size != 15) {
		t.Fatalf("after a cancelled commit (%v): %+v, %v", err, state, loadErr)
	} else if state.Size == 10 {
		if err == nil {
			t.Error("a commit that stored nothing returned no error")
		}
		m.entries = before.entries
		if err := s.Commit(context.Background(), b); err != nil {
			t.Errorf("committing it again: %v", err)
		}
	}
	m.entries = append(m.entries[:10:10], b.Entries...)
	m.check()
}

func testRuns(t *testing.T, open func(*testing.T) (storage.Log, func())) {
	s, closeIt := open(t)
	m := newModel(t, s)
	ctx := context.Background()
	streams := []record.Stream{record.NewStream(keys.ID{1}), record.NewStream(keys.ID{1}), record.NewStream(keys.ID{2})}
	next := make([]uint64, len(streams))
	var runs []storage.Run
	for i := range 30 {
		which := i * i % len(streams)
		count := uint64(1 + i%5)
		b := m.batch(int(count) + 1)
		r := storage.Run{Stream: streams[which], Sequence: next[which], Index: b.First, Count: count}
		next[which] += count
		st := storage.Stream{Stream: streams[which], Size: next[which], Edge: []record.Hash{{byte(i)}, {1, byte(i)}}}
		b.Runs, b.Streams = []storage.Run{r}, []storage.Stream{st}
		if err := s.Commit(ctx, b); err != nil {
			t.Fatal(err)
		}
		runs = append(runs, r)
		m.streams[st.Stream] = st
		if i == 15 {
			m.check()
			closeIt()
			s, closeIt = open(t)
			m.s = s
		}
	}
	m.check()
	for _, want := range runs {
		for sequence := want.Sequence; sequence < want.Sequence+want.Count; sequence++ {
			if got, ok, err := s.Run(ctx, want.Stream, sequence); err != nil || !ok || got != want {
				t.Errorf("run of record %d: %+v, %v, %v; want %+v", sequence, got, ok, err, want)
			}
		}
	}
	for i, st := range streams {
		for _, sequence := range []uint64{next[i], next[i] + 1, 1<<64 - 1} {
			if _, ok, err := s.Run(ctx, st, sequence); ok || err != nil {
				t.Errorf("run of record %d, which is not stored: %v, %v", sequence, ok, err)
			}
		}
	}
	closeIt()
}

// signedHead returns a head with a note in the form that a log signs.
func signedHead(t *testing.T, key *keys.Private, size uint64, root record.Hash) storage.Head {
	t.Helper()
	signer, err := key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	body := checkpoint.Body{Origin: key.Name, Size: size, Root: root}
	n, err := note.Sign(&note.Note{Text: string(body.Marshal())}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return storage.Head{Size: size, Root: root, Note: n}
}

func testSigned(t *testing.T, open func(*testing.T) (storage.Log, func())) {
	s, closeIt := open(t)
	ctx := context.Background()
	m := newModel(t, s)
	m.commit(20)
	key, err := keys.Generate("storage.example/test", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	head := func(size uint64, root byte) storage.Head { return signedHead(t, key, size, record.Hash{root}) }
	for i, step := range []struct {
		set  func(context.Context, storage.Head) error
		head storage.Head
		want error
	}{
		{s.SetPublished, head(10, 1), storage.ErrConflict}, // not signed
		{s.SetSigned, head(21, 1), storage.ErrMoved},       // more than there are
		{s.SetSigned, head(10, 1), nil},
		{s.SetSigned, head(10, 1), nil},
		{s.SetSigned, head(10, 2), storage.ErrConflict},
		{s.SetSigned, head(9, 1), storage.ErrConflict},
		{s.SetPublished, head(11, 1), storage.ErrConflict},
		{s.SetPublished, head(10, 2), storage.ErrConflict},
		{s.SetPublished, head(10, 1), nil},
		{s.SetSigned, head(20, 3), nil},
		{s.SetPublished, head(9, 1), storage.ErrConflict},
		{s.SetPublished, head(10, 1), nil},
	} {
		if err := step.set(ctx, step.head); !errors.Is(err, step.want) || err != nil && step.want == nil {
			t.Errorf("step %d: %v, want %v", i, err, step.want)
		}
	}
	// Publishing again with more cosignatures replaces the note.
	more := head(10, 1)
	more.Note = append(more.Note, "— other 1234\n"...)
	if err := s.SetPublished(ctx, more); err != nil {
		t.Error(err)
	}
	for range 2 {
		state, err := s.Load(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if want := head(20, 3); fmt.Sprint(state.Signed) != fmt.Sprint(&want) {
			t.Errorf("signed %v, want %v", state.Signed, want)
		}
		if fmt.Sprint(state.Published) != fmt.Sprint(&more) {
			t.Errorf("published %v, want %v", state.Published, more)
		}
		closeIt()
		s, closeIt = open(t)
	}
	if err := s.SetSigned(ctx, head(20, 4)); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("a second root for size 20 after reopening: %v", err)
	}
	closeIt()
}

func testForks(t *testing.T, open func(*testing.T) (storage.Log, func())) {
	s, closeIt := open(t)
	defer closeIt()
	ctx := context.Background()
	f := storage.Fork{Stream: record.NewStream(keys.ID{7}), Sequence: 5, Index: 12, Entry: []byte("entry"), Seal: []byte("seal"),
		Seen: time.Unix(1700000000, 5).UTC()}
	for i, want := range []bool{true, false} {
		if kept, err := s.AddFork(ctx, f); kept != want || err != nil {
			t.Errorf("time %d: %v, %v", i, kept, err)
		}
	}
	other := f
	other.Entry = []byte("other")
	if kept, err := s.AddFork(ctx, other); !kept || err != nil {
		t.Errorf("another entry: %v, %v", kept, err)
	}
	got, err := s.Forks(ctx)
	if want := []storage.Fork{f, other}; err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("forks %v, %v; want %v", got, err, want)
	}
	kept := true
	for i := 0; kept; i++ {
		if i > 10_000 {
			t.Fatal("forks are kept without bound")
		}
		other.Entry = fmt.Append(nil, i)
		if kept, err = s.AddFork(ctx, other); err != nil {
			t.Fatal(err)
		}
	}
}

// testReaders reads while the log grows: what was once seen stays.
func testReaders(t *testing.T, open func(*testing.T) (storage.Log, func())) {
	s, closeIt := open(t)
	defer closeIt()
	m := newModel(t, s)
	m.commit(1)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			seen := make([][]byte, 8)
			for ctx.Err() == nil {
				for n := range uint64(len(seen)) {
					got, err := s.Bundle(context.Background(), n)
					if errors.Is(err, storage.ErrNotFound) && seen[n] == nil {
						break
					}
					if err != nil || !bytes.HasPrefix(got, seen[n]) {
						t.Errorf("bundle %d, read while it grows: %v, or it changed", n, err)
						return
					}
					seen[n] = got
				}
			}
		})
	}
	for range 150 {
		m.commit(1 + rand.IntN(20))
	}
	cancel()
	wg.Wait()
	m.check()
}

// Openings runs the contract of [storage.Openings].
func Openings(t *testing.T, open func(t *testing.T) (s storage.Openings, closeIt func())) {
	s, closeIt := open(t)
	ctx := context.Background()
	put := func(keys []storage.WrappedKey, openings ...storage.Opening) {
		t.Helper()
		if err := s.Put(ctx, openings, keys); err != nil {
			t.Fatal(err)
		}
	}
	one, two := record.Hash{1}, record.Hash{2}
	id, stranger := record.KeyID{9}, record.KeyID{8}
	box := func(id record.KeyID, text string) []byte {
		return append(append(append([]byte{1}, id[:]...), make([]byte, 12)...), text...)
	}
	put([]storage.WrappedKey{{ID: id, Wrapped: []byte("key")}}, storage.Opening{Index: 5, Leaf: one, Box: box(id, "first")})
	put([]storage.WrappedKey{{ID: id, Wrapped: []byte("other key")}}, storage.Opening{Index: 5, Leaf: one, Box: box(id, "repeated")},
		storage.Opening{Index: 6, Leaf: one, Box: box(id, "of a batch that was not stored")})
	put(nil, storage.Opening{Index: 6, Leaf: two, Box: box(id, "second")})
	put(nil, storage.Opening{Index: 7, Leaf: two, Box: box(id, "of another")}, storage.Opening{Index: 900, Leaf: two, Box: box(id, "of one more")})
	// Anybody can repeat what is stored, with a box and a key of his own.
	put([]storage.WrappedKey{{ID: stranger, Wrapped: []byte("junk")}}, storage.Opening{Index: 5, Leaf: one, Box: box(stranger, "junk")})
	for range 2 {
		if err := s.Discard(ctx, 7); err != nil {
			t.Fatal(err)
		}
		for index, want := range map[uint64]string{5: "first", 6: "second", 7: "", 900: ""} {
			if want != "" {
				want = string(box(id, want))
			}
			if got, ok, err := s.Opening(ctx, index); string(got) != want || ok != (want != "") || err != nil {
				t.Errorf("openings of %d: %q, %v, %v; want %q", index, got, ok, err, want)
			}
		}
		if got, ok, err := s.WrappedKey(ctx, id); string(got) != "key" || !ok || err != nil {
			t.Errorf("wrapped key: %q, %v, %v", got, ok, err)
		}
		if _, ok, err := s.WrappedKey(ctx, stranger); ok || err != nil {
			t.Errorf("the key of a box that was not kept: %v, %v", ok, err)
		}
		closeIt()
		s, closeIt = open(t)
	}
	closeIt()
}
