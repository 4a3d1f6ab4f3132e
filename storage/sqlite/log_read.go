package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// A read of one row is over before it could be cancelled; but under a context that
// can be, the driver starts a goroutine to watch it, which takes as long as the
// read.
func short(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// Bundle implements [storage.Log].
func (l *Log) Bundle(ctx context.Context, n uint64) ([]byte, error) {
	packed, err := l.PackedBundle(ctx, n)
	if err == nil {
		bundle, err := l.packer.Unpack(packed)
		if err != nil {
			return nil, fmt.Errorf("reading bundle %d: %w", n, err)
		}
		return bundle, nil
	}
	if errors.Is(err, storage.ErrNotFound) {
		return l.partialBundle(ctx, n)
	}
	return nil, err
}

// PackedBundle returns a complete entry bundle as a zstd frame, as it is stored.
// It fails with [storage.ErrNotFound] if the bundle is not complete.
func (l *Log) PackedBundle(ctx context.Context, n uint64) ([]byte, error) {
	var packed []byte
	err := l.selects.bundle.QueryRowContext(short(ctx), int64(n)).Scan(&packed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("reading bundle %d: %w", n, storage.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading bundle %d: %w", n, err)
	}
	return packed, nil
}

// partialBundle reads the last bundle. Between two statements the commit that
// completes it can come, so both are in one transaction.
func (l *Log) partialBundle(ctx context.Context, n uint64) ([]byte, error) {
	tx, err := l.db.Reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("reading bundle %d: %w", n, err)
	}
	defer tx.Rollback()
	var size uint64
	var packed, bundle []byte
	err = tx.QueryRowContext(ctx, `SELECT size FROM tree`).Scan(&size)
	switch {
	case errors.Is(err, sql.ErrNoRows) || err == nil && n > (size-1)/storage.BundleWidth:
		return nil, fmt.Errorf("reading bundle %d: %w", n, storage.ErrNotFound)
	case err != nil:
	case n < size/storage.BundleWidth && l.isPruned(ctx, tx, n):
		return nil, fmt.Errorf("reading bundle %d: %w", n, storage.ErrPruned)
	case n < size/storage.BundleWidth:
		if err = tx.StmtContext(ctx, l.selects.bundle).QueryRowContext(ctx, int64(n)).Scan(&packed); err == nil {
			bundle, err = l.packer.Unpack(packed)
		}
		if errors.Is(err, sql.ErrNoRows) {
			err = fmt.Errorf("%w: it should be there, of %d entries", storage.ErrCorrupt, size)
		}
	default:
		bundle, _, err = readHead(ctx, tx)
	}
	if err != nil {
		return nil, fmt.Errorf("reading bundle %d: %w", n, err)
	}
	return bundle, nil
}

// readHead returns the entries behind the last complete bundle, and their leaf
// hashes.
func readHead(ctx context.Context, tx *sql.Tx) (entries, leaves []byte, err error) {
	err = each(ctx, tx, `SELECT data, leaves FROM head ORDER BY first`, func(scan func(...any) error) error {
		var data, hashes []byte
		err := scan(&data, &hashes)
		entries, leaves = append(entries, data...), append(leaves, hashes...)
		return err
	})
	return entries, leaves, err
}

// readHead returns the head of a log that has the given size, to be appended to.
func (l *Log) readHead(ctx context.Context, size uint64) (head, error) {
	tx, err := l.db.Reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return head{}, err
	}
	defer tx.Rollback()
	var stored uint64
	if err := tx.QueryRowContext(ctx, `SELECT size FROM tree`).Scan(&stored); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return head{}, err
	}
	if stored != size {
		return head{}, fmt.Errorf("%w: the log has %d entries", storage.ErrMoved, stored)
	}
	entries, _, err := readHead(ctx, tx)
	return head{size, entries}, err
}

// Tile implements [storage.Log].
func (l *Log) Tile(ctx context.Context, level uint, n uint64) ([]byte, error) {
	hashes, err := l.tile(ctx, level, n)
	if err != nil {
		return nil, fmt.Errorf("reading tile %d/%d: %w", level, n, err)
	}
	return hashes, nil
}

func (l *Log) tile(ctx context.Context, level uint, n uint64) ([]byte, error) {
	if level > 7 || n >= 1<<56 {
		return nil, storage.ErrNotFound
	}
	var hashes []byte
	err := l.selects.tile.QueryRowContext(short(ctx), tileID(level, n)).Scan(&hashes)
	if !errors.Is(err, sql.ErrNoRows) {
		return hashes, err
	}
	if level > 0 {
		return nil, storage.ErrNotFound
	}
	return l.headTile(ctx, n)
}

// headTile returns the partial tile of level 0, or the complete one if it was
// completed since it was not found.
func (l *Log) headTile(ctx context.Context, n uint64) ([]byte, error) {
	tx, err := l.db.Reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	var size uint64
	var hashes []byte
	err = tx.QueryRowContext(ctx, `SELECT size FROM tree`).Scan(&size)
	switch {
	case err != nil:
	case n == size/storage.BundleWidth && size%storage.BundleWidth > 0:
		_, hashes, err = readHead(ctx, tx)
	default:
		err = tx.StmtContext(ctx, l.selects.tile).QueryRowContext(ctx, tileID(0, n)).Scan(&hashes)
	}
	if errors.Is(err, sql.ErrNoRows) {
		err = storage.ErrNotFound
	}
	return hashes, err
}

// Run implements [storage.Log].
func (l *Log) Run(ctx context.Context, s record.Stream, sequence uint64) (storage.Run, bool, error) {
	r := storage.Run{Stream: s}
	err := l.selects.run.QueryRowContext(short(ctx), s.Producer[:], s.Incarnation[:], int64(sequence)).Scan(&r.Sequence, &r.Index, &r.Count)
	if errors.Is(err, sql.ErrNoRows) || err == nil && sequence-r.Sequence >= r.Count {
		return storage.Run{}, false, nil
	}
	if err != nil {
		return storage.Run{}, false, fmt.Errorf("looking up record %d of %s: %w", sequence, s.Origin(), err)
	}
	return r, true, nil
}

// Forks implements [storage.Log].
func (l *Log) Forks(ctx context.Context) ([]storage.Fork, error) {
	rows, err := l.db.Reader.QueryContext(ctx, `SELECT producer, incarnation, sequence, entry_index, entry, seal, seen FROM fork ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("reading forks: %w", err)
	}
	defer rows.Close()
	var list []storage.Fork
	for rows.Next() {
		var f storage.Fork
		var producer, incarnation []byte
		var seen int64
		if err := rows.Scan(&producer, &incarnation, &f.Sequence, &f.Index, &f.Entry, &f.Seal, &seen); err != nil {
			return nil, fmt.Errorf("reading forks: %w", err)
		}
		copy(f.Stream.Producer[:], producer)
		copy(f.Stream.Incarnation[:], incarnation)
		f.Seen = time.Unix(0, seen).UTC()
		list = append(list, f)
	}
	return list, rows.Err()
}
