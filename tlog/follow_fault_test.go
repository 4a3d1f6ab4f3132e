package tlog_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/storagetest"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/witness/policy"
)

// shared is a storage as one that several logs share.
type shared struct {
	*storagetest.Faulty
	bundles   atomic.Int64  // how many were read
	published atomic.Uint64 // what it says is published, if not 0
}

// Newest says what is published, and where what is kept begins.
func (s *shared) Newest(ctx context.Context) (published, minimum uint64, err error) {
	p, err := s.Pruned(ctx)
	if err != nil {
		return 0, 0, err
	}
	if n := s.published.Load(); n > 0 {
		return n, p.Minimum, nil
	}
	state, err := s.Load(ctx)
	if err == nil && state.Published != nil {
		published = state.Published.Size
	}
	return published, p.Minimum, err
}

// Bundle implements [storage.Log].
func (s *shared) Bundle(ctx context.Context, n uint64) ([]byte, error) {
	s.bundles.Add(1)
	return s.Faulty.Bundle(ctx, n)
}

// follower opens a log that shows what that of the fixture publishes.
func (f *fixture) follower(change func(*tlog.Config)) (*tlog.Log, *shared) {
	f.t.Helper()
	s := &shared{Faulty: storagetest.NewFaulty(f.storage.Log)}
	c := tlog.Config{Key: f.key, Storage: s, Policy: f.policy, CheckpointInterval: time.Millisecond, Follow: true}
	if change != nil {
		change(&c)
	}
	l, err := tlog.Open(f.t.Context(), c)
	if err != nil {
		f.t.Fatal(err)
	}
	return l, s
}

// follow has a log follow until the end of the test.
func (f *fixture) follow(l *tlog.Log) {
	s := &server{t: f.t.(*testing.T), log: l}
	s.follows()
	f.t.Cleanup(s.stop)
}

// until waits for something.
func until(t testing.TB, what string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waiting for %s", what)
		}
	}
}

// A log that cannot take over takes nothing, and keeps nobody waiting.
func TestTakeOverFails(t *testing.T) {
	f := newFixture(t).start()
	f.published(1)
	f.stop()
	quantum := newKey(t, f.key.Name, keys.MLDSA44)
	own, err := tlog.OwnPolicy(f.policy, f.key, quantum)
	if err != nil {
		t.Fatal(err)
	}
	f.policy = own
	f.config = func(c *tlog.Config) { c.Follow, c.PostQuantumKey, c.Operator = true, quantum, nil }
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	defer f.stop()
	if err := f.log.Run(t.Context()); !errors.Is(err, tlog.ErrConfig) {
		t.Errorf("a key that nobody has named: %v", err)
	}
	if f.log.Writing() {
		t.Error("it takes entries that nobody stores")
	}
	key := newKey(t, "proxy-1", keys.Ed25519)
	entry, err := record.NewKeyChange(record.KeyChange{Origin: f.key.Name, Number: 1, Enrol: []keys.Public{key.Public}}, f.operator)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.submit(entry); !errors.Is(err, tlog.ErrFollows) {
		t.Errorf("a submission: %v", err)
	}
}

// A log that is to stop takes nothing more, however long the storage takes for what it
// has been given.
func TestStopsTakingAtOnce(t *testing.T) {
	f := newFixture(t)
	f.config = func(c *tlog.Config) { c.Follow = true }
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	defer f.stop()
	s := &server{t: t, log: f.log}
	s.as(f.log.Run)
	s.publishes(1)
	p := f.producer("proxy-1")
	reached, release := f.storage.Hold("Commit")
	first := make(chan error, 1)
	go func() {
		_, err := f.submit(p.clone().batch(1)...)
		first <- err
	}()
	<-reached
	stopped := make(chan struct{})
	go func() { s.stop(); close(stopped) }()
	until(t, "the log to take nothing more", func() bool { return !f.log.Writing() })
	if _, err := f.submit(p.clone().batch(2)...); !errors.Is(err, tlog.ErrFollows) {
		t.Errorf("a submission to a log that stops: %v", err)
	}
	release()
	<-stopped
	if err := <-first; err != nil && !errors.Is(err, tlog.ErrFollows) {
		t.Errorf("the one before: %v", err)
	}
}

