package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/failpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// ErrNoSigned is wrapped where the file with the last signed checkpoint is gone.
var ErrNoSigned = errors.New("the last signed checkpoint is missing")

// signedFile is the path of a file that holds the last signed checkpoint, a
// signed note and nothing else. It stands apart from the database so that a
// database which is put back from an older copy gives itself away.
type signedFile string

// write replaces the checkpoint, durably and at once.
func (f signedFile) write(note []byte) error { return durable.Rewrite(string(f), note, 0o600) }

// read returns the checkpoint, nil if there is no file. Its signature is for
// the log to check.
func (f signedFile) read() (*storage.Head, error) {
	note, err := durable.Read(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := checkpoint.Text(note)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f, err)
	}
	body, _, err := checkpoint.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f, err)
	}
	return &storage.Head{Size: body.Size, Root: body.Root, Note: note}, nil
}

// loadSigned returns the last signed checkpoint. The file is written before the
// database, so either can be the newer one after a crash.
func (l *Log) loadSigned(ctx context.Context, tx *sql.Tx) (*storage.Head, error) {
	inDB, err := readCheckpoint(ctx, tx, "signed")
	if err != nil {
		return nil, err
	}
	inFile, err := l.signed.read()
	switch {
	case err != nil:
		return nil, err
	case inDB == nil:
		return inFile, nil
	case inFile == nil:
		return nil, fmt.Errorf("%w: put back %s; if it is lost, save the newest checkpoint that a witness of this log serves as that file", ErrNoSigned, l.signed)
	case inDB.Size == inFile.Size && inDB.Root != inFile.Root:
		return nil, fmt.Errorf("%w: %s and the database hold signed checkpoints of size %d with different roots", storage.ErrCorrupt, l.signed, inDB.Size)
	case inDB.Size > inFile.Size:
		return inDB, nil
	}
	return inFile, nil
}

// SetSigned implements [storage.Log].
func (l *Log) SetSigned(ctx context.Context, h storage.Head) error {
	// Entries are committed meanwhile: nothing here waits for the disk with the
	// database locked, but for its own commit.
	l.signing.Lock()
	defer l.signing.Unlock()
	err := l.checkSigned(ctx, &h)
	if err == nil {
		err = l.signed.write(h.Note)
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
	switch {
	case err != nil || last == nil || h.Size > last.Size:
		return err
	case h.Size < last.Size || h.Root != last.Root:
		return fmt.Errorf("%w: of size %d with root %s", storage.ErrConflict, last.Size, last.Root)
	}
	*h = *last
	return nil
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
	signed, err := readCheckpoint(ctx, tx, "signed")
	var last *storage.Head
	if err == nil {
		last, err = readCheckpoint(ctx, tx, "published")
	}
	switch {
	case err != nil:
	case signed == nil || signed.Size < h.Size || signed.Size == h.Size && signed.Root != h.Root:
		err = fmt.Errorf("%w: the checkpoint was not signed", storage.ErrConflict)
	case last != nil && (last.Size > h.Size || last.Size == h.Size && last.Root != h.Root):
		err = fmt.Errorf("%w: one of size %d was published", storage.ErrConflict, last.Size)
	default:
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
