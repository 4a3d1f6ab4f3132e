package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// Import makes the openings of the entries from one index to before another those that
// are given, which another storage has there. One that was erased here stays erased.
func (o *Openings) Import(ctx context.Context, from, to uint64, rows []storage.OpeningRow) error {
	err := o.db.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		kept := make([]int64, len(rows))
		batch := new(pgx.Batch)
		for i, r := range rows {
			kept[i] = int64(r.Index)
			batch.Queue(`INSERT INTO opening (entry, leaf, box) VALUES ($1, $2, $3) ON CONFLICT (entry) DO UPDATE SET leaf = excluded.leaf,
				box = CASE WHEN opening.leaf = excluded.leaf AND opening.box IS NULL THEN NULL ELSE excluded.box END`, kept[i], r.Leaf, r.Box)
		}
		batch.Queue(`DELETE FROM opening WHERE entry >= $1 AND entry < $2 AND entry <> ALL ($3)`, int64(from), int64(to), kept)
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return fmt.Errorf("importing openings: %w", err)
	}
	return nil
}

// ImportKeys keeps data keys of another storage as they are, erased ones included. One
// that was erased here stays erased.
func (o *Openings) ImportKeys(ctx context.Context, keys []storage.KeyRow) error {
	err := o.db.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		batch := new(pgx.Batch)
		for _, k := range keys {
			batch.Queue(`INSERT INTO wrapped_key (id, wrapped, last) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET last = excluded.last,
				wrapped = CASE WHEN wrapped_key.wrapped IS NULL THEN NULL ELSE excluded.wrapped END`, k.ID[:], k.Wrapped, int64(k.Last))
		}
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return fmt.Errorf("importing data keys: %w", err)
	}
	return nil
}

// RowsFrom returns the openings from an entry on, in order, so many at most.
func (o *Openings) RowsFrom(ctx context.Context, from uint64, limit int) ([]storage.OpeningRow, error) {
	list, err := all(ctx, o.db, func(row pgx.CollectableRow) (r storage.OpeningRow, err error) {
		var index int64
		err = row.Scan(&index, &r.Leaf, &r.Box)
		r.Index = uint64(index)
		return r, err
	}, `SELECT entry, leaf, box FROM opening WHERE entry >= $1 ORDER BY entry LIMIT $2`, int64(from), limit)
	if err != nil {
		return nil, fmt.Errorf("reading openings: %w", damage(err))
	}
	return list, nil
}

// Key returns a data key, erased or not, and reports whether it is there.
func (o *Openings) Key(ctx context.Context, id record.KeyID) (storage.KeyRow, bool, error) {
	k := storage.KeyRow{ID: id}
	var last int64
	err := o.db.one(ctx, []any{&k.Wrapped, &last}, `SELECT wrapped, last FROM wrapped_key WHERE id = $1`, id[:])
	if errors.Is(err, pgx.ErrNoRows) {
		return k, false, nil
	}
	if err != nil {
		return k, false, fmt.Errorf("reading openings: %w", damage(err))
	}
	k.Last = uint64(last)
	return k, true, nil
}
