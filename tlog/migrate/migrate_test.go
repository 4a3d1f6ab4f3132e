package migrate_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/postgres"
	"github.com/sealtap/sealtap/storage/postgres/pgtest"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/storage/storagetest"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/migrate"
	"github.com/sealtap/sealtap/witness/policy"
)

// source is a log in its SQLite file.
type source struct {
	t             *testing.T
	path          string
	key, operator *keys.Private
	quantum       *keys.Private // nil: it has none
	policy        *policy.Policy
	statements    uint64
	stream        record.Stream
	signer        note.Signer
	tree          *record.Tree
}

func generate(t *testing.T, name string, typ keys.Type) *keys.Private {
	t.Helper()
	k, err := keys.Generate(name, typ)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newSource(t *testing.T) *source {
	t.Helper()
	s := &source{t: t, path: filepath.Join(t.TempDir(), "log.db"), tree: record.NewTree(),
		key: generate(t, "log.example/moves", keys.Ed25519), operator: generate(t, "operator", keys.Ed25519)}
	var err error
	if s.policy, err = policy.New([]policy.Log{{Key: s.key.Public}}, nil, nil, policy.None, &s.operator.Public); err != nil {
		t.Fatal(err)
	}
	producer := generate(t, "proxy", keys.Ed25519)
	if s.signer, err = producer.Signer(); err != nil {
		t.Fatal(err)
	}
	s.stream = record.NewStream(producer.ID())
	s.run(func(l *tlog.Log) { s.state(l, record.KeyChange{Enrol: []keys.Public{producer.Public}}) })
	return s
}

// run runs the log, and stops it.
func (s *source) run(do func(l *tlog.Log)) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	st, err := sqlite.OpenLog(ctx, s.path)
	s.check(err)
	o, err := sqlite.OpenOpenings(ctx, s.path+".openings")
	s.check(err)
	l, err := tlog.Open(ctx, tlog.Config{Key: s.key, PostQuantumKey: s.quantum, Operator: s.operator, Storage: st, Openings: o, Policy: s.policy,
		CheckpointInterval: time.Millisecond, PruneInterval: 5 * time.Millisecond})
	s.check(err)
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	do(l)
	for end := time.Now().Add(30 * time.Second); l.Published() < l.Size(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("published %d of %d entries: %v", l.Published(), l.Size(), l.Ready())
		}
	}
	time.Sleep(20 * time.Millisecond) // for the times of checkpoints
	cancel()
	s.check(errors.Join(<-done, st.Close(), o.Close()))
}

func (s *source) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *source) submit(l *tlog.Log, entries ...[]byte) {
	s.t.Helper()
	req := new(sealtapv1.SubmitRequest)
	for _, e := range entries {
		req.Items = append(req.Items, &sealtapv1.Item{Entry: e})
	}
	_, err := l.Submit(context.Background(), req)
	s.check(err)
}

// state submits a statement of the operator.
func (s *source) state(l *tlog.Log, c record.KeyChange) {
	s.t.Helper()
	s.statements++
	c.Origin, c.Number = s.key.Name, s.statements
	entry, err := record.NewKeyChange(c, s.operator)
	s.check(err)
	s.submit(l, entry)
}

// grow adds so many records, with seals.
func (s *source) grow(n int) {
	s.t.Helper()
	s.run(func(l *tlog.Log) {
		for n > 0 {
			var list [][]byte
			for range min(n, 150) {
				entry, err := record.Encode(&sealtapv1.Record{Producer: s.stream.Producer[:], Incarnation: s.stream.Incarnation[:], Sequence: s.tree.Size(),
					Time: time.Now().UnixNano(), About: &sealtapv1.Record_Stop{Stop: &sealtapv1.Stop{Reason: fmt.Sprint("record ", s.tree.Size())}}})
				s.check(err)
				s.tree.Append(record.LeafHash(entry), nil)
				list = append(list, entry)
				n--
			}
			seal, err := record.NewSeal(s.stream, s.tree.Size(), s.tree.Root(), s.signer)
			s.check(err)
			s.submit(l, append(list, seal)...)
		}
	})
}

