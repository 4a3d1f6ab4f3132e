package audit

import (
	"fmt"
	"time"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// Where a producer's history is interrupted without a record being missing: silences
// longer than its heartbeat allows, and lives that ended without a stop record. A
// report draws what is found here, and an audit says it. What is kept does not grow
// with their number.

// silences are those of one life.
type silences struct {
	count   uint64
	total   int64 // nanoseconds of all of them
	longest silence
}

// silence is one, with the record that ended it.
type silence struct {
	from, to   int64 // claimed
	due        int64 // nanoseconds between two records at most
	index, seq uint64
}

// restarts counts start records within a life, behind no stop record.
type restarts struct {
	count      uint64
	index, seq uint64 // of the newest
}

// pause is what lies between two records.
type pause byte

const (
	noPause pause = iota
	quiet         // nothing was written for longer than heartbeat and slack
	down          // the producer had stopped, and said so
)

// pauseBefore tells what lies before an unaltered record, in the order of its tree.
// It is asked before the time of the record counts: where records before it are missing or altered
// nobody knows, and a first record has none before it.
func (s *stream) pauseBefore(it *item) pause {
	start, starts := it.about.(*sealtapv1.Start)
	switch {
	case s.records < 2 || s.unsure || time.Duration(it.time-s.latest) <= s.heartbeat+s.a.HeartbeatSlack:
		return noPause
	case starts && start != nil && s.stopped:
		return down
	}
	return quiet
}

// interrupted counts what lies before an unaltered record.
func (s *stream) interrupted(it *item) {
	p := s.pauseBefore(it)
	s.a.coverage.placed(s, it, p)
	if p == quiet {
		q := silence{from: s.latest, to: it.time, due: int64(s.heartbeat), index: it.index, seq: it.seq}
		s.silences.count++
		s.silences.total += q.to - q.from
		if l := s.silences.longest; q.to-q.from > l.to-l.from {
			s.silences.longest = q
		}
	}
	switch _, starts := it.about.(*sealtapv1.Start); {
	case starts && it.seq > 0 && s.records > 1 && !s.unsure && !s.stopped:
		s.restarts = restarts{s.restarts.count + 1, it.index, it.seq}
	case it.about == isUnknown && s.start != nil && it.seq <= s.start.GetUnfinished():
		s.closed++ // a start closes what it found open with the records right behind it
	}
	s.unsure = false
}

// finishInterrupted says what interrupted the history of a life, up to the next one of its
// producer, nil if there is none.
func (s *stream) finishInterrupted(next *stream, now int64) {
	if q := s.silences; q.count > 0 {
		s.add(notice(SilentInterval, "producer %s wrote nothing for %s, from %s to %s, although it has to every %s%s. No record is missing there: it was suspended, its spool was full, or its clock was set forward",
			s.name, lasted(q.longest.to-q.longest.from), clock(q.longest.from), clock(q.longest.to), time.Duration(q.longest.due), q.others()), q.longest.index, q.longest.seq)
	}
	if r := s.restarts; r.count > 0 {
		times := ""
		if r.count > 1 {
			times = fmt.Sprintf(" %d times, the last time", r.count)
		}
		s.add(notice(UncleanStop, "producer %s started anew within incarnation %s%s at sequence %d, and no stop record stands before that", s.name, s.id.Incarnation, times, r.seq), r.index, r.seq)
	}
	switch end := s.end(next, now); {
	case end == Silent:
		s.finishSilence(now)
	case end == Unclean && next.records == 0:
		s.add(notice(UncleanStop, "incarnation %s of producer %s ended without a stop record", s.id.Incarnation, s.name), s.lastIndex, s.next-1)
	case end == Unclean:
		next.follows(fmt.Sprintf("incarnation %s of producer %s ended without a stop record, its last record at %s%s",
			s.id.Incarnation, s.name, clock(s.latest), next.after(s.latest)))
	case end == Gone && next.saysCrash():
		next.follows(fmt.Sprintf("incarnation %s of producer %s, of which the log keeps no record any more, ended without a stop record, as the next one says", s.id.Incarnation, s.name))
	}
}

// others says what there is beside the longest.
func (q *silences) others() string {
	if q.count == 1 {
		return ""
	}
	return fmt.Sprintf("; it is the longest of %d such intervals in this incarnation, which make %s", q.count, lasted(q.total))
}

// finishFirst says of the first life in the log how the one before ended, which stands
// elsewhere.
func (s *stream) finishFirst() {
	if s.saysCrash() {
		s.follows(fmt.Sprintf("the incarnation of producer %s before this one, which is not in this log, ended without a stop record, as this one says", s.name))
	}
}

// end says how a life ended, next being the producer's next one, if there is one.
func (s *stream) end(next *stream, now int64) End {
	switch {
	case s.records == 0:
		return Gone
	case s.stopped:
		return Stopped
	case next != nil:
		return Unclean
	case time.Duration(now-s.latest) > s.heartbeat+s.a.HeartbeatSlack:
		return Silent
	}
	return Open
}

// saysCrash reports whether a life says that the one before was not stopped.
func (s *stream) saysCrash() bool {
	if s == nil || s.start == nil {
		return false
	}
	why := s.start.GetReason()
	return why == sealtapv1.StartReason_START_REASON_CRASH || why == sealtapv1.StartReason_START_REASON_REPLACED
}

// after says how much later than a time the life began.
func (s *stream) after(unixNano int64) string {
	if d := s.firstTime - unixNano; s.start != nil && d > 0 {
		return fmt.Sprintf("; the next one, %s, began %s later", s.id.Incarnation, lasted(d))
	}
	return ""
}

// follows says that the life before ended without a stop record, and what this one found.
func (s *stream) follows(text string) {
	if n := s.start.GetRecovered(); n > 0 {
		text += fmt.Sprintf("; records that it found under no seal, and sealed: %d", n)
	}
	if n := s.start.GetDiscardedBytes(); n > 0 {
		text += fmt.Sprintf("; bytes that it could not read: %d", n)
	}
	if n := s.start.GetUnfinished(); n > 0 {
		text += fmt.Sprintf("; exchanges that it found open: %d, of which it closed with outcome unknown: %d", n, s.closed)
	}
	s.add(notice(UncleanStop, "%s", text), s.firstIndex, 0)
}

func lasted(nanoseconds int64) time.Duration {
	return time.Duration(nanoseconds).Round(time.Millisecond)
}

// followers returns the next life of the same key for each one that has one.
func followers(list []*stream) map[*stream]*stream {
	next, newest := make(map[*stream]*stream), make(map[keys.ID]*stream)
	for _, s := range list {
		if before := newest[s.id.Producer]; before != nil {
			next[before] = s
		}
		newest[s.id.Producer] = s
	}
	return next
}
