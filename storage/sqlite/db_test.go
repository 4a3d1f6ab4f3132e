package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sealtap/sealtap/storage/sqlite"
)

func schema(migrations ...string) sqlite.Schema {
	return sqlite.Schema{Kind: "test", ApplicationID: 0x54455354, Migrations: migrations}
}

const create = "CREATE TABLE t (x INTEGER NOT NULL) STRICT"

// open opens a database that is closed with the test.
func open(t *testing.T, path string, s sqlite.Schema) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestOpen(t *testing.T) {
	// A name with everything that means something in a URI.
	path := filepath.Join(t.TempDir(), "a b?mode=memory#%20.db")
	db := open(t, path, schema(create))
	if _, err := db.Writer.Exec("INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "user_version": "1"} {
		for name, pool := range map[string]*sql.DB{"writer": db.Writer, "reader": db.Reader} {
			var got string
			if err := pool.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
				t.Errorf("%s of %s is %q, %v, want %q", pragma, name, got, err, want)
			}
		}
	}
	if _, err := db.Reader.Exec("INSERT INTO t VALUES (2)"); err == nil {
		t.Error("the reader can write")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("database file: %v, %v", info, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	db = open(t, path, schema(create, "ALTER TABLE t ADD COLUMN y INTEGER"))
	var x, y sql.NullInt64
	if err := db.Reader.QueryRow("SELECT x, y FROM t").Scan(&x, &y); err != nil || x.Int64 != 1 || y.Valid {
		t.Errorf("after migration: %v, %v, %v", x, y, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	foreign := filepath.Join(dir, "foreign.db")
	raw, err := sql.Open("sqlite3", foreign)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Exec(create); err != nil {
		t.Fatal(err)
	}
	raw.Close()
	before, _ := os.ReadFile(foreign)

	newer := filepath.Join(dir, "newer.db")
	open(t, newer, schema(create, "SELECT 1")).Close()
	other := filepath.Join(dir, "other.db")
	open(t, other, sqlite.Schema{Kind: "other", ApplicationID: 7, Migrations: []string{create}}).Close()
	held := filepath.Join(dir, "held.db")
	open(t, held, schema(create))

	for _, test := range []struct {
		path string
		want error
	}{
		{foreign, sqlite.ErrForeign},
		{other, sqlite.ErrForeign},
		{file("text.db", []byte("this is not a database, whatever its name may say")), sqlite.ErrForeign},
		{newer, sqlite.ErrNewer},
		{held, sqlite.ErrLocked},
		{filepath.Join(dir, "missing", "x.db"), os.ErrNotExist},
	} {
		if db, err := sqlite.Open(ctx, test.path, schema(create)); !errors.Is(err, test.want) {
			t.Errorf("Open(%s) = %v, %v, want %v", test.path, db, err, test.want)
		}
	}
	if after, _ := os.ReadFile(foreign); string(after) != string(before) {
		t.Error("the foreign database was changed")
	}
	// A refused open leaves no lock behind.
	if _, err := sqlite.Open(ctx, newer, schema(create, "SELECT 1")); err != nil {
		t.Error(err)
	}
}

// A migration is made as a whole or not at all.
func TestMigrationFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	if _, err := sqlite.Open(t.Context(), path, schema(create, "nonsense")); err == nil {
		t.Fatal("Open succeeds")
	}
	open(t, path, schema(create, "SELECT 1"))
}

// The lock holds between processes, and a process that dies gives it up.
func TestLockedByProcess(t *testing.T) {
	if path := os.Getenv("SEALTAP_TEST_LOCK"); path != "" {
		_, err := sqlite.Open(context.Background(), path, schema(create))
		if errors.Is(err, sqlite.ErrLocked) {
			os.Exit(42)
		}
		os.Exit(0) // without Close
	}
	path := filepath.Join(t.TempDir(), "x.db")
	run := func() int {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLockedByProcess$")
		cmd.Env = append(os.Environ(), "SEALTAP_TEST_LOCK="+path)
		_ = cmd.Run()
		return cmd.ProcessState.ExitCode()
	}
	db := open(t, path, schema(create))
	if code := run(); code != 42 {
		t.Errorf("second process exits %d, want 42", code)
	}
	db.Close()
	if code := run(); code != 0 {
		t.Errorf("process after Close exits %d", code)
	}
	open(t, path, schema(create))
}
