package tlog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// ErrRate is wrapped where a producer sends more bytes than it may for now. To
// submit the same again later is what to do.
var ErrRate = errors.New("too many bytes")

// The names of limits, as the configuration gives them. The length of an entry is
// part of the format, and what is asked for at once is what answers are made for.
const (
	limitEntry        = "entry_bytes"
	limitBatchEntries = "batch_entries"
	limitBatchBytes   = "batch_bytes"
	limitRate         = "producer_bytes_per_second"
	limitQueue        = "queue_batches"
	limitQueueBytes   = "queue_bytes"
	limitReadingBytes = "reading_bytes"
	limitProofs       = "proofs"
	limitProofBytes   = "proof_request_bytes"
)

// LimitError says which limit a submission, or another request, is above.
type LimitError struct {
	Kind       error         // what it wraps: ErrTooLarge, ErrBusy, ErrRate, ErrUnpublished or errLongRequest
	Limit      string        // as the configuration names it
	What       string        // what was counted, in words
	Got, Max   uint64        // what it came to, and what it may come to
	RetryAfter time.Duration // when the same may be accepted; 0: the caller is told the usual
}

// Error implements error.
func (e *LimitError) Error() string {
	return fmt.Sprintf("%v: %d %s, and %s allows %d", e.Kind, e.Got, e.What, e.Limit, e.Max)
}

// Unwrap returns the kind of refusal.
func (e *LimitError) Unwrap() error { return e.Kind }

// budgets are what producers may still submit: a token bucket for each, of bytes.
// Only producers whose signature was verified have one, so that nobody can use up
// what is another's and memory is bounded by the number of those enrolled.
type budgets struct {
	rate, burst float64

	mu sync.Mutex
	of map[keys.ID]*bucket
}

type bucket struct {
	bytes float64
	at    time.Time // when it held them
}

func newBudgets(rate, burst int) *budgets {
	return &budgets{rate: float64(rate), burst: float64(max(rate, burst)), of: make(map[keys.ID]*bucket)}
}

// bucket returns the producer's as it is now. The caller holds the lock.
func (b *budgets) bucket(id keys.ID, now time.Time) *bucket {
	k := b.of[id]
	if k == nil {
		k = &bucket{bytes: b.burst, at: now}
		b.of[id] = k
	}
	if d := now.Sub(k.at); d > 0 {
		k.bytes, k.at = min(b.burst, k.bytes+d.Seconds()*b.rate), now
	}
	return k
}

// take takes n bytes, all or none. If they are not there it returns how many are,
// and when there will be enough.
func (b *budgets) take(id keys.ID, n int, now time.Time) (left uint64, wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.bucket(id, now)
	if k.bytes >= float64(n) {
		k.bytes -= float64(n)
		return 0, 0, true
	}
	seconds := (float64(n) - k.bytes) / b.rate
	return uint64(k.bytes), time.Duration(math.Ceil(seconds)) * time.Second, false
}

// give puts back what was taken for nothing.
func (b *budgets) give(id keys.ID, n int, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.bucket(id, now)
	k.bytes = min(b.burst, k.bytes+float64(n))
}

// low reports whether less than half is left.
func (b *budgets) low(id keys.ID, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bucket(id, now).bytes < b.burst/2
}

// charge is what a submission took from one producer.
type charge struct {
	key   keys.Public
	bytes int
}

// charge takes the bytes of a verified submission from its producers' budgets,
// from all or from none. The caller gives them back if nothing comes of it.
//
// Entries are public, so anybody can send again what a producer once sent, its
// signature and all. A repeat therefore costs nothing once the budget gets low:
// before that to find out is not worth a look into storage.
func (l *Log) charge(ctx context.Context, s *submission) ([]charge, error) {
	now := time.Now()
	rest := s.bytes // after the runs, the wrapped keys
	var list []charge
	for i := range s.runs {
		r := &s.runs[i]
		n := r.bytes()
		rest -= n
		id := r.key.ID()
		if l.budgets.low(id, now) && l.repeated(ctx, r) {
			continue
		}
		if last := len(list) - 1; last >= 0 && list[last].key.ID() == id {
			list[last].bytes += n
		} else {
			list = append(list, charge{r.key, n})
		}
	}
	if len(list) > 0 {
		list[0].bytes += rest
	}
	for i, c := range list {
		left, wait, ok := l.budgets.take(c.key.ID(), c.bytes, now)
		if !ok {
			l.refund(list[:i])
			return nil, &LimitError{Kind: ErrRate, Limit: limitRate, Got: uint64(c.bytes), Max: uint64(l.budgets.rate), RetryAfter: wait,
				What: fmt.Sprintf("bytes of producer %q, of which %d could be taken now and all in %s", c.key.Name, left, wait)}
		}
	}
	return list, nil
}

func (l *Log) refund(list []charge) {
	now := time.Now()
	for _, c := range list {
		l.budgets.give(c.key.ID(), c.bytes, now)
	}
}

// bytes is the size of the run's entries and openings.
func (r *run) bytes() int {
	n := len(r.sealed.entry) + len(r.sealed.box)
	for _, it := range r.records {
		n += len(it.entry) + len(it.box)
	}
	return n
}

// repeated reports whether the last record of a run is stored, and with it the
// whole run.
func (l *Log) repeated(ctx context.Context, r *run) bool {
	if r.seal.Size == 0 {
		return false
	}
	_, ok, err := l.config.Storage.Run(ctx, r.stream, r.seal.Size-1)
	return ok && err == nil
}

// checkSize refuses what is above the limits of a batch before it is looked at.
func (l *Log) checkSize(entries, bytes int) error {
	if entries > l.config.MaxBatchEntries {
		return &LimitError{Kind: ErrTooLarge, Limit: limitBatchEntries, What: "entries in a batch", Got: uint64(entries), Max: uint64(l.config.MaxBatchEntries)}
	}
	if bytes > l.config.MaxBatchBytes {
		return &LimitError{Kind: ErrTooLarge, Limit: limitBatchBytes, What: "bytes in a batch", Got: uint64(bytes), Max: uint64(l.config.MaxBatchBytes)}
	}
	return nil
}

func checkEntry(entry []byte) error {
	if len(entry) > record.MaxEntry {
		return &LimitError{Kind: ErrTooLarge, Limit: limitEntry, What: "bytes in an entry", Got: uint64(len(entry)), Max: record.MaxEntry}
	}
	return nil
}
