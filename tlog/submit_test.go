package tlog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog"
)

// isFork and isSequence match errors by type.
func isFork(err error) bool {
	var e *tlog.ForkError
	return errors.As(err, &e)
}

func expected(n uint64) func(error) bool {
	return func(err error) bool {
		var e *tlog.SequenceError
		return errors.As(err, &e) && e.Expected == n
	}
}

func is(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }

func TestSubmitRules(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1") // index 1
	stranger := newProducer(t, newKey(t, "proxy-1", keys.Ed25519))
	genesis, err := record.NewGenesis(f.key.Public, f.operator, time.Now())
	if err != nil {
		t.Fatal(err)
	}

	// The stored history: records 0 to 4, a seal, records 5 to 7, a seal.
	start := p.clone()
	one := p.batch(5)
	middle := p.clone()
	two := p.batch(3)
	f.mustSubmit(one...)
	f.mustSubmit(two...)

	fork := start.clone()
	forked := append([][]byte{fork.record("another first record")}, fork.batch(4)...)
	lateFork := middle.clone()
	lateForked := append([][]byte{lateFork.record("another sixth record")}, lateFork.batch(5)...)
	beyond := p.clone()
	beyond.batch(2)
	other := newProducer(t, p.key)
	impostor := newProducer(t, stranger.key)
	impostor.stream = p.stream
	impostor.tree = p.tree.Clone()
	wrongRoot := p.clone()
	wrong := [][]byte{wrongRoot.record("a"), wrongRoot.sealOf(9, record.Hash{1})}
	unknownKind := append([]byte{record.Version, 9}, "later"...)

	for name, c := range map[string]struct {
		entries [][]byte
		want    func(error) bool
	}{
		"nothing":                  {nil, is(tlog.ErrRefused)},
		"garbage":                  {[][]byte{[]byte("garbage")}, is(tlog.ErrRefused)},
		"empty entry":              {[][]byte{{}}, is(tlog.ErrRefused)},
		"genesis":                  {[][]byte{genesis}, is(tlog.ErrRefused)},
		"unknown kind":             {[][]byte{unknownKind}, is(tlog.ErrRefused)},
		"too long":                 {[][]byte{make([]byte, record.MaxEntry+1)}, is(tlog.ErrTooLarge)},
		"no seal":                  {p.clone().batch(3)[:3], is(tlog.ErrRefused)},
		"seal covers less":         {[][]byte{p.clone().record("a"), p.sealOf(8, p.tree.Root())}, is(tlog.ErrRefused)},
		"seal covers more":         {[][]byte{p.clone().record("a"), p.sealOf(10, p.tree.Root())}, is(tlog.ErrRefused)},
		"hole within":              {[][]byte{one[0], one[2], one[5]}, is(tlog.ErrRefused)},
		"seal of another stream":   {[][]byte{p.clone().record("a"), other.clone().batch(1)[1]}, is(tlog.ErrRefused)},
		"record of another stream": {append([][]byte{p.clone().record("a")}, other.clone().batch(1)...), is(tlog.ErrRefused)},
		"unknown producer":         {stranger.batch(1), is(record.ErrUnknownProducer)},
		"signed by another":        {impostor.batch(1), is(tlog.ErrSignature)},
		"hole before":              {beyond.batch(1), expected(8)},
		"hole in a new stream":     {other.clone().batch(2)[1:], expected(0)},
		"root":                     {wrong, isFork},
		"fork at the start":        {forked, isFork},
		"fork, and beyond":         {lateForked, isFork},
		"seal of size 0":           {[][]byte{start.sealOf(0, start.tree.Root())}, expected(9)},
		"another seal":             {[][]byte{p.sealOf(5, record.Hash{1})}, isFork},
	} {
		t.Run(name, func(t *testing.T) {
			size := f.log.Size()
			resp, err := f.submit(c.entries...)
			if err == nil || !c.want(err) {
				t.Errorf("answer %v, %v", resp, err)
			}
			if f.log.Size() != size {
				t.Errorf("it was stored: size %d, was %d", f.log.Size(), size)
			}
		})
	}
	// After all that the stream goes on.
	f.mustSubmit(p.batch(2)...)
	f.checkTree()
}

