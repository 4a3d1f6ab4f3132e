package backup_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/backup"
)

// soon fails the test if a function hangs.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s hangs", what)
	}
}

// TestIrregular: a file of a backup that is a pipe, a socket, a device or a link is
// refused by name, and waited for by nobody.
func TestIrregular(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	dir := filepath.Join(t.TempDir(), "bk")
	w.backup(dir)
	w.lose()
	c := w.config()
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for what, put := range map[string]func(path string) error{
		"a named pipe": func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a socket": func(path string) error {
			l, err := net.Listen("unix", path)
			if err == nil {
				l.(*net.UnixListener).SetUnlinkOnClose(false)
				l.Close()
			}
			return err
		},
		"a symbolic link": func(path string) error { return os.Symlink(elsewhere, path) },
		"a directory":     func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		for _, name := range []string{"backup.json", "log.db", "log.db.signed", "log.db.openings"} {
			path := filepath.Join(dir, name)
			w.check(os.Rename(path, elsewhere))
			w.check(put(path))
			soon(t, "restoring with "+what+" for "+name, func() {
				if _, err := backup.Restore(ctx, c, dir); !errors.Is(err, backup.ErrNotBackup) || !strings.Contains(err.Error(), path+" is "+what) {
					t.Errorf("restored with %s for %s: %v", what, name, err)
				}
			})
			w.nothing()
			w.check(os.Remove(path))
			w.check(os.Rename(elsewhere, path))
		}
	}
	// Nor is a copy read that is none.
	fifo := filepath.Join(t.TempDir(), "log.db")
	w.check(unix.Mkfifo(fifo, 0o600))
	soon(t, "opening a pipe", func() {
		if _, err := sqlite.OpenLogFile(ctx, fifo); !errors.Is(err, sqlite.ErrForeign) {
			t.Errorf("opened a pipe: %v", err)
		}
		if _, err := sqlite.OpenOpeningsFile(ctx, fifo); !errors.Is(err, sqlite.ErrForeign) {
			t.Errorf("opened a pipe: %v", err)
		}
	})
	if o, err := backup.Restore(ctx, c, dir); err != nil || !o.Complete() {
		t.Fatalf("the good one: %+v, %v", o, err)
	}
}

// TestInTheWay: what somebody else has called what we call ours stays as it is.
func TestInTheWay(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	base := t.TempDir()
	dir := filepath.Join(base, "bk")
	thesis := func(path string) {
		t.Helper()
		w.check(os.MkdirAll(path, 0o700))
		w.check(os.WriteFile(filepath.Join(path, "thesis.txt"), []byte("mine"), 0o600))
	}
	whole := func(path string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(path, "thesis.txt")); string(b) != "mine" {
			t.Errorf("%s has been touched: %v", path, err)
		}
	}
	wants := func(err error, path string) {
		t.Helper()
		if !errors.Is(err, backup.ErrInTheWay) || !strings.Contains(err.Error(), path) {
			t.Errorf("want an error about %s: %v", path, err)
		}
		if _, err := os.Lstat(dir + ".lock"); err == nil {
			t.Error("a lock is left behind")
		}
	}
	write := backup.WriteConfig{Database: w.db, Policy: w.policy}
	thesis(dir + ".partial")
	_, err := backup.Write(ctx, write, dir)
	wants(err, dir+".partial")
	whole(dir + ".partial")
	w.check(os.Rename(dir+".partial", dir+".old"))
	w.backup(dir)
	w.backup(dir)
	whole(dir + ".old")
	names, err := os.ReadDir(base)
	w.check(err)
	if len(names) != 2 {
		t.Errorf("left beside the backup: %v", names)
	}
	// A file of that name, and a link to a directory with the mark.
	w.check(os.WriteFile(dir+".partial", []byte("mine"), 0o600))
	_, err = backup.Write(ctx, write, dir)
	wants(err, dir+".partial")
	w.check(os.Remove(dir + ".partial"))
	thesis(filepath.Join(base, "linked"))
	w.check(backup.Mark(filepath.Join(base, "linked")))
	w.check(os.Symlink("linked", dir+".partial"))
	_, err = backup.Write(ctx, write, dir)
	wants(err, dir+".partial")
	whole(filepath.Join(base, "linked"))
	w.check(os.Remove(dir + ".partial"))

	w.lose()
	thesis(w.db + ".restore")
	_, err = backup.Restore(ctx, w.config(), dir)
	wants(err, w.db+".restore")
	whole(w.db + ".restore")
	w.check(os.RemoveAll(w.db + ".restore"))
	w.check(os.WriteFile(w.db+".index", []byte("mine"), 0o600))
	_, err = backup.Restore(ctx, w.config(), dir)
	wants(err, w.db+".index")
	w.check(os.Remove(w.db + ".index"))
	w.nothing()
}

