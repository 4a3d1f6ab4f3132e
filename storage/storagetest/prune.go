package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// Pruner runs the contract of [storage.Pruner] for a storage that implements it
// beside [storage.Log].
func Pruner(t *testing.T, open func(t *testing.T) (s storage.Log, closeIt func())) {
	t.Run("Prune", func(t *testing.T) { testPrune(t, open) })
	t.Run("PrunedStreams", func(t *testing.T) { testPrunedStreams(t, open) })
	t.Run("Marks", func(t *testing.T) { testMarks(t, open) })
	t.Run("SweepWhileGrowing", func(t *testing.T) { testSweepWhileGrowing(t, open) })
}

// sign lets the storage take the size as published.
func (m *model) publish(key *keys.Private, size uint64) {
	m.t.Helper()
	h := signedHead(m.t, key, size, record.Hash{byte(size)})
	if err := errors.Join(m.s.SetSigned(context.Background(), h), m.s.SetPublished(context.Background(), h)); err != nil {
		m.t.Fatal(err)
	}
}

// checkPruned compares everything with the model below and above a minimum; the
// bundles given are kept below it.
func (m *model) checkPruned(minimum uint64, swept bool, kept ...uint64) {
	m.t.Helper()
	ctx := context.Background()
	stays := func(n uint64) bool {
		for _, k := range kept {
			if n == k {
				return true
			}
		}
		return n >= minimum/storage.BundleWidth
	}
	if p, err := m.s.(storage.Pruner).Pruned(ctx); err != nil || p.Minimum != minimum {
		m.t.Errorf("minimum %d, %v; want %d", p.Minimum, err, minimum)
	}
	size := len(m.entries)
	for n := 0; n*storage.BundleWidth < size; n++ {
		got, err := m.s.Bundle(ctx, uint64(n))
		want := bundleOf(m.entries[n*storage.BundleWidth : min(size, (n+1)*storage.BundleWidth)])
		switch {
		case stays(uint64(n)):
			if err != nil || !bytes.Equal(got, want) {
				m.t.Errorf("bundle %d, which is kept: %v, or it changed", n, err)
			}
		case swept && !errors.Is(err, storage.ErrPruned):
			m.t.Errorf("bundle %d, below the minimum %d: %v", n, minimum, err)
		}
	}
	for id, want := range m.tiles {
		got, err := m.s.Tile(ctx, uint(id[0]), id[1])
		switch {
		case id[0] > 0 || stays(id[1]):
			if err != nil || !bytes.Equal(got, want) {
				m.t.Errorf("tile %d/%d, which is kept: %v, or it changed", id[0], id[1], err)
			}
		case swept && !errors.Is(err, storage.ErrNotFound):
			m.t.Errorf("tile %d/%d, below the minimum %d: %v", id[0], id[1], minimum, err)
		}
	}
}

func sweep(t *testing.T, s storage.Pruner, bundles int) {
	t.Helper()
	for i := 0; ; i++ {
		more, err := s.Sweep(context.Background(), bundles)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return
		}
		if i > 10_000 {
			t.Fatal("there is always more to sweep")
		}
	}
}

