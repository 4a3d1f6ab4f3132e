package sqlite_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/storage/storagetest"
)

func openLog(t *testing.T, path string) *sqlite.Log {
	t.Helper()
	l, err := sqlite.OpenLog(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closing(t *testing.T, close func() error) func() {
	return func() {
		if err := close(); err != nil {
			t.Error(err)
		}
	}
}

func TestLogContract(t *testing.T) {
	dirs := make(map[*testing.T]string)
	open := func(t *testing.T) (storage.Log, func()) {
		if dirs[t] == "" {
			dirs[t] = t.TempDir()
		}
		l := openLog(t, filepath.Join(dirs[t], "log.db"))
		return l, closing(t, l.Close)
	}
	storagetest.Log(t, open)
	storagetest.Pruner(t, open)
}

func TestOpeningsContract(t *testing.T) {
	open := func(path string) func(t *testing.T) (storage.Openings, func()) {
		return func(t *testing.T) (storage.Openings, func()) {
			o, err := sqlite.OpenOpenings(context.Background(), path)
			if err != nil {
				t.Fatal(err)
			}
			return o, closing(t, o.Close)
		}
	}
	storagetest.Openings(t, open(filepath.Join(t.TempDir(), "openings.db")))
	storagetest.Trimmer(t, open(filepath.Join(t.TempDir(), "trimmed.db")))
}

func TestLogIsNotAnotherDatabase(t *testing.T) {
	dir := t.TempDir()
	closing(t, openLog(t, filepath.Join(dir, "log.db")).Close)()
	if _, err := sqlite.OpenOpenings(context.Background(), filepath.Join(dir, "log.db")); !errors.Is(err, sqlite.ErrForeign) {
		t.Errorf("a log opened as openings: %v", err)
	}
}

func TestLogInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	l := openLog(t, path)
	defer closing(t, l.Close)()
	if _, err := sqlite.OpenLog(context.Background(), path); !errors.Is(err, sqlite.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
}

// signed returns a head whose note has the form of a log's.
func signed(t *testing.T, size uint64, root record.Hash) storage.Head {
	t.Helper()
	key, err := keys.Generate("log.example/test", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Sign(&note.Note{Text: string(checkpoint.Body{Origin: key.Name, Size: size, Root: root}.Marshal())}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return storage.Head{Size: size, Root: root, Note: n}
}

func grow(t *testing.T, l *sqlite.Log, from, to uint64) {
	t.Helper()
	b := &storage.Batch{First: from}
	for range to - from {
		b.Entries = append(b.Entries, []byte("entry"))
	}
	if err := l.Commit(context.Background(), b); err != nil {
		t.Fatal(err)
	}
}

// TestSignedStandsApart puts a database back from an older copy: the signed
// checkpoint must not go back with it.
func TestSignedStandsApart(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "log.db")
	l := openLog(t, path)
	grow(t, l, 0, 5)
	if err := l.SetSigned(ctx, signed(t, 5, record.Hash{5})); err != nil {
		t.Fatal(err)
	}
	closing(t, l.Close)()
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l = openLog(t, path)
	grow(t, l, 5, 9)
	if err := l.SetSigned(ctx, signed(t, 9, record.Hash{9})); err != nil {
		t.Fatal(err)
	}
	closing(t, l.Close)()

	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, path)
	defer closing(t, l.Close)()
	state, err := l.Load(ctx)
	if err != nil || state.Size != 5 || state.Signed == nil || state.Signed.Size != 9 {
		t.Fatalf("state %+v, %v; want 5 entries and a checkpoint of 9", state, err)
	}
	grow(t, l, 5, 8)
	if err := l.SetSigned(ctx, signed(t, 8, record.Hash{8})); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("signing size 8 after 9: %v", err)
	}

	if err := os.Remove(path + ".signed"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Load(ctx); !errors.Is(err, sqlite.ErrNoSigned) {
		t.Errorf("loading without the signed checkpoint: %v", err)
	}
	if err := l.SetSigned(ctx, signed(t, 8, record.Hash{8})); !errors.Is(err, sqlite.ErrNoSigned) {
		t.Errorf("signing without the signed checkpoint: %v", err)
	}
	other := signed(t, 5, record.Hash{6})
	if err := os.WriteFile(path+".signed", other.Note, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Load(ctx); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("loading with two roots for one size: %v", err)
	}
}

func TestDamagedBundle(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "log.db")
	l := openLog(t, path)
	grow(t, l, 0, 256)
	closing(t, l.Close)()
	db, err := sqlite.Open(ctx, path, sqlite.Schema{Kind: "log", ApplicationID: 0x53544c01, Migrations: make([]string, 2)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Writer.ExecContext(ctx, `UPDATE bundle SET data = CAST(substr(data, 1, length(data) - 5) || x'0000000000' AS BLOB)`); err != nil {
		t.Fatal(err)
	}
	closing(t, db.Close)()
	l = openLog(t, path)
	defer closing(t, l.Close)()
	if _, err := l.Bundle(ctx, 0); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("a damaged bundle: %v", err)
	}
}
