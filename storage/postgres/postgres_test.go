package postgres_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/postgres"
	"github.com/sealtap/sealtap/storage/postgres/pgtest"
	"github.com/sealtap/sealtap/storage/storagetest"
)

func open(t *testing.T, url string) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(context.Background(), postgres.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func acquire(t *testing.T, db *postgres.DB) *postgres.Lease {
	t.Helper()
	lease, err := db.Acquire(context.Background(), "http://writer.example")
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func release(t *testing.T, lease *postgres.Lease) {
	t.Helper()
	if err := lease.Release(context.Background()); err != nil {
		t.Error(err)
	}
}

// writer opens a database and takes the lease; the function gives both back.
func writer(t *testing.T, url string) (*postgres.DB, func()) {
	t.Helper()
	db := open(t, url)
	lease := acquire(t, db)
	return db, func() {
		release(t, lease)
		db.Close()
	}
}

func newLog(t *testing.T, db *postgres.DB, dir string) *postgres.Log {
	t.Helper()
	l, err := db.Log(filepath.Join(dir, "signed"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestContract(t *testing.T) {
	server := pgtest.Start(t)
	type place struct{ url, dir string }
	places := make(map[*testing.T]place)
	at := func(t *testing.T) place {
		p, ok := places[t]
		if !ok {
			p = place{server.Database(t), t.TempDir()}
			places[t] = p
		}
		return p
	}
	openLog := func(t *testing.T) (storage.Log, func()) {
		p := at(t)
		db, closeIt := writer(t, p.url)
		return newLog(t, db, p.dir), closeIt
	}
	openOpenings := func(t *testing.T) (storage.Openings, func()) {
		db, closeIt := writer(t, at(t).url)
		return db.Openings(), closeIt
	}
	storagetest.Log(t, openLog)
	storagetest.Pruner(t, openLog)
	t.Run("Openings", func(t *testing.T) { storagetest.Openings(t, openOpenings) })
	t.Run("Trimmer", func(t *testing.T) { storagetest.Trimmer(t, openOpenings) })
}

func entry(n uint64) *storage.Batch {
	e := []byte{byte(n), byte(n >> 8)}
	leaf := record.LeafHash(e)
	return &storage.Batch{First: n, Entries: [][]byte{e}, Root: leaf, Tiles: []storage.Tile{{Hashes: leaf[:]}}}
}

func TestLease(t *testing.T) {
	server := pgtest.Start(t)
	url := server.Database(t)
	ctx := context.Background()
	one, two := open(t, url), open(t, url)
	defer one.Close()
	defer two.Close()
	logOne, logTwo := newLog(t, one, t.TempDir()), newLog(t, two, t.TempDir())
	if err := logOne.Commit(ctx, entry(0)); !errors.Is(err, postgres.ErrNotWriter) {
		t.Errorf("a commit of one who has no lease: %v", err)
	}
	lease := acquire(t, one)
	if err := logOne.Commit(ctx, entry(0)); err != nil {
		t.Error(err)
	}
	if writer, alive, err := two.Writer(ctx); writer != "http://writer.example" || !alive || err != nil {
		t.Errorf("the writer is %q, alive: %v, %v", writer, alive, err)
	}
	short, cancel := context.WithTimeout(ctx, 3*time.Second) // longer than a lease lasts
	if _, err := two.Acquire(short, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the lease was taken from one who renews it: %v", err)
	}
	cancel()
	release(t, lease)
	other := acquire(t, two)
	if lease.Context.Err() == nil {
		t.Error("the lease that was released goes on")
	}
	for _, change := range []func() error{
		func() error { return logOne.Commit(ctx, entry(1)) },
		func() error { return logOne.SetSigned(ctx, storage.Head{Size: 1, Note: []byte("note\n")}) },
		func() error { return logOne.SetPublished(ctx, storage.Head{Size: 1}) },
		func() error { _, err := logOne.AddFork(ctx, storage.Fork{}); return err },
		func() error { _, err := logOne.Sweep(ctx, 1); return err },
		func() error { return logOne.AddMark(ctx, storage.Mark{}) },
		func() error { return one.Openings().Discard(ctx, 0) },
	} {
		// Its connections were ended: it finds out why by itself.
		if err := change(); !errors.Is(err, postgres.ErrNotWriter) {
			t.Errorf("a change by the former writer: %v", err)
		}
	}
	if err := logTwo.Commit(ctx, entry(1)); err != nil {
		t.Error(err)
	}
	release(t, other)
}

// A writer that is paused in the middle of a change holds a lock. It neither keeps
// the next one waiting, nor does it finish the change once it wakes up.
func TestPausedWriter(t *testing.T) {
	server := pgtest.Start(t)
	url := server.Database(t)
	ctx := context.Background()
	one, two := open(t, url), open(t, url)
	defer one.Close()
	defer two.Close()
	paused := acquire(t, one)
	log := newLog(t, two, t.TempDir())
	began, woken, changed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		changed <- one.Change(ctx, func(tx pgx.Tx) error {
			close(began)
			<-woken
			_, err := tx.Exec(ctx, `UPDATE tree SET size = 77`)
			return err
		})
	}()
	<-began
	paused.Pause()
	start := time.Now()
	lease := acquire(t, two)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the lease was free after %v", took)
	}
	if err := log.Commit(ctx, entry(0)); err != nil {
		t.Error(err)
	}
	close(woken)
	if err := <-changed; err == nil {
		t.Error("the writer that was paused finished its change")
	}
	if state, err := log.Load(ctx); err != nil || state.Size != 1 {
		t.Errorf("state %+v, %v", state, err)
	}
	release(t, lease)
}

// One who wants the lease and is paused while it asks keeps nobody from renewing it.
func TestPausedFollower(t *testing.T) {
	server := pgtest.Start(t)
	url := server.Database(t)
	one, two := open(t, url), open(t, url)
	defer one.Close()
	defer two.Close()
	lease := acquire(t, one)
	end, err := two.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	select {
	case <-lease.Context.Done():
		t.Errorf("the lease is lost: %v", context.Cause(lease.Context))
	case <-time.After(4 * time.Second): // twice as long as a lease lasts
	}
	release(t, lease)
}

func TestServerThatForgets(t *testing.T) {
	server := pgtest.Start(t)
	conn, err := pgx.Connect(context.Background(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, s := range []string{`ALTER SYSTEM SET fsync = off`, `SELECT pg_reload_conf()`} {
		if _, err := conn.Exec(context.Background(), s); err != nil {
			t.Fatal(err)
		}
	}
	url := server.Database(t)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		db, err := postgres.Open(context.Background(), postgres.Config{URL: url})
		if errors.Is(err, postgres.ErrUnsafe) {
			return
		}
		if err == nil {
			db.Close()
		}
		if time.Now().After(end) {
			t.Fatalf("a server without fsync: %v", err)
		}
	}
}

func TestForeignAndNewer(t *testing.T) {
	server := pgtest.Start(t)
	ctx := context.Background()
	for want, script := range map[error]string{
		postgres.ErrForeign: `CREATE SCHEMA sealtap`,
		postgres.ErrNewer:   `CREATE SCHEMA sealtap; CREATE TABLE sealtap.sealtap_schema (version integer); INSERT INTO sealtap.sealtap_schema VALUES (99)`,
	} {
		url := server.Database(t)
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, script); err != nil {
			t.Fatal(err)
		}
		conn.Close(ctx)
		if _, err := postgres.Open(ctx, postgres.Config{URL: url}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", script, err, want)
		}
	}
}
