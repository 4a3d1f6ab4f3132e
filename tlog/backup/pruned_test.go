package backup_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/backup"
)

// prune has the log keep its newest entries only, and waits until it has.
func (w *world) prune(number, entries, minimum uint64) {
	w.t.Helper()
	entry, err := record.NewRetention(w.key.Name, number, record.Retention{Entries: entries}, w.operator)
	w.check(err)
	w.submit([]*sealtapv1.Item{{Entry: entry}})
	w.settle()
	for end := time.Now().Add(time.Minute); w.log.Minimum() < minimum; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("the minimum index is %d of %d", w.log.Minimum(), minimum)
		}
	}
}

// TestPruned backs up and restores a log that was pruned within a run, right before
// a seal, and beyond a tile of level 1; and goes on with it, pruning again.
func TestPruned(t *testing.T) {
	for name, c := range map[string]struct {
		runs    []int
		entries uint64
		minimum uint64
	}{
		"within a run":        {[]int{700, 20}, 300, 256},
		"at a seal":           {[]int{254, 254, 254}, 300, 256},
		"beyond a large tile": {[]int{4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000}, 1000, 66816},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for _, n := range c.runs {
				w.grow(n)
			}
			w.prune(2, c.entries, c.minimum)
			if got := w.log.Minimum(); got != c.minimum {
				t.Fatalf("the minimum index is %d, want %d", got, c.minimum)
			}
			size := w.settle()
			dir := filepath.Join(t.TempDir(), "bk")
			w.backup(dir)
			w.lose()
			o, err := backup.Restore(context.Background(), w.config(), dir)
			w.check(err)
			if !o.Complete() || o.Size != size {
				t.Fatalf("outcome %+v", o)
			}
			w.start()
			if got := w.log.Minimum(); got != c.minimum {
				t.Errorf("the minimum index of the restored log is %d", got)
			}
			w.grow(600)
			w.audit(size + 601)
		})
	}
}

// TestPrunedBehind brings what a backup of a pruned log lacks in from a mirror.
func TestPrunedBehind(t *testing.T) {
	w := newWorld(t)
	w.grow(700)
	w.prune(2, 300, 256)
	dir := filepath.Join(t.TempDir(), "bk")
	m := w.backup(dir)
	w.grow(30)
	size := w.settle()
	mirror := w.mirror()
	w.lose()
	o, err := backup.Restore(context.Background(), w.config(mirror), dir)
	w.check(err)
	if !o.Complete() || o.Stored != m.Size || o.Size != size {
		t.Fatalf("outcome %+v, %v", o, o.Copies)
	}
	w.start()
	w.grow(5)
	w.audit(size + 6)
}

// TestPrunedDamage: what a pruned log keeps from below its minimum index is
// verified too.
func TestPrunedDamage(t *testing.T) {
	w := newWorld(t)
	w.grow(1200)
	w.prune(2, 300, 768)
	w.settle()
	w.stop()
	for name, statement := range map[string]string{
		"tile of level 1":          `UPDATE tile SET hashes = zeroblob(length(hashes)) WHERE id = 1 << 56`,
		"tile below the minimum":   `UPDATE tile SET hashes = zeroblob(length(hashes)) WHERE id = 0`,
		"a kept bundle is gone":    `DELETE FROM bundle WHERE n = 0`,
		"a bundle above is gone":   `DELETE FROM bundle WHERE n = 3`,
		"edge of a stream":         `UPDATE pruned_stream SET edge = zeroblob(length(edge))`,
		"edges of streams":         `DELETE FROM pruned_stream`,
		"minimum index":            `UPDATE pruned SET minimum = minimum + 1`,
		"minimum index too large":  `UPDATE pruned SET minimum = 1 << 40`,
		"statement that is none":   `INSERT INTO key_change (entry) VALUES (7)`,
		"statement that is hidden": `DELETE FROM key_change WHERE entry = 1`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "log.db")
			if err := os.CopyFS(dir, os.DirFS(w.dir)); err != nil {
				t.Fatal(err)
			}
			db, err := sqlite.Open(context.Background(), path, sqlite.Schema{Kind: "log", ApplicationID: 0x53544c01, Migrations: make([]string, 2)})
			if err != nil {
				t.Fatal(err)
			}
			_, err = db.Writer.Exec(statement)
			if err = errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			_, err = backup.Write(context.Background(), backup.WriteConfig{Database: path, Policy: w.policy}, filepath.Join(t.TempDir(), "bk"))
			if !errors.Is(err, backup.ErrDamaged) {
				t.Errorf("backed up with %q: %v", statement, err)
			}
		})
	}
}
