package query

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"
)

// A trace can have more entries than one group of a bucket, and so many that their
// list is as long as a bitmap would be.
func TestTraceOfManyEntries(t *testing.T) {
	l := newMemLog(t)
	p := l.enrol("edge")[0]
	var want []uint64
	trace := id(123_456)
	for i := range 1500 {
		r := request(i, "ann", "pay", "GET", "/")
		if i < 700 || i%17 == 0 {
			r.GetRequest().Trace = trace
			want = append(want, p.add(r))
		} else {
			p.add(r)
		}
	}
	l.publish()
	slices.Reverse(want)
	for _, segment := range []uint64{256, 1024} {
		path := indexFile(t)
		for range 2 {
			ix, stop := follow(t, path, l, Config{segment: segment})
			caughtUp(t, ix)
			h := ix.Handler(HandlerConfig{Proofs: l})
			if got := all(t, h, "trace="+hex.EncodeToString(trace)); !slices.Equal(got, want) {
				t.Errorf("segments of %d: %d entries found, want %d", segment, len(got), len(want))
			}
			stop()
		}
	}
}

func FuzzBuckets(f *testing.F) {
	f.Add([]byte{1, 2, 3, 1, 2, 3, 9, 9, 9}, []byte{})
	f.Add(bytes.Repeat([]byte{7, 0, 0, 7, 1, 0}, 300), bytes.Repeat([]byte{1}, 18))
	f.Fuzz(func(t *testing.T, raw, stored []byte) {
		tail := idTail{newest: make(map[uid]uint32)}
		want := make(map[uid][]uint16)
		for ; len(raw) > 2; raw = raw[3:] {
			x := uid{fieldExchange, [16]byte{0: raw[0], 15: raw[0] / 3}}
			if raw[0]%2 == 1 {
				x.field = fieldTrace
			}
			lo := uint16(raw[1]) | uint16(raw[2])<<8
			tail.add(idPosting{x, lo})
			want[x] = insert(want[x], lo)
		}
		got := make(map[uid][]uint16)
		for postings := range idBuckets(tail.list) {
			bucket := appendIDs(nil, postings)
			for _, p := range postings {
				members, err := membersOf(bucket, p.uid)
				if err != nil {
					t.Fatal(err)
				}
				s := newSet(1 << 16)
				if err := s.addAll(members); err != nil {
					t.Fatal(err)
				}
				got[p.uid] = nil
				s.each(func(lo uint16) { got[p.uid] = append(got[p.uid], lo) })
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d ids come back as %d", len(want), len(got))
		}
		for x := range want {
			if !slices.Equal(got[x], want[x]) {
				t.Errorf("%x: %v comes back as %v", x.value, want[x], got[x])
			}
		}
		_, _ = membersOf(stored, uid{}) // must not panic
	})
}
