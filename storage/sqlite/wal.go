package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/mattn/go-sqlite3"
)

// checkpointBytes is after how many written bytes the WAL is copied into the
// database. Pages that change often, such as those of the right edge, are copied
// once however often they changed.
const checkpointBytes = 16 << 20

// commitBytes is about what a commit writes beside what it is told to keep: SQLite
// writes by the page, and some half a dozen of them.
const commitBytes = 24 << 10

// ErrSync is wrapped where the disk did not take what was written and said so
// once: nobody can know what it has. The database can be used no more until
// another process opens it, which finds everything in the WAL.
var ErrSync = errors.New("the disk has failed to keep the database; end this process and start it again")

// walKeeper copies the WAL into the database beside the writer, who would
// otherwise do it every four MiB in the middle of a commit, and wait for the disk
// twice.
//
// SQLite drops the error when it copies by itself, and that is not safe: it copies
// in parts, of which only the last is synced, and after a sync that failed it
// syncs again. But the kernel reports a page that could not be written once to each
// that has the file open, and takes it for written from then on. The second sync
// succeeds, SQLite starts the WAL anew, and the page is lost with the next loss of
// power. So nothing is copied after a sync that failed: everything stays in the WAL,
// where commits go on, until the next process begins with the first page again.
//
// The copier syncs the WAL as well, maybe while the writer waits for a sync of its
// own. If the copier's fails, what the writer wrote can be lost by it, and the writer
// must be told: it is, since the two have the file open apart, and Linux from 4.13 on
// tells each (fsync(2)). The commit fails then, and is written again.
type walKeeper struct {
	writer *sql.DB
	own    *sql.DB // nil: SQLite's own rule holds
	every  int64   // bytes
	bytes  atomic.Int64
	busy   atomic.Bool
	lost   atomic.Bool // a sync has failed
	wg     sync.WaitGroup
}

// keepWAL puts a walKeeper in charge. The writer must tell it what it writes.
func (db *DB) keepWAL(ctx context.Context, path string) error {
	own, err := openPool(path, 1, "_query_only=0")
	if err != nil {
		return err
	}
	db.wal.writer, db.wal.own, db.wal.every = db.Writer, own, checkpointBytes
	for _, pool := range []*sql.DB{db.Writer, own} {
		if _, err := pool.ExecContext(ctx, "PRAGMA wal_autocheckpoint = 0"); err != nil {
			return fmt.Errorf("taking charge of the WAL: %w", err)
		}
	}
	return nil
}

// wrote says that n bytes have been kept by a commit.
func (k *walKeeper) wrote(n int) {
	if k.own == nil || k.bytes.Add(int64(n)+commitBytes) < k.every || k.lost.Load() || !k.busy.CompareAndSwap(false, true) {
		return
	}
	k.bytes.Store(0)
	k.wg.Go(func() {
		defer k.busy.Store(false)
		// The first copy runs beside the writer. What came meanwhile is copied while
		// the writer waits: when all is copied, its next commit starts the WAL anew. Any
		// other error than of a sync leaves everything to the next time.
		if k.copy(k.own) == nil {
			_ = k.copy(k.writer)
		}
	})
}

func (k *walKeeper) copy(pool *sql.DB) error {
	var busy, pages, copied int
	err := pool.QueryRow("PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &pages, &copied)
	var code sqlite3.Error
	if errors.As(err, &code) && code.ExtendedCode == sqlite3.ErrIoErrFsync {
		k.lost.Store(true)
	}
	return err
}

// Health returns [ErrSync] once a sync has failed. Nothing is lost by then.
func (db *DB) Health() error {
	if db.wal.lost.Load() {
		return ErrSync
	}
	return nil
}

// close ends the copying. It returns [ErrSync] if the database must not be closed:
// the last connection to go would copy the WAL and delete it.
func (k *walKeeper) close() error {
	k.wg.Wait()
	switch {
	case k.own == nil:
		return nil
	case k.lost.Load():
		return ErrSync
	}
	return k.own.Close()
}

// rewriteWAL writes the WAL that a process left onto itself. Where a sync of it
// failed, the kernel may hold pages that it takes for written and that the disk
// does not have. SQLite would trust them, and add to a WAL with a hole.
func rewriteWAL(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := f.ReadAt(buf, at)
		if n > 0 {
			if _, err := f.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return f.Sync()
		}
		if err != nil {
			return err
		}
	}
}
