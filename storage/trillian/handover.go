package trillian

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/trillian"
	"google.golang.org/grpc/codes"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

const (
	// A call takes so much: its time grows with both.
	maxLeaves     = 1000
	maxLeavesSize = 2 << 20

	lookEvery   = 25 * time.Millisecond // at Trillian's root, while it has something to do
	idleEvery   = time.Second           // at what is stored, were a commit not noticed
	firstPause  = 100 * time.Millisecond
	longerPause = 5 * time.Second
)

// HandOver hands entries over to Trillian until the context ends. After an [ErrDiffers] it
// does nothing more.
func (l *Log) HandOver(ctx context.Context) error {
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := l.handOver(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrDiffers):
			l.config.Logger.Error("no checkpoint is signed any more", "tree", l.config.TreeID, "error", err)
			l.fail(err)
			<-ctx.Done()
			return nil
		}
		if time.Since(began) > longerPause {
			pause = firstPause
		}
		l.config.Logger.Warn("Trillian does not take entries", "retry", pause, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, longerPause)
	}
	return nil
}

// handOver goes on where Trillian stands, until something fails.
func (l *Log) handOver(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call, end := context.WithTimeout(ctx, callTime)
	root, err := l.latest(call)
	end()
	if err != nil {
		return err
	}
	if err := l.compare(ctx, root); err != nil {
		return err
	}
	next, err := l.queued(ctx, root.TreeSize)
	if err != nil {
		return err
	}
	looking := make(chan error, 1)
	go func() { looking <- l.look(ctx) }()
	for {
		n, err := l.send(ctx, next)
		if err != nil {
			cancel()
			return errors.Join(err, differs(<-looking))
		}
		next += n
		idle := time.Duration(0)
		if n == 0 {
			idle = idleEvery
		}
		select {
		case err := <-looking:
			return err
		case <-l.added:
		case <-time.After(idle):
		}
	}
}

// differs keeps of an error only what is worth more than another.
func differs(err error) error {
	if errors.Is(err, ErrDiffers) {
		return err
	}
	return nil
}

// queued returns the index behind what Trillian already holds, integrated or not, and
// checks that it is ours: a call that failed may have been carried out, and so may one
// of a former writer.
func (l *Log) queued(ctx context.Context, next uint64) (uint64, error) {
	size, err := l.StoredSize(ctx)
	if err != nil {
		return 0, err
	}
	for next < size {
		call, cancel := context.WithTimeout(ctx, callTime)
		answer, err := l.client.GetLeavesByRange(call, &trillian.GetLeavesByRangeRequest{
			LogId: l.config.TreeID, StartIndex: int64(next), Count: int64(min(maxLeaves, size-next))})
		cancel()
		if err != nil {
			return 0, reached(err)
		}
		if len(answer.Leaves) == 0 {
			return next, nil
		}
		ours, err := l.leaves(ctx, next, min(size, next+uint64(len(answer.Leaves))))
		if err != nil {
			return 0, err
		}
		for i, leaf := range answer.Leaves[:min(len(ours), len(answer.Leaves))] {
			if leaf.LeafIndex != ours[i].LeafIndex {
				return next, nil // a hole: what is behind it is found when it is reached
			}
			if hash := record.LeafHash(ours[i].LeafValue); string(hash[:]) != string(leaf.MerkleLeafHash) {
				return 0, fmt.Errorf("%w: Trillian holds another entry %d", ErrDiffers, next)
			}
			next++
		}
	}
	return next, nil
}

// send hands over the entries from an index on, as many as one call takes, and
// returns how many those were.
func (l *Log) send(ctx context.Context, first uint64) (uint64, error) {
	if l.size.Load() <= first {
		stored, err := l.StoredSize(ctx)
		if err != nil || stored <= first {
			return 0, err
		}
		l.grown(stored)
	}
	size := l.size.Load()
	leaves, err := l.leaves(ctx, first, min(size, first+maxLeaves))
	if err != nil {
		return 0, err
	}
	call, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	answer, err := l.client.AddSequencedLeaves(call, &trillian.AddSequencedLeavesRequest{LogId: l.config.TreeID, Leaves: leaves})
	if err != nil {
		return 0, reached(err)
	}
	if len(answer.Results) != len(leaves) {
		return 0, fmt.Errorf("there are answers for %d of %d entries", len(answer.Results), len(leaves))
	}
	// An index that is refused leaves a hole, at which the tree stalls: every one counts.
	for i, r := range answer.Results {
		if code := codes.Code(r.GetStatus().GetCode()); code != codes.OK {
			return 0, fmt.Errorf("refused entry %d: %s: %s", first+uint64(i), code, r.GetStatus().GetMessage())
		}
	}
	return uint64(len(leaves)), nil
}

// leaves returns entries as Trillian wants them, fewer if they are large.
func (l *Log) leaves(ctx context.Context, first, end uint64) ([]*trillian.LogLeaf, error) {
	var list []*trillian.LogLeaf
	bytes := 0
	for next := first; next < end; {
		bundle, err := l.Bundle(ctx, next/storage.BundleWidth)
		if err != nil {
			return nil, err
		}
		index := next - next%storage.BundleWidth
		for entry, err := range storage.Entries(bundle) {
			if err != nil {
				return nil, err
			}
			if index >= next && index < end {
				if bytes += len(entry); bytes > maxLeavesSize && len(list) > 0 {
					return list, nil
				}
				list = append(list, &trillian.LogLeaf{LeafIndex: int64(index), LeafValue: entry, LeafIdentityHash: identity(index)})
			}
			index++
		}
		if index <= next {
			return nil, fmt.Errorf("%w: bundle %d ends before entry %d", storage.ErrCorrupt, next/storage.BundleWidth, next)
		}
		next = index
	}
	return list, nil
}

// identity makes equal entries different to Trillian, which refuses the second of two
// by default.
func identity(index uint64) []byte {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], index)
	sum := sha256.Sum256(b[:])
	return sum[:]
}

// look compares Trillian's root with ours whenever it has changed.
func (l *Log) look(ctx context.Context) error {
	for {
		pause := lookEvery
		if l.Taken() >= l.size.Load() {
			pause = idleEvery / 4
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		call, cancel := context.WithTimeout(ctx, callTime)
		root, err := l.latest(call)
		cancel()
		if err != nil {
			return err
		}
		if root.TreeSize < l.Taken() {
			return fmt.Errorf("%w: Trillian had %d entries and has %d: it is an older copy", ErrDiffers, l.Taken(), root.TreeSize)
		}
		if root.TreeSize == l.Taken() {
			continue
		}
		if err := l.compare(ctx, root); err != nil {
			return err
		}
	}
}
