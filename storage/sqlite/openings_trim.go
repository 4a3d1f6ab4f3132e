package sqlite

import (
	"context"
	"fmt"

	"github.com/sealtap/sealtap/storage"
)

// openingsTrimSchema is the migration that lets data keys go with the last openings
// under them. The key's identifier stands in a box behind the first byte: see
// record.BoxKey.
const openingsTrimSchema = `
ALTER TABLE wrapped_key ADD COLUMN last INTEGER NOT NULL DEFAULT 0; -- no opening under it is of a later entry
UPDATE wrapped_key SET last = used.last | 255
	FROM (SELECT substr(box, 2, 16) AS id, max(entry) AS last FROM opening WHERE box IS NOT NULL GROUP BY 1) AS used
	WHERE used.id = wrapped_key.id;
`

const (
	useKey       = `UPDATE wrapped_key SET last = ?2 WHERE id = ?1 AND last < ?2`
	trimOpenings = `DELETE FROM opening WHERE entry IN (SELECT entry FROM opening WHERE entry < ? ORDER BY entry LIMIT ?)`
	// A key that was erased stays erased, whoever brings it again.
	trimKeys = `DELETE FROM wrapped_key WHERE id IN (SELECT id FROM wrapped_key WHERE last < ? AND wrapped IS NOT NULL LIMIT ?)`
)

// lastOfBundle is the index of the last entry in the bundle of an entry: as closely
// the log is pruned, so the row of a key need not be written for each entry.
func lastOfBundle(entry uint64) int64 { return int64(entry | (storage.BundleWidth - 1)) }

// Trim implements [storage.OpeningsTrimmer].
func (o *Openings) Trim(ctx context.Context, below uint64, limit int) (more bool, err error) {
	if err := ctx.Err(); err != nil {
		return true, fmt.Errorf("deleting openings: %w", err)
	}
	if more, err = o.trim(context.WithoutCancel(ctx), below, limit); err != nil {
		return true, fmt.Errorf("deleting openings below %d: %w", below, err)
	}
	return more, nil
}

func (o *Openings) trim(ctx context.Context, below uint64, limit int) (more bool, err error) {
	tx, err := o.db.Writer.BeginTx(ctx, nil)
	if err != nil {
		return true, err
	}
	defer tx.Rollback()
	for _, s := range []string{trimOpenings, trimKeys} {
		res, err := tx.ExecContext(ctx, s, int64(below), limit)
		if err != nil {
			return true, err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return true, err
		}
		if more = n >= int64(limit); more {
			break // the keys of what is still there stay
		}
	}
	return more, tx.Commit()
}
