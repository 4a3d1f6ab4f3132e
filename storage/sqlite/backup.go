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
	"slices"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/signed"
)

// ErrFull is wrapped where the disk that a copy is written to has no room for it.
var ErrFull = errors.New("the disk is full")

// SnapshotLog writes a consistent copy of the log storage at path to a new file,
// which is durable on return. It takes no lock, so the log may be running: the
// copy is what one read transaction sees. For as long as that lasts the log's WAL
// is not reset, and grows by what the log writes meanwhile. Nothing deleted comes
// along: the copy is written row by row, and not page by page.
//
// Progress is told how many of about how many bytes are written; it may be nil.
func SnapshotLog(ctx context.Context, path, to string, progress func(done, total uint64)) error {
	return snapshot(ctx, path, to, logSchema(), progress)
}

// SnapshotOpenings copies the storage of openings as [SnapshotLog] does.
func SnapshotOpenings(ctx context.Context, path, to string, progress func(done, total uint64)) error {
	return snapshot(ctx, path, to, openingsSchema(), progress)
}

func snapshot(ctx context.Context, path, to string, s Schema, progress func(done, total uint64)) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("copying %s to %s: %w", path, to, full(damage(err)))
		}
	}()
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	if err := regular(path); err != nil {
		return err
	}
	if to, err = filepath.Abs(to); err != nil {
		return err
	}
	// Not query_only, which forbids writing the copy as well.
	pool, err := openPool(path, 1, "mode=ro")
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := identify(ctx, pool, s); err != nil {
		return err
	}
	// SQLite would make the file readable by everybody. An empty one it takes.
	f, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(to)
		}
	}()
	watched := watch(f, path, progress)
	_, err = pool.ExecContext(ctx, `VACUUM INTO ?`, "file:"+(&url.URL{Path: to}).EscapedPath())
	watched()
	if err != nil {
		return err
	}
	return f.Sync() // SQLite leaves that out for VACUUM INTO
}

// CheckLog reports whether the file at path is a log's database with the tables of
// one, and nothing else that SQLite would obey, such as a trigger.
func CheckLog(ctx context.Context, path string) error { return checkSchema(ctx, path, logSchema()) }

// CheckOpenings checks the database of openings as [CheckLog] does.
func CheckOpenings(ctx context.Context, path string) error {
	return checkSchema(ctx, path, openingsSchema())
}

func checkSchema(ctx context.Context, path string, s Schema) error {
	if err := regular(path); err != nil {
		return fmt.Errorf("checking %s: %w", path, err)
	}
	have, version, err := objects(ctx, path, "mode=ro&_query_only=1", s, nil)
	if err != nil {
		return fmt.Errorf("checking %s: %w", path, damage(err))
	}
	want, _, err := objects(ctx, ":memory:", "cache=private", s, s.Migrations[:version])
	if err != nil {
		return fmt.Errorf("checking %s: %w", path, err)
	}
	if !slices.Equal(have, want) {
		return fmt.Errorf("checking %s: %w: its tables are not those of a %s database", path, storage.ErrCorrupt, s.Kind)
	}
	return nil
}

// objects runs scripts and then returns the statements that make up a database,
// and the version of its schema.
func objects(ctx context.Context, path, option string, s Schema, scripts []string) (list []string, version int, err error) {
	pool, err := openPool(path, 1, option)
	if err != nil {
		return nil, 0, err
	}
	defer pool.Close()
	for _, script := range scripts {
		if _, err := pool.ExecContext(ctx, script); err != nil {
			return nil, 0, err
		}
	}
	if scripts == nil {
		if version, err = identify(ctx, pool, s); err != nil {
			return nil, 0, err
		}
	}
	rows, err := pool.QueryContext(ctx, `SELECT type || ' ' || name || ' ' || tbl_name || ' ' || coalesce(sql, '') FROM sqlite_master ORDER BY 1`)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var object string
		if err := rows.Scan(&object); err != nil {
			return nil, 0, err
		}
		list = append(list, object)
	}
	return list, version, rows.Err()
}

// watch tells of the growth of a file until the function that it returns is
// called.
func watch(f *os.File, like string, progress func(done, total uint64)) func() {
	if progress == nil {
		return func() {}
	}
	var total uint64
	if st, err := os.Stat(like); err == nil {
		total = uint64(st.Size())
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				progress(total, total)
				return
			case <-time.After(100 * time.Millisecond):
				if st, err := f.Stat(); err == nil {
					progress(min(uint64(st.Size()), total), total)
				}
			}
		}
	}()
	return func() { close(end); <-ended }
}

