package tlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/sealtap/sealtap/checkpoint"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

const (
	// A replayed submission ends with the run that brings it to one of these.
	replayEntries = 2048
	replayBytes   = 4 << 20

	// A run that was stored once is stored again whatever the limits are now.
	maxReplayEntries = 1 << 20
	maxReplayBytes   = 1 << 30
)

// errReplaying is wrapped where a log that only takes back its own entries was to
// sign something.
var errReplaying = errors.New("a log that replays entries signs nothing")

// Replay stores entries that the log has had before, behind those that are
// stored, by the same way that they took the first time: each run is parsed,
// verified, admitted under the keys of its time and sequenced, and has to come to
// stand where it stood. The caller has proven the entries to stand there under a
// checkpoint of the log. Replay signs nothing and asks no witness; a signed
// checkpoint above the stored entries, for which [Open] refuses the storage, is
// passed over.
//
// Replay returns how far the storage is, after an error as well: what it has
// stored then stays. Openings, Operator and Cosigner of the configuration are not
// used. Without entries it checks that the log can be opened.
func Replay(ctx context.Context, c Config, entries iter.Seq2[[]byte, error]) (checkpoint.Body, error) {
	if c.Storage != nil {
		c.Storage = unsigned{c.Storage}
	}
	c.Operator, c.Openings, c.Cosigner = nil, nil, nil
	c.MaxBatchEntries, c.MaxBatchBytes = maxReplayEntries, maxReplayBytes
	l, err := Open(ctx, c)
	if err != nil {
		return checkpoint.Body{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var writer sync.WaitGroup
	writer.Go(func() { l.write(ctx) })
	err = (&replay{log: l}).all(ctx, entries)
	cancel()
	writer.Wait()
	s := l.durable.Load()
	return checkpoint.Body{Origin: l.origin, Size: s.size, Root: s.root}, err
}

// unsigned is the storage of a log that signs nothing.
type unsigned struct{ storage.Log }

// Load implements [storage.Log].
func (u unsigned) Load(ctx context.Context) (*storage.State, error) {
	state, err := u.Log.Load(ctx)
	if err == nil {
		state.Signed = nil
	}
	return state, err
}

// SetSigned implements [storage.Log].
func (unsigned) SetSigned(context.Context, storage.Head) error { return errReplaying }

// SetPublished implements [storage.Log].
func (unsigned) SetPublished(context.Context, storage.Head) error { return errReplaying }

// replay gathers entries into submissions. A submission consists of whole runs.
type replay struct {
	log   *Log
	items []*sealtapv1.Item
	bytes int
}

func (r *replay) all(ctx context.Context, entries iter.Seq2[[]byte, error]) error {
	open := false // the last entry is a record, whose seal follows
	for entry, err := range entries {
		if err != nil {
			return err
		}
		kind, _, err := record.Split(entry)
		if err != nil {
			return fmt.Errorf("replaying: %w", err)
		}
		alone := kind != record.KindRecord && kind != record.KindSeal
		if alone || !open && (len(r.items) >= replayEntries || r.bytes >= replayBytes) {
			if err := r.submit(ctx); err != nil {
				return err
			}
		}
		r.items = append(r.items, &sealtapv1.Item{Entry: entry})
		r.bytes += len(entry)
		if open = kind == record.KindRecord; alone {
			if err := r.submit(ctx); err != nil {
				return err
			}
		}
	}
	return r.submit(ctx)
}

// submit stores what was gathered.
func (r *replay) submit(ctx context.Context) error {
	n := uint64(len(r.items))
	if n == 0 {
		return nil
	}
	first := r.log.Size()
	resp, err := r.log.Submit(ctx, &sealtapv1.SubmitRequest{Items: r.items})
	if err != nil {
		return fmt.Errorf("replaying entries %d to %d: %w", first, first+n-1, err)
	}
	if runs := resp.Runs; len(runs) != 1 || runs[0].FirstItem != 0 || runs[0].FirstIndex != first || runs[0].Count != n {
		return fmt.Errorf("replaying entries %d to %d: %w: they came to stand elsewhere", first, first+n-1, storage.ErrCorrupt)
	}
	r.items, r.bytes = nil, 0
	return nil
}