// sql changes a file of the log that is not running.
func (s *source) sql(path, script string) {
	s.t.Helper()
	db, err := sql.Open("sqlite3", path)
	s.check(err)
	_, err = db.Exec(script)
	s.check(errors.Join(err, db.Close()))
}

// open puts an opening of an entry there; empty: an erased one.
func (s *source) open(index int, leaf byte, text string) {
	s.t.Helper()
	box := "NULL"
	if text != "" {
		box = fmt.Sprintf("CAST('%s' AS BLOB)", text)
	}
	s.sql(s.path+".openings", fmt.Sprintf(`INSERT OR REPLACE INTO opening VALUES (%d, x'%02x02030405060708', %s)`, index, leaf, box))
}

// target is where the log goes: PostgreSQL, held by this process.
type target struct {
	t   *testing.T
	url string
	db  *postgres.DB
	log *postgres.Log
}

func newTarget(t *testing.T, server *pgtest.Server) *target {
	t.Helper()
	d := &target{t: t, url: server.Database(t)}
	ctx := context.Background()
	var err error
	if d.db, err = postgres.Open(ctx, postgres.Config{URL: d.url}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.db.Close() })
	lease, err := d.db.Acquire(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lease.Release(ctx) })
	if d.log, err = d.db.Log(filepath.Join(t.TempDir(), "signed")); err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *source) migrate(ctx context.Context, d *target, change func(*migrate.Config)) (*migrate.Outcome, error) {
	c := migrate.Config{Database: s.path, Key: s.key, Policy: s.policy, Log: d.log, Openings: d.db.Openings()}
	if change != nil {
		change(&c)
	}
	return migrate.Run(ctx, c)
}

// moved checks that the file cannot be started any more.
func (s *source) moved() {
	s.t.Helper()
	for _, path := range []string{s.path, s.path + ".openings"} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			s.t.Errorf("%s is still there: %v", path, err)
		}
		if _, err := os.Stat(path + migrate.Moved); err != nil {
			s.t.Error(err)
		}
	}
}

// A log comes to stand elsewhere as it was, with everything about it.
func TestMigrate(t *testing.T) {
	server := pgtest.Start(t)
	ctx := context.Background()
	s := newSource(t)
	s.grow(700)
	// A key that signs beside the first one, named by a statement in the middle.
	s.quantum = generate(t, s.key.Name, keys.MLDSA44)
	own, err := tlog.OwnPolicy(s.policy, s.key, s.quantum)
	s.check(err)
	s.policy = own
	s.statements++ // the log's own
	s.grow(300)
	s.open(5, 1, "sealed")
	s.open(6, 1, "")
	s.open(1<<20, 1, "of a batch that was never stored")
	s.sql(s.path+".openings", `INSERT INTO wrapped_key VALUES (zeroblob(16), x'01', 255), (randomblob(16), NULL, 0)`)
	st, err := sqlite.OpenLog(ctx, s.path)
	s.check(err)
	fork := storage.Fork{Stream: s.stream, Sequence: 3, Index: 5, Entry: []byte("entry"), Seal: []byte("seal"), Seen: time.Unix(1700000000, 5).UTC()}
	_, err = st.AddFork(ctx, fork)
	s.check(err)
	want, err := st.Load(ctx)
	s.check(err)
	mark, ok, err := st.MarkBefore(ctx, time.Unix(1<<40, 0))
	s.check(errors.Join(err, st.Close()))
	if !ok {
		t.Fatal("there is no time of a checkpoint to take along")
	}

	d := newTarget(t, server)
	o, err := s.migrate(ctx, d, nil)
	s.check(err)
	if o.Origin != s.key.Name || o.Size != want.Size || o.Root != want.Root || o.Before != 0 || o.Openings != 2 {
		t.Errorf("outcome %+v of %d entries", o, want.Size)
	}
	s.moved()
	got, err := d.log.Load(ctx)
	s.check(err)
	if got.Size != want.Size || got.Root != want.Root || fmt.Sprint(got.KeyChanges) != fmt.Sprint(want.KeyChanges) || fmt.Sprint(got.Streams) != fmt.Sprint(want.Streams) ||
		fmt.Sprint(got.Signed) != fmt.Sprint(want.Signed) || fmt.Sprint(got.Published) != fmt.Sprint(want.Published) {
		t.Errorf("state %+v, want %+v", got, want)
	}
	if forks, err := d.log.Forks(ctx); err != nil || fmt.Sprint(forks) != fmt.Sprint([]storage.Fork{fork}) {
		t.Errorf("forks %+v, %v", forks, err)
	}
	if m, ok, err := d.log.MarkBefore(ctx, time.Unix(1<<40, 0)); err != nil || !ok || fmt.Sprint(m) != fmt.Sprint(mark) {
		t.Errorf("mark %+v, %v, %v; want %+v", m, ok, err, mark)
	}
	rows, err := d.db.Openings().RowsFrom(ctx, 0, 10)
	if err != nil || len(rows) != 2 || string(rows[0].Box) != "sealed" || rows[1].Box != nil {
		t.Errorf("openings %+v, %v", rows, err)
	}
	if _, err := s.migrate(ctx, d, nil); !errors.Is(err, migrate.ErrSource) || !strings.Contains(err.Error(), "it was already") {
		t.Errorf("once more: %v", err)
	}
	if _, err := tlog.Open(ctx, tlog.Config{Key: s.key, PostQuantumKey: s.quantum, Policy: s.policy, Storage: d.log}); err != nil {
		t.Errorf("opening it: %v", err)
	}
}

