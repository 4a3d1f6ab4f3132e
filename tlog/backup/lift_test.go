package backup_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/backup"
	"github.com/sealtap/sealtap/tlog/client"
)

// Retention says what the copy keeps.
func (s strict) Retention(ctx context.Context) (*client.Retention, error) {
	p, statements, err := s.Pruned(ctx)
	return &client.Retention{Minimum: p.Minimum, At: p.At, Old: p.Old, Statements: statements}, err
}

// boastful says that it was pruned for another reason.
type boastful struct {
	strict
	at []byte
}

func (b boastful) Retention(ctx context.Context) (*client.Retention, error) {
	r, err := b.strict.Retention(ctx)
	r.At = b.at
	return r, err
}

// minimum is the minimum index that is stored.
func (w *world) minimum() uint64 {
	w.t.Helper()
	f, err := sqlite.OpenLogFile(context.Background(), w.db)
	w.check(err)
	defer f.Close()
	p, _, err := f.Pruned(context.Background())
	w.check(err)
	return p.Minimum
}

// TestPrunedSince: a log that is restored from a backup of before it was pruned further
// has the minimum index that its copy shows, if the operator's statements allow it.
func TestPrunedSince(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(700)
	w.prune(2, 300, 256)
	early, _, _ := w.log.Checkpoint()
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	w.grow(300)
	size := w.settle()
	eventually(t, "it prunes on", func() bool { return w.log.Minimum() >= 512 })
	// From a copy behind a URL.
	server := httptest.NewServer(w.log.Handler())
	defer server.Close()
	src, err := client.Open(server.URL, client.WithRetries(1, 0))
	w.check(err)
	elsewhere := w.config(backup.Copy{Where: server.URL, Reader: src})
	elsewhere.Database = filepath.Join(t.TempDir(), "log.db")
	if o, err := backup.Restore(ctx, elsewhere, dir); err != nil || !o.Complete() || o.Minimum != 512 {
		t.Fatalf("from a URL: %+v, %v", o, err)
	}
	disk, err := sqlite.OpenLogFile(ctx, w.lose())
	w.check(err)
	defer disk.Close()
	o, err := backup.Restore(ctx, w.config(backup.Copy{Where: "boastful", Reader: boastful{strict{disk}, early}}), dir)
	w.check(err)
	if !o.Complete() || o.Minimum != 256 || o.Before != 512 || w.minimum() != 256 {
		t.Fatalf("a copy shows what allows nothing, and the minimum index is %d: %+v", w.minimum(), o)
	}
	w.lose()
	o, err = backup.Restore(ctx, w.config(backup.Copy{Where: "disk", Reader: strict{disk}}), dir)
	w.check(err)
	if !o.Complete() || o.Size != size || o.Minimum != 512 || o.Before != 512 || w.minimum() != 512 {
		t.Fatalf("the minimum index is %d, it was 512: %+v", w.minimum(), o)
	}
	w.backup(filepath.Join(t.TempDir(), "before it has deleted anything"))
	w.start()
	w.grow(5)
	w.audit(size + 6)
}

// TestPrunedBeyond: where the copies do not have what comes after the backup, nothing
// is put in place.
func TestPrunedBeyond(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(700)
	w.prune(2, 300, 256)
	dir := filepath.Join(t.TempDir(), "bk")
	m := w.backup(dir)
	w.grow(200)
	w.settle()
	later := filepath.Join(t.TempDir(), "later")
	between := w.backup(later)
	w.grow(600)
	w.settle()
	eventually(t, "it prunes on", func() bool { return w.log.Minimum() > between.Size })
	disk, err := sqlite.OpenLogFile(ctx, w.lose())
	w.check(err)
	defer disk.Close()
	gone := backup.Copy{Where: "disk", Reader: strict{disk}}
	if _, err := backup.Restore(ctx, w.config(gone), dir); !errors.Is(err, backup.ErrGone) || !strings.Contains(err.Error(), "say a newer backup") {
		t.Fatalf("restored with a copy that was pruned: %v", err)
	}
	w.nothing()
	// Where somebody still has them, or nobody was asked, the restoration goes on.
	o, err := backup.Restore(ctx, w.config(), dir)
	w.check(err)
	if o.Complete() || o.Size != m.Size {
		t.Fatalf("outcome %+v", o)
	}
	if o, err = backup.CatchUp(ctx, w.config(gone)); err != nil || !errors.Is(o.Copies[0].Err, client.ErrPruned) || errors.Is(o.Copies[0].Err, client.ErrVerification) {
		t.Fatalf("outcome %+v, %v", o, err)
	}
	w.lose()
	file, err := sqlite.OpenLogFile(ctx, filepath.Join(later, "log.db"))
	w.check(err)
	defer file.Close()
	if o, err = backup.Restore(ctx, w.config(gone, backup.Copy{Where: "later", Reader: strict{file}}), dir); err != nil || o.Size != between.Size {
		t.Fatalf("outcome %+v, %v", o, err)
	}
}
