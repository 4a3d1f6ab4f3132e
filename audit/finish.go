package audit

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// settle ends the waiting for records that have not come by the end of the log.
func (p *producers) settle() {
	for _, s := range slices.SortedFunc(maps.Values(p.streams), older) {
		for len(s.pending) > 0 || len(s.seals) > 0 {
			s.skip()
		}
	}
}

// finishStreams checks what only the end of the log can show.
func (p *producers) finishStreams() {
	list := slices.SortedFunc(maps.Values(p.streams), older)
	if p.a.vouched() {
		p.a.brackets.bound(p.a.head.Size, nanos(p.a.upper))
	}
	now := p.now(list)
	next, followed := followers(list), make(map[*stream]bool)
	linked := make(map[record.Stream]*stream)
	for _, s := range list {
		s.finishTail(now)
		p.finishRevoked(s)
		p.link(s, linked, list)
		if !followed[s] {
			s.finishFirst()
		}
		followed[next[s]] = true
		s.finishInterrupted(next[s], now)
	}
	p.checkLogKeys()
	if p.weak > 0 {
		weak := p.firstWeak
		weak.Detail = fmt.Sprintf("%d checkpoints in beacons are the log's own and of this history, but do not satisfy the policy (which may have been another one then), so they bound no time. The first: %s",
			p.weak, p.firstWeak.Detail)
		p.a.add(weak)
	}
	p.rows(list)
	p.finishCoverage(list, now)
	p.finishClosed()
	if p.ring == nil && p.a.head.Size == 0 {
		p.a.add(finding(GenesisInvalid, "the log is empty; every log has a genesis at index 0"))
	}
}

// older orders streams by when they began: those with records below the minimum
// index first, as the log names them.
func older(a, b *stream) int {
	switch {
	case a.base > 0 && b.base > 0:
		return cmp.Compare(a.order, b.order)
	case a.base > 0:
		return -1
	case b.base > 0:
		return 1
	}
	return cmp.Compare(a.firstIndex, b.firstIndex)
}

// now is the time of the head in Unix nanoseconds: when the quorum had cosigned
// it (not what a single witness says, whose clock may be wrong), or where nobody
// vouches for a time the latest claim of a record.
func (p *producers) now(list []*stream) (now int64) {
	if p.a.vouched() {
		return nanos(p.a.upper)
	}
	for _, s := range list {
		now = max(now, s.latest)
	}
	return now
}

func (s *stream) finishTail(now int64) {
	if s.tail == nil {
		return
	}
	if !s.a.vouched() {
		now = s.latest // the clocks of others prove nothing against it
	}
	n := s.next - s.tail.seq
	age := time.Duration(now - s.tail.time)
	text := fmt.Sprintf("the last %d records of producer %s, from sequence %d on, are under no seal of it", n, s.name, s.tail.seq)
	if age <= s.heartbeat+s.a.HeartbeatSlack {
		s.add(notice(UnsealedTail, "%s yet: the first is %s old", text, max(age, 0).Round(time.Millisecond)), s.tail.index, s.tail.seq)
		return
	}
	s.add(finding(UnsealedTail, "%s, although it is due every %s and the first is %s old: nothing proves that they are the producer's",
		text, s.heartbeat, age.Round(time.Millisecond)), s.tail.index, s.tail.seq)
}

func (s *stream) finishSilence(now int64) {
	s.add(notice(ProducerSilent, "producer %s has written nothing for %s and no stop record: it has died, or the end of its records is being withheld",
		s.name, lasted(now-s.latest)), s.lastIndex, s.next-1)
}

// finishRevoked tells of records that were taken before the operator revoked them.
func (p *producers) finishRevoked(s *stream) {
	if p.ring == nil || p.refused[s.id] || s.records == 0 {
		return
	}
	if _, ok := p.ring.Key(s.id.Producer); !ok {
		return
	}
	if _, err := p.ring.Admit(s.id, s.next-1); err != nil {
		s.add(notice(UnknownProducer, "the operator has since revoked records of producer %s that the log had taken: %v", s.name, err), s.lastIndex, s.next-1)
	}
}

