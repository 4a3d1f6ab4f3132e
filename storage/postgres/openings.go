package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// Openings keeps encrypted openings. It implements [storage.Openings] and
// [storage.OpeningsTrimmer]. An erased opening stays as a row without a box, so that a
// repeated submission does not bring it back. The leaf is the first 8 bytes of the
// record's leaf hash: enough to notice the row of a record that was never stored.
type Openings struct{ db *DB }

var _ storage.OpeningsTrimmer = (*Openings)(nil)

// Openings returns the openings in the database.
func (db *DB) Openings() *Openings { return &Openings{db} }

// Put implements [storage.Openings].
func (o *Openings) Put(ctx context.Context, openings []storage.Opening, keys []storage.WrappedKey) error {
	err := o.db.change(ctx, func(ctx context.Context, tx pgx.Tx) error { return put(ctx, tx, openings, keys) })
	if err != nil {
		return fmt.Errorf("keeping openings: %w", err)
	}
	return nil
}

func put(ctx context.Context, tx pgx.Tx, openings []storage.Opening, keys []storage.WrappedKey) error {
	batch := new(pgx.Batch)
	used := make(map[record.KeyID]uint64) // by the newest of the entries
	for _, p := range openings {
		q := batch.Queue(`INSERT INTO opening (entry, leaf, box) VALUES ($1, $2, $3)
			ON CONFLICT (entry) DO UPDATE SET leaf = excluded.leaf, box = excluded.box WHERE opening.leaf <> excluded.leaf RETURNING entry`,
			int64(p.Index), p.Leaf[:8], p.Box)
		q.Query(func(rows pgx.Rows) error {
			defer rows.Close()
			if !rows.Next() {
				return rows.Err() // they are kept already
			}
			if id, err := record.BoxKey(p.Box); err == nil {
				used[id] = max(used[id], p.Index)
			}
			return nil
		})
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	batch = new(pgx.Batch)
	for _, k := range keys {
		// Entries are public: anybody can submit one again, with a key of his own making.
		if _, ok := used[k.ID]; ok {
			batch.Queue(`INSERT INTO wrapped_key (id, wrapped) VALUES ($1, $2) ON CONFLICT DO NOTHING`, k.ID[:], k.Wrapped)
		}
	}
	for id, entry := range used {
		// As closely as bundles the log is pruned: the row need not be written for each entry.
		batch.Queue(`UPDATE wrapped_key SET last = $2 WHERE id = $1 AND last < $2`, id[:], int64(entry|(storage.BundleWidth-1)))
	}
	return tx.SendBatch(ctx, batch).Close()
}

// Discard implements [storage.Openings].
func (o *Openings) Discard(ctx context.Context, from uint64) error {
	err := o.db.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM opening WHERE entry >= $1`, int64(from))
		return err
	})
	if err != nil {
		return fmt.Errorf("discarding openings from entry %d on: %w", from, err)
	}
	return nil
}

// Opening implements [storage.Openings].
func (o *Openings) Opening(ctx context.Context, index uint64) ([]byte, bool, error) {
	return o.one(ctx, `SELECT box FROM opening WHERE entry = $1 AND box IS NOT NULL`, int64(index))
}

// WrappedKey implements [storage.Openings].
func (o *Openings) WrappedKey(ctx context.Context, id record.KeyID) ([]byte, bool, error) {
	return o.one(ctx, `SELECT wrapped FROM wrapped_key WHERE id = $1 AND wrapped IS NOT NULL`, id[:])
}

func (o *Openings) one(ctx context.Context, query string, arg any) ([]byte, bool, error) {
	var b []byte
	err := o.db.one(ctx, []any{&b}, query, arg)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading openings: %w", damage(err))
	}
	return b, true, nil
}

// Trim implements [storage.OpeningsTrimmer].
func (o *Openings) Trim(ctx context.Context, below uint64, limit int) (more bool, err error) {
	err = o.db.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		for _, s := range []string{
			`DELETE FROM opening WHERE entry IN (SELECT entry FROM opening WHERE entry < $1 ORDER BY entry LIMIT $2)`,
			// A key that was erased stays erased, whoever brings it again.
			`DELETE FROM wrapped_key WHERE id IN (SELECT id FROM wrapped_key WHERE last < $1 AND wrapped IS NOT NULL LIMIT $2)`,
		} {
			tag, err := tx.Exec(ctx, s, int64(below), limit)
			if err != nil {
				return err
			}
			if more = tag.RowsAffected() >= int64(limit); more {
				break // the keys of what is still there stay
			}
		}
		return nil
	})
	if err != nil {
		return true, fmt.Errorf("deleting openings below %d: %w", below, err)
	}
	return more, nil
}
