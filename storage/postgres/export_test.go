package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Pause keeps the lease from being renewed, as a process does that does not run.
func (l *Lease) Pause() { l.cancel(nil) }

// Change makes a change as all changes are made.
func (db *DB) Change(ctx context.Context, f func(tx pgx.Tx) error) error {
	return db.change(ctx, func(_ context.Context, tx pgx.Tx) error { return f(tx) })
}