// TestLinks: a link is not replaced by what it was meant to lead to.
func TestLinks(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	base := t.TempDir()
	dir := filepath.Join(base, "bk")
	w.backup(dir)
	link := filepath.Join(base, "link")
	w.check(os.Symlink(filepath.Join(base, "unmounted"), link))
	if _, err := backup.Write(ctx, backup.WriteConfig{Database: w.db, Policy: w.policy}, link); !errors.Is(err, backup.ErrNotBackup) || !strings.Contains(err.Error(), link) {
		t.Errorf("backed up to a dangling link: %v", err)
	}
	w.lose()
	c := w.config()
	for _, path := range []string{w.db, w.db + ".openings"} {
		w.check(os.Symlink(filepath.Join(base, "unmounted"), path))
		if _, err := backup.Restore(ctx, c, dir); !errors.Is(err, backup.ErrInTheWay) || !strings.Contains(err.Error(), path) {
			t.Errorf("restored over a dangling link at %s: %v", path, err)
		}
		if path == w.db {
			if _, err := backup.CatchUp(ctx, c); !errors.Is(err, backup.ErrInTheWay) {
				t.Errorf("brought entries in behind a dangling link: %v", err)
			}
		}
		if to, err := os.Readlink(path); err != nil || to != filepath.Join(base, "unmounted") {
			t.Errorf("the link is gone: %v", err)
		}
		w.check(os.Remove(path))
		w.nothing()
	}
	// An empty database is nothing, but a link to one is somebody's wish.
	empty, err := sqlite.OpenLog(ctx, filepath.Join(base, "empty.db"))
	w.check(err)
	w.check(empty.Close())
	w.check(os.Symlink(filepath.Join(base, "empty.db"), w.db))
	if _, err := backup.Restore(ctx, c, dir); !errors.Is(err, backup.ErrInTheWay) {
		t.Errorf("restored over a link: %v", err)
	}
	w.check(os.Remove(w.db))
	if o, err := backup.Restore(ctx, c, dir); err != nil || !o.Complete() {
		t.Fatalf("the good one: %+v, %v", o, err)
	}
}

// TestLeavesNothing: a backup that is refused leaves nothing beside foreign paths.
func TestLeavesNothing(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	base := t.TempDir()
	page := filepath.Join(base, "index.html")
	w.check(os.WriteFile(page, []byte("mine"), 0o600))
	for _, c := range []struct {
		database, dir string
	}{
		{w.db, page},
		{w.db, filepath.Join(page, "bk")},
		{w.db, base},
		{page, filepath.Join(base, "bk")},
		{filepath.Join(base, "none.db"), filepath.Join(base, "bk")},
	} {
		if _, err := backup.Write(ctx, backup.WriteConfig{Database: c.database, Policy: w.policy}, c.dir); err == nil {
			t.Errorf("backed up %s to %s", c.database, c.dir)
		} else if c.database == w.db && !errors.Is(err, backup.ErrNotBackup) {
			t.Errorf("to %s: %v", c.dir, err)
		}
	}
	if _, err := backup.Restore(ctx, backup.RestoreConfig{Database: page, Key: w.key, Policy: w.policy}, page); !errors.Is(err, backup.ErrExists) {
		t.Errorf("restored over a page: %v", err)
	}
	if _, err := backup.Restore(ctx, backup.RestoreConfig{Database: filepath.Join(base, "new.db"), Key: w.key, Policy: w.policy}, page); !errors.Is(err, backup.ErrNotBackup) {
		t.Errorf("restored a page: %v", err)
	}
	if _, err := sqlite.OpenLog(ctx, page); !errors.Is(err, sqlite.ErrForeign) {
		t.Errorf("opened a page: %v", err)
	}
	names, err := os.ReadDir(base)
	w.check(err)
	if len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

// TestMarks: what a crash leaves of our own is taken up again.
func TestMarks(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.grow(20)
	w.settle()
	base := t.TempDir()
	dir := filepath.Join(base, "bk")
	w.backup(dir)
	clean := func() {
		t.Helper()
		w.backup(dir)
		for path, want := range map[string]int{base: 1, dir: 4} {
			if names, err := os.ReadDir(path); err != nil || len(names) != want {
				t.Errorf("%s holds %v, %v", path, names, err)
			}
		}
	}
	w.check(backup.Mark(dir)) // before the names are exchanged
	clean()
	w.check(os.Mkdir(dir+".partial", 0o700)) // before the mark
	clean()
	w.check(os.Mkdir(dir+".partial", 0o700)) // while it is written
	w.check(os.WriteFile(filepath.Join(dir+".partial", "SEALTAP-PARTIAL"), []byte("sealtap/b"), 0o600))
	clean()
	w.check(os.CopyFS(dir+".old", os.DirFS(dir))) // after the new one has the name
	w.check(backup.Mark(dir + ".old"))
	clean()
	// A crash right after the exchange leaves the older one marked, and the new one not.
	stage := filepath.Join(base, "stage")
	w.check(os.CopyFS(stage, os.DirFS(dir)))
	w.check(backup.Mark(stage))
	w.check(backup.PutStage(stage, dir))
	if !backup.Marked(stage) || backup.Marked(dir) {
		t.Error("the older backup cannot be told from somebody's own")
	}
	w.check(backup.Mark(dir))
	w.lose()
	w.check(os.Mkdir(w.db+".restore", 0o700))
	if o, err := backup.Restore(ctx, w.config(), dir); err != nil || !o.Complete() {
		t.Fatalf("outcome %+v, %v", o, err)
	}
	if _, err := os.Lstat(w.db + ".restore"); err == nil {
		t.Error("the stage is left behind")
	}
}

// TestMarkLast: while a directory is removed it has its mark for as long as anything
// is in it.
func TestMarkLast(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bk.partial")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if i == 1500 {
			if err := backup.Mark(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	done := make(chan error, 1)
	go func() { done <- backup.RemoveStage(dir) }()
	for backup.Marked(dir) {
	}
	if names, err := os.ReadDir(dir); err == nil && len(names) > 0 {
		t.Errorf("without its mark it holds %d files", len(names))
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("it is still there")
	}
}
