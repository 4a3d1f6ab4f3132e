package spool

import (
	"context"
	"errors"
	"os"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// seals covers records soon after they are durable, but not more often than
// configured, and beats when the heart should.
func (s *Spool) seals(ctx context.Context) error {
	var (
		last  time.Time
		timer = time.NewTimer(0)
		armed = true // a first look: the start record is not sealed yet
		beat  = time.NewTicker(s.cfg.Heartbeat)
	)
	defer timer.Stop()
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.durable:
			if s.unsealed() > 0 && !armed {
				timer.Reset(max(s.cfg.SealDelay, s.cfg.SealEvery-time.Since(last)))
				armed = true
			}
			continue
		case <-s.sub.first:
			// Without a beacon nothing proves that what follows is not older.
			if err := s.beacon(always); err != nil {
				s.complain(err)
			}
			continue
		case <-beat.C:
			// A record and a seal, never a seal alone: it would be the same bytes again
			// and prove no life.
			if err := s.beacon(s.admit); err != nil {
				s.complain(err)
				continue
			}
		case <-timer.C:
			armed = false
		}
		if err := s.seal(); err != nil {
			s.complain(err)
		}
		last = time.Now()
	}
}

func (s *Spool) complain(err error) {
	if s.Err() == nil {
		s.cfg.Logger.Error("sealing records", "error", err)
	}
}

// unsealed returns how many records wait for a seal.
func (s *Spool) unsealed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tree.Size() - s.sealed
}

// seal signs the head of the tree of durable records. It returns once the seal
// is durable too; only then can it be sent.
func (s *Spool) seal() error {
	s.mu.Lock()
	if err := s.failed; err != nil || s.tree.Size() == s.sealed {
		s.mu.Unlock()
		return err
	}
	b := s.batch
	b.seal = true
	if err := s.await(b); err != nil {
		return err
	}
	signal(s.progress)
	return nil
}

// beacon records the newest cosigned checkpoint that was seen.
func (s *Spool) beacon(admit func(*sealtapv1.Record) error) error {
	return s.record(&sealtapv1.Record{About: &sealtapv1.Record_Beacon{
		Beacon: &sealtapv1.Beacon{Checkpoint: s.sub.newestCheckpoint()},
	}}, nil, admit)
}

// Run seals, beats and submits until ctx ends. It is called once, and followed
// by [Spool.Close].
func (s *Spool) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.submits(ctx) }()
	err := s.seals(ctx)
	return errors.Join(err, <-done)
}

// Close writes the stop record, seals it and hands everything to the log as far
// as ctx allows: what it does not take stays in the spool. Then it closes the
// files.
func (s *Spool) Close(ctx context.Context, reason string) error {
	err := s.record(&sealtapv1.Record{About: &sealtapv1.Record_Stop{Stop: &sealtapv1.Stop{Reason: reason}}}, nil, always)
	if err == nil {
		s.mu.Lock()
		s.stopped = true
		s.mu.Unlock()
		err = s.seal()
	}
	if err == nil {
		s.flush(ctx)
	}
	s.fail(ErrClosed)
	s.settled()
	return errors.Join(err, s.releaseFiles())
}

// settled returns once nobody commits. After a failure nobody begins to.
func (s *Spool) settled() {
	s.mu.Lock()
	b := s.batch
	b.last = true
	_ = s.await(b) // what failed is known
}

// releaseFiles closes everything and lets go of the lock.
func (s *Spool) releaseFiles() error {
	var err error
	s.sub.reader.close()
	if s.preparing {
		if sp := <-s.spare; sp.err == nil {
			err = errors.Join(sp.seg.file.Close(), os.Remove(segmentPath(s.cfg.Dir, sp.seg.number)))
		}
	}
	if s.seg != nil {
		err = errors.Join(err, s.seg.file.Close())
	}
	return errors.Join(err, s.lock.Close())
}
