package audit

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/sealtap/sealtap/record"
)

// bounded is an auditor that looks at streams only, and soon reaches its bounds.
func bounded() *auditor {
	a := &auditor{report: new(Report)}
	a.producers = newProducers(a)
	a.brackets.a = a
	a.producers.maxHeld, a.producers.maxWaiting = 3000, 100
	return a
}

func streamNo(n uint64) (id record.Stream) {
	binary.BigEndian.PutUint64(id.Incarnation[:], n)
	return id
}

func leafOf(stream, seq uint64) (h record.Hash) {
	binary.BigEndian.PutUint64(h[:], stream)
	binary.BigEndian.PutUint64(h[8:], seq)
	return h
}

// However many producers there are, only so many leaves are held; and of each its
// root now, and of those that write its roots of late.
func TestHeld(t *testing.T) {
	a, r := bounded(), rand.New(rand.NewPCG(1, 1))
	trees := make(map[uint64]*record.Tree)
	roots := make(map[uint64][]record.Hash)
	for i := range uint64(8000) {
		n := r.Uint64N(100)
		if i < 3000 {
			n %= 3 // a few that have long histories
		}
		if trees[n] == nil {
			trees[n], roots[n] = record.NewTree(), []record.Hash{record.NewTree().Root()}
		}
		leaf := leafOf(n, trees[n].Size())
		s := a.producers.stream(streamNo(n))
		s.take(&item{index: i, leaf: leaf, kind: record.KindRecord, stream: s.id, seq: trees[n].Size()})
		trees[n].Append(leaf, nil)
		roots[n] = append(roots[n], trees[n].Root())
		held := 0
		for _, s := range a.producers.streams {
			held += len(s.past.leaves)
		}
		if held > 3000 || held != a.producers.held {
			t.Fatalf("entry %d: %d leaves are held, counted are %d", i, held, a.producers.held)
		}
		late := r.Uint64N(12)
		if size := trees[n].Size(); late <= size && late < uint64(len(s.past.leaves)) {
			if root, ok := s.past.rootAt(size - late); !ok || root != roots[n][size-late] {
				t.Fatalf("entry %d: root at %d of %d is %v, %v", i, size-late, size, root, ok)
			}
		}
		if root, ok := s.past.rootAt(trees[n].Size()); !ok || root != trees[n].Root() {
			t.Fatalf("entry %d: another root", i)
		}
	}
}

// However many producers have holes, only so much waits for them to be filled: those
// with most are told first that something is missing, and the others are not.
func TestWaiting(t *testing.T) {
	a := bounded()
	index := uint64(0)
	take := func(n, seq uint64) {
		index++
		a.producers.stream(streamNo(n)).take(&item{index: index, leaf: leafOf(n, seq), kind: record.KindRecord, stream: streamNo(n), seq: seq})
		waiting := 0
		for _, s := range a.producers.streams {
			waiting += s.waiting()
		}
		if waiting > 100 || waiting != a.producers.waiting {
			t.Fatalf("%d wait, counted are %d", waiting, a.producers.waiting)
		}
	}
	take(1, 1) // an honest one, two of whose records were swapped
	for seq := uint64(2); seq < 400; seq += 2 {
		take(2, seq)
	}
	take(1, 0)
	missing := 0
	for _, f := range a.list {
		if f.Code == RecordMissing {
			if missing++; f.Incarnation != streamNo(2).Incarnation.String() {
				t.Fatalf("%+v", f)
			}
		}
	}
	if missing == 0 || a.producers.streams[streamNo(1)].broken {
		t.Fatalf("%d are missing", missing)
	}
}
