package query

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/url"
	"slices"
	"testing"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/storage"
)

func FuzzParseSearch(f *testing.F) {
	good := formatCursor(77, searchDigest(url.Values{"who": {"ann"}}))
	for _, s := range []string{
		"", "who=ann&cursor=" + good, "status=4xx&path=/x*&limit=10", "since=2026-01-01T00:00:00Z&until=2026-01-01T00:00:00.5%2b02:00",
		"exchange=01234567-89ab-7cde-8f01-23456789abcd", "trace=0123456789abcdef0123456789abcdef", "stage=gap&producer=x", "who=a;b", "who=%ff&&=",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := parseSearch(raw, func(string) []keys.ID { return []keys.ID{{1}} })
		if err != nil {
			return
		}
		if q.limit < 1 || q.limit > maxLimit || len(q.clauses) == 0 || q.before > math.MaxInt64 {
			t.Errorf("%q gives %+v", raw, q)
		}
		for i, c := range q.clauses {
			if c.prefix && slices.ContainsFunc(q.clauses[i:], func(c clause) bool { return !c.prefix }) {
				t.Errorf("%q searches by prefix first", raw)
			}
			for _, v := range c.values {
				if len(v) > maxTerm {
					t.Errorf("%q gives a term of %d bytes", raw, len(v))
				}
			}
		}
	})
}

func FuzzCursor(f *testing.F) {
	digest := [8]byte{1, 2, 3}
	f.Add(formatCursor(5, digest))
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, s string) {
		// A cursor has one spelling.
		if index, err := parseCursor(s, digest); err == nil && formatCursor(index, digest) != s {
			t.Errorf("%q is accepted as the cursor %d", s, index)
		}
	})
}

func FuzzMembers(f *testing.F) {
	f.Add([]byte{1, 0, 2, 0}, []byte{})
	f.Add(bytes.Repeat([]byte{7, 3}, 200), bytes.Repeat([]byte{0xff}, 128))
	f.Fuzz(func(t *testing.T, raw, stored []byte) {
		const segment = 1024
		var list []uint16
		for ; len(raw) > 1; raw = raw[2:] {
			list = insert(list, binary.LittleEndian.Uint16(raw)%segment)
		}
		s := newSet(segment)
		if err := s.or(encodeMembers(list, segment)); err != nil {
			t.Fatal(err)
		}
		var got []uint16
		s.each(func(lo uint16) { got = append(got, lo) })
		if !slices.Equal(got, list) {
			t.Errorf("%v comes back as %v", list, got)
		}
		last := s.last(5)
		slices.Reverse(last)
		if !slices.Equal(last, list[max(0, len(list)-5):]) {
			t.Errorf("the last of %v are %v", list, last)
		}
		_ = newSet(segment).or(stored) // must not panic
		_ = decodeTimes(stored, func(int64) bool { return true })
	})
}

func FuzzSplitBundle(f *testing.F) {
	f.Add(storage.AppendEntry(storage.AppendEntry(nil, []byte("a")), nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, err := splitBundle(raw)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range entries {
			again = storage.AppendEntry(again, e)
		}
		if !bytes.Equal(again, raw) || len(entries) > bundleWidth {
			t.Errorf("%x is cut into %d entries", raw, len(entries))
		}
	})
}

func TestBundlesAreBounded(t *testing.T) {
	l := newMemLog(t)
	shop(l, l.enrol("edge"), 2000)
	b := newBundles(l, 60_000)
	for _, n := range []uint64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3, 2, 1, 0} {
		if _, err := b.leaf(t.Context(), n*256+9); err != nil {
			t.Fatal(err)
		}
		sum := 0
		for e := b.order.Front(); e != nil; e = e.Next() {
			sum += e.Value.(*bundle).bytes
		}
		if sum != b.bytes || len(b.byN) != b.order.Len() || sum > 60_000 && len(b.byN) > 1 || len(b.byN) == 0 {
			t.Errorf("%d bundles of %d bytes are remembered, counted are %d", b.order.Len(), sum, b.bytes)
		}
	}
}

func TestTimes(t *testing.T) {
	want := []int64{0, math.MaxInt64, math.MinInt64, 5, -5, 1_790_000_000_000_000_000}
	var got []int64
	if err := decodeTimes(encodeTimes(want), func(x int64) bool { got = append(got, x); return true }); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}
