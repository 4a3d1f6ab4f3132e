package tlog

import (
	"context"
	"fmt"
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

	// askPatience is how long a start waits for the first word of the witnesses
	// before it takes entries.
	askPatience = 3 * time.Second

	// retryDelay and maxRetryDelay are for storage that fails.
	retryDelay    = 50 * time.Millisecond
	maxRetryDelay = 5 * time.Second
)

// sequencer is the writer's view of the log: what is stored and what is being
// stored. Whatever fails, it is loaded again from storage.
type sequencer struct {
	log        *Log
	tree       *tiles.Writer
	head       []byte // the last size%256 entries; grows in place
	recent     []recent
	streams    map[record.Stream]*record.Tree
	keyChanges []uint64 // index by number of the operator's statements; 0 is the genesis
	committing *group   // the group that is being stored, nil if none is
	discarded  bool     // whether openings beyond the stored entries are gone; the commit's
}

// writer takes submissions from the queue. Two groups are under way: while one is
// being stored, the submissions that arrive are put into the order of the next.
type writer struct {
	log  *Log
	next *group
	size int        // bytes of the submissions of next
	done chan error // tells the end of the commit under way
}

// write stores submissions until the context ends.
func (l *Log) write(ctx context.Context) {
	w := &writer{log: l, next: l.seq.newGroup(), done: make(chan error, 1)}
	// Were the storage an older copy, what is taken now would be a second history.
	wait(ctx, l.term.Load().asked, askPatience)
	for {
		queue := l.queue
		if w.full() {
			queue = nil // what comes waits in the queue, which is bounded
		}
		select {
		case <-ctx.Done():
			// What is begun is finished: a commit is not cut short by the end.
			w.flush(context.WithoutCancel(ctx))
			return
		case s := <-queue:
			w.take(context.WithoutCancel(ctx), s)
			w.takeWaiting(context.WithoutCancel(ctx))
		case err := <-w.done:
			w.finish(err)
		}
		w.commitNext(context.WithoutCancel(ctx))
		if l.seq == nil {
			w.fail(ErrUnavailable)
			if l.recover(ctx); l.seq == nil {
				return // the context has ended
			}
			w.next = l.seq.newGroup()
		}
	}
}

func (w *writer) full() bool {
	return len(w.next.entries) >= maxGroupEntries || w.size >= maxGroupBytes
}

// takeWaiting takes what waits without waiting for it.
func (w *writer) takeWaiting(ctx context.Context) {
	for !w.full() && w.log.seq != nil {
		select {
		case s := <-w.log.queue:
			w.take(ctx, s)
		default:
			return
		}
	}
}

// take puts a submission into the next group, or refuses it.
func (w *writer) take(ctx context.Context, s *submission) {
	// A key change is in a group of its own, so that what comes after it is judged
	// by the new keys.
	if s.change != nil {
		w.flush(ctx)
	}
	err := ErrUnavailable
	switch {
	case w.log.behind.Load():
		err = fmt.Errorf("%w: a witness has cosigned more than this log holds; its storage is an older copy", ErrUnavailable)
	case w.log.seq != nil:
		err = w.next.add(ctx, s)
	}
	if err != nil {
		w.log.leaveQueue(s)
		s.done <- outcome{err: err}
		return
	}
	w.size += s.bytes
	if s.change != nil {
		w.flush(ctx)
	}
}

// commitNext begins to store the next group, unless another one is being stored.
func (w *writer) commitNext(ctx context.Context) {
	seq := w.log.seq
	if seq == nil || seq.committing != nil || len(w.next.accepted) == 0 {
		return
	}
	g := w.next
	b := seq.advance(g)
	for _, a := range g.accepted {
		w.log.leaveQueue(a.submission)
	}
	seq.committing, w.next, w.size = g, seq.newGroup(), 0
	go func() { w.done <- w.log.commit(ctx, g, b) }()
}

