package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// Bundle implements [storage.Log].
func (l *Log) Bundle(ctx context.Context, n uint64) ([]byte, error) {
	packed, err := l.PackedBundle(ctx, n)
	var bundle []byte
	switch {
	case err == nil:
		if bundle, err = l.packer.Unpack(packed); err != nil {
			return nil, fmt.Errorf("reading bundle %d: %w", n, err)
		}
		return bundle, nil
	case !errors.Is(err, storage.ErrNotFound):
		return nil, err
	}
	// Between two statements the commit that completes the bundle can come.
	err = l.db.view(ctx, func(ctx context.Context, tx pgx.Tx) error {
		bundle, err = l.partialBundle(ctx, tx, n)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading bundle %d: %w", n, err)
	}
	return bundle, nil
}

// PackedBundle returns a complete entry bundle as a zstd frame, as it is stored.
// It fails with [storage.ErrNotFound] if the bundle is not complete.
func (l *Log) PackedBundle(ctx context.Context, n uint64) ([]byte, error) {
	var packed []byte
	err := l.db.one(ctx, []any{&packed}, `SELECT data FROM bundle WHERE n = $1`, int64(n))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("reading bundle %d: %w", n, storage.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading bundle %d: %w", n, damage(err))
	}
	return packed, nil
}

func (l *Log) partialBundle(ctx context.Context, tx pgx.Tx, n uint64) ([]byte, error) {
	var stored int64
	if err := tx.QueryRow(ctx, `SELECT size FROM tree`).Scan(&stored); err != nil {
		return nil, err
	}
	size := uint64(stored)
	if size == 0 || n > (size-1)/storage.BundleWidth {
		return nil, storage.ErrNotFound
	}
	if n == size/storage.BundleWidth {
		bundle, _, err := readHead(ctx, tx)
		return bundle, err
	}
	var packed []byte
	err := tx.QueryRow(ctx, `SELECT data FROM bundle WHERE n = $1`, int64(n)).Scan(&packed)
	if errors.Is(err, pgx.ErrNoRows) {
		if p, err := readPruned(tx.QueryRow(ctx, selectPruned).Scan); err != nil || n < p.Minimum/storage.BundleWidth {
			return nil, errors.Join(err, storage.ErrPruned)
		}
		return nil, fmt.Errorf("%w: it should be there, of %d entries", storage.ErrCorrupt, size)
	}
	if err != nil {
		return nil, damage(err)
	}
	return l.packer.Unpack(packed)
}

// Tile implements [storage.Log].
func (l *Log) Tile(ctx context.Context, level uint, n uint64) ([]byte, error) {
	hashes, err := l.tile(ctx, level, n)
	if err != nil {
		return nil, fmt.Errorf("reading tile %d/%d: %w", level, n, damage(err))
	}
	return hashes, nil
}

const selectTile = `SELECT hashes FROM tile WHERE id = $1`

func (l *Log) tile(ctx context.Context, level uint, n uint64) (hashes []byte, err error) {
	if level > 7 || n >= 1<<56 {
		return nil, storage.ErrNotFound
	}
	err = l.db.one(ctx, []any{&hashes}, selectTile, tileID(level, n))
	if !errors.Is(err, pgx.ErrNoRows) {
		return hashes, err
	}
	if level > 0 {
		return nil, storage.ErrNotFound
	}
	// The partial tile, or the complete one if it was completed since.
	err = l.db.view(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var size int64
		if err := tx.QueryRow(ctx, `SELECT size FROM tree`).Scan(&size); err != nil {
			return err
		}
		if int64(n) == size/storage.BundleWidth && size%storage.BundleWidth > 0 {
			_, hashes, err = readHead(ctx, tx)
			return err
		}
		return tx.QueryRow(ctx, selectTile, tileID(0, n)).Scan(&hashes)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = storage.ErrNotFound
	}
	return hashes, err
}

// Run implements [storage.Log].
func (l *Log) Run(ctx context.Context, s record.Stream, sequence uint64) (storage.Run, bool, error) {
	var first, index, count int64
	err := l.db.one(ctx, []any{&first, &index, &count}, `SELECT sequence, first, count FROM run
		WHERE stream = (SELECT id FROM stream WHERE producer = $1 AND incarnation = $2) AND sequence <= $3
		ORDER BY sequence DESC LIMIT 1`, s.Producer[:], s.Incarnation[:], int64(sequence))
	r := storage.Run{Stream: s, Sequence: uint64(first), Index: uint64(index), Count: uint64(count)}
	if errors.Is(err, pgx.ErrNoRows) || err == nil && sequence-r.Sequence >= r.Count {
		return storage.Run{}, false, nil
	}
	if err != nil {
		return storage.Run{}, false, fmt.Errorf("looking up record %d of %s: %w", sequence, s.Origin(), damage(err))
	}
	return r, true, nil
}

// Forks implements [storage.Log].
func (l *Log) Forks(ctx context.Context) ([]storage.Fork, error) {
	list, err := all(ctx, l.db, func(row pgx.CollectableRow) (f storage.Fork, err error) {
		var producer, incarnation []byte
		var sequence, index, seen int64
		err = row.Scan(&producer, &incarnation, &sequence, &index, &f.Entry, &f.Seal, &seen)
		f.Stream, f.Sequence, f.Index, f.Seen = streamOf(producer, incarnation), uint64(sequence), uint64(index), time.Unix(0, seen).UTC()
		return f, err
	}, `SELECT producer, incarnation, sequence, entry_index, entry, seal, seen FROM fork ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("reading forks: %w", err)
	}
	return list, nil
}
