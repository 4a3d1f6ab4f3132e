package tlog_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sealtap/sealtap/tlog"
)

// server is one of two logs that share a storage.
type server struct {
	t    *testing.T
	log  *tlog.Log
	stop func()
}

// as runs the log in a role until stop.
func (s *server) as(role func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- role(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
}

// follows has the server follow.
func (s *server) follows() {
	s.as(func(ctx context.Context) error { s.log.Follow(ctx); return nil })
}

func (s *server) publishes(size uint64) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); s.log.Published() < size; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("published %d of %d entries: %v", s.log.Published(), size, s.log.Ready())
		}
	}
}

// Two logs write one storage in turns. What the one publishes the other shows, and
// what the other takes over is what the first has left.
func TestTurns(t *testing.T) {
	f := newFixture(t)
	f.config = func(c *tlog.Config) { c.Follow = true }
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	defer f.stop()
	other, err := tlog.Open(t.Context(), tlog.Config{Key: f.key, Storage: f.storage, Openings: f.openings, Policy: f.policy,
		CheckpointInterval: time.Millisecond, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	one, two := &server{t: t, log: f.log}, &server{t: t, log: other}
	if _, err := f.submit([]byte("x")); err == nil {
		t.Error("a log that does not write took something")
	}
	one.as(one.log.Run)
	two.follows()
	one.publishes(1)
	p := f.producer("producer")
	size := uint64(2)
	for turn := range 4 {
		f.log = one.log // the one that writes
		for range 5 {
			batch := p.batch(60)
			f.mustSubmit(batch...)
			size += uint64(len(batch))
		}
		one.publishes(size)
		two.publishes(size)
		f.log = two.log
		if _, err := f.submit(p.clone().batch(1)...); !errors.Is(err, tlog.ErrFollows) {
			t.Errorf("turn %d: a submission to the one that follows: %v", turn, err)
		}
		f.checkTree()
		if err := two.log.Ready(); err != nil {
			t.Errorf("turn %d: the one that follows: %v", turn, err)
		}
		one.stop()
		two.stop()
		one, two = two, one
		one.as(one.log.Run)
		two.follows()
		for end := time.Now().Add(20 * time.Second); !one.log.Writing(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it does not take over")
			}
		}
	}
	one.stop()
	two.stop()
}
