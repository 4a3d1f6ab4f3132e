package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage/postgres"
	"github.com/sealtap/sealtap/storage/postgres/pgtest"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/witness/policy"
)

// sharedLog is a log in PostgreSQL, without Trillian.
type sharedLog struct {
	t             *testing.T
	key, operator *keys.Private
	policy        *policy.Policy
}

func newSharedLog(t *testing.T) *sharedLog {
	t.Helper()
	s := &sharedLog{t: t}
	for name, k := range map[string]**keys.Private{"log.example/shared": &s.key, "operator": &s.operator} {
		var err error
		if *k, err = keys.Generate(name, keys.Ed25519); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if s.policy, err = policy.New([]policy.Log{{Key: s.key.Public}}, nil, nil, policy.None, &s.operator.Public); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sharedLog) database(url string) *postgres.DB {
	s.t.Helper()
	db, err := postgres.Open(s.t.Context(), postgres.Config{URL: url})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { db.Close() })
	return db
}

func (s *sharedLog) config(db *postgres.DB) tlog.Config {
	s.t.Helper()
	l, err := db.Log(filepath.Join(s.t.TempDir(), "signed"))
	if err != nil {
		s.t.Fatal(err)
	}
	return tlog.Config{Key: s.key, Operator: s.operator, Policy: s.policy, Storage: l, CheckpointInterval: 10 * time.Millisecond, Follow: true}
}

// until waits for what must come.
func until(t *testing.T, what string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ready(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waiting for %s", what)
		}
	}
}

// A server that cannot have the lease, for whatever reason, shows what is published all
// the same; and if it cannot do that, it says so.
func TestFollowsWithoutLease(t *testing.T) {
	server := pgtest.Start(t)
	name, err := server.NewName()
	if err != nil {
		t.Fatal(err)
	}
	s := newSharedLog(t)
	db := s.database(server.URL(name))
	lease, err := db.Acquire(t.Context(), "http://writer.example")
	if err != nil {
		t.Fatal(err)
	}
	writer, err := tlog.Open(t.Context(), s.config(db))
	if err != nil {
		t.Fatal(err)
	}
	run := func(f func(ctx context.Context) error) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- f(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	run(func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { _ = lease.Release(context.Background()) })()
		return writer.Run(ctx)
	})
	until(t, "the first head", func() bool { return writer.Published() == 1 })

	conn, err := pgx.Connect(t.Context(), server.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA sealtap TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA sealtap TO reader`); err != nil {
		t.Fatal(err)
	}
	conn.Close(t.Context())
	limited := s.database(strings.Replace(server.URL(name), "user=sealtap", "user=reader", 1))
	config := s.config(limited)
	config.CheckpointInterval = 500 * time.Millisecond // longer than it takes to be refused the lease
	l, err := tlog.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{db: limited, url: "http://follower.example", logger: slog.New(slog.DiscardHandler)}
	run(func(ctx context.Context) error { return c.run(ctx, l) })

	for i := range 3 {
		key, err := keys.Generate(fmt.Sprint("proxy-", i), keys.Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		s.enrol(writer, uint64(i+1), key)
		size := writer.Size()
		until(t, "the follower to show what is published", func() bool { return l.Published() == size })
		if err := l.Ready(); err != nil {
			t.Error(err)
		}
	}
	server.Stop(syscall.SIGQUIT)
	until(t, "the follower to say that PostgreSQL is away", func() bool { return l.Ready() != nil })
	if err := server.Run(); err != nil {
		t.Fatal(err)
	}
	until(t, "the follower to be ready again", func() bool { return l.Ready() == nil })
}

func (s *sharedLog) enrol(l *tlog.Log, number uint64, key *keys.Private) {
	s.t.Helper()
	entry, err := record.NewKeyChange(record.KeyChange{Origin: s.key.Name, Number: number, Enrol: []keys.Public{key.Public}}, s.operator)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := l.Submit(s.t.Context(), &sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{{Entry: entry}}}); err != nil {
		s.t.Fatal(err)
	}
}

// A server that loses the lease while it begins a log, to one that then dies, takes it
// again.
func TestLeaseLostWhileBeginning(t *testing.T) {
	server := pgtest.Start(t)
	url := server.Database(t)
	s := newSharedLog(t)
	one, two := s.database(url), s.database(url)
	lost, err := one.Acquire(t.Context(), "http://one.example")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `UPDATE sealtap.alive SET expires = '-infinity'`); err != nil {
		t.Fatal(err)
	}
	conn.Close(t.Context())
	lease, err := two.Acquire(t.Context(), "http://two.example")
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := &cluster{db: one, url: "http://one.example", logger: slog.New(slog.DiscardHandler), lease: lost}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	l, err := c.open(ctx, s.config(one))
	if err != nil {
		t.Fatal(err)
	}
	if l.Size() != 1 || c.lease == nil || c.lease == lost {
		t.Errorf("a log of %d entries, begun under the lease %p, that was lost %p", l.Size(), c.lease, lost)
	}
	if err := c.release(); err != nil {
		t.Error(err)
	}
}