// An interrupted migration leaves nothing that could be taken for the log, and goes on
// with what has become of the file since.
func TestMigrateInterrupted(t *testing.T) {
	server := pgtest.Start(t)
	s := newSource(t)
	s.grow(6000)
	s.open(5, 1, "erased later")
	s.open(6, 1, "stays")
	s.open(7, 1, "goes")
	s.sql(s.path+".openings", `INSERT INTO wrapped_key VALUES (zeroblob(16), x'01', 255)`)
	d := newTarget(t, server)

	// Within the entries.
	ctx, cancel := context.WithCancel(context.Background())
	_, err := s.migrate(ctx, d, func(c *migrate.Config) {
		c.Progress = func(what string, done, total uint64) {
			if what == "storing entries" && done > 4000 {
				cancel()
			}
		}
	})
	if err == nil {
		t.Fatal("it was not interrupted")
	}
	state, err := d.log.Load(t.Context())
	if err != nil || state.Size == 0 || state.Size >= 6000 {
		t.Fatalf("interrupted at %+v, %v", state, err)
	}
	// The log server of the new place is started too early.
	if _, err := tlog.Open(t.Context(), tlog.Config{Key: s.key, Operator: s.operator, Policy: s.policy, Storage: d.log}); !errors.Is(err, tlog.ErrBehind) {
		t.Errorf("a log of %d entries of some 6000 opens: %v", state.Size, err)
	}

	// Behind the openings.
	s.grow(300)
	ctx, cancel = context.WithCancel(context.Background())
	o, err := s.migrate(ctx, d, func(c *migrate.Config) {
		c.Progress = func(what string, done, total uint64) {
			if what == "comparing" {
				cancel()
			}
		}
	})
	if err == nil {
		t.Fatalf("it was not interrupted: %+v", o)
	}
	if _, err := os.Stat(s.path); err != nil {
		t.Fatalf("the file of a log that is not migrated: %v", err)
	}

	// The log goes on in its file: it grows, and openings are erased.
	s.grow(400)
	s.open(5, 1, "")
	s.sql(s.path+".openings", `DELETE FROM opening WHERE entry = 7; UPDATE wrapped_key SET wrapped = NULL`)
	if o, err = s.migrate(t.Context(), d, nil); err != nil {
		t.Fatal(err)
	}
	if o.Before < 6000 || o.Size < 6700 || o.Openings != 2 {
		t.Errorf("outcome %+v", o)
	}
	s.moved()
	rows, err := d.db.Openings().RowsFrom(t.Context(), 0, 10)
	if err != nil || len(rows) != 2 || rows[0].Box != nil || string(rows[1].Box) != "stays" {
		t.Errorf("openings %+v, %v", rows, err)
	}
	if k, ok, err := d.db.Openings().Key(t.Context(), record.KeyID{}); err != nil || !ok || k.Wrapped != nil {
		t.Errorf("a key that was erased meanwhile: %+v, %v, %v", k, ok, err)
	}
}

