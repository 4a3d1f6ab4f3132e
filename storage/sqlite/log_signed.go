package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sealtap/sealtap/failpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/signed"
)

// ErrNoSigned is wrapped where the file with the last signed checkpoint is gone.
var ErrNoSigned = errors.New("the last signed checkpoint is missing")

// loadSigned returns the last signed checkpoint. The file is written before the
// database, so either can be the newer one after a crash.
func (l *Log) loadSigned(ctx context.Context, tx *sql.Tx) (*storage.Head, error) {
	inDB, err := readCheckpoint(ctx, tx, "signed")
	if err != nil {
		return nil, err
	}
	inFile, err := l.signed.Read()
	switch {
	case err != nil:
		return nil, err
	case inDB != nil && inFile == nil:
		return nil, fmt.Errorf("%w: put back %s; if it is lost, save the newest checkpoint that a witness of this log serves as that file", ErrNoSigned, l.signed)
	}
	return l.signed.Newer(inDB, inFile)
}

// SetSigned implements [storage.Log].
func (l *Log) SetSigned(ctx context.Context, h storage.Head) error {
	// Entries are committed meanwhile: nothing here waits for the disk with the
	// database locked, but for its own commit.
	l.signing.Lock()
	defer l.signing.Unlock()
	err := l.checkSigned(ctx, &h)
	if err == nil {
		err = l.signed.Write(h.Note)
	}
	failpoint.Here("signed-file")
	if err == nil {
		_, err = l.db.Writer.ExecContext(context.WithoutCancel(ctx), setCheckpoint, "signed", h.Size, h.Root[:], h.Note)
	}
	if err != nil {
		return fmt.Errorf("keeping signed checkpoint of size %d: %w", h.Size, err)
	}
	l.db.wal.wrote(len(h.Note))
	return nil
}

// checkSigned reports whether the checkpoint can be signed. One that was signed
// before is replaced by the very same.
func (l *Log) checkSigned(ctx context.Context, h *storage.Head) error {
	tx, err := l.db.Reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var size uint64
	if err := tx.QueryRowContext(ctx, `SELECT size FROM tree`).Scan(&size); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if h.Size > size {
		return fmt.Errorf("%w: the log has %d entries", storage.ErrMoved, size)
	}
	last, err := l.loadSigned(ctx, tx)
	if err != nil {
		return err
	}
	return signed.Check(h, last)
}

// SetPublished implements [storage.Log].
func (l *Log) SetPublished(ctx context.Context, h storage.Head) error {
	ctx = context.WithoutCancel(ctx)
	l.signing.Lock()
	defer l.signing.Unlock()
	tx, err := l.db.Writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("keeping published checkpoint: %w", err)
	}
	defer tx.Rollback()
	inDB, err := readCheckpoint(ctx, tx, "signed")
	var last *storage.Head
	if err == nil {
		last, err = readCheckpoint(ctx, tx, "published")
	}
	if err == nil {
		err = signed.CheckPublished(h, inDB, last)
	}
	if err == nil {
		if _, err = tx.ExecContext(ctx, setCheckpoint, "published", h.Size, h.Root[:], h.Note); err == nil {
			failpoint.Here("published-written")
			err = tx.Commit()
		}
	}
	if err != nil {
		return fmt.Errorf("keeping published checkpoint of size %d: %w", h.Size, err)
	}
	l.db.wal.wrote(len(h.Note))
	return nil
}

func readCheckpoint(ctx context.Context, tx *sql.Tx, kind string) (*storage.Head, error) {
	var h storage.Head
	var root []byte
	err := tx.QueryRowContext(ctx, `SELECT size, root, note FROM checkpoint WHERE kind = ?`, kind).Scan(&h.Size, &root, &h.Note)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	h.Root = record.Hash(root)
	return &h, nil
}

const setCheckpoint = `INSERT INTO checkpoint (kind, size, root, note) VALUES (?, ?, ?, ?)
	ON CONFLICT (kind) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note`