// full says plainly that there is no room.
func full(err error) error {
	if e := (sqlite3.Error{}); errors.As(err, &e) && e.Code == sqlite3.ErrFull {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// ReadSigned returns the last signed checkpoint from the file beside the log
// storage at path, unverified; nil if there is no file.
func ReadSigned(path string) (*storage.Head, error) { return signed.File(path + ".signed").Read() }

// WriteSigned puts a signed checkpoint into the file beside the log storage at
// path, durably and at once. A log whose entries are older than that does not
// start any more; so it is written before entries are put in place.
func WriteSigned(path string, note []byte) error { return signed.File(path + ".signed").Write(note) }

// Remove removes a database that nobody has open, with what SQLite keeps beside
// it.
func Remove(path string) error {
	for _, suffix := range []string{"-journal", "-wal", "-shm", ""} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Load returns the state as [Log.Load] does. Where the file with the signed
// checkpoint is missing, it is the one of the database.
func (f *LogFile) Load(ctx context.Context) (*storage.State, error) {
	l := &Log{db: f.log.db, signed: signed.File(f.path + ".signed"), streams: make(map[record.Stream]int64)}
	state, err := l.load(ctx)
	if errors.Is(err, ErrNoSigned) {
		state.Signed, err = f.signedRow(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("loading log: %w", damage(err))
	}
	return state, nil
}

// Unpublish forgets the newest published checkpoint: a log that was put back must
// not show one that is older than what it showed before.
func (l *Log) Unpublish(ctx context.Context) error {
	l.signing.Lock()
	defer l.signing.Unlock()
	if _, err := l.db.Writer.ExecContext(context.WithoutCancel(ctx), `DELETE FROM checkpoint WHERE kind = 'published'`); err != nil {
		return fmt.Errorf("forgetting published checkpoint: %w", err)
	}
	return nil
}

// signedRow returns the last signed checkpoint as the database has it.
func (f *LogFile) signedRow(ctx context.Context) (*storage.Head, error) {
	tx, err := f.log.db.Reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	return readCheckpoint(ctx, tx, "signed")
}

const selectRun = `SELECT run.sequence, run.first, run.count FROM run JOIN stream ON stream.id = run.stream
	WHERE producer = ? AND incarnation = ? AND run.sequence <= ? ORDER BY run.sequence DESC LIMIT 1`

// Run returns the stored run that holds the record, as [Log.Run] does.
func (f *LogFile) Run(ctx context.Context, s record.Stream, sequence uint64) (storage.Run, bool, error) {
	r := storage.Run{Stream: s}
	err := f.log.db.Reader.QueryRowContext(ctx, selectRun, s.Producer[:], s.Incarnation[:], int64(sequence)).Scan(&r.Sequence, &r.Index, &r.Count)
	if errors.Is(err, sql.ErrNoRows) || err == nil && sequence-r.Sequence >= r.Count {
		return storage.Run{}, false, nil
	}
	if err != nil {
		return storage.Run{}, false, fmt.Errorf("looking up record %d of %s: %w", sequence, s.Origin(), damage(err))
	}
	return r, true, nil
}

// Count returns how many records have openings, those erased included.
func (f *OpeningsFile) Count(ctx context.Context) (n uint64, err error) {
	if err := f.pool.QueryRowContext(ctx, `SELECT count(*) FROM opening`).Scan(&n); err != nil {
		return 0, fmt.Errorf("counting openings: %w", damage(err))
	}
	return n, nil
}

// HasOpenings reports whether there is a storage of openings at path with any in it,
// or with what is left of erased ones.
func HasOpenings(ctx context.Context, path string) (has bool, err error) {
	path, err = filepath.Abs(path)
	if err == nil {
		err = regular(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("looking for openings: %w", err)
	}
	pool, err := openPool(path, 1, "mode=ro&_query_only=1")
	if err != nil {
		return false, fmt.Errorf("looking for openings in %s: %w", path, err)
	}
	defer pool.Close()
	version, err := identify(ctx, pool, openingsSchema())
	if err == nil && version > 0 {
		err = pool.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM opening) OR EXISTS (SELECT 1 FROM wrapped_key)`).Scan(&has)
	}
	if err != nil {
		return false, fmt.Errorf("looking for openings in %s: %w", path, damage(err))
	}
	return has, nil
}

// Knows reports whether the openings of this very record are there, or were
// until they were erased.
func (f *OpeningsFile) Knows(ctx context.Context, index uint64, leaf record.Hash) (known bool, err error) {
	err = f.pool.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM opening WHERE entry = ? AND leaf = ?)`, int64(index), leaf[:8]).Scan(&known)
	if err != nil {
		return false, fmt.Errorf("reading openings: %w", damage(err))
	}
	return known, nil
}