// link checks that an incarnation takes up where the one before ended.
func (p *producers) link(s *stream, linked map[record.Stream]*stream, list []*stream) {
	if s.start == nil {
		return
	}
	prev := s.start.GetPrevious()
	if prev == nil {
		if before := earlier(s, list); before != nil {
			s.add(notice(IncarnationUnlinked, "incarnation %s of producer %s does not name a seal of the one before, %s: nothing but heartbeats bounds what that one may have lost at its end",
				s.id.Incarnation, s.name, before.id.Incarnation), s.firstIndex, 0)
		}
		return
	}
	id := record.Stream{Producer: s.id.Producer, Incarnation: fixed16(prev.GetIncarnation())}
	old, size := p.streams[id], prev.GetSize()
	other := linked[id]
	switch {
	case other != nil:
		s.add(notice(IncarnationBranched, "two incarnations of producer %s, %s and %s, both go on from incarnation %s: its spool was restored from an older copy, or two proxies run with its key. Nothing but heartbeats bounds what the first of the two may have lost at its end",
			s.name, other.id.Incarnation, s.id.Incarnation, id.Incarnation), s.firstIndex, 0)
	case old != nil && old.next > size:
		s.add(notice(IncarnationBranched, "producer %s wrote %d more records of incarnation %s than its incarnation %s knew of when it went on from there: its spool was restored from an older copy, or two proxies run with its key",
			s.name, old.next-size, id.Incarnation, s.id.Incarnation), s.firstIndex, 0)
	}
	linked[id] = s
	switch {
	case old == nil && size > 0 && p.before(s, prev, other, list):
	case old == nil && size > 0:
		s.add(finding(RecordMissing, "all %d records of incarnation %s of producer %s are missing from the log, although its next incarnation names its seal%s",
			size, id.Incarnation, s.name, p.unreadable()), s.firstIndex, 0)
	case old == nil:
	case old.next < size:
		s.add(finding(RecordMissing, "%s, although its next incarnation names a seal over %d records%s",
			missing(old.next, size-1, "incarnation "+id.Incarnation.String()+" of producer "+s.name), size, p.unreadable()), s.firstIndex, 0)
	default:
		if root, ok := old.past.rootAt(size); ok && !old.broken && !bytes.Equal(prev.GetRoot(), root[:]) {
			s.add(finding(SealMismatch, "the seal over %d records of incarnation %s that its next incarnation names is not one of its tree", size, id.Incarnation), s.firstIndex, 0)
		}
	}
}

// earlier returns the incarnation of the same producer that came before.
func earlier(s *stream, list []*stream) (before *stream) {
	for _, o := range list {
		if o == s {
			return before
		}
		if o.id.Producer == s.id.Producer {
			before = o
		}
	}
	return nil
}

// rows writes the report's table of producers.
func (p *producers) rows(list []*stream) {
	rows := make(map[keys.ID]*Producer)
	first, last := make(map[keys.ID]int64), make(map[keys.ID]int64)
	var order []keys.ID
	for _, s := range list {
		p.a.report.Lives = append(p.a.report.Lives, Life{Stream: s.id, Pruned: s.base, Records: s.next, Sealed: s.sealed, SealAt: s.sealAt})
		if s.records == 0 {
			continue // it lies below the minimum index
		}
		id := s.id.Producer
		r := rows[id]
		if r == nil {
			r = &Producer{Name: s.name, Key: id.String(), FirstIndex: s.firstIndex}
			rows[id], first[id], last[id] = r, s.firstTime, s.latest
			order = append(order, id)
		}
		r.Incarnations++
		r.Records += s.records
		r.Sealed += max(s.sealed, s.base) - s.base
		r.LastIndex = max(r.LastIndex, s.lastIndex)
		first[id], last[id] = min(first[id], s.firstTime), max(last[id], s.latest)
		r.First, r.Last = clock(first[id]), clock(last[id])
	}
	for _, id := range order {
		p.a.report.Producers = append(p.a.report.Producers, *rows[id])
	}
}

// claimStrays returns the altered records that can fill a hole of n records in
// the stream before the entry at the index, if there are exactly as many.
func (p *producers) claimStrays(s *stream, n, index uint64) []item {
	var list []item
	for _, it := range p.strays {
		if it.index < index && (s.records == 0 || it.index > s.lastIndex) && (it.stream == s.id || p.streams[it.stream] == nil) {
			list = append(list, it)
		}
	}
	if uint64(len(list)) != n || n == 0 {
		return nil
	}
	p.strays = slices.DeleteFunc(p.strays, func(it item) bool {
		return slices.ContainsFunc(list, func(x item) bool { return x.index == it.index })
	})
	return list
}

// unreadable says, where it is so, that missing records may be among altered ones.
func (p *producers) unreadable() string {
	if n := len(p.strays); n > 0 {
		return fmt.Sprintf(" (or among the %d altered entries that cannot be placed)", n)
	}
	return ""
}

// identify adds to the finding about an altered entry whose record it was.
func (f *findings) identify(index uint64, name string, id record.Stream, sequence uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, x := range f.list {
		if x.Code == EntryAltered && x.Index != nil && *x.Index == index {
			f.list[i] = x.of(name, id, sequence)
			f.list[i].Detail += fmt.Sprintf("; it was the record with sequence %d of producer %s", sequence, name)
		}
	}
}