func TestRepeats(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	q := f.producer("proxy-2") // entries 1 and 2 are key changes
	a, b, c := p.batch(5), p.batch(3), p.batch(2)
	d := q.batch(4)
	f.mustSubmit(a...) // 3 to 8
	f.mustSubmit(d...) // 9 to 13
	f.mustSubmit(b...) // 14 to 17
	runs := func(entries ...[][]byte) string {
		var all [][]byte
		for _, e := range entries {
			all = append(all, e...)
		}
		var s string
		for _, r := range f.mustSubmit(all...).Runs {
			s += fmt.Sprintf("%d@%d+%d ", r.FirstItem, r.FirstIndex, r.Count)
		}
		return s
	}
	for _, step := range []struct {
		name, got, want string
		size            uint64
	}{
		{"a batch", runs(a), "0@3+6 ", 18},
		{"the end of a batch", runs(a[2:]), "0@5+4 ", 18},
		{"a bare seal", runs(a[5:]), "0@8+1 ", 18},
		{"two batches", runs(a, b), "0@3+6 6@14+4 ", 18},
		{"batches of two streams", runs(d, a), "0@9+5 5@3+6 ", 18},
		{"overlap with new ones", runs(a[3:], b, c), "0@6+3 3@14+7 ", 21},
		{"all of it", runs(a, b, c), "0@3+6 6@14+7 ", 21},
		{"overlap within a run", runs(append(c[1:2:2], c[2])), "0@19+2 ", 21},
	} {
		if step.got != step.want {
			t.Errorf("%s: runs %s, want %s", step.name, step.got, step.want)
		}
	}
	if f.log.Size() != 21 {
		t.Errorf("size %d, want 21", f.log.Size())
	}
	// A run of which the first part is stored, under a seal of its own.
	e := append([][]byte{}, p.batch(2)...)
	g := append(e[:2:2], p.batch(2)...)
	f.mustSubmit(e...) // 21 to 23
	if got, want := runs(g), "0@21+2 2@24+3 "; got != want {
		t.Errorf("a run across a stored seal: %s, want %s", got, want)
	}
	f.checkTree()
}

// TestSealOfAnOlderCopy submits what a spool does that was put back from an older
// copy: records that are stored, under seals that were never made before.
func TestSealOfAnOlderCopy(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1") // index 1
	copied := p.clone()
	six := p.batch(6)
	f.mustSubmit(six...) // 2 to 8
	var recut [][]byte
	for i, entry := range six[:6] {
		e, err := record.Parse(entry)
		if err != nil {
			t.Fatal(err)
		}
		copied.tree.Append(e.Leaf, nil)
		recut = append(recut, entry)
		if i == 2 || i == 4 {
			recut = append(recut, copied.seal())
		}
	}
	size := f.log.Size()
	var got string
	for _, r := range f.mustSubmit(recut[:7]...).Runs {
		got += fmt.Sprintf("%d@%d+%d ", r.FirstItem, r.FirstIndex, r.Count)
	}
	if want := "0@2+3 4@5+2 "; got != want {
		t.Errorf("runs %s, want %s: the seals, items 3 and 6, are left out", got, want)
	}
	if f.log.Size() != size {
		t.Errorf("it was stored: size %d, was %d", f.log.Size(), size)
	}
	// The records before a seal may have been freed since.
	if runs := f.mustSubmit(recut[6]).Runs; len(runs) > 0 || f.log.Size() != size {
		t.Errorf("a bare seal: runs %v, size %d, was %d", runs, f.log.Size(), size)
	}
	// What comes behind them is taken.
	other := newProducer(t, p.key)
	f.mustSubmit(append(recut[:7:7], other.batch(2)...)...)
	f.mustSubmit(p.batch(1)...)
	f.checkTree()
}

