package audit

import (
	"slices"
	"time"
)

// brackets measures between which two times the witnesses place each record:
// after the newest beacon before it in its producer's tree was cosigned, and
// before the first cosigned checkpoint that covers it and that a beacon holds.
// Within its bracket a record can claim any time unseen.
type brackets struct {
	a    *auditor
	open []*run // not bounded from above yet
	size uint64 // everything below this index is bounded
}

// run is records of one stream between two of its beacons.
type run struct {
	s           *stream
	after       int64 // when the beacon before them was cosigned; 0 if there is none
	claimed     int64 // by the first of them
	first, last uint64
	sequence    uint64 // of the first
	closed      bool
}

// place takes a record in the order of its producer's tree.
func (b *brackets) place(s *stream, it *item) {
	if it.index < b.size {
		return // it came after what covers it: that has been measured
	}
	if r := s.run; r != nil && !r.closed && r.after == s.beacon {
		r.first, r.last = min(r.first, it.index), max(r.last, it.index)
		return
	}
	s.run = &run{s: s, after: s.beacon, claimed: it.time, first: it.index, last: it.index, sequence: it.seq}
	b.open = append(b.open, s.run)
}

// bound closes the brackets of the records below an index, which were there at
// a time.
func (b *brackets) bound(size uint64, unixNano int64) {
	if size <= b.size {
		return
	}
	b.size = size
	b.open = slices.DeleteFunc(b.open, func(r *run) bool {
		if r.first >= size {
			return false
		}
		b.measure(r, unixNano)
		r.first, r.closed = size, r.last < size
		return r.closed
	})
}

func (b *brackets) measure(r *run, unixNano int64) {
	from := r.after
	if from == 0 {
		from = r.claimed
	}
	width := time.Duration(unixNano - from)
	if r.after > 0 {
		b.a.report.Checked.WidestBracket = max(b.a.report.Checked.WidestBracket, width)
	}
	switch {
	case width <= b.a.MaxBracket:
	case r.after == 0:
		r.s.add(notice(BracketWide, "nothing shows that records of producer %s from sequence %d on are not younger than they say: no beacon stands before them, and they say %s, but were first cosigned at %s",
			r.s.name, r.sequence, clock(from), clock(unixNano)), r.first, r.sequence)
	default:
		r.s.add(notice(BracketWide, "records of producer %s from sequence %d on may have been made at any time in %s, from %s to %s: it or the log was cut off, or they were prepared or held back",
			r.s.name, r.sequence, width, clock(from), clock(unixNano)), r.first, r.sequence)
	}
}
