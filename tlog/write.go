package tlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sealtap/sealtap/failpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/tiles"
)

const (
	// A commit takes what waits, up to these bounds: they keep the time of one
	// commit, and with it the time that everybody waits, short.
	maxGroupEntries = 8192
	maxGroupBytes   = 16 << 20

	// retryDelay and maxRetryDelay are for storage that fails.
	retryDelay    = 50 * time.Millisecond
	maxRetryDelay = 5 * time.Second
)

// sequencer is the writer's view of the log. Whatever fails, it is loaded again
// from storage.
type sequencer struct {
	log        *Log
	tree       *tiles.Writer
	head       []byte // the last size%256 entries; grows in place
	streams    map[record.Stream]*record.Tree
	keyChanges []uint64 // index by number; 0 is the genesis
	discarded  bool     // whether openings beyond the stored entries are known to be gone
}

// write stores submissions until the context ends.
func (l *Log) write(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-l.queue:
			// What is begun is finished: a commit is not cut short by the end.
			l.store(context.WithoutCancel(ctx), s)
		}
		l.recover(ctx)
	}
}

// store stores a submission together with those that wait behind it.
func (l *Log) store(ctx context.Context, s *submission) {
	g := l.seq.newGroup()
	bytes := 0
	for s != nil {
		l.queuedBytes.Add(-int64(s.bytes))
		// A key change is in a group of its own, so that what comes after it is
		// judged by the new keys.
		if s.change != nil && len(g.accepted) > 0 {
			l.finish(ctx, g)
			if l.seq == nil {
				s.done <- outcome{err: ErrUnavailable}
				return
			}
			g, bytes = l.seq.newGroup(), 0
		}
		if err := g.add(ctx, s); err != nil {
			s.done <- outcome{err: err}
		}
		bytes += s.bytes
		if s.change != nil || len(g.entries) >= maxGroupEntries || bytes >= maxGroupBytes {
			break
		}
		select {
		case s = <-l.queue:
		default:
			s = nil
		}
	}
	l.finish(ctx, g)
}

// finish stores a group and answers its submissions. If that fails it leaves the
// log without a sequencer.
func (l *Log) finish(ctx context.Context, g *group) {
	if len(g.accepted) == 0 {
		return
	}
	start := time.Now()
	// Openings and entries are in databases of their own: the two wait for the
	// disk at the same time.
	var wg sync.WaitGroup
	openingsErr, err := error(nil), l.discard(ctx, g)
	if err == nil && len(g.openings) > 0 {
		wg.Go(func() {
			openingsErr = l.config.Openings.Put(ctx, g.openings, g.keys)
			failpoint.Here("openings-stored")
		})
	}
	if err == nil {
		err = l.commit(ctx, g)
	}
	wg.Wait()
	if err != nil {
		l.seq = nil
		l.setWriting(err)
		l.config.Logger.Error("entries could not be stored", "entries", len(g.entries), "error", err)
	}
	if openingsErr != nil {
		l.config.Logger.Error("openings could not be stored", "openings", len(g.openings), "error", openingsErr)
	}
	if err = errors.Join(err, openingsErr); err != nil {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	} else {
		l.metrics.committed(len(g.entries), time.Since(start))
	}
	failpoint.Here("group-stored")
	for _, a := range g.accepted {
		if err != nil {
			a.submission.done <- outcome{err: err}
		} else {
			a.submission.done <- outcome{response: a.response}
		}
	}
	failpoint.Here("answered")
}

// discard forgets openings that a crash or a failure left behind: they were put
// while their entries were being stored, and the entries were not. The indices
// become those of other entries now. It costs once after each load.
func (l *Log) discard(ctx context.Context, g *group) error {
	if g.seq.discarded || l.config.Openings == nil || len(g.entries) == 0 {
		return nil
	}
	if err := l.config.Openings.Discard(ctx, g.first); err != nil {
		return err
	}
	g.seq.discarded = true
	return nil
}

// commit stores the new entries of a group and shows them.
func (l *Log) commit(ctx context.Context, g *group) error {
	if len(g.entries) == 0 {
		return nil
	}
	s := g.seq
	for _, leaf := range g.leaves {
		s.tree.Append(leaf)
	}
	b := &storage.Batch{First: g.first, Entries: g.entries, Root: s.tree.Root(), Runs: g.runs}
	for _, t := range s.tree.Complete() {
		b.Tiles = append(b.Tiles, storage.Tile(t))
	}
	// Of the levels above 0 none has changed if no tile was completed.
	above := len(b.Tiles) > 0
	for _, t := range s.tree.Partial() {
		if t.Level == 0 || above {
			b.Tiles = append(b.Tiles, storage.Tile(t))
		}
	}
	for st, tree := range g.streams {
		b.Streams = append(b.Streams, storage.Stream{Stream: st, Size: tree.Size(), Edge: tree.Edge()})
	}
	if g.change != nil {
		b.KeyChanges = []uint64{g.first}
	}
	if err := l.config.Storage.Commit(ctx, b); err != nil {
		return err
	}
	failpoint.Here("entries-committed")
	if g.change != nil {
		if err := l.applyChange(g.change, g.first); err != nil {
			return err
		}
	}
	s.advance(g)
	l.show(s.snapshot())
	failpoint.Here("snapshot-shown")
	return nil
}

func (l *Log) applyChange(c *record.KeyChange, index uint64) error {
	l.ringMu.Lock()
	defer l.ringMu.Unlock()
	l.seq.keyChanges = append(l.seq.keyChanges, index)
	return l.ring.Apply(c, index)
}

// advance follows what was stored.
func (s *sequencer) advance(g *group) {
	for st, tree := range g.streams {
		s.streams[st] = tree
	}
	rest := g.entries
	if behind := s.tree.Size() % tiles.Width; uint64(len(rest)) > behind || behind == 0 {
		// A bundle was completed. Readers keep the old head.
		s.head = make([]byte, 0, len(s.head))
		rest = rest[uint64(len(rest))-behind:]
	}
	for _, entry := range rest {
		s.head = storage.AppendEntry(s.head, entry)
	}
}

func (s *sequencer) snapshot() *snapshot {
	return &snapshot{
		size:    s.tree.Size(),
		root:    s.tree.Root(),
		partial: s.tree.Partial(),
		head:    s.head[:len(s.head):len(s.head)],
		next:    make(chan struct{}),
	}
}

// show lets readers see a new snapshot and wakes those who wait for it.
func (l *Log) show(s *snapshot) {
	if old := l.durable.Swap(s); old != nil {
		close(old.next)
	}
}

// recover loads the sequencer again after a failure, for as long as it takes.
func (l *Log) recover(ctx context.Context) {
	for delay := retryDelay; l.seq == nil; delay = min(2*delay, maxRetryDelay) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		if _, err := l.restore(ctx); err != nil {
			l.setWriting(err)
			l.config.Logger.Error("the log could not be loaded again", "error", err)
			continue
		}
		l.setWriting(nil)
		l.config.Logger.Info("the log is loaded again", "size", l.Size())
	}
}

// refuseQueued answers those who still wait when the log has stopped.
func (l *Log) refuseQueued() {
	for {
		select {
		case s := <-l.queue:
			s.done <- outcome{err: ErrStopped}
		default:
			return
		}
	}
}
