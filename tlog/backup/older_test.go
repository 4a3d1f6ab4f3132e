package backup_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/backup"
	"github.com/sealtap/sealtap/tlog/client"
)

// strict is a copy on disk as a command reads it: what is not there was altered.
type strict struct{ *sqlite.LogFile }

func (s strict) Tile(ctx context.Context, level uint, n uint64, width int) ([]byte, error) {
	b, err := s.LogFile.Tile(ctx, level, n, width)
	if err != nil {
		err = fmt.Errorf("%w: %w", client.ErrVerification, err)
	}
	return b, err
}

// TestOlderCopy: a copy that is honest and has nothing newer is no damaged one, and
// keeps no other from being asked.
func TestOlderCopy(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	olderDir := filepath.Join(t.TempDir(), "older")
	w.backup(olderDir)
	olderMirror := w.mirror()
	w.grow(600)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	m := w.backup(dir)
	w.grow(10)
	between := w.settle()
	betweenDir := filepath.Join(t.TempDir(), "between")
	w.backup(betweenDir)
	w.grow(700)
	size := w.settle()
	newer := w.mirror()
	w.lose()
	open := func(dir string) backup.Copy {
		f, err := sqlite.OpenLogFile(ctx, filepath.Join(dir, "log.db"))
		w.check(err)
		t.Cleanup(func() { f.Close() })
		return backup.Copy{Where: dir, Reader: strict{f}}
	}
	older, same := open(olderDir), open(dir)
	o, err := backup.Restore(ctx, w.config(olderMirror, older, same), dir)
	w.check(err)
	if o.Complete() || o.Size != m.Size || o.Newest != size {
		t.Fatalf("outcome %+v", o)
	}
	for i, want := range []uint64{23, 23, m.Size} {
		c := o.Copies[i]
		says := fmt.Sprintf("is of %d entries, and what is missing is entries %d to %d", want, m.Size, size-1)
		if !errors.Is(c.Err, backup.ErrOlder) || errors.Is(c.Err, client.ErrVerification) || !strings.Contains(c.Err.Error(), says) {
			t.Errorf("copy %d, of %d entries, of which %d are stored: %v", i, want, m.Size, c.Err)
		}
	}
	// One that has a part gives that, although another is still to be asked.
	o, err = backup.CatchUp(ctx, w.config(older, open(betweenDir)))
	w.check(err)
	if o.Complete() || o.Size != between || !errors.Is(o.Copies[1].Err, backup.ErrOlder) || o.Copies[1].Brought != between-m.Size {
		t.Fatalf("outcome %+v", o)
	}
	// So does one that shows no head, as a log does that was restored in part.
	unpublished := open(filepath.Dir(w.db))
	if _, err := unpublished.Checkpoint(ctx); !errors.Is(err, sqlite.ErrNoPublished) {
		t.Fatalf("it shows a head: %v", err)
	}
	w.lose()
	o, err = backup.Restore(ctx, w.config(open(betweenDir), unpublished), dir)
	w.check(err)
	if !errors.Is(o.Copies[1].Err, backup.ErrOlder) {
		t.Errorf("a copy without a head: %v", o.Copies[1].Err)
	}
	if o, err = backup.CatchUp(ctx, w.config(older, same, newer)); err != nil || !o.Complete() || o.Copies[2].Brought == 0 {
		t.Fatalf("with a newer copy: %+v, %v", o, err)
	}
	w.start()
	w.audit(size)
}

// TestIncomplete: a log that lacks entries is not backed up, and that is no tampering.
func TestIncomplete(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	w.grow(20)
	w.settle()
	mirror := w.mirror()
	w.lose()
	if o, err := backup.Restore(ctx, w.config(), dir); err != nil || o.Complete() {
		t.Fatalf("outcome %+v, %v", o, err)
	}
	_, err := backup.Write(ctx, backup.WriteConfig{Database: w.db, Policy: w.policy}, filepath.Join(t.TempDir(), "bk"))
	if !errors.Is(err, backup.ErrIncomplete) || !errors.Is(err, tlog.ErrBehind) || errors.Is(err, backup.ErrDamaged) || !strings.Contains(err.Error(), "--from URL") {
		t.Errorf("backed up a log that lacks entries: %v", err)
	}
	if o, err := backup.CatchUp(ctx, w.config(mirror)); err != nil || !o.Complete() {
		t.Fatalf("outcome %+v, %v", o, err)
	}
	w.backup(dir)
}
