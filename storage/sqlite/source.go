package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mattn/go-sqlite3"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/pack"
)

// LogFile reads the storage of a log without the log, for an audit of the files
// themselves. It takes no lock and changes nothing, so the log may be running.
type LogFile struct {
	path    string
	log     Log
	version int // of the schema
}

// OpenLogFile opens the storage at path for reading.
func OpenLogFile(ctx context.Context, path string) (*LogFile, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening log storage: %w", err)
	}
	if err := regular(path); err != nil {
		return nil, fmt.Errorf("opening log storage: %w", err)
	}
	f := &LogFile{path: path, log: Log{db: new(DB)}}
	fail := func(err error) (*LogFile, error) {
		return nil, fmt.Errorf("opening log storage %s: %w", path, errors.Join(damage(err), f.Close()))
	}
	if f.log.db.Reader, err = openPool(path, 4, "mode=ro&_query_only=1"); err != nil {
		return fail(err)
	}
	if f.version, err = identify(ctx, f.log.db.Reader, logSchema()); err != nil {
		return fail(err)
	}
	if f.log.selects.bundle, err = f.log.db.Reader.PrepareContext(ctx, selectBundle); err != nil {
		return fail(err)
	}
	if f.log.selects.tile, err = f.log.db.Reader.PrepareContext(ctx, selectTile); err != nil {
		return fail(err)
	}
	if f.log.packer, err = pack.NewUnpacker(); err != nil {
		return fail(err)
	}
	return f, nil
}

// regular reports whether a database, and what SQLite reads with it, can be opened
// without waiting for somebody at the other end of a pipe.
func regular(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		st, err := os.Stat(path + suffix)
		if err == nil && !st.Mode().IsRegular() {
			return fmt.Errorf("%w: %s is not a regular file", ErrForeign, path+suffix)
		}
		if err != nil && (suffix == "" || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// Close closes the storage.
func (f *LogFile) Close() error { return f.log.Close() }

// String is the path of the storage.
func (f *LogFile) String() string { return f.path }

// ErrNoPublished is wrapped where a log has published no checkpoint, or none since it
// was restored.
var ErrNoPublished = errors.New("there is no published checkpoint in it")

// Checkpoint returns the newest published checkpoint.
func (f *LogFile) Checkpoint(ctx context.Context) ([]byte, error) {
	var note []byte
	err := f.log.db.Reader.QueryRowContext(ctx, `SELECT note FROM checkpoint WHERE kind = 'published'`).Scan(&note)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("reading checkpoint: %w: %w", storage.ErrCorrupt, ErrNoPublished)
	} else if err != nil {
		return nil, fmt.Errorf("reading checkpoint: %w", damage(err))
	}
	return note, nil
}

// Bundle returns the first width entries of bundle n.
func (f *LogFile) Bundle(ctx context.Context, n uint64, width int) ([]byte, error) {
	bundle, err := f.log.Bundle(ctx, n)
	if errors.Is(err, storage.ErrNotFound) {
		err = fmt.Errorf("%w: %w", storage.ErrCorrupt, err) // the checkpoint says that it is there
	}
	if err != nil {
		return nil, damage(err)
	}
	return storage.Truncate(bundle, width)
}

// Tile returns the first width hashes of a tile.
func (f *LogFile) Tile(ctx context.Context, level uint, n uint64, width int) ([]byte, error) {
	hashes, err := f.log.tile(ctx, level, n)
	if errors.Is(err, storage.ErrNotFound) {
		err = fmt.Errorf("%w: %w", storage.ErrCorrupt, err) // the checkpoint says that it is there
	}
	if err != nil {
		return nil, fmt.Errorf("reading tile %d/%d: %w", level, n, damage(err))
	}
	if len(hashes) < width*len(record.Hash{}) {
		return nil, fmt.Errorf("reading tile %d/%d: %w: it has %d bytes", level, n, storage.ErrCorrupt, len(hashes))
	}
	return hashes[:width*len(record.Hash{})], nil
}

// OpeningsFile reads the storage of openings without the log.
type OpeningsFile struct {
	pool                 *sql.DB
	selectBox, selectKey *sql.Stmt
}

// OpenOpeningsFile opens the storage at path for reading.
func OpenOpeningsFile(ctx context.Context, path string) (*OpeningsFile, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening openings storage: %w", err)
	}
	if err := regular(path); err != nil {
		return nil, fmt.Errorf("opening openings storage: %w", err)
	}
	f := new(OpeningsFile)
	if f.pool, err = openPool(path, 4, "mode=ro&_query_only=1"); err != nil {
		return nil, fmt.Errorf("opening openings storage %s: %w", path, err)
	}
	_, err = identify(ctx, f.pool, openingsSchema())
	if err == nil {
		f.selectBox, err = f.pool.PrepareContext(ctx, selectBox)
	}
	if err == nil {
		f.selectKey, err = f.pool.PrepareContext(ctx, selectKey)
	}
	if err != nil {
		return nil, fmt.Errorf("opening openings storage %s: %w", path, errors.Join(damage(err), f.pool.Close()))
	}
	return f, nil
}

// Close closes the storage.
func (f *OpeningsFile) Close() error { return f.pool.Close() }

// Opening returns the encrypted openings of the entry at the index; nil if there
// are none, or they were erased.
func (f *OpeningsFile) Opening(ctx context.Context, index uint64) ([]byte, error) {
	box, _, err := one(ctx, f.selectBox, int64(index))
	return box, damage(err)
}

// WrappedKey returns a wrapped data key; nil if it is not there, or was erased.
func (f *OpeningsFile) WrappedKey(ctx context.Context, id record.KeyID) ([]byte, error) {
	wrapped, _, err := one(ctx, f.selectKey, id[:])
	return wrapped, damage(err)
}

// damage tells a file that is not what it was from one that cannot be read now.
func damage(err error) error {
	if e := (sqlite3.Error{}); errors.As(err, &e) && (e.Code == sqlite3.ErrCorrupt || e.Code == sqlite3.ErrNotADB || e.Code == sqlite3.ErrError) {
		return fmt.Errorf("%w: %w", storage.ErrCorrupt, err)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: it is not there", storage.ErrCorrupt)
	}
	return err
}
