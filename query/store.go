package query

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/mattn/go-sqlite3"

	"github.com/sealtap/sealtap/storage/sqlite"
)

// layout is raised when the same facts are kept in another way: the index is then
// built anew.
const layout = 2

const applicationID = 0x53544958 // "STIX"

// schema of the index file. Tables zone, clock, post, id and leaf hold full segments.
// The others hold facts about the whole log that are written as they are read;
// those from beyond the full segments are deleted when the file is opened, and
// made again.
const schemaScript = `
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE zone (
	seg INTEGER PRIMARY KEY,
	min_time INTEGER NOT NULL, max_time INTEGER NOT NULL, -- of its records; min > max if it has none
	min_exchange BLOB NOT NULL, max_exchange BLOB NOT NULL,
	last BLOB NOT NULL -- leaf hash of its last entry
);
CREATE TABLE clock (seg INTEGER PRIMARY KEY, times BLOB NOT NULL); -- of its records, in order
CREATE TABLE post (seg INTEGER, field INTEGER, term BLOB, members BLOB NOT NULL, PRIMARY KEY (seg, field, term)) WITHOUT ROWID;
CREATE TABLE id (seg INTEGER, field INTEGER, bucket INTEGER, members BLOB NOT NULL, PRIMARY KEY (seg, field, bucket)) WITHOUT ROWID;
CREATE TABLE leaf (seg INTEGER, bucket INTEGER, hashes BLOB NOT NULL, PRIMARY KEY (seg, bucket)) WITHOUT ROWID;
CREATE TABLE stream (id INTEGER PRIMARY KEY, producer BLOB NOT NULL, incarnation BLOB NOT NULL,
	size INTEGER NOT NULL, -- of its tree at the end of the last full segment
	UNIQUE (producer, incarnation));
CREATE TABLE run (stream INTEGER, seq INTEGER, idx INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (stream, seq)) WITHOUT ROWID;
CREATE TABLE seal (stream INTEGER, size INTEGER, idx INTEGER NOT NULL, PRIMARY KEY (stream, size)) WITHOUT ROWID;
CREATE TABLE beacon (stream INTEGER, seq INTEGER, idx INTEGER NOT NULL, PRIMARY KEY (stream, seq)) WITHOUT ROWID;
CREATE TABLE tile (stream INTEGER, level INTEGER, n INTEGER, hashes BLOB NOT NULL, PRIMARY KEY (stream, level, n)) WITHOUT ROWID;
CREATE TABLE statement (idx INTEGER PRIMARY KEY, entry BLOB NOT NULL);
CREATE TABLE orphan (exchange BLOB, idx INTEGER, PRIMARY KEY (exchange, idx)) WITHOUT ROWID; -- responses logged before their requests
`

// schemaByIndex is the migration that lets the facts about a part of the log be found
// by where they stand.
const schemaByIndex = `
CREATE INDEX run_idx ON run (idx);
CREATE INDEX seal_idx ON seal (idx);
CREATE INDEX beacon_idx ON beacon (idx);
CREATE INDEX orphan_idx ON orphan (idx);
`

// store is the open file of an index. Its methods can be called from many
// goroutines; those that write, from one.
type store struct {
	db      *sqlite.DB
	segment uint64
	once    sync.Once

	post, posts, postRange, ids, idsIn, leaves, times, run, runs, runFirst, runLast, trimmable, sealCovering, sealLast, beacon, tile, orphans *sql.Stmt
}

// openStore opens the file at path. What is damaged or not of this version is
// deleted first.
func openStore(ctx context.Context, path string, segment uint64, log *slog.Logger) (*store, error) {
	if err := setAside(path, log); err != nil {
		return nil, err
	}
	st, err := tryStore(ctx, path, segment)
	if err == nil || errors.Is(err, sqlite.ErrLocked) || !isDamage(err) && !errors.Is(err, sqlite.ErrNewer) {
		return st, err
	}
	log.Warn("search index is deleted and rebuilt from the log", "file", path, "reason", err)
	if err := removeDatabase(path); err != nil {
		return nil, err
	}
	return tryStore(ctx, path, segment)
}

