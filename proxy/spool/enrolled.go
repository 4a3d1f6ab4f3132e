package spool

import (
	"fmt"

	"github.com/sealtap/sealtap/tlog/client"
)

// A log refuses a producer that it does not know, and one whose key the operator
// has revoked. To the first it may come to know the key: a proxy can be started
// before its key is enrolled, and its records wait in the spool. But what a revoked
// key writes can never get into the log, and nothing that is never logged may
// happen. So no exchange begins any more; those under way end. A log that does not
// know a producer of which it has taken records before is another log, or one that
// has lost them: it is no better.
//
// The log is asked again all the same. Should it have been the wrong one that
// answered, nothing has to be restarted once the right one does.

// wasEnrolled reports whether the log has taken anything that is, or was, in this
// spool.
func (s *Spool) wasEnrolled() bool {
	s.sub.mu.Lock()
	defer s.sub.mu.Unlock()
	return s.stats.submitted.Load() > 0 || s.sub.known.end.offset > 0
}

// notAdmitted keeps exchanges from beginning, and returns why.
func (s *Spool) notAdmitted(p *client.Problem) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.cfg.Logger.Error("the log takes no more records with this proxy's key, so no exchange passes: if the key was revoked, "+
			"have the operator enrol a new one (sealtap enrol NEW.pub --replaces OLD.pub), and start the proxy with it and with a spool directory of its own; "+
			"if not, see that it is the right log", "key", s.cfg.Key.Public.String(), "answer", p)
	}
	s.ended = fmt.Errorf("%w: %w", ErrEnded, p)
	return s.ended
}

// admitted lets exchanges begin again.
func (s *Spool) admitted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		s.cfg.Logger.Info("the log takes records with this proxy's key again")
		s.ended = nil
	}
}

// Ready returns why no exchange can begin, other than that the spool is full, or
// nil.
func (s *Spool) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failed != nil:
		return s.failed
	case s.ended != nil:
		return s.ended
	}
	return s.noSpare
}

// Room returns why no exchange can begin for want of room, or nil. It is an
// ErrFull.
func (s *Spool) Room() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roomFor(closingSegments)
}

// roomFor returns an ErrFull where the files hold more than they may, less so many
// segments that are kept for other things. It needs mu.
func (s *Spool) roomFor(kept int64) error {
	if s.bytes > s.cfg.MaxBytes-(spareSegments+kept)*s.cfg.SegmentSize {
		return fmt.Errorf("%w: %d of %d bytes wait for the log", ErrFull, s.bytes, s.cfg.MaxBytes)
	}
	return nil
}
