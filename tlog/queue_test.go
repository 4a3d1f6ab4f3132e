package tlog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage/storagetest"
	"github.com/sealtap/sealtap/tlog"
)

func TestLimits(t *testing.T) {
	f := newFixture(t)
	f.config = func(c *tlog.Config) {
		c.MaxBatchEntries, c.MaxBatchBytes, c.MaxQueue, c.MaxQueueBytes = 10, 5000, 3, 4000
	}
	f.start()
	p := f.producer("proxy-1")
	if _, err := f.submit(p.clone().batch(10)...); !errors.Is(err, tlog.ErrTooLarge) {
		t.Errorf("too many entries: %v", err)
	}
	big := p.clone()
	if _, err := f.submit(big.record(string(make([]byte, 5000))), big.seal()); !errors.Is(err, tlog.ErrTooLarge) {
		t.Errorf("too many bytes: %v", err)
	}
	// A commit that hangs: the queue fills up, and no more.
	reached, release := f.storage.Hold("Commit")
	errs := make(chan error, 20)
	batch := p.batch(1)
	submit := func() { _, err := f.submit(batch...); errs <- err }
	go submit()
	<-reached // it does not wait in the queue any more
	for range 10 {
		go submit()
	}
	for range 7 { // three wait
		if err := <-errs; !errors.Is(err, tlog.ErrBusy) {
			t.Errorf("while nothing can be stored: %v", err)
		}
	}
	release()
	for range 4 {
		if err := <-errs; err != nil {
			t.Errorf("waiting in the queue: %v", err)
		}
	}
}

func TestQueueBytes(t *testing.T) {
	f := newFixture(t)
	registry := prometheus.NewRegistry()
	f.config = func(c *tlog.Config) { c.MaxQueueBytes, c.Metrics = 1000, registry }
	f.start()
	p := f.producer("proxy-1")
	reached, release := f.storage.Hold("Commit")
	large := p.batch(40) // alone above the bound: taken if nothing waits
	done := make(chan error, 2)
	submit := func() { _, err := f.submit(large...); done <- err }
	go submit()
	<-reached // it does not wait in the queue any more
	go submit()
	eventually(t, "waiting", func() bool { return metric(t, registry, "sealtap_log_queue") == 1 })
	if _, err := f.submit(large...); !errors.Is(err, tlog.ErrBusy) {
		t.Errorf("with more than the bound waiting: %v", err)
	}
	release()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// metric returns the value of a gauge.
func metric(t *testing.T, r *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// TestCommitFaults is about what a producer sees when a commit goes wrong: an
// error, and after it the same answer as if nothing had happened.
func TestCommitFaults(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	for round, faults := range [][]storagetest.Fault{
		{storagetest.Failed}, {storagetest.Persisted}, {storagetest.Cancelled},
		{storagetest.Failed, storagetest.Persisted}, {storagetest.Persisted, storagetest.Failed},
	} {
		b := p.batch(100 + round)
		f.storage.Fail("Commit", faults...)
		f.storage.Fail("Load", storagetest.Failed)
		failed := 0
		var resp *sealtapv1.SubmitResponse
		for {
			var err error
			if resp, err = f.submit(b...); err == nil {
				break
			}
			if failed++; !errors.Is(err, tlog.ErrUnavailable) || failed > 5 {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if failed == 0 {
			t.Errorf("round %d: nothing failed", round)
		}
		if r := resp.Runs; len(r) != 1 || r[0].Count != uint64(len(b)) || r[0].FirstIndex+r[0].Count != f.log.Size() {
			t.Errorf("round %d: runs %v, size %d: stored twice, or not at all", round, r, f.log.Size())
		}
	}
	f.storage.Fail("Commit", storagetest.Persisted)
	entry, err := record.NewKeyChange(record.KeyChange{Origin: f.key.Name, Number: 2, Enrol: []keys.Public{newKey(t, "proxy-2", keys.Ed25519).Public}}, f.operator)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.submit(entry); !errors.Is(err, tlog.ErrUnavailable) {
		t.Errorf("a key change whose commit failed: %v", err)
	}
	size := f.log.Size()
	eventually(t, "stored", func() bool { _, err := f.submit(entry); return err == nil })
	if f.log.Size() > size+1 {
		t.Errorf("a key change was stored twice")
	}
	f.checkTree()
}

// TestConcurrentProducers has many producers submit at once, and repeat
// themselves, while the storage fails now and then.
func TestConcurrentProducers(t *testing.T) {
	f := newFixture(t).start()
	const producers, batches = 8, 25
	var ps []*producer
	for i := range producers {
		ps = append(ps, f.producer(fmt.Sprint("proxy-", i)))
	}
	var mu sync.Mutex
	at := make(map[uint64][]byte)
	var wg sync.WaitGroup
	for i, p := range ps {
		wg.Go(func() {
			var last [][]byte
			for n := range batches {
				b := p.batch(1 + rand.IntN(20))
				send := append(last[:len(last):len(last)], b...) // with what is known already
				last = b
				if n%9 == i {
					f.storage.Fail("Commit", storagetest.Fault(n%2))
				}
				resp, err := f.submit(send...)
				for tries := 0; errors.Is(err, tlog.ErrUnavailable) && tries < 20; tries++ {
					resp, err = f.submit(send...)
				}
				if err != nil {
					t.Errorf("producer %d: %v", i, err)
					return
				}
				mu.Lock()
				for _, r := range resp.Runs {
					for k := range r.Count {
						index, entry := r.FirstIndex+k, send[r.FirstItem+k]
						if old := at[index]; old != nil && !bytes.Equal(old, entry) {
							t.Errorf("entry %d is two", index)
						}
						at[index] = entry
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if want := uint64(len(at)) + 1 + producers; f.log.Size() != want {
		t.Errorf("size %d, want %d: something was stored twice, or lost", f.log.Size(), want)
	}
	for index, want := range at {
		if got, err := f.log.Entry(context.Background(), index); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("entry %d: %v, or not what was answered", index, err)
		}
	}
	f.checkTree()
	f.restart()
	f.checkTree()
}

func TestStopped(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	f.stop()
	if _, err := f.submit(p.batch(1)...); !errors.Is(err, tlog.ErrStopped) {
		t.Errorf("submitting to a stopped log: %v", err)
	}
	if f.log.Ready() == nil {
		t.Error("a stopped log is ready")
	}
}

func TestWait(t *testing.T) {
	f := newFixture(t).start()
	ctx, cancel := context.WithCancel(context.Background())
	if err := f.log.Wait(ctx, 0); err != nil {
		t.Errorf("waiting for what is there: %v", err)
	}
	done := make(chan error)
	go func() { done <- f.log.Wait(ctx, 1) }()
	f.producer("proxy-1")
	if err := <-done; err != nil {
		t.Errorf("waiting for more: %v", err)
	}
	cancel()
	if err := f.log.Wait(ctx, 100); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting under an ended context: %v", err)
	}
}
