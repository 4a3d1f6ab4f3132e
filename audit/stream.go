package audit

import (
	"maps"
	"slices"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// maxPending bounds how many records, and how many seals, of one stream wait for
// a record before them. A record that comes later than that counts as missing.
const maxPending = 8192

// stream rebuilds one producer tree. The log's order means nothing here: records
// are placed by their sequence.
type stream struct {
	a    *auditor
	id   record.Stream
	name string

	base    uint64 // records below the log's minimum index
	order   int    // among the streams that have such records
	past    history
	broken  bool              // a record is missing or wrong: roots cannot be compared any more
	next    uint64            // sequence of the next record to place
	pending map[uint64]item   // records beyond next
	seals   map[uint64]sealed // seals over more than next records, by size
	signed  uint64            // largest size under a seal of the producer's, whatever its root
	sealed  uint64            // largest size under a seal whose root is right
	sealAt  uint64            // index of that seal

	records               uint64
	firstIndex, lastIndex uint64
	firstTime, latest     int64 // claimed
	beacon                int64 // when the newest checkpoint in a beacon was cosigned; 0 if there is none
	run                   *run  // of the newest record placed
	heartbeat             time.Duration
	start                 *sealtapv1.Start // of sequence 0
	stopped               bool             // the last record is a stop record
	clear                 uint64           // 1 more than the number of the statement under which all of it is admitted; 0 if there is none
	tail                  *claim           // the first record that no seal covers
	unsure                bool             // what stands before the next record is missing or altered
	silences              silences
	restarts              restarts
	closed                uint64 // exchanges whose outcome is unknown, right behind the start

	spans        []Span // for the coverage of a report
	hole         *Span  // missing records, until the next one that is there
	sealedTime   int64  // claimed by the last record under the seal; behind where a seal came late
	sealedBeacon int64  // beacon, as of then
}

// sealed is a seal whose signature is good.
type sealed struct {
	size, index uint64
	root        record.Hash
}

func (s *stream) add(f Finding, index, sequence uint64) {
	s.a.add(f.at(index).of(s.name, s.id, sequence))
}

// take takes a record of the stream, in whatever order they come.
func (s *stream) take(it *item) {
	if it.seq < s.next {
		leaf, known := s.past.leaf(it.seq)
		s.repeated(it, leaf, known)
		return
	}
	if old, ok := s.pending[it.seq]; ok {
		s.repeated(it, old.leaf, true)
		return
	}
	if it.seq > s.next {
		if s.pending == nil {
			s.pending = make(map[uint64]item)
		}
		s.pending[it.seq] = *it
		s.a.producers.wait(1)
		if len(s.pending) > maxPending {
			s.skip()
		}
		return
	}
	s.place(it)
	s.drain()
}

// repeated reports a second record of one sequence.
func (s *stream) repeated(it *item, first record.Hash, known bool) {
	switch {
	case known && first != it.leaf:
		s.add(finding(Fork, "producer %s has two different records with sequence %d: two lives of one key, or a forgery with it", s.name, it.seq), it.index, it.seq)
	case known:
		s.add(finding(RecordDuplicated, "the record with sequence %d of producer %s stands in the log a second time, at index %d", it.seq, s.name, it.index), it.index, it.seq)
	default:
		s.add(finding(RecordDuplicated, "a record with sequence %d of producer %s stands at index %d, too far behind its place to tell whether it is there already",
			it.seq, s.name, it.index), it.index, it.seq)
	}
}

// drain places the records that have waited for the one just placed.
func (s *stream) drain() {
	for len(s.pending) > 0 {
		it, ok := s.pending[s.next]
		if !ok {
			return
		}
		delete(s.pending, s.next)
		s.a.producers.wait(-1)
		s.place(&it)
	}
}

// place adds the next record to the tree.
func (s *stream) place(it *item) {
	if s.records == 0 {
		s.firstIndex, s.firstTime = it.index, it.time
	}
	s.records++
	s.firstIndex, s.lastIndex = min(s.firstIndex, it.index), max(s.lastIndex, it.index)
	if it.seq >= s.signed && s.tail == nil {
		s.tail = &claim{time: it.time, index: it.index, seq: it.seq}
	}
	if it.altered {
		s.a.coverage.altered(s, it)
		s.unsure = true
	} else {
		s.inspect(it)
	}
	if !s.broken {
		s.a.producers.hold(s.past.append(it.leaf))
	}
	s.next = it.seq + 1
	if seal, ok := s.seals[s.next]; ok {
		s.dropSeal(s.next)
		s.compare(seal)
	}
}

// takeSeal takes a seal whose signature is good.
func (s *stream) takeSeal(seal sealed) {
	if seal.size > s.signed {
		s.signed = seal.size
		if s.tail != nil && s.tail.seq < seal.size {
			s.tail = nil
		}
	}
	if seal.size <= s.next {
		s.compare(seal)
		return
	}
	if s.seals == nil {
		s.seals = make(map[uint64]sealed)
	}
	old, again := s.seals[seal.size]
	if again && old.root != seal.root {
		s.add(finding(Fork, "producer %s has signed two different trees of %d records", s.name, seal.size), seal.index, seal.size-1)
	}
	s.seals[seal.size] = seal
	if !again {
		s.a.producers.wait(1)
	}
	if len(s.seals) > maxPending {
		s.skip()
	}
}

// dropSeal ends the waiting of a seal, if there is one over so many records.
func (s *stream) dropSeal(size uint64) {
	if _, ok := s.seals[size]; ok {
		delete(s.seals, size)
		s.a.producers.wait(-1)
	}
}

// compare compares a seal with the tree rebuilt from the records.
func (s *stream) compare(seal sealed) {
	if s.broken || seal.size < s.base {
		return // what broke the tree has been reported
	}
	last := seal.size
	if last > 0 {
		last--
	}
	root, ok := s.past.rootAt(seal.size)
	switch {
	case !ok:
		s.add(finding(SealMismatch, "the seal over %d records of producer %s stands too far behind them to be compared", seal.size, s.name), seal.index, last)
	case root == seal.root && seal.size == s.sealed && seal.size > 0:
		s.add(notice(RecordDuplicated, "the seal over %d records of producer %s stands in the log again, at index %d, which changes nothing", seal.size, s.name, seal.index), seal.index, last)
	case root == seal.root:
		if seal.size > s.sealed {
			s.sealed, s.sealAt = seal.size, seal.index
			if seal.size == s.next {
				s.a.coverage.sealed(s)
			}
		}
	case seal.size <= s.sealed:
		s.add(finding(Fork, "producer %s has signed another tree of %d records than the one that its later seal covers", s.name, seal.size), seal.index, last)
	default:
		s.broken = true
		s.add(finding(SealMismatch, "the records of producer %s are not those that it sealed: one with a sequence from %d to %d has been replaced, and its seals after that prove nothing",
			s.name, s.sealed, last), seal.index, last)
	}
}

// skip ends the waiting for records that have not come: it puts altered records
// into the hole where they fit, or reports it.
func (s *stream) skip() {
	before, until, seal := s.next, uint64(0), false
	if len(s.seals) > 0 {
		until, seal = slices.Min(slices.Collect(maps.Keys(s.seals))), true
	}
	if len(s.pending) > 0 {
		if n := slices.Min(slices.Collect(maps.Keys(s.pending))); !seal || n < until {
			until, seal = n, false
		}
	}
	index := s.seals[until].index
	if !seal {
		index = s.pending[until].index
	}
	if list := s.a.producers.claimStrays(s, until-before, index); list != nil {
		for i := range list {
			s.a.identify(list[i].index, s.name, s.id, s.next)
			list[i].seq, list[i].time = s.next, s.latest // what it says of itself is not to be trusted
			s.place(&list[i])
		}
		s.drain()
		return
	}
	how := "a later one is there"
	if seal {
		how = "a seal of the producer's covers it"
	}
	s.add(finding(RecordMissing, "%s, although %s, at index %d%s",
		missing(before, until-1, "producer "+s.name), how, index, s.a.producers.unreadable()), index, before)
	s.a.coverage.lost(s, before, until-1)
	s.broken, s.unsure, s.next = true, true, until
	s.dropSeal(until)
	s.drain()
}
