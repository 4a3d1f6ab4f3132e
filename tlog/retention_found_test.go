package tlog_test

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/storagetest"
	"github.com/sealtap/sealtap/tlog"
)

// watched is a storage that tells how old entries must be.
type watched struct {
	*storagetest.Faulty
	asked func(age time.Duration)
}

func (w watched) MarkBefore(ctx context.Context, t time.Time) (storage.Mark, bool, error) {
	w.asked(time.Since(t))
	return w.Faulty.MarkBefore(ctx, t)
}

// TestPrunePublishedForAWhile: a policy that looks at the number of entries only
// lets go of what others have had time to see.
func TestPrunePublishedForAWhile(t *testing.T) {
	var youngest atomic.Int64
	youngest.Store(math.MaxInt64)
	f := newFixture(t)
	f.config = func(c *tlog.Config) {
		c.PruneInterval = time.Second
		c.Storage = watched{f.storage, func(age time.Duration) { youngest.Store(min(youngest.Load(), int64(age))) }}
	}
	f.start()
	p := f.producer("proxy-1")
	f.retain(record.Retention{Entries: 1})
	before := time.Now()
	f.mustSubmit(p.batch(600)...)
	f.pruned(512)
	if took, age := time.Since(before), time.Duration(youngest.Load()); took < time.Second || age < time.Second {
		t.Errorf("pruned %s after it was published; asked for was what is %s old", took, age)
	}
	kept, err := f.storage.Pruned(context.Background())
	if err != nil || kept.Old != nil {
		t.Errorf("the age of the entries is shown, although the policy does not ask for it: %v", err)
	}
}

// holed is a storage in which a run may be missing.
type holed struct {
	*storagetest.Faulty
	missing func(s record.Stream, sequence uint64) bool
}

func (h holed) Run(ctx context.Context, s record.Stream, sequence uint64) (storage.Run, bool, error) {
	if h.missing(s, sequence) {
		return storage.Run{}, false, nil
	}
	return h.Faulty.Run(ctx, s, sequence)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestPruneMissingRun: a log that does not find a run that it has stored lets go of
// nothing that belongs to it.
func TestPruneMissingRun(t *testing.T) {
	for name, from := range map[string]uint64{"the first": 0, "in the middle": 200, "the last": 500, "of one record": 599} {
		t.Run(name, func(t *testing.T) {
			said := new(lockedBuffer)
			var p *producer
			missing := true
			var mu sync.Mutex
			f := newFixture(t)
			f.config = func(c *tlog.Config) {
				c.PruneInterval, c.Logger = 2*time.Millisecond, slog.New(slog.NewTextHandler(said, nil))
				c.Storage = holed{f.storage, func(s record.Stream, sequence uint64) bool {
					mu.Lock()
					defer mu.Unlock()
					return missing && p != nil && s == p.stream && sequence >= from
				}}
			}
			f.start()
			mu.Lock()
			p = f.producer("proxy-1")
			mu.Unlock()
			q := f.producer("proxy-2")
			for _, n := range []int{200, 300, 99, 1} {
				f.mustSubmit(p.batch(n)...)
				f.mustSubmit(q.batch(100)...)
			}
			f.mustSubmit(q.batch(300)...)
			f.retain(record.Retention{Entries: 1})
			for end := time.Now().Add(20 * time.Second); !strings.Contains(said.String(), storage.ErrCorrupt.Error()); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("pruned to %d; said: %s", f.log.Minimum(), said)
				}
			}
			f.pruned(0)
			mu.Lock()
			missing = false
			mu.Unlock()
			f.pruned(1280)
		})
	}
}

// TestPruneAtASeal: the minimum index may fall on a seal, whose run has gone.
func TestPruneAtASeal(t *testing.T) {
	f := pruning(t)
	p := f.producer("proxy-1")
	f.retain(record.Retention{Entries: 300})
	f.mustSubmit(p.batch(512 - 3)...) // the seal stands at 512
	entry, err := f.log.Entry(context.Background(), 512)
	if err != nil {
		t.Fatal(err)
	}
	if kind, _, err := record.Split(entry); err != nil || kind != record.KindSeal {
		t.Fatalf("entry 512 is a %v, %v", kind, err)
	}
	f.mustSubmit(p.batch(299)...) // 813 entries
	f.pruned(512)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		_, ok, err := f.storage.Run(context.Background(), p.stream, 0)
		if err != nil || time.Now().After(end) {
			t.Fatalf("the run below is still there: %v", err)
		}
		if !ok {
			break
		}
	}
	f.mustSubmit(p.batch(600)...)
	f.pruned(1024)
	if size, _, err := f.log.StreamAtMinimum(context.Background(), p.stream); err != nil || size == 0 {
		t.Error(size, err)
	}
}
