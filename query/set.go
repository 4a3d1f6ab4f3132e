package query

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// errDamaged is wrapped where the index file holds something that was never
// written to it.
var errDamaged = errors.New("damaged search index")

// set is a set of entries of one segment, one bit each.
type set []uint64

func newSet(segment uint64) set { return make(set, (segment+63)/64) }

func (s set) add(lo uint16)    { s[lo/64] |= 1 << (lo % 64) }
func (s set) remove(lo uint16) { s[lo/64] &^= 1 << (lo % 64) }

func (s set) and(o set) {
	for i := range s {
		s[i] &= o[i]
	}
}

func (s set) empty() bool {
	for _, w := range s {
		if w != 0 {
			return false
		}
	}
	return true
}

// cut removes everything from end on.
func (s set) cut(end uint64) {
	for i := range s {
		switch first := uint64(i) * 64; {
		case first >= end:
			s[i] = 0
		case first+64 > end:
			s[i] &= 1<<(end-first) - 1
		}
	}
}

// each visits the members in ascending order.
func (s set) each(visit func(lo uint16)) {
	for i, w := range s {
		for ; w != 0; w &= w - 1 {
			visit(uint16(i*64 + bits.TrailingZeros64(w)))
		}
	}
}

// last returns the greatest members, at most n, greatest first.
func (s set) last(n int) []uint16 {
	var list []uint16
	for i := len(s) - 1; i >= 0 && len(list) < n; i-- {
		for w := s[i]; w != 0 && len(list) < n; {
			b := 63 - bits.LeadingZeros64(w)
			list = append(list, uint16(i*64+b))
			w &^= 1 << b
		}
	}
	return list
}

// or adds the members that encodeMembers encoded.
func (s set) or(members []byte) error {
	if len(members) == 8*len(s) {
		for i := range s {
			s[i] |= binary.LittleEndian.Uint64(members[8*i:])
		}
		return nil
	}
	if len(members) > 8*len(s) {
		return fmt.Errorf("%w: a set of %d bytes", errDamaged, len(members))
	}
	return s.addAll(members)
}

// addAll adds members written as 16-bit numbers.
func (s set) addAll(members []byte) error {
	if len(members)%2 != 0 {
		return fmt.Errorf("%w: a set of %d bytes", errDamaged, len(members))
	}
	for ; len(members) > 0; members = members[2:] {
		lo := binary.LittleEndian.Uint16(members)
		if int(lo) >= 64*len(s) {
			return fmt.Errorf("%w: member %d of a segment of %d", errDamaged, lo, 64*len(s))
		}
		s.add(lo)
	}
	return nil
}

// encodeMembers writes few members as 16-bit numbers and many as a bitmap: the
// lengths tell them apart.
func encodeMembers(members []uint16, segment uint64) []byte {
	s := newSet(segment)
	if 2*len(members) < 8*len(s) {
		b := make([]byte, 0, 2*len(members))
		for _, lo := range members {
			b = binary.LittleEndian.AppendUint16(b, lo)
		}
		return b
	}
	for _, lo := range members {
		s.add(lo)
	}
	b := make([]byte, 0, 8*len(s))
	for _, w := range s {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// insert adds a member to a sorted list.
func insert(list []uint16, lo uint16) []uint16 {
	if len(list) == 0 || list[len(list)-1] < lo {
		return append(list, lo)
	}
	i, found := slices.BinarySearch(list, lo)
	if found {
		return list
	}
	return slices.Insert(list, i, lo)
}

// encodeTimes writes times as differences, each as a varint.
func encodeTimes(times []int64) []byte {
	b := make([]byte, 0, 5*len(times))
	var before int64
	for _, t := range times {
		b = binary.AppendVarint(b, t-before)
		before = t
	}
	return b
}

// decodeTimes is the inverse of encodeTimes.
func decodeTimes(b []byte, visit func(t int64) bool) error {
	var t int64
	for len(b) > 0 {
		d, n := binary.Varint(b)
		if n <= 0 {
			return fmt.Errorf("%w: times end within one", errDamaged)
		}
		t, b = t+d, b[n:]
		if !visit(t) {
			return fmt.Errorf("%w: more times than records", errDamaged)
		}
	}
	return nil
}
