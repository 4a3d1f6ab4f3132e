package tlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/failpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/tiles"
	"github.com/sealtap/sealtap/witness"
)

const (
	publishDelay    = 250 * time.Millisecond // after a failure
	maxPublishDelay = 5 * time.Second
)

// publishLoop publishes a checkpoint whenever there is something new, at most
// one an interval, until the context ends.
func (l *Log) publishLoop(ctx context.Context) {
	var last time.Time // the last attempt
	var delay time.Duration
	// The checkpoint that was signed last before the start goes first, as it is: a
	// witness may have seen it. One that is published goes out again as well, since
	// a witness that has seen a later one tells that the storage is an older copy.
	// Nothing else is signed before the quorum has taken it: it would be a second
	// history.
	resume := l.signed != nil
	again := resume
	first := resume
	for {
		s := l.durable.Load()
		if s.size <= l.Published() && !again {
			if !wait(ctx, s.next, 0) {
				return
			}
			continue
		}
		if pause := time.Until(last.Add(max(l.config.CheckpointInterval, delay))); pause > 0 && !wait(ctx, nil, pause) {
			return
		}
		last = time.Now()
		head := l.durableHead()
		if resume {
			head = *l.signed
		}
		err := l.publish(ctx, head)
		if ctx.Err() != nil {
			return
		}
		l.setPublishing(err)
		if behind := resume && errors.Is(err, witness.ErrWitnessAhead); behind || err == nil {
			l.behind.Store(behind)
		}
		if first {
			first = false
			close(l.term.Load().asked)
		}
		if err == nil {
			l.metrics.published(time.Since(last))
			delay, again, resume = 0, false, false
			continue
		}
		delay = min(max(publishDelay, 2*delay), maxPublishDelay)
		l.metrics.publishFailures.Inc()
		if errors.Is(err, witness.ErrWitnessAhead) {
			l.config.Logger.Error("a witness has cosigned more than this log holds: the storage is older than what was witnessed; "+
				"the log takes nothing and publishes nothing new; stop it, and put back a newer copy (sealtap log restore)", "size", head.Size, "error", err)
		} else {
			l.config.Logger.Warn("no checkpoint could be published", "size", head.Size, "retry", delay, "error", err)
		}
	}
}

// durableHead returns the head of what is stored: size and root of one snapshot.
// Taken from two, they would be signed as a pair that never was.
func (l *Log) durableHead() storage.Head {
	s := l.durable.Load()
	return storage.Head{Size: s.size, Root: s.root}
}

// wait returns true when the channel is closed or the time has passed, false
// when the context ends.
func wait(ctx context.Context, c <-chan struct{}, d time.Duration) bool {
	var timer <-chan time.Time
	if d > 0 {
		timer = time.After(d)
	}
	select {
	case <-ctx.Done():
		return false
	case <-c:
	case <-timer:
	}
	return true
}

// publish signs a head, has it cosigned and shows it. The order is that of
// durability: nobody is shown a checkpoint that could be forgotten.
func (l *Log) publish(ctx context.Context, head storage.Head) error {
	signed, err := l.sign(ctx, head)
	if err != nil {
		return err
	}
	failpoint.Here("signed-kept")
	cosigned := signed.Note
	var cosignErr error
	if l.config.Cosigner != nil {
		if cosigned, cosignErr = l.config.Cosigner.Cosign(ctx, signed.Note, l.consistencyTo(signed.Size)); cosigned == nil {
			cosigned = signed.Note
		}
	}
	failpoint.Here("cosigned")
	cp, err := l.config.Policy.Verify(cosigned)
	if err != nil {
		return errors.Join(cosignErr, err)
	}
	if cp.Origin != l.origin || cp.Size != signed.Size || record.Hash(cp.Root) != signed.Root {
		return fmt.Errorf("collecting cosignatures: size %d of %q came back for size %d", cp.Size, cp.Origin, signed.Size)
	}
	if !l.keepsOwn(signed.Note, cosigned) {
		return errors.New("collecting cosignatures: a signature of the log's own was lost; the cosigner does not have the log's own policy")
	}
	if cosignErr != nil {
		l.config.Logger.Warn("not every witness cosigned", "size", signed.Size, "error", cosignErr)
	}
	if err := l.config.Storage.SetPublished(ctx, storage.Head{Size: signed.Size, Root: signed.Root, Note: cosigned}); err != nil {
		return err
	}
	failpoint.Here("published-kept")
	l.published.Store(cp)
	failpoint.Here("published-shown")
	l.news.ring()
	return nil
}

// sign returns the signed checkpoint of a head once it is durable. A head that
// was signed before gives the same bytes.
func (l *Log) sign(ctx context.Context, head storage.Head) (storage.Head, error) {
	if l.signed != nil && l.signed.Size == head.Size && l.signed.Root == head.Root {
		head = *l.signed
	} else {
		body := checkpoint.Body{Origin: l.origin, Size: head.Size, Root: head.Root}
		var err error
		if head.Note, err = note.Sign(&note.Note{Text: string(body.Marshal())}, l.namedSigners(head.Size)...); err != nil {
			return head, fmt.Errorf("signing checkpoint: %w", err)
		}
	}
	failpoint.Here("signed")
	// Again for one that was signed before: it may have got half way.
	if err := l.config.Storage.SetSigned(ctx, head); err != nil {
		return head, err
	}
	l.signed = &head
	return head, nil
}

// consistencyTo proves to witnesses that the tree of a size is an extension of
// what they have seen. The size is not published yet.
func (l *Log) consistencyTo(size uint64) witness.Consistency {
	return func(ctx context.Context, from uint64) ([][32]byte, error) {
		path, err := tiles.ConsistencyProof(ctx, apart{l.cache}, from, size)
		hashes := make([][32]byte, len(path))
		for i, h := range path {
			hashes[i] = h
		}
		return hashes, err
	}
}

// apart reads the nodes of a cache without being the cache: what is proven in it does
// not take the place of the right edge that the readers of the published tree share,
// who would have to hash it each for himself until the witnesses have cosigned.
type apart struct{ *tiles.Cache }
