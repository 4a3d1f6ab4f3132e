package tlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// ErrUnpublished is wrapped where a submission asked for level published, is
// stored, and did not get there in time. To submit it again is safe, and waits
// again.
var ErrUnpublished = errors.New("the entries are durable, but not yet under a published checkpoint; " +
	"to submit the same batch again is safe, and waits again")

// bell wakes everybody who waits for the next ring.
type bell struct {
	mu   sync.Mutex
	next chan struct{}
}

// wait returns a channel that the next ring closes. Whoever takes it first and
// looks afterwards misses nothing.
func (b *bell) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.next
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}

// checkLevel refuses levels that nobody has defined.
func checkLevel(level sealtapv1.Level) error {
	switch level {
	case sealtapv1.Level_LEVEL_UNSPECIFIED, sealtapv1.Level_LEVEL_SEQUENCED, sealtapv1.Level_LEVEL_PUBLISHED:
		return nil
	}
	return fmt.Errorf("%w: there is no level %d", ErrRefused, level)
}

// awaitPublished waits until a published checkpoint covers every entry of a
// response, and puts it into the response.
func (l *Log) awaitPublished(ctx context.Context, response *sealtapv1.SubmitResponse) error {
	size := uint64(0)
	for _, r := range response.GetRuns() {
		size = max(size, r.GetFirstIndex()+r.GetCount())
	}
	waiting := l.waiting.Add(1)
	defer l.waiting.Add(-1)
	if waiting > int64(l.config.MaxQueue) {
		return &LimitError{Kind: ErrUnpublished, Limit: limitQueue, What: "submissions wait for a checkpoint", Got: uint64(waiting), Max: uint64(l.config.MaxQueue)}
	}
	bound := l.config.PublishWait
	if end, ok := ctx.Deadline(); ok {
		// Sooner than the caller gives up, so that it learns what became of its entries.
		bound = min(bound, time.Until(end)*9/10)
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	for {
		next := l.news.wait()
		if cp := l.published.Load(); cp != nil && cp.Size >= size {
			response.Checkpoint = string(cp.Note)
			return nil
		}
		select {
		case <-next:
		case <-timer.C:
			return l.unpublished(size, fmt.Errorf("waited %s", bound.Round(time.Millisecond)))
		case <-ctx.Done():
			return l.unpublished(size, ctx.Err())
		case <-l.term.Load().stopped:
			return l.unpublished(size, l.notWriting())
		}
	}
}

// unpublished says how far publishing is, and what keeps it if that is known.
func (l *Log) unpublished(size uint64, cause error) error {
	l.healthMu.Lock()
	why := l.health.publishing
	l.healthMu.Unlock()
	if why != nil {
		cause = fmt.Errorf("%w; %w", cause, why)
	}
	return fmt.Errorf("%w: %d entries are published, %d would have to be: %v", ErrUnpublished, l.Published(), size, cause)
}