// failing is a target that fails at one step, once what it was given is stored.
type failing struct {
	*storagetest.Faulty
	log *postgres.Log
}

// Expect passes on what the storage can do beside its contract.
func (f failing) Expect(ctx context.Context, h storage.Head) error { return f.log.Expect(ctx, h) }

// Wherever it fails, and whether or not the last step was made, the same again brings it
// to its end.
func TestMigrateFails(t *testing.T) {
	server := pgtest.Start(t)
	for _, fault := range []storagetest.Fault{storagetest.Failed, storagetest.Persisted} {
		for _, method := range []string{"Load", "Commit", "AddMark", "SetSigned", "SetPublished"} {
			s := newSource(t)
			s.grow(300)
			d := newTarget(t, server)
			f := failing{storagetest.NewFaulty(d.log), d.log}
			f.Fail(method, fault)
			through := func(c *migrate.Config) { c.Log = f }
			if _, err := s.migrate(t.Context(), d, through); err == nil {
				t.Errorf("%s, fault %d: no error", method, fault)
			}
			if o, err := s.migrate(t.Context(), d, through); err != nil || o.Size < 300 {
				t.Errorf("%s, fault %d, again: %+v, %v", method, fault, o, err)
			}
			s.moved()
		}
	}
}

func digest(s *storage.State) string {
	head := func(h *storage.Head) string {
		if h == nil {
			return "none"
		}
		return fmt.Sprintf("%d %s %x", h.Size, h.Root, h.Note)
	}
	return fmt.Sprintf("%d %s, %d streams, signed %s, published %s", s.Size, s.Root, len(s.Streams), head(s.Signed), head(s.Published))
}

// What is not this log, or not all of it, is refused, and both places are left alone.
func TestMigrateRefuses(t *testing.T) {
	server := pgtest.Start(t)
	refused := func(what string, s *source, d *target, want error, change func(*migrate.Config)) {
		t.Helper()
		before, err := d.log.Load(t.Context())
		s.check(err)
		if _, err := s.migrate(t.Context(), d, change); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if after, err := d.log.Load(t.Context()); err != nil || digest(after) != digest(before) {
			t.Errorf("%s: the storage has changed from %s to %s, %v", what, digest(before), digest(after), err)
		}
		if _, err := os.Stat(s.path); err != nil {
			t.Errorf("%s: the file: %v", what, err)
		}
	}
	s, other := newSource(t), newSource(t)
	s.grow(300)
	other.grow(400)
	refused("another key", s, newTarget(t, server), migrate.ErrSource, func(c *migrate.Config) { c.Key, c.Policy = other.key, other.policy })

	d := newTarget(t, server)
	if _, err := other.migrate(t.Context(), d, nil); err != nil {
		t.Fatal(err)
	}
	refused("the storage of a longer log", s, d, migrate.ErrTarget, nil)
	s.grow(200)
	refused("the storage of a shorter log", s, d, migrate.ErrTarget, nil)

	running, err := sqlite.OpenLog(t.Context(), s.path)
	s.check(err)
	refused("a log that runs", s, newTarget(t, server), sqlite.ErrLocked, nil)
	s.check(running.Close())

	s.check(os.WriteFile(s.path+migrate.Moved, nil, 0o600))
	refused("a name that is taken", s, newTarget(t, server), migrate.ErrSource, nil)
	s.check(os.Remove(s.path + migrate.Moved))

	s.sql(s.path, `UPDATE checkpoint SET root = zeroblob(32) WHERE kind = 'signed'`)
	s.check(os.Remove(s.path + ".signed"))
	refused("no signed head", s, newTarget(t, server), sqlite.ErrNoSigned, nil)
}

// What was altered in the file is noticed while the file is still there.
func TestMigrateCompares(t *testing.T) {
	server := pgtest.Start(t)
	for name, alter := range map[string]string{
		"a run":    `UPDATE run SET first = first + 1 WHERE sequence = 150`,
		"a stream": `UPDATE stream SET size = size - 1`,
	} {
		s := newSource(t)
		s.grow(500)
		s.sql(s.path, alter)
		if _, err := s.migrate(t.Context(), newTarget(t, server), nil); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Stat(s.path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