func testPrune(t *testing.T, open func(*testing.T) (storage.Log, func())) {
	s, closeIt := open(t)
	m := newModel(t, s)
	ctx := context.Background()
	key, err := keys.Generate("storage.example/prune", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	reopen := func() {
		closeIt()
		s, closeIt = open(t)
		m.s = s
	}
	p := func() storage.Pruner { return m.s.(storage.Pruner) }
	set := func(minimum uint64) error {
		return p().SetPruned(ctx, storage.Pruned{Minimum: minimum, At: []byte("at")}, nil)
	}

	// Statements at 0 and 1300 hold their bundles, 0 and 5.
	m.changes = []uint64{0, 1300}
	b := m.batch(1)
	b.KeyChanges = []uint64{0}
	if err := s.Commit(ctx, b); err != nil {
		t.Fatal(err)
	}
	m.commit(1299)
	b = m.batch(1)
	b.KeyChanges = []uint64{1300}
	if err := s.Commit(ctx, b); err != nil {
		t.Fatal(err)
	}
	m.commit(1700) // 3001
	if _, err := p().Sweep(ctx, 10); err != nil {
		t.Error(err)
	}
	m.check()
	if err := set(256); !errors.Is(err, storage.ErrMoved) {
		t.Errorf("before anything is published: %v", err)
	}
	m.publish(key, 2600)
	for _, minimum := range []uint64{0, 255, 257, 2816, 1 << 40} {
		if err := set(minimum); !errors.Is(err, storage.ErrMoved) {
			t.Errorf("a minimum of %d: %v", minimum, err)
		}
	}
	m.check()
	if err := p().SetPruned(ctx, storage.Pruned{Minimum: 512, At: []byte("at"), Old: []byte("old")}, nil); err != nil {
		t.Fatal(err)
	}
	m.checkPruned(512, false)
	reopen()
	if got, err := p().Pruned(ctx); err != nil || string(got.At) != "at" || string(got.Old) != "old" {
		t.Errorf("kept %+v, %v", got, err)
	}
	if err := set(512); !errors.Is(err, storage.ErrMoved) {
		t.Errorf("the same minimum again: %v", err)
	}
	if err := set(256); !errors.Is(err, storage.ErrMoved) {
		t.Errorf("a minimum that goes back: %v", err)
	}
	sweep(t, p(), 1)
	m.checkPruned(512, true, 0)
	if err := set(2560); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if more, err := p().Sweep(cancelled, 2); err == nil || !more {
		t.Errorf("a cancelled sweep: %v, %v", more, err)
	}
	if more, err := p().Sweep(ctx, 2); err != nil || !more {
		t.Errorf("the first sweep of eight bundles, two at a time: %v, %v", more, err)
	}
	reopen()
	sweep(t, p(), 3)
	m.checkPruned(2560, true, 0, 5)
	m.commit(400)
	m.checkPruned(2560, true, 0, 5)
	state, err := s.Load(ctx)
	if err != nil || state.Size != uint64(len(m.entries)) || fmt.Sprint(state.KeyChanges) != fmt.Sprint(m.changes) {
		t.Errorf("loaded %d, %v, %v", state.Size, state.KeyChanges, err)
	}
	closeIt()
}

func testPrunedStreams(t *testing.T, open func(*testing.T) (storage.Log, func())) {
	s, closeIt := open(t)
	m := newModel(t, s)
	ctx := context.Background()
	key, err := keys.Generate("storage.example/prune", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	// Runs of 63 records with a seal: four to a bundle, by three streams in turn.
	streams := []record.Stream{record.NewStream(keys.ID{1}), record.NewStream(keys.ID{1}), record.NewStream(keys.ID{2})}
	next := make([]uint64, len(streams))
	var runs []storage.Run
	for i := range 24 {
		which := i % len(streams)
		b := m.batch(64)
		r := storage.Run{Stream: streams[which], Sequence: next[which], Index: b.First, Count: 63}
		next[which] += 63
		b.Runs, b.Streams = []storage.Run{r}, []storage.Stream{{Stream: r.Stream, Size: next[which], Edge: []record.Hash{{byte(i)}}}}
		if err := s.Commit(ctx, b); err != nil {
			t.Fatal(err)
		}
		runs = append(runs, r)
	}
	m.publish(key, 24*64)
	p := s.(storage.Pruner)
	if names, err := p.StreamNames(ctx); err != nil || fmt.Sprint(names) != fmt.Sprint(streams) {
		t.Errorf("streams %v, %v", names, err)
	}
	if list, next, err := p.PrunedStreams(ctx, 0, 10); err != nil || len(list) != 0 || next != 0 {
		t.Errorf("before anything was pruned: %v, %v, %v", list, next, err)
	}
	if err := p.SetPruned(ctx, storage.Pruned{Minimum: 256, At: []byte("at")}, []storage.Stream{{Stream: record.NewStream(keys.ID{9}), Size: 1}}); !errors.Is(err, storage.ErrMoved) {
		t.Errorf("the edge of a stream that is not stored: %v", err)
	}
	m.checkPruned(0, false)
	edges := []storage.Stream{{Stream: streams[0], Size: 126, Edge: []record.Hash{{1}, {2}}}, {Stream: streams[2], Size: 63}}
	if err := p.SetPruned(ctx, storage.Pruned{Minimum: 256, At: []byte("at")}, edges); err != nil {
		t.Fatal(err)
	}
	edges[0].Size = 125 // so that a run begins below and ends above
	edges = append(edges, storage.Stream{Stream: streams[1], Size: 63, Edge: []record.Hash{{3}}})
	if err := p.SetPruned(ctx, storage.Pruned{Minimum: 512, At: []byte("at")}, edges); err != nil {
		t.Fatal(err)
	}
	sweep(t, p, 1)
	closeIt()
	s, closeIt = open(t)
	p = s.(storage.Pruner)
	want := []storage.Stream{edges[0], edges[2], edges[1]}
	for limit := 1; limit < 5; limit++ {
		var got []storage.Stream
		for place := uint64(0); ; {
			list, next, err := p.PrunedStreams(ctx, place, limit)
			if err != nil || len(list) > limit {
				t.Fatalf("%d streams of %d, %v", len(list), limit, err)
			}
			if got = append(got, list...); next == 0 {
				break
			}
			place = next
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("pruned streams, %d at a time: %v, want %v", limit, got, want)
		}
	}
	for _, w := range want {
		if got, ok, err := p.PrunedStream(ctx, w.Stream); err != nil || !ok || fmt.Sprint(got) != fmt.Sprint(w) {
			t.Errorf("pruned stream %v, %v, %v; want %v", got, ok, err, w)
		}
		for _, r := range runs {
			if r.Stream != w.Stream {
				continue
			}
			got, ok, err := s.Run(ctx, r.Stream, r.Sequence)
			if gone := r.Sequence+r.Count <= w.Size; err != nil || ok == gone || ok && got != r {
				t.Errorf("run at %d of a stream with %d records below the minimum: %v, %v, %v", r.Sequence, w.Size, got, ok, err)
			}
		}
	}
	if _, ok, err := p.PrunedStream(ctx, record.NewStream(keys.ID{9})); ok || err != nil {
		t.Errorf("a stream that was never there: %v, %v", ok, err)
	}
	closeIt()
}

func testMarks(t *testing.T, open func(*testing.T) (storage.Log, func())) {
	s, closeIt := open(t)
	defer closeIt()
	m := newModel(t, s)
	m.commit(1000)
	key, err := keys.Generate("storage.example/marks", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	m.publish(key, 1000)
	ctx := context.Background()
	p := s.(storage.Pruner)
	at := func(seconds int64) time.Time { return time.Unix(1_800_000_000+seconds, 0) }
	for _, mark := range []storage.Mark{{Size: 100, Time: at(10), Note: []byte("a")}, {Size: 300, Time: at(20), Note: []byte("b")}, {Size: 300, Time: at(30), Note: []byte("again")}, {Size: 900, Time: at(40), Note: []byte("c")}} {
		if err := p.AddMark(ctx, mark); err != nil {
			t.Fatal(err)
		}
	}
	check := func(seconds int64, want string) {
		t.Helper()
		got, ok, err := p.MarkBefore(ctx, at(seconds))
		if err != nil || ok != (want != "") || string(got.Note) != want || ok && got.Time.After(at(seconds)) {
			t.Errorf("mark at %d: %+v, %v, %v; want %q", seconds, got, ok, err, want)
		}
	}
	check(9, "")
	check(10, "a")
	check(19, "a")
	check(39, "b")
	check(1000, "c")
	if err := p.SetPruned(ctx, storage.Pruned{Minimum: 256, At: []byte("at")}, nil); err != nil {
		t.Fatal(err)
	}
	check(19, "")
	check(39, "b")
}

// testSweepWhileGrowing: sweeping and committing do not get into each other's way.
func testSweepWhileGrowing(t *testing.T, open func(*testing.T) (storage.Log, func())) {
	s, closeIt := open(t)
	defer closeIt()
	m := newModel(t, s)
	key, err := keys.Generate("storage.example/grow", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	m.commit(256 * 20)
	m.publish(key, 256*20)
	p := s.(storage.Pruner)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := uint64(1); i <= 20; i++ {
			if err := p.SetPruned(context.Background(), storage.Pruned{Minimum: 256 * i, At: []byte("at")}, nil); err != nil {
				t.Error(err)
				return
			}
			for more, err := true, error(nil); more; {
				if more, err = p.Sweep(context.Background(), 1); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 100 {
		m.commit(60)
	}
	wg.Wait()
	m.checkPruned(256*20, true)
}

// Trimmer runs the contract of [storage.OpeningsTrimmer] for a storage that
// implements it beside [storage.Openings].
func Trimmer(t *testing.T, open func(t *testing.T) (s storage.Openings, closeIt func())) {
	s, closeIt := open(t)
	defer closeIt()
	ctx := context.Background()
	for i := range uint64(10) {
		if err := s.Put(ctx, []storage.Opening{{Index: 10 * i, Leaf: record.Hash{1}, Box: []byte("box")}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	rounds := 0
	for more := true; more; rounds++ {
		var err error
		if more, err = s.(storage.OpeningsTrimmer).Trim(ctx, 50, 2); err != nil {
			t.Fatal(err)
		}
	}
	if rounds != 3 { // the third finds one opening, and no key
		t.Errorf("five openings went in %d rounds of two", rounds)
	}
	for i := range uint64(10) {
		if _, ok, err := s.Opening(ctx, 10*i); ok != (i >= 5) || err != nil {
			t.Errorf("opening of %d: %v, %v", 10*i, ok, err)
		}
	}
	trimKeys(t, s)
}

// trimKeys runs the part of the contract about wrapped keys.
func trimKeys(t *testing.T, s storage.Openings) {
	t.Helper()
	ctx := context.Background()
	put := func(key byte, index uint64) {
		t.Helper()
		box := make([]byte, 64)
		box[0] = 1
		id := record.KeyID{key}
		copy(box[1:], id[:])
		err := s.Put(ctx, []storage.Opening{{Index: index, Leaf: record.Hash{1, byte(index)}, Box: box}}, []storage.WrappedKey{{ID: id, Wrapped: []byte("wrapped")}})
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(below uint64, want ...byte) {
		t.Helper()
		for more, err := true, error(nil); more; {
			if more, err = s.(storage.OpeningsTrimmer).Trim(ctx, below, 3); err != nil {
				t.Fatal(err)
			}
		}
		var got []byte
		for key := range byte(10) {
			if _, ok, err := s.WrappedKey(ctx, record.KeyID{key}); err != nil {
				t.Fatal(err)
			} else if ok {
				got = append(got, key)
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("below %d, keys %v are kept, want %v", below, got, want)
		}
	}
	for i := range uint64(20) {
		put(1, 1000+i)
	}
	put(2, 1020)
	put(3, 1021)
	put(4, 1279)
	put(5, 1280)
	put(2, 1300) // and again, above
	put(6, 1530)
	check(768, 1, 2, 3, 4, 5, 6)
	check(1024, 2, 4, 5, 6)
	check(1280, 2, 5, 6)
	put(3, 1500) // a key may come back with something new
	check(1280, 2, 3, 5, 6)
	check(1536)
}
