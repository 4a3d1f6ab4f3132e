// Package sqlite keeps what the log and the witness must not forget in SQLite
// databases: the embedded default of package storage.
//
// Every database is opened by [Open]: in WAL mode with synchronous=FULL, so a
// transaction that has been committed survives the loss of power, and by one
// process at a time. [OpenWitness] opens the store of a witness.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"

	"github.com/mattn/go-sqlite3" // registers the driver "sqlite3"

	"github.com/sealtap/sealtap/durable"
)

var (
	// ErrLocked is wrapped where another process has the database open.
	ErrLocked = errors.New("database in use by another process")
	// ErrForeign is wrapped where a file is a database of something else.
	ErrForeign = errors.New("not a database of this kind")
	// ErrNewer is wrapped where a later version of Sealtap wrote the database.
	ErrNewer = errors.New("database written by a newer version")
)

// busyTimeout is how long a statement waits for a lock. Only a foreign program,
// say a backup, can hold one: within the process there is one writer.
const busyTimeout = "5000" // milliseconds

// Schema describes one kind of database.
type Schema struct {
	// Kind names the kind in errors, as in "a witness database".
	Kind string
	// ApplicationID marks files of the kind (PRAGMA application_id). Not 0,
	// which stands for any file.
	ApplicationID int32
	// Migrations are scripts; the one at i takes a database from version i to
	// version i+1 (PRAGMA user_version). Released ones never change.
	Migrations []string
}

// DB is an open database. It has two pools, so that readers never wait for the
// writer and the writer never fails because there is another one.
type DB struct {
	// Writer has a single connection; its transactions take the write lock at
	// once (BEGIN IMMEDIATE).
	Writer *sql.DB
	// Reader has connections that cannot write. Each statement or transaction
	// sees what was committed, and thereby durable, when it began.
	Reader *sql.DB

	lock *os.File
	wal  walKeeper
}

// Open opens the database at path, or makes it where there is none, and brings
// it to the newest version of the schema. It fails with [ErrLocked],
// [ErrForeign] or [ErrNewer], and then has not changed the file. The empty file
// <path>.lock stays behind, unless opening fails; the lock on it ends with the process.
func Open(ctx context.Context, path string, s Schema) (_ *DB, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	_, missing := os.Lstat(path + ".lock")
	fresh := errors.Is(missing, fs.ErrNotExist)
	db := new(DB)
	defer func() {
		if err != nil {
			err = fmt.Errorf("opening database %s: %w", path, errors.Join(err, db.Close()))
		}
	}()
	if db.lock, err = lockFile(path + ".lock"); err != nil {
		return nil, err
	}
	if fresh {
		// What is refused is left as it was found.
		defer func() {
			if err != nil {
				_ = os.Remove(path + ".lock")
			}
		}()
	}
	// SQLite would make the file readable by everybody; its WAL inherits the mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err = f.Close(); err != nil {
		return nil, err
	}
	if err = rewriteWAL(path + "-wal"); err != nil {
		return nil, err
	}
	if db.Writer, err = openPool(path, 1, "_txlock=immediate"); err != nil {
		return nil, err
	}
	if err = prepare(ctx, db.Writer, s); err != nil {
		return nil, err
	}
	db.Reader, err = openPool(path, max(4, runtime.NumCPU()), "_query_only=1")
	return db, err
}

// Close closes the database and gives up the lock. After an [ErrSync] the process
// keeps both until it ends.
func (db *DB) Close() error {
	err := db.wal.close()
	if errors.Is(err, ErrSync) {
		return fmt.Errorf("closing database: %w", err)
	}
	errs := []error{err}
	// The writer goes last: the last connection to go checkpoints the WAL, and
	// a reader must not.
	for _, pool := range []*sql.DB{db.Reader, db.Writer} {
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	if db.lock != nil {
		errs = append(errs, db.lock.Close())
	}
	return errors.Join(errs...)
}

// openPool opens a pool of n connections that stay open.
func openPool(path string, n int, option string) (*sql.DB, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_synchronous=FULL&_foreign_keys=1&_busy_timeout=" + busyTimeout + "&" + option
	pool, err := sql.Open("sqlite3", dsn)
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(n)
	pool.SetMaxIdleConns(n)
	return pool, nil
}

// lockFile takes the lock that keeps other processes out. SQLite's own locks
// cannot do it: they let two processes write in turns.
func lockFile(path string) (*os.File, error) {
	f, err := durable.Lock(path)
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("%w: stop the one that holds %s", ErrLocked, path)
	}
	return f, err
}

// prepare checks that the database is ours before anything is written to it,
// and then brings it up to date.
func prepare(ctx context.Context, w *sql.DB, s Schema) error {
	version, err := identify(ctx, w, s)
	if err != nil {
		return err
	}
	var mode string
	if err := w.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return fmt.Errorf("turning on WAL: %w", err)
	}
	if mode != "wal" {
		return fmt.Errorf("turning on WAL: the file system cannot do it (journal mode is %q)", mode)
	}
	if version == len(s.Migrations) {
		return nil
	}
	tx, err := w.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	defer tx.Rollback()
	for i, script := range s.Migrations[version:] {
		if _, err := tx.ExecContext(ctx, script); err != nil {
			return fmt.Errorf("migrating to version %d: %w", version+i+1, err)
		}
	}
	pragmas := fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", s.ApplicationID, len(s.Migrations))
	if _, err := tx.ExecContext(ctx, pragmas); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	return nil
}

// identify returns the version of the schema that the database has, 0 if it is
// empty.
func identify(ctx context.Context, w *sql.DB, s Schema) (version int, err error) {
	var id int32
	var objects int
	err = w.QueryRowContext(ctx, `SELECT a.application_id, v.user_version, (SELECT count(*) FROM sqlite_master)
		FROM pragma_application_id AS a, pragma_user_version AS v`).Scan(&id, &version, &objects)
	var code sqlite3.Error
	if errors.As(err, &code) && code.Code == sqlite3.ErrNotADB {
		return 0, fmt.Errorf("%w: it is no SQLite database at all", ErrForeign)
	}
	if err != nil {
		return 0, fmt.Errorf("reading the header: %w", err)
	}
	switch {
	case id == 0 && version == 0 && objects == 0:
		return 0, nil
	case id != s.ApplicationID:
		return 0, fmt.Errorf("%w: it is no %s database (application id 0x%08x)", ErrForeign, s.Kind, uint32(id))
	case version < 0:
		return 0, fmt.Errorf("%w: schema version %d, which none has", ErrForeign, version)
	case version > len(s.Migrations):
		return 0, fmt.Errorf("%w: it has schema version %d, this program knows %d; upgrade sealtap", ErrNewer, version, len(s.Migrations))
	}
	return version, nil
}