// flush stores everything that was taken, unless something fails.
func (w *writer) flush(ctx context.Context) {
	for w.log.seq != nil && (w.log.seq.committing != nil || len(w.next.accepted) > 0) {
		w.commitNext(ctx)
		w.finish(<-w.done)
	}
	if w.log.seq == nil {
		w.fail(ErrUnavailable)
	}
}

// finish follows the end of a commit. After a failure there is no sequencer, and
// what was put behind the group that failed is refused with it.
func (w *writer) finish(err error) {
	l := w.log
	if err == nil {
		l.seq.committing = nil
		return
	}
	l.seq = nil
	l.setWriting(err)
	l.config.Logger.Error("entries could not be stored", "error", err)
}

// fail refuses the submissions of the next group.
func (w *writer) fail(err error) {
	for _, a := range w.next.accepted {
		w.log.leaveQueue(a.submission)
		a.submission.done <- outcome{err: err}
	}
	w.next, w.size = new(group), 0
}

// commit stores a group, shows it, and answers its submissions.
func (l *Log) commit(ctx context.Context, g *group, b *storage.Batch) error {
	start := time.Now()
	err := l.putOpenings(ctx, g)
	if err == nil && len(b.Entries) > 0 {
		err = l.config.Storage.Commit(ctx, b)
		failpoint.Here("entries-committed")
		if err == nil && g.change != nil {
			err = g.seq.apply(g.change, g.first)
		}
		if err == nil {
			l.show(g.after)
			failpoint.Here("snapshot-shown")
		}
	}
	failed := err
	if err != nil {
		l.setWriting(err) // before anybody who is told looks at readiness
	}
	if failed != nil {
		failed = fmt.Errorf("%w: %w", ErrUnavailable, failed)
	} else {
		l.metrics.committed(len(g.entries), time.Since(start))
	}
	failpoint.Here("group-stored")
	for _, a := range g.accepted {
		if failed != nil {
			a.submission.done <- outcome{err: failed}
		} else {
			a.submission.done <- outcome{response: a.response}
		}
	}
	failpoint.Here("answered")
	return err
}

// putOpenings stores the openings of a group ahead of its entries. Once an entry is
// stored it may become public at any time, after a crash too, and then anybody can
// submit it again with openings that open nothing: those of a repetition are not
// taken, so they have to be there before.
func (l *Log) putOpenings(ctx context.Context, g *group) error {
	err := l.discard(ctx, g)
	if err == nil && len(g.openings) > 0 {
		err = l.config.Openings.Put(ctx, g.openings, g.keys)
		failpoint.Here("openings-stored")
	}
	if err != nil {
		return fmt.Errorf("openings could not be stored: %w", err)
	}
	return nil
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

// advance puts the group behind what is stored, and returns what is to be stored.
func (s *sequencer) advance(g *group) *storage.Batch {
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
		s.streams[st] = tree
	}
	if g.change != nil {
		b.KeyChanges = []uint64{g.first}
	}
	for i, entry := range g.entries {
		s.head = storage.AppendEntry(s.head, entry)
		if n := g.first + uint64(i) + 1; n%tiles.Width == 0 {
			s.complete(n/tiles.Width - 1)
		}
	}
	g.after = s.snapshot()
	return b
}

// apply follows a statement of the operator that is stored. The writer waits for
// it: a statement is a group of its own.
func (s *sequencer) apply(c *change, index uint64) error {
	s.log.ringMu.Lock()
	defer s.log.ringMu.Unlock()
	s.keyChanges = append(s.keyChanges, index)
	s.log.statements = s.keyChanges
	return c.apply(s.log.ring, index)
}

func (s *sequencer) snapshot() *snapshot {
	return &snapshot{
		size:    s.tree.Size(),
		root:    s.tree.Root(),
		partial: s.tree.Partial(),
		head:    s.head[:len(s.head):len(s.head)],
		recent:  s.recent,
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
			l.leaveQueue(s)
			s.done <- outcome{err: l.notWriting()}
		default:
			return
		}
	}
}