func tryStore(ctx context.Context, path string, segment uint64) (*store, error) {
	db, err := sqlite.Open(ctx, path, sqlite.Schema{Kind: "search index", ApplicationID: applicationID, Migrations: []string{schemaScript, schemaByIndex}})
	if err != nil {
		return nil, err
	}
	st := &store{db: db, segment: segment}
	if err = st.prepare(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return st, nil
}

func (st *store) prepare(ctx context.Context) error {
	// A cache need not survive a loss of power whole: it only must not lie, and in
	// WAL mode NORMAL loses transactions from the end.
	if _, err := st.db.Writer.ExecContext(ctx, "PRAGMA synchronous = NORMAL"); err != nil {
		return err
	}
	// Searches would miss what stands in segments from before its field, or elsewhere
	// than in this version.
	for _, m := range []struct {
		key  string
		want uint64
	}{{"segment", st.segment}, {"fields", fields}, {"layout", layout}} {
		if err := st.settle(ctx, m.key, m.want); err != nil {
			return err
		}
	}
	var err error
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&st.post, "SELECT members FROM post WHERE seg = ? AND field = ? AND term = ?"},
		{&st.postRange, "SELECT members FROM post WHERE seg = ? AND field = ? AND term >= ? AND term < ?"},
		// One statement for many segments costs a small part of one for each.
		{&st.posts, `SELECT p.seg, p.members FROM zone AS z CROSS JOIN post AS p ON p.seg = z.seg AND p.field = ? AND p.term = ?
			WHERE z.seg < ? AND z.max_time >= ? AND z.min_time <= ? ORDER BY z.seg DESC LIMIT ?`},
		{&st.ids, "SELECT members FROM id WHERE seg = ? AND field = ? AND bucket = ?"},
		{&st.idsIn, `SELECT p.seg, p.members FROM zone AS z CROSS JOIN id AS p ON p.seg = z.seg AND p.field = ? AND p.bucket = ?
			WHERE z.seg < ? AND z.max_time >= ? AND z.min_time <= ? ORDER BY z.seg DESC`},
		{&st.leaves, `SELECT l.seg, l.hashes FROM zone AS z CROSS JOIN leaf AS l ON l.seg = z.seg AND l.bucket = ? ORDER BY z.seg DESC`},
		{&st.times, "SELECT times FROM clock WHERE seg = ?"},
		{&st.run, "SELECT seq, idx, n FROM run WHERE stream = ? AND seq <= ? ORDER BY seq DESC LIMIT 1"},
		{&st.runs, "SELECT seq, idx, n FROM run WHERE stream = ? AND seq >= ? AND seq < ? ORDER BY seq"},
		{&st.runFirst, "SELECT seq, idx, n FROM run WHERE stream = ? AND idx + n > ? ORDER BY seq LIMIT 1"},
		{&st.trimmable, "SELECT seg FROM clock WHERE seg < ? ORDER BY seg LIMIT ?"},
		{&st.runLast, "SELECT seq, idx, n FROM run WHERE stream = ? AND idx < ? ORDER BY seq DESC LIMIT 1"},
		{&st.sealCovering, "SELECT idx FROM seal WHERE stream = ? AND size > ? AND idx < ? ORDER BY size LIMIT 1"},
		{&st.sealLast, "SELECT size, idx FROM seal WHERE stream = ? AND idx < ? ORDER BY size DESC LIMIT 1"},
		{&st.beacon, "SELECT idx FROM beacon WHERE stream = ? AND seq < ? ORDER BY seq DESC LIMIT 1"},
		{&st.tile, "SELECT hashes FROM tile WHERE stream = ? AND level = ? AND n = ?"},
		{&st.orphans, "SELECT idx FROM orphan WHERE exchange = ? AND idx < ?"},
	} {
		if *p.stmt, err = st.db.Reader.PrepareContext(ctx, p.text); err != nil {
			return err
		}
	}
	return nil
}

// settle writes a number that must stay the same into a new file, and compares
// that of another one.
func (st *store) settle(ctx context.Context, key string, want uint64) error {
	_, err := st.db.Writer.ExecContext(ctx, `INSERT INTO meta SELECT ?1, ?2 WHERE NOT EXISTS (SELECT * FROM meta WHERE key = ?1)
		AND NOT EXISTS (SELECT * FROM zone)`, key, want)
	if err != nil {
		return err
	}
	var have uint64
	err = st.db.Writer.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = ?", key).Scan(&have)
	if err == nil && have != want || errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: its %s is %d, not %d", errDamaged, key, have, want)
	}
	return err
}

// close closes the file; the second time it does nothing.
func (st *store) close() (err error) {
	st.once.Do(func() { err = st.db.Close() })
	return err
}

// isDamage reports whether deleting the file and building it anew helps.
func isDamage(err error) bool {
	var e sqlite3.Error
	if errors.As(err, &e) {
		return e.Code == sqlite3.ErrCorrupt || e.Code == sqlite3.ErrNotADB || e.Code == sqlite3.ErrFormat ||
			e.ExtendedCode == sqlite3.ErrIoErrShortRead || e.Code == sqlite3.ErrError // SQL that the file's schema does not know
	}
	return errors.Is(err, errDamaged)
}

// isClosed reports whether the file was closed under a reader.
func isClosed(err error) bool {
	return errors.Is(err, sql.ErrConnDone) || err != nil && strings.Contains(err.Error(), "sql: database is closed")
}

// setAside renames a file that is no database at all, rather than delete it: a
// wrong path must not cost a file. A database of something else is refused later
// by sqlite.Open.
func setAside(path string, log *slog.Logger) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var head [16]byte
	n, err := io.ReadFull(f, head[:])
	// https://www.sqlite.org/fileformat.html, section 1.3.1: the magic string.
	if n == 0 || err == nil && string(head[:]) == "SQLite format 3\x00" {
		return nil
	}
	log.Warn("search index is no database: it is set aside and rebuilt from the log", "file", path, "now", path+".damaged")
	if err := os.Rename(path, path+".damaged"); err != nil {
		return err
	}
	return removeDatabase(path)
}

// removeDatabase deletes the file with what SQLite keeps beside it.
func removeDatabase(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// blob runs a statement that gives one blob, and returns nil if there is no row.
// The statement is short: it does not take the caller's context, which would
// cost as much as the statement does.
func blob(stmt *sql.Stmt, args ...any) ([]byte, error) {
	var b []byte
	err := stmt.QueryRow(args...).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return b, err
}

// part is a blob that belongs to a segment.
type part struct {
	seg  uint64
	blob []byte
}

// parts runs a statement that gives blobs of segments.
func parts(stmt *sql.Stmt, args ...any) ([]part, error) {
	rows, err := stmt.Query(args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []part
	for rows.Next() {
		var p part
		if err := rows.Scan(&p.seg, &p.blob); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, rows.Err()
}

// indices runs a statement that gives indices.
func indices(stmt *sql.Stmt, args ...any) ([]uint64, error) {
	rows, err := stmt.Query(args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []uint64
	for rows.Next() {
		var i uint64
		if err := rows.Scan(&i); err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	return list, rows.Err()
}