func TestForkEvidence(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	start := p.clone()
	stored := p.batch(3)
	f.mustSubmit(stored...)
	forked := append([][]byte{start.record("another record")}, start.batch(3)...)

	// A record of one's own making under a seal that is public proves nothing.
	garbled := [][]byte{forked[0], stored[1], stored[2], stored[3]}
	if _, err := f.submit(garbled...); !isFork(err) {
		t.Errorf("a made-up record: %v", err)
	}
	if forks, err := f.storage.Forks(context.Background()); len(forks) > 0 || err != nil {
		t.Errorf("kept %v, %v", forks, err)
	}
	for range 2 {
		_, err := f.submit(forked...)
		var fork *tlog.ForkError
		if !errors.As(err, &fork) || fork.Sequence != 0 || fork.Index != 2 || !fork.Known {
			t.Fatalf("fork: %v", err)
		}
	}
	forks, err := f.storage.Forks(context.Background())
	if err != nil || len(forks) != 1 {
		t.Fatalf("kept %v, %v", forks, err)
	}
	if k := forks[0]; k.Stream != p.stream || k.Sequence != 0 || k.Index != 2 || !bytes.Equal(k.Entry, forked[0]) || !bytes.Equal(k.Seal, forked[4]) {
		t.Errorf("kept %+v", k)
	}
}

func TestKeyChanges(t *testing.T) {
	f := newFixture(t).start()
	p := newProducer(t, newKey(t, "proxy-1", keys.Ed25519))
	entry, resp := f.change(record.KeyChange{Enrol: []keys.Public{p.key.Public}})
	if r := resp.Runs; len(r) != 1 || r[0].FirstIndex != 1 {
		t.Errorf("runs %v", r)
	}
	if r := f.mustSubmit(entry).Runs; len(r) != 1 || r[0].FirstIndex != 1 || f.log.Size() != 2 {
		t.Errorf("the same statement again: runs %v, size %d", r, f.log.Size())
	}
	if _, err := f.submit(append([][]byte{entry}, p.clone().batch(1)...)...); !errors.Is(err, tlog.ErrRefused) {
		t.Errorf("a key change among others: %v", err)
	}
	stranger := newKey(t, "operator", keys.Ed25519)
	q := newProducer(t, newKey(t, "proxy-2", keys.Ed25519))
	statement := func(by *keys.Private, origin string, number uint64) []byte {
		c, err := record.NewKeyChange(record.KeyChange{Origin: origin, Number: number, Enrol: []keys.Public{q.key.Public}}, by)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, c := range map[string]struct {
		entry []byte
		want  func(error) bool
	}{
		"another operator": {statement(stranger, f.key.Name, 2), is(record.ErrStatement)},
		"another log":      {statement(f.operator, "log.example/two", 2), is(record.ErrStatement)},
		"number again":     {statement(f.operator, f.key.Name, 1), expected(2)},
		"number skipped":   {statement(f.operator, f.key.Name, 3), expected(2)},
		"number 0":         {statement(f.operator, f.key.Name, 0), is(tlog.ErrRefused)},
	} {
		if _, err := f.submit(c.entry); err == nil || !c.want(err) {
			t.Errorf("%s: %v", name, err)
		}
	}

	f.mustSubmit(p.batch(4)...)
	later := p.clone()
	f.change(record.KeyChange{Revoke: []record.Revocation{{Key: p.key.Public, Last: []record.LastSequence{{Incarnation: p.stream.Incarnation, Sequence: 5}}}}})
	check := func() {
		t.Helper()
		if _, err := f.submit(later.clone().batch(3)...); !errors.Is(err, record.ErrRevoked) {
			t.Errorf("beyond the last admissible sequence: %v", err)
		}
		if _, err := f.submit(newProducer(t, p.key).batch(1)...); !errors.Is(err, record.ErrRevoked) {
			t.Errorf("a new incarnation of a revoked key: %v", err)
		}
	}
	check()
	f.mustSubmit(later.clone().batch(2)...)
	f.restart()
	check()
	if _, err := f.submit(entry); err != nil {
		t.Errorf("the first statement again, after a restart: %v", err)
	}
	f.checkTree()
}

func request(entries ...[]byte) *sealtapv1.SubmitRequest {
	req := new(sealtapv1.SubmitRequest)
	for _, e := range entries {
		req.Items = append(req.Items, &sealtapv1.Item{Entry: e})
	}
	return req
}