// What the writer prunes is not there for one that follows either, with or without a new
// head; and in between it says so.
func TestFollowPruned(t *testing.T) {
	f := pruning(t)
	var told atomic.Uint64
	l, _ := f.follower(func(c *tlog.Config) { c.OnPrune = func(minimum uint64) { told.Store(minimum) } })
	p := f.producer("proxy-1")
	for range 8 {
		f.mustSubmit(p.batch(100)...)
	}
	f.published(f.log.Size())
	behind, _ := f.follower(nil)
	f.retain(record.Retention{Entries: 100})
	f.published(f.log.Size())
	f.pruned(f.log.Size() - 100 - (f.log.Size()-100)%256)
	f.swept(1) // bundle 0 has statements
	// One that has not looked since.
	for _, index := range []uint64{300, 400} {
		if _, err := behind.LeafHash(t.Context(), index); !errors.Is(err, storage.ErrPruned) || errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("a leaf that was pruned: %v", err)
		}
	}
	if got, want := behind.Minimum(), f.log.Minimum(); got != want {
		t.Errorf("the minimum index of one that has found something gone is %d, want %d", got, want)
	}
	// One that looks.
	f.follow(l)
	until(t, "the minimum index", func() bool { return l.Minimum() == f.log.Minimum() && told.Load() == l.Minimum() })
}

// The minimum index moves on where no head does.
func TestFollowPrunedWithoutHead(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	for range 8 {
		f.mustSubmit(p.batch(100)...)
	}
	f.retain(record.Retention{Entries: 100})
	f.published(f.log.Size())
	size := f.log.Size()
	f.stop()
	f.config = func(c *tlog.Config) { c.PruneInterval = 2 * time.Millisecond }
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	l, _ := f.follower(nil)
	f.follow(l)
	f.run()
	f.pruned(size - 100 - (size-100)%256)
	until(t, "the minimum index", func() bool { return l.Minimum() == f.log.Minimum() })
	if l.Published() != size {
		t.Errorf("published %d entries, want the %d of before", l.Published(), size)
	}
}

// A storage that has gone back is told, and what was shown is shown.
func TestFollowedGoesBack(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(10)...)
	f.published(f.log.Size())
	l, s := f.follower(nil)
	f.follow(l)
	if err := l.Ready(); err != nil {
		t.Fatal(err)
	}
	size := l.Published()
	s.published.Store(size - 1)
	until(t, "word of a storage that has gone back", func() bool { return errors.Is(l.Ready(), tlog.ErrBehind) })
	if l.Published() != size {
		t.Errorf("it shows %d entries, and has shown %d", l.Published(), size)
	}
	s.published.Store(0)
	until(t, "the storage to be back", func() bool { return l.Ready() == nil })
}

// A head that does not satisfy the policy of the server that follows is not shown, and
// that is told.
func TestFollowedIsNotTrusted(t *testing.T) {
	f := newFixture(t).start()
	f.published(1)
	strict := f.newPolicy([]policy.Witness{{Name: "w", Key: newKey(t, "witness.example/w", keys.Cosignature).Public}}, "w")
	l, _ := f.follower(func(c *tlog.Config) { c.Policy = strict })
	f.follow(l)
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(10)...)
	f.published(f.log.Size())
	until(t, "word of a head that is not trusted", func() bool {
		err := l.Ready()
		return err != nil && strings.Contains(err.Error(), "does not satisfy the policy")
	})
}

// One that has not heard of the storage for a while is not ready: what it shows may be
// old.
func TestFollowedFallsSilent(t *testing.T) {
	f := newFixture(t).start()
	f.published(1)
	l, s := f.follower(nil)
	f.follow(l)
	reached, release := s.Hold("Pruned")
	<-reached
	if err := l.Ready(); err != nil {
		t.Errorf("a moment later: %v", err)
	}
	l.SetLooked(time.Now().Add(-time.Minute))
	if err := l.Ready(); !errors.Is(err, tlog.ErrFollows) {
		t.Errorf("a minute later: %v", err)
	}
	release()
	until(t, "the storage to answer", func() bool { return l.Ready() == nil })
}

// To follow costs no more for all the statements that the operator has ever made.
func TestFollowIsCheap(t *testing.T) {
	f := newFixture(t).start()
	var p *producer
	for i := range 20 {
		p = f.producer(string(rune('a' + i)))
		f.mustSubmit(p.batch(40)...)
	}
	f.published(f.log.Size())
	l, s := f.follower(nil)
	before := s.bundles.Load()
	f.follow(l)
	const heads = 10
	for range heads {
		f.mustSubmit(p.batch(1)...)
		size := f.log.Size()
		until(t, "the next head", func() bool { return l.Published() == size })
	}
	if n := s.bundles.Load() - before; n > heads {
		t.Errorf("%d bundles were read for %d heads", n, heads)
	}
	q := f.producer("another")
	f.mustSubmit(q.batch(1)...)
	size := f.log.Size()
	until(t, "the statement", func() bool { return l.Published() == size && len(l.Statements()) == 22 })
}
