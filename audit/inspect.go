package audit

import (
	"bytes"
	"fmt"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// inspect checks what a record says, in the order of its producer's tree.
func (s *stream) inspect(it *item) {
	s.inspectTime(it)
	if _, ok := it.about.(*sealtapv1.Start); it.seq == 0 && !ok {
		s.add(finding(StartMissing, "incarnation %s of producer %s does not begin with a start record, so nothing ties it to the one before", s.id.Incarnation, s.name), it.index, 0)
	}
	switch about := it.about.(type) {
	case *sealtapv1.Start:
		s.inspectStart(it, about)
	case *sealtapv1.Gap:
		s.add(notice(GapDeclared, "producer %s declares %d exchanges without records between %s and %s: %s",
			s.name, about.GetExchanges(), clock(about.GetSince()), clock(about.GetUntil()), about.GetReason()), it.index, it.seq)
		s.a.coverage.span(s, Span{Kind: SpanGap, From: at(about.GetSince()), To: at(about.GetUntil()), First: it.seq, Last: it.seq, Count: about.GetExchanges(), Reason: about.GetReason()})
	}
	_, s.stopped = it.about.(*sealtapv1.Stop)
}

func (s *stream) inspectStart(it *item, start *sealtapv1.Start) {
	if ns := start.GetHeartbeatNs(); ns > 0 {
		s.heartbeat = time.Duration(min(ns, uint64(maxHeartbeat)))
	}
	if it.seq == 0 {
		s.start = start
		return
	}
	// A start within an incarnation goes on with it.
	prev := start.GetPrevious()
	if prev == nil || record.Incarnation(fixed16(prev.GetIncarnation())) != s.id.Incarnation {
		return
	}
	root, known := s.past.rootAt(prev.GetSize())
	if prev.GetSize() > it.seq || known && !s.broken && !bytes.Equal(prev.GetRoot(), root[:]) {
		s.add(finding(SealMismatch, "producer %s went on after a seal over %d records that is not one of this tree", s.name, prev.GetSize()), it.index, it.seq)
	}
}

// inspectTime checks the time that a record claims: not before the newest beacon
// before it in its tree was cosigned, nor after the checkpoint under audit was,
// nor before the record before it.
func (s *stream) inspectTime(it *item) {
	s.beacon = max(s.beacon, it.beacon)
	s.a.brackets.place(s, it)
	s.interrupted(it)
	skew := int64(s.a.Skew)
	upper, bounded := nanos(s.a.upper), s.a.vouched()
	switch {
	case it.time < s.beacon-skew:
		s.add(finding(TimeOrder, "the record says it was made at %s, but the beacon before it holds a checkpoint cosigned at %s: it is backdated",
			clock(it.time), clock(s.beacon)), it.index, it.seq)
	case bounded && it.time > upper+skew:
		s.add(finding(TimeOrder, "the record says it was made at %s, but the log was cosigned with it at %s: it was prepared for later",
			clock(it.time), clock(upper)), it.index, it.seq)
	case s.records > 1 && it.time < s.latest-skew:
		s.add(finding(TimeOrder, "the record says it was made at %s, but one before it in the tree of producer %s was at %s: its clock ran backwards",
			clock(it.time), s.name, clock(s.latest)), it.index, it.seq)
	case s.beacon > 0:
		s.a.bracketed++
	}
	if s.records == 1 || it.time > s.latest {
		s.latest = it.time
	}
}

// fixed16 returns 16 bytes, or zeroes if there are not as many.
func fixed16(b []byte) (out [16]byte) {
	if len(b) == len(out) {
		copy(out[:], b)
	}
	return out
}

// missing says that records of an owner are.
func missing(first, last uint64, owner string) string {
	if first == last {
		return fmt.Sprintf("the record with sequence %d of %s is missing from the log", first, owner)
	}
	return fmt.Sprintf("the %d records with sequences %d to %d of %s are missing from the log", last-first+1, first, last, owner)
}
