package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
)

const (
	// checkpointBytes is after how many written bytes the WAL is copied into the
	// database. Pages that change often, such as those of the right edge, are
	// copied once however often they changed.
	checkpointBytes = 16 << 20

	// maxWALPages is where the writer itself copies: copying beside it has failed,
	// or cannot keep up. Pages have 4096 bytes.
	maxWALPages = 32 << 10
)

// walKeeper copies the WAL into the database beside the writer, who would
// otherwise do it every four MiB in the middle of a commit, and wait for the disk
// twice.
type walKeeper struct {
	writer *sql.DB
	own    *sql.DB // nil: SQLite's own rule holds
	bytes  atomic.Int64
	busy   atomic.Bool
	wg     sync.WaitGroup
}

// keepWAL puts a walKeeper in charge. The writer must tell it what it writes.
func (db *DB) keepWAL(ctx context.Context, path string) error {
	own, err := openPool(path, 1, "_query_only=0")
	if err != nil {
		return err
	}
	db.wal.writer, db.wal.own = db.Writer, own
	if _, err := db.Writer.ExecContext(ctx, fmt.Sprintf("PRAGMA wal_autocheckpoint = %d", maxWALPages)); err != nil {
		return fmt.Errorf("setting the limit of the WAL: %w", err)
	}
	return nil
}

// wrote says that about n bytes have been committed.
func (k *walKeeper) wrote(n int) {
	if k.own == nil || k.bytes.Add(int64(n)) < checkpointBytes || !k.busy.CompareAndSwap(false, true) {
		return
	}
	k.bytes.Store(0)
	k.wg.Go(func() {
		defer k.busy.Store(false)
		// The first copy runs beside the writer. What came meanwhile is copied while
		// the writer waits: when all is copied, its next commit starts the WAL anew.
		// An error is not lost: the writer meets it at its limit.
		var busy, pages, copied int
		const checkpoint = "PRAGMA wal_checkpoint(PASSIVE)"
		if k.own.QueryRow(checkpoint).Scan(&busy, &pages, &copied) == nil {
			_ = k.writer.QueryRow(checkpoint).Scan(&busy, &pages, &copied)
		}
	})
}

func (k *walKeeper) close() error {
	k.wg.Wait()
	if k.own == nil {
		return nil
	}
	return k.own.Close()
}
