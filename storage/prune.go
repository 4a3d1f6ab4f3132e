package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealtap/sealtap/record"
)

// ErrPruned is wrapped where something lies below the minimum index of a log
// (tlog-tiles, "Pruning").
var ErrPruned = errors.New("no longer kept")

// Pruner is a [Log] that can let go of its oldest entries. What is below the
// minimum index goes: complete bundles, their tiles of level 0, and the runs
// within them. What is needed to prove all that remains stays: tiles from level
// 1 up, and bundles and tiles that hold one of State.KeyChanges. For each stream
// its edge at the minimum index is kept in the place of its records.
//
// SetPruned, Sweep and AddMark are called by one goroutine, concurrently with
// everything else.
type Pruner interface {
	// Pruned returns what the last SetPruned kept; the zero value if the log was
	// never pruned.
	Pruned(ctx context.Context) (Pruned, error)

	// SetPruned lifts the minimum index durably, and with it the edges of the
	// streams that changed. It deletes no entries. It fails with ErrMoved, and
	// changes nothing, if the minimum is not above the last one, is no multiple of
	// BundleWidth, or is above the size of the published checkpoint. Marks of the
	// minimum and below are forgotten.
	SetPruned(ctx context.Context, p Pruned, edges []Stream) error

	// Sweep deletes some of what is below the minimum index, at most so many
	// bundles, in one short transaction. It reports whether there may be more.
	Sweep(ctx context.Context, bundles int) (more bool, err error)

	// StreamNames returns all streams, oldest first.
	StreamNames(ctx context.Context) ([]record.Stream, error)
	// PrunedStream returns a stream as it was at the minimum index, and reports
	// whether it had records there.
	PrunedStream(ctx context.Context, s record.Stream) (Stream, bool, error)
	// PrunedStreams returns those streams, oldest first, at most so many behind
	// the place that next was in the last call; 0 begins. At the end next is 0.
	PrunedStreams(ctx context.Context, place uint64, limit int) (list []Stream, next uint64, err error)

	// AddMark remembers a published checkpoint. One of a size that is known is
	// left as it is.
	AddMark(ctx context.Context, m Mark) error
	// MarkBefore returns the newest mark that is not younger than a time, and
	// reports whether there is one.
	MarkBefore(ctx context.Context, t time.Time) (Mark, bool, error)
}

// Pruned says how far a log was pruned, and why it could be.
type Pruned struct {
	Minimum uint64 // the minimum index
	At      []byte // the published checkpoint at which it was decided
	Old     []byte // one of at least Minimum entries that was old enough; nil if age did not matter
}

// Follows returns an error that wraps [ErrMoved] unless SetPruned may keep p behind what
// it kept last, while this checkpoint is published; nil if there is none.
func (p Pruned) Follows(last Pruned, published *Head) error {
	switch {
	case p.Minimum <= last.Minimum || p.Minimum%BundleWidth != 0:
		return fmt.Errorf("%w: it is %d, and only ever moves on by whole bundles", ErrMoved, last.Minimum)
	case published == nil || published.Size < p.Minimum:
		return fmt.Errorf("%w: not as many entries are published", ErrMoved)
	}
	return nil
}

// Mark is a published checkpoint with the time of its quorum.
type Mark struct {
	Size uint64
	Time time.Time // whole seconds
	Note []byte
}

// OpeningsTrimmer is an [Openings] that can let go of what belongs to the oldest
// entries.
type OpeningsTrimmer interface {
	// Trim deletes openings of entries below an index, erased ones too, at most
	// so many in one short transaction, and then the wrapped keys that nothing else
	// was encrypted under. It reports whether there may be more. The index is a
	// multiple of BundleWidth; keys that are used above it stay.
	Trim(ctx context.Context, below uint64, limit int) (more bool, err error)
}
