package tlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// ErrFollows is wrapped where something is asked of a log that does not write at
// present; another one that shares its storage does.
var ErrFollows = errors.New("this server does not write the log at present")

// term is one time of writing.
type term struct {
	ending  chan struct{} // closed when nothing more is taken
	stopped chan struct{} // closed when it is over
	asked   chan struct{} // closed when the witnesses were asked for the first time
	endOnce sync.Once
}

func newTerm() *term {
	return &term{ending: make(chan struct{}), stopped: make(chan struct{}), asked: make(chan struct{})}
}

// end says that nothing more is taken. What was taken may still be stored.
func (t *term) end() { t.endOnce.Do(func() { close(t.ending) }) }

// stop says that the term is over. It is called once.
func (t *term) stop() {
	t.end()
	close(t.stopped)
}

// Writing reports whether the log takes entries, or will once Run is called.
func (l *Log) Writing() bool {
	select {
	case <-l.term.Load().ending:
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
	doubt, err := l.reload(ctx)
	if err != nil {
		return err
	}
	l.doubts(doubt)
	t := newTerm()
	if l.signed == nil {
		close(t.asked)
	}
	l.behind.Store(false)
	l.setWriting(nil)
	l.setPublishing(nil)
	l.term.Store(t)
	if err := l.nameKey(); err != nil {
		t.stop() // Run does not come to it
		l.setWriting(err)
		return err
	}
	return nil
}

const (
	// followTime bounds one look at the storage: one that says nothing must be told.
	followTime = time.Minute
	// lookTime is how old the last look may be. What is shown may have been overtaken,
	// and whoever asks another server first would think that the log has shrunk.
	lookTime = 10 * time.Second
	// followPause is the time between two looks after one that failed.
	followPause = time.Second
)

// Follow shows what another log publishes that shares the storage, until the context
// ends.
func (l *Log) Follow(ctx context.Context) {
	l.setWriting(nil)
	told, pause := false, l.config.CheckpointInterval
	for wait(ctx, nil, pause) {
		bounded, cancel := context.WithTimeout(ctx, followTime)
		err := l.catchUp(bounded)
		cancel()
		if ctx.Err() != nil {
			return
		}
		l.setPublishing(err)
		if pause = l.config.CheckpointInterval; err == nil {
			l.hasLooked()
		} else {
			pause = max(pause, followPause)
		}
		if err != nil && !told {
			l.config.Logger.Warn("what the writing server publishes cannot be followed; it is tried again", "error", err)
		}
		told = err != nil
	}
}

func (l *Log) hasLooked() { l.looked.Store(time.Now().UnixNano()) }

// lately returns an error if a log that follows has not looked at the storage for a
// while.
func (l *Log) lately() error {
	at := l.looked.Load()
	if at == 0 || l.Writing() {
		return nil
	}
	if ago := time.Since(time.Unix(0, at)); ago > lookTime {
		return fmt.Errorf("%w, and what that one publishes has not been seen for %s", ErrFollows, ago.Round(time.Second))
	}
	return nil
}

// sizer is a storage that can say cheaply how much is published, and where what is kept
// begins.
type sizer interface {
	Newest(ctx context.Context) (published, minimum uint64, err error)
}

func (l *Log) catchUp(ctx context.Context) error {
	if s, ok := l.config.Storage.(sizer); ok {
		published, minimum, err := s.Newest(ctx)
		switch {
		case err != nil:
			return err
		case published < l.Published():
			return wentBack(published, l.Published())
		case published == l.Published() && minimum == l.Minimum():
			return nil
		}
	}
	doubt, err := l.reload(ctx)
	if err != nil {
		return err
	}
	l.news.ring()
	if doubt != nil {
		return fmt.Errorf("%w: this server shows that of size %d", doubt, l.Published())
	}
	return nil
}

func wentBack(now, before uint64) error {
	return fmt.Errorf("%w: %d entries are there, and %d were published: the storage was put back from an older copy; put back a newer one", ErrBehind, now, before)
}

// reload takes what is stored in the place of what is known. The published checkpoint
// may be in doubt, see restoreHeads.
func (l *Log) reload(ctx context.Context) (doubt, err error) {
	state, err := l.restore(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.followPruned(ctx); err != nil {
		return nil, err
	}
	if doubt, err = l.restoreHeads(ctx, state); err != nil {
		return nil, fmt.Errorf("checking the stored heads: %w", err)
	}
	return doubt, nil
}

// checkGone does what checkKept does, for what the storage does not have: another log that
// shares it may have pruned since this one looked.
func (l *Log) checkGone(ctx context.Context, n uint64) error {
	if l.pruner == nil || l.Writing() {
		return l.checkKept(n)
	}
	if err := l.followPruned(ctx); err != nil {
		return err
	}
	return l.checkKept(n)
}

// followPruned takes up what another log has pruned.
func (l *Log) followPruned(ctx context.Context) error {
	before := l.Minimum()
	if err := l.restorePruned(ctx); err != nil {
		return err
	}
	if minimum := l.Minimum(); minimum > before && l.config.OnPrune != nil {
		l.config.OnPrune(minimum)
	}
	return nil
}

// knownRing returns the keyring, if it is that of the statements in the storage: what is
// followed is loaded often, and to replay them all reads a bundle for each.
func (l *Log) knownRing(state *storage.State) *record.Keyring {
	l.ringMu.RLock()
	defer l.ringMu.RUnlock()
	if l.Writing() || l.ring == nil || l.ring.Number+1 != uint64(len(state.KeyChanges)) || !slices.Equal(l.statements, state.KeyChanges) {
		return nil
	}
	return l.ring
}
