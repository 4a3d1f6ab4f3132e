package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// Rows returns the rows from an entry on, in order, so many at most.
func (f *OpeningsFile) Rows(ctx context.Context, from uint64, limit int) ([]storage.OpeningRow, error) {
	return collect(ctx, f.pool, func(scan func(...any) error) (r storage.OpeningRow, err error) {
		return r, scan(&r.Index, &r.Leaf, &r.Box)
	}, `SELECT entry, leaf, box FROM opening WHERE entry >= ? ORDER BY entry LIMIT ?`, int64(from), limit)
}

// Keys returns data keys behind one, in order, so many at most; the first ones if
// first is true.
func (f *OpeningsFile) Keys(ctx context.Context, after record.KeyID, first bool, limit int) ([]storage.KeyRow, error) {
	return collect(ctx, f.pool, func(scan func(...any) error) (r storage.KeyRow, err error) {
		var id []byte
		err = scan(&id, &r.Wrapped, &r.Last)
		copy(r.ID[:], id)
		return r, err
	}, `SELECT id, wrapped, last FROM wrapped_key WHERE id > ? OR ? ORDER BY id LIMIT ?`, after[:], first, limit)
}

func collect[T any](ctx context.Context, pool *sql.DB, row func(scan func(...any) error) (T, error), query string, args ...any) ([]T, error) {
	rows, err := pool.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("reading openings: %w", damage(err))
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		r, err := row(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("reading openings: %w", damage(err))
		}
		list = append(list, r)
	}
	return list, damage(rows.Err())
}
