package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// openingsSchema describes the database of openings. An erased opening stays as
// a row without a box, so that a repeated submission does not bring it back. The
// leaf is the first 8 bytes of the record's leaf hash: enough to notice the row
// of a record that was never stored.
func openingsSchema() Schema {
	return Schema{
		Kind:          "openings",
		ApplicationID: 0x53544f01, // "STO", 1
		Migrations: []string{`
CREATE TABLE opening (
	entry INTEGER PRIMARY KEY, -- index in the log
	leaf  BLOB NOT NULL,
	box   BLOB
) STRICT;
CREATE TABLE wrapped_key (
	id      BLOB PRIMARY KEY CHECK (length(id) = 16),
	wrapped BLOB
) STRICT, WITHOUT ROWID;
`, openingsTrimSchema},
	}
}

// leafPrefix is how much of a leaf hash is kept with openings.
const leafPrefix = 8

const (
	selectBox = `SELECT box FROM opening WHERE entry = ? AND box IS NOT NULL`
	selectKey = `SELECT wrapped FROM wrapped_key WHERE id = ? AND wrapped IS NOT NULL`
)

// Openings keeps encrypted openings. It implements [storage.Openings].
type Openings struct {
	db                   *DB
	addBox, addKey       *sql.Stmt
	useKey               *sql.Stmt
	selectBox, selectKey *sql.Stmt
}

// OpenOpenings opens the storage at path as [Open] does.
func OpenOpenings(ctx context.Context, path string) (*Openings, error) {
	db, err := Open(ctx, path, openingsSchema())
	if err != nil {
		return nil, err
	}
	o := &Openings{db: db}
	if err = db.keepWAL(ctx, path); err != nil {
		return nil, fmt.Errorf("opening openings storage %s: %w", path, errors.Join(err, db.Close()))
	}
	for _, s := range []struct {
		stmt **sql.Stmt
		pool *sql.DB
		text string
	}{
		{&o.addBox, db.Writer, `INSERT INTO opening (entry, leaf, box) VALUES (?, ?, ?)
			ON CONFLICT (entry) DO UPDATE SET leaf = excluded.leaf, box = excluded.box WHERE leaf <> excluded.leaf`},
		{&o.addKey, db.Writer, `INSERT OR IGNORE INTO wrapped_key (id, wrapped) VALUES (?, ?)`},
		{&o.useKey, db.Writer, useKey},
		{&o.selectBox, db.Reader, selectBox},
		{&o.selectKey, db.Reader, selectKey},
	} {
		if *s.stmt, err = s.pool.PrepareContext(ctx, s.text); err != nil {
			return nil, fmt.Errorf("opening openings storage %s: %w", path, errors.Join(err, db.Close()))
		}
	}
	return o, nil
}

// Health returns [ErrSync] once the disk has failed to keep what it was given.
func (o *Openings) Health() error { return o.db.Health() }

// Close closes the storage.
func (o *Openings) Close() error { return o.db.Close() }

// Put implements [storage.Openings].
func (o *Openings) Put(ctx context.Context, openings []storage.Opening, keys []storage.WrappedKey) error {
	ctx = context.WithoutCancel(ctx)
	tx, err := o.db.Writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("keeping openings: %w", err)
	}
	defer tx.Rollback()
	written := 0
	used := make(map[record.KeyID]uint64) // by the newest of the entries
	for _, p := range openings {
		res, err := tx.StmtContext(ctx, o.addBox).ExecContext(ctx, p.Index, p.Leaf[:leafPrefix], p.Box)
		if err != nil {
			return fmt.Errorf("keeping openings of entry %d: %w", p.Index, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			continue // they are kept already
		}
		written += len(p.Box)
		if id, err := record.BoxKey(p.Box); err == nil {
			used[id] = max(used[id], p.Index)
		}
	}
	for _, k := range keys {
		// Entries are public: anybody can submit one again, with a key of his own making.
		if _, ok := used[k.ID]; !ok {
			continue
		}
		written += len(k.Wrapped)
		if _, err := tx.StmtContext(ctx, o.addKey).ExecContext(ctx, k.ID[:], k.Wrapped); err != nil {
			return fmt.Errorf("keeping wrapped key: %w", err)
		}
	}
	for id, entry := range used {
		if _, err := tx.StmtContext(ctx, o.useKey).ExecContext(ctx, id[:], lastOfBundle(entry)); err != nil {
			return fmt.Errorf("keeping wrapped key: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("keeping openings: %w", err)
	}
	o.db.wal.wrote(written)
	return nil
}

// Discard implements [storage.Openings].
func (o *Openings) Discard(ctx context.Context, from uint64) error {
	if _, err := o.db.Writer.ExecContext(context.WithoutCancel(ctx), `DELETE FROM opening WHERE entry >= ?`, int64(from)); err != nil {
		return fmt.Errorf("discarding openings from entry %d on: %w", from, err)
	}
	o.db.wal.wrote(0)
	return nil
}

// Opening implements [storage.Openings].
func (o *Openings) Opening(ctx context.Context, index uint64) ([]byte, bool, error) {
	return one(ctx, o.selectBox, int64(index))
}

// WrappedKey implements [storage.Openings].
func (o *Openings) WrappedKey(ctx context.Context, id record.KeyID) ([]byte, bool, error) {
	return one(ctx, o.selectKey, id[:])
}

func one(ctx context.Context, stmt *sql.Stmt, arg any) ([]byte, bool, error) {
	var b []byte
	err := stmt.QueryRowContext(ctx, arg).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading openings: %w", err)
	}
	return b, true, nil
}
