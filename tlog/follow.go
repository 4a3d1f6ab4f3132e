package tlog

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrFollows is wrapped where something is asked of a log that does not write at
// present; another one that shares its storage does.
var ErrFollows = errors.New("this server does not write the log at present")

// term is one time of writing.
type term struct {
	stopped chan struct{} // closed when it is over
	asked   chan struct{} // closed when the witnesses were asked for the first time
}

func newTerm() *term { return &term{stopped: make(chan struct{}), asked: make(chan struct{})} }

// Writing reports whether the log takes entries, or will once Run is called.
func (l *Log) Writing() bool {
	select {
	case <-l.term.Load().stopped:
		return false
	default:
		return true
	}
}

// notWriting says why the log takes no entries.
func (l *Log) notWriting() error {
	if l.config.Follow {
		return ErrFollows
	}
	return ErrStopped
}

// takeOver begins a term with what is stored by now.
func (l *Log) takeOver(ctx context.Context) error {
	if err := l.reload(ctx); err != nil {
		return err
	}
	t := newTerm()
	if l.signed == nil {
		close(t.asked)
	}
	l.behind.Store(false)
	l.setWriting(nil)
	l.setPublishing(nil)
	l.term.Store(t)
	return l.nameKey()
}

// Follow shows what another log publishes that shares the storage, until the context
// ends.
func (l *Log) Follow(ctx context.Context) error {
	l.setWriting(nil)
	told := false
	for wait(ctx, nil, l.config.CheckpointInterval) {
		bounded, cancel := context.WithTimeout(ctx, followTime)
		err := l.catchUp(bounded)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		l.setPublishing(err)
		if err != nil && !told {
			l.config.Logger.Warn("what the writing server publishes cannot be followed; it is tried again", "error", err)
		}
		told = err != nil
	}
	return nil
}

// followTime bounds one look at the storage: one that says nothing must be told.
const followTime = time.Minute

// sizer is a storage that can say cheaply how much is published.
type sizer interface {
	PublishedSize(ctx context.Context) (uint64, error)
}

func (l *Log) catchUp(ctx context.Context) error {
	if s, ok := l.config.Storage.(sizer); ok {
		size, err := s.PublishedSize(ctx)
		if err != nil || size <= l.Published() {
			return err
		}
	}
	before := l.Minimum()
	if err := l.reload(ctx); err != nil {
		return err
	}
	if minimum := l.Minimum(); minimum > before && l.config.OnPrune != nil {
		l.config.OnPrune(minimum)
	}
	l.news.ring()
	return nil
}

// reload takes what is stored in the place of what is known.
func (l *Log) reload(ctx context.Context) error {
	state, err := l.restore(ctx)
	if err != nil {
		return err
	}
	if err := l.restorePruned(ctx); err != nil {
		return err
	}
	if err := l.restoreHeads(ctx, state); err != nil {
		return fmt.Errorf("checking the stored heads: %w", err)
	}
	return nil
}
