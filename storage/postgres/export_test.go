package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Pause keeps the lease from being renewed, as a process does that does not run.
func (l *Lease) Pause() { l.cancel(nil) }

// Change makes a change as all changes are made.
func (db *DB) Change(ctx context.Context, f func(tx pgx.Tx) error) error {
	return db.change(ctx, func(_ context.Context, tx pgx.Tx) error { return f(tx) })
}

// SetRowTime says how long the read of a row may take.
func (db *DB) SetRowTime(d time.Duration) { db.rowTime = d }

// View reads as reads of several steps are made.
func (db *DB) View(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	return db.view(ctx, f)
}

// Kill ends the connections with which the process writes, as one does that takes the
// lease over.
func (db *DB) Kill(ctx context.Context) error {
	_, err := db.pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1`, db.holder)
	return err
}

// Look begins to ask for the lease, and waits, as one that is paused right behind its
// question, until the function is called.
func (db *DB) Look(ctx context.Context) (end func(), err error) {
	tx, err := db.writer.Begin(ctx)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, lookForLease)
	return func() { _ = tx.Rollback(ctx) }, err
}
