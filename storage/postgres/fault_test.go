package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/postgres"
	"github.com/sealtap/sealtap/storage/postgres/pgtest"
)

// An address by which it is a matter of luck whether there is TLS is refused.
func TestTLSByChance(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	for url, good := range map[string]bool{
		"postgres://sealtap@db.example/sealtap":                                  false,
		"host=db.example user=sealtap":                                           false,
		"postgres://sealtap@192.0.2.1:5433/sealtap?sslmode=prefer":               false,
		"postgres://sealtap@db.example/sealtap?sslmode=allow":                    false,
		"postgres://sealtap@127.0.0.1,db.example/sealtap":                        false,
		"postgres://sealtap@db.example/sealtap?sslmode=disable":                  true,
		"postgres://sealtap@db.example/sealtap?sslmode=require":                  true,
		"postgres://sealtap@db.example/sealtap?sslmode=verify-full":              true,
		"postgres://sealtap@one.example,two.example/sealtap?sslmode=verify-full": true,
		"host=db.example sslmode=verify-ca":                                      true,
		"postgres://sealtap@127.0.0.1/sealtap":                                   true,
		"postgres://sealtap@localhost:5433/sealtap":                              true,
		"postgres://sealtap@[::1]/sealtap":                                       true,
		"postgres:///sealtap?host=/run/postgresql":                               true,
	} {
		err := postgres.Check(postgres.Config{URL: url})
		if good && err != nil || !good && !errors.Is(err, postgres.ErrTLS) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// An error about an address does not show the password that should not be in it.
func TestAddressIsSecret(t *testing.T) {
	for _, url := range []string{"postgres://sealtap:secret%@db/x", "postgres://sealtap:secret@db:port/x", "host=db password=secret port=x"} {
		if err := postgres.Check(postgres.Config{URL: url}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// A connection that ends does not make a writer another's: it is told apart.
func TestConnectionEnds(t *testing.T) {
	server := pgtest.Start(t)
	url := server.Database(t)
	ctx := context.Background()
	one, two := open(t, url), open(t, url)
	defer one.Close()
	defer two.Close()
	lease := acquire(t, one)
	killed := func() error {
		return one.Change(ctx, func(tx pgx.Tx) error {
			if err := one.Kill(ctx); err != nil {
				t.Fatal(err)
			}
			_, err := tx.Exec(ctx, `UPDATE tree SET size = 77`)
			return err
		})
	}
	if err := killed(); !errors.Is(err, postgres.ErrAway) || errors.Is(err, postgres.ErrNotWriter) {
		t.Errorf("a connection that ended: %v", err)
	}
	release(t, lease)
	other := acquire(t, two)
	if err := killed(); !errors.Is(err, postgres.ErrNotWriter) {
		t.Errorf("a connection that ended while another writes: %v", err)
	}
	release(t, other)
	if state, err := newLog(t, two, t.TempDir()).Load(ctx); err != nil || state.Size != 0 {
		t.Errorf("state %+v, %v", state, err)
	}
}

// The first lease of a log ends nobody's connections: not those without a name, of
// tools and of the server itself.
func TestFirstLease(t *testing.T) {
	server := pgtest.Start(t)
	url := server.Database(t)
	ctx := context.Background()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	delete(config.RuntimeParams, "application_name")
	tool, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer tool.Close(ctx)
	db := open(t, url)
	defer db.Close()
	release(t, acquire(t, db))
	if err := tool.Ping(ctx); err != nil {
		t.Errorf("a connection of somebody else: %v", err)
	}
}

// A server that does not come to an answer holds up no reader for long.
func TestReadsEnd(t *testing.T) {
	server := pgtest.Start(t)
	url := server.Database(t)
	ctx := context.Background()
	db := open(t, url)
	defer db.Close()
	l := newLog(t, db, t.TempDir())
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `BEGIN; LOCK TABLE sealtap.checkpoint, sealtap.bundle, sealtap.opening, sealtap.pruned, sealtap.lease`); err != nil {
		t.Fatal(err)
	}
	db.SetRowTime(200 * time.Millisecond)
	for name, read := range map[string]func() error{
		"newest":  func() error { _, _, err := l.Newest(ctx); return err },
		"bundle":  func() error { _, err := l.PackedBundle(ctx, 0); return err },
		"opening": func() error { _, _, err := db.Openings().Opening(ctx, 0); return err },
		"pruned":  func() error { _, err := l.Pruned(ctx); return err },
		"writer":  func() error { _, _, err := db.Writer(ctx); return err },
	} {
		began := time.Now()
		err := read()
		if took := time.Since(began); err == nil || took > 8*time.Second { // by itself the server gives up after 10 s
			t.Errorf("%s: %v, after %v", name, err, took)
		}
	}
}

// Only writers are hurried: a reader that is paused within a transaction goes on.
func TestPausedReader(t *testing.T) {
	server := pgtest.Start(t)
	db := open(t, server.Database(t))
	defer db.Close()
	err := db.View(context.Background(), func(ctx context.Context, tx pgx.Tx) error {
		for range 2 {
			var size int64
			if err := tx.QueryRow(ctx, `SELECT size FROM tree`).Scan(&size); err != nil {
				return err
			}
			time.Sleep(3 * time.Second)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Entries that are on their way from elsewhere are waited for.
func TestExpect(t *testing.T) {
	server := pgtest.Start(t)
	ctx := context.Background()
	db, closeIt := writer(t, server.Database(t))
	defer closeIt()
	l := newLog(t, db, t.TempDir())
	head := func(size uint64) storage.Head { return storage.Head{Size: size, Note: []byte(testHead(size))} }
	if err := l.Commit(ctx, entry(0)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Expect(ctx, head(2)); err != nil {
			t.Fatal(err)
		}
	}
	if state, err := l.Load(ctx); err != nil || state.Size != 1 || state.Signed == nil || state.Signed.Size != 2 {
		t.Errorf("state %+v, %v", state, err)
	}
	if err := l.Expect(ctx, head(1)); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("a smaller one: %v", err)
	}
	if err := l.SetSigned(ctx, head(2)); !errors.Is(err, storage.ErrMoved) {
		t.Errorf("signing before they are there: %v", err)
	}
	if err := l.Commit(ctx, entry(1)); err != nil {
		t.Fatal(err)
	}
	if err := l.SetSigned(ctx, head(2)); err != nil {
		t.Errorf("signing once they are there: %v", err)
	}
}

func testHead(size uint64) string {
	return fmt.Sprintf("storage.example/test\n%d\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— x AAAA\n", size)
}

// A stream whose edge is no number of hashes is damage, and not another edge.
func TestDamagedEdge(t *testing.T) {
	server := pgtest.Start(t)
	url := server.Database(t)
	ctx := context.Background()
	db := open(t, url)
	defer db.Close()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `INSERT INTO sealtap.stream (producer, incarnation, size, edge)
		VALUES (decode(repeat('11', 32), 'hex'), decode(repeat('22', 16), 'hex'), 1, decode(repeat('33', 33), 'hex'))`); err != nil {
		t.Fatal(err)
	}
	if _, err := newLog(t, db, t.TempDir()).Load(ctx); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("%v", err)
	}
}
