package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sealtap/sealtap/failpoint"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/signed"
)

const setCheckpoint = `INSERT INTO checkpoint (kind, size, root, note) VALUES ($1, $2, $3, $4)
	ON CONFLICT (kind) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note`

// loadSigned returns the last signed checkpoint. The file is that of one of several
// servers: it can be far behind, or not be there. It must not be ahead.
func (l *Log) loadSigned(ctx context.Context, tx pgx.Tx, lock string) (*storage.Head, error) {
	inDB, err := readCheckpoint(ctx, tx, "signed", lock)
	if err != nil {
		return nil, err
	}
	inFile, err := l.signed.Read()
	if err != nil {
		return nil, err
	}
	return l.signed.Newer(inDB, inFile)
}

// SetSigned implements [storage.Log].
func (l *Log) SetSigned(ctx context.Context, h storage.Head) error {
	l.signing.Lock()
	defer l.signing.Unlock()
	err := l.db.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var size int64
		if err := tx.QueryRow(ctx, `SELECT size FROM tree`).Scan(&size); err != nil {
			return err
		}
		if h.Size > uint64(size) {
			return fmt.Errorf("%w: the log has %d entries", storage.ErrMoved, size)
		}
		last, err := l.loadSigned(ctx, tx, "FOR UPDATE")
		if err != nil {
			return err
		}
		if err := signed.Check(&h, last); err != nil {
			return err
		}
		if err := l.signed.Write(h.Note); err != nil {
			return err
		}
		failpoint.Here("signed-file")
		_, err = tx.Exec(ctx, setCheckpoint, "signed", int64(h.Size), h.Root[:], h.Note)
		return err
	})
	if err != nil {
		return fmt.Errorf("keeping signed checkpoint of size %d: %w", h.Size, err)
	}
	return nil
}

// SetPublished implements [storage.Log].
func (l *Log) SetPublished(ctx context.Context, h storage.Head) error {
	l.signing.Lock()
	defer l.signing.Unlock()
	err := l.db.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		inDB, err := readCheckpoint(ctx, tx, "signed", "FOR UPDATE")
		if err != nil {
			return err
		}
		last, err := readCheckpoint(ctx, tx, "published", "FOR UPDATE")
		if err != nil {
			return err
		}
		if err := signed.CheckPublished(h, inDB, last); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, setCheckpoint, "published", int64(h.Size), h.Root[:], h.Note)
		failpoint.Here("published-written")
		return err
	})
	if err != nil {
		return fmt.Errorf("keeping published checkpoint of size %d: %w", h.Size, err)
	}
	return nil
}

// Expect keeps a signed checkpoint although not all of its entries are stored: they are
// on their way from another storage. Until they are there nobody goes on from what is
// stored, as nobody does from an older copy.
func (l *Log) Expect(ctx context.Context, h storage.Head) error {
	l.signing.Lock()
	defer l.signing.Unlock()
	err := l.db.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		last, err := readCheckpoint(ctx, tx, "signed", "FOR UPDATE")
		if err == nil {
			err = signed.Check(&h, last)
		}
		if err == nil {
			_, err = tx.Exec(ctx, setCheckpoint, "signed", int64(h.Size), h.Root[:], h.Note)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("keeping signed checkpoint of size %d: %w", h.Size, err)
	}
	return nil
}

// Newest returns how many entries are published, and from which on they are there, which
// is cheap to ask.
func (l *Log) Newest(ctx context.Context) (published, minimum uint64, err error) {
	var size, first int64
	err = l.db.one(ctx, []any{&size, &first}, `SELECT coalesce((SELECT size FROM checkpoint WHERE kind = 'published'), 0),
		coalesce((SELECT minimum FROM pruned), 0)`)
	if err != nil {
		return 0, 0, fmt.Errorf("reading the size of the published checkpoint: %w", err)
	}
	return uint64(size), uint64(first), nil
}

// StoredSize returns how many entries are stored, which is cheap to ask.
func (l *Log) StoredSize(ctx context.Context) (uint64, error) {
	var size int64
	if err := l.db.one(ctx, []any{&size}, `SELECT size FROM tree`); err != nil {
		return 0, fmt.Errorf("reading the size of the log: %w", err)
	}
	return uint64(size), nil
}
