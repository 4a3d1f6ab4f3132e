package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/pack"
	"github.com/sealtap/sealtap/storage/signed"
)

// logSchema describes the database of a log.
//
// Bundles are compressed with zstd once they have 256 entries. The entries
// behind them stand in head with their leaf hashes, one row a commit, which
// keeps a commit small and in one place of the file; the commit that completes a
// bundle folds the rows. So of tiles of level 0 only complete ones are in tile.
func logSchema() Schema {
	return Schema{
		Kind:          "log",
		ApplicationID: 0x53544c01, // "STL", 1
		Migrations: []string{`
CREATE TABLE tree (
	id   INTEGER PRIMARY KEY CHECK (id = 0),
	size INTEGER NOT NULL,
	root BLOB NOT NULL CHECK (length(root) = 32)
) STRICT;
CREATE TABLE bundle (
	n    INTEGER PRIMARY KEY,
	data BLOB NOT NULL -- a zstd frame of 256 entries
) STRICT;
CREATE TABLE head (
	first  INTEGER PRIMARY KEY, -- index of the first entry
	data   BLOB NOT NULL,       -- entries in the form of a bundle
	leaves BLOB NOT NULL        -- their leaf hashes
) STRICT;
CREATE TABLE tile (
	id     INTEGER PRIMARY KEY, -- level << 56 | n
	hashes BLOB NOT NULL
) STRICT;
CREATE TABLE stream (
	id          INTEGER PRIMARY KEY,
	producer    BLOB NOT NULL CHECK (length(producer) = 32),
	incarnation BLOB NOT NULL CHECK (length(incarnation) = 16),
	size        INTEGER NOT NULL,
	edge        BLOB NOT NULL,
	UNIQUE (producer, incarnation)
) STRICT;
CREATE TABLE run (
	stream   INTEGER NOT NULL REFERENCES stream,
	sequence INTEGER NOT NULL,
	first    INTEGER NOT NULL, -- index of the first record
	count    INTEGER NOT NULL,
	PRIMARY KEY (stream, sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE key_change (
	entry INTEGER PRIMARY KEY -- index
) STRICT;
CREATE TABLE checkpoint (
	kind TEXT PRIMARY KEY CHECK (kind IN ('signed', 'published')),
	size INTEGER NOT NULL,
	root BLOB NOT NULL CHECK (length(root) = 32),
	note BLOB NOT NULL
) STRICT;
CREATE TABLE fork (
	id          INTEGER PRIMARY KEY,
	producer    BLOB NOT NULL,
	incarnation BLOB NOT NULL,
	sequence    INTEGER NOT NULL,
	entry_index INTEGER NOT NULL,
	entry       BLOB NOT NULL,
	seal        BLOB NOT NULL,
	seen        INTEGER NOT NULL, -- nanoseconds since 1970
	UNIQUE (producer, incarnation, sequence, entry)
) STRICT;
`, pruneSchema},
	}
}

// Log is the storage of a log. It implements [storage.Log].
type Log struct {
	db      *DB
	signed  signed.File
	selects struct{ bundle, tile, run *sql.Stmt }
	packer  *pack.Packer

	// signing is held by the one who changes a checkpoint.
	signing sync.Mutex

	// mu is held by the one who adds entries.
	mu      sync.Mutex
	writes  writes
	streams map[record.Stream]int64 // rows known to exist
	head    head                    // what is in the table, if it is of the right size
}

// head is the entries behind the last complete bundle.
type head struct {
	size    uint64 // of the log
	entries []byte // in the form of a bundle
}

// writes are the statements of a commit.
type writes struct {
	bundle, head, fold, tile, addStream, setStream, run, keyChange, tree *sql.Stmt
}

// OpenLog opens the storage at path as [Open] does. The file <path>.signed,
// which belongs to it, holds the last signed checkpoint.
func OpenLog(ctx context.Context, path string) (_ *Log, err error) {
	db, err := Open(ctx, path, logSchema())
	if err != nil {
		return nil, damage(err)
	}
	l := &Log{db: db, signed: signed.File(path + ".signed"), streams: make(map[record.Stream]int64)}
	defer func() {
		if err != nil {
			err = fmt.Errorf("opening log storage %s: %w", path, errors.Join(err, l.Close()))
		}
	}()
	if l.packer, err = pack.New(); err != nil {
		return nil, err
	}
	if err = l.prepare(ctx); err != nil {
		return nil, err
	}
	if err = db.keepWAL(ctx, path); err != nil {
		return nil, err
	}
	return l, nil
}

const (
	selectBundle = `SELECT data FROM bundle WHERE n = ?`
	selectTile   = `SELECT hashes FROM tile WHERE id = ?`
)

func (l *Log) prepare(ctx context.Context) error {
	for _, s := range []struct {
		stmt **sql.Stmt
		pool *sql.DB
		text string
	}{
		{&l.selects.bundle, l.db.Reader, selectBundle},
		{&l.selects.tile, l.db.Reader, selectTile},
		{&l.selects.run, l.db.Reader, selectRun},
		{&l.writes.bundle, l.db.Writer, `INSERT INTO bundle (n, data) VALUES (?, ?)`},
		{&l.writes.head, l.db.Writer, `INSERT INTO head (first, data, leaves) VALUES (?, ?, ?)`},
		{&l.writes.fold, l.db.Writer, `DELETE FROM head`},
		{&l.writes.tile, l.db.Writer, `INSERT INTO tile (id, hashes) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET hashes = excluded.hashes`},
		{&l.writes.addStream, l.db.Writer, `INSERT INTO stream (producer, incarnation, size, edge) VALUES (?, ?, ?, ?)
			ON CONFLICT (producer, incarnation) DO UPDATE SET size = excluded.size, edge = excluded.edge RETURNING id`},
		{&l.writes.setStream, l.db.Writer, `UPDATE stream SET size = ?, edge = ? WHERE id = ?`},
		{&l.writes.run, l.db.Writer, `INSERT INTO run (stream, sequence, first, count) VALUES (?, ?, ?, ?)`},
		{&l.writes.keyChange, l.db.Writer, `INSERT INTO key_change (entry) VALUES (?)`},
		{&l.writes.tree, l.db.Writer, `INSERT INTO tree (id, size, root) VALUES (0, ?, ?)
			ON CONFLICT (id) DO UPDATE SET size = excluded.size, root = excluded.root`},
	} {
		var err error
		if *s.stmt, err = s.pool.PrepareContext(ctx, s.text); err != nil {
			return fmt.Errorf("preparing statement: %w", err)
		}
	}
	return nil
}

// Health returns [ErrSync] once the disk has failed to keep what it was given.
func (l *Log) Health() error { return l.db.Health() }

// Close closes the storage.
func (l *Log) Close() error {
	if l.packer != nil {
		l.packer.Close()
	}
	return l.db.Close()
}

// Load implements [storage.Log].
func (l *Log) Load(ctx context.Context) (*storage.State, error) {
	state, err := l.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("loading log: %w", err)
	}
	return state, nil
}

func (l *Log) load(ctx context.Context) (*storage.State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tx, err := l.db.Reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	state := new(storage.State)
	var root []byte
	err = tx.QueryRowContext(ctx, `SELECT size, root FROM tree`).Scan(&state.Size, &root)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	copy(state.Root[:], root)
	if state.Head, _, err = readHead(ctx, tx); err != nil {
		return nil, err
	}
	if state.Streams, err = l.loadStreams(ctx, tx); err != nil {
		return nil, err
	}
	err = each(ctx, tx, `SELECT entry FROM key_change ORDER BY entry`, func(scan func(...any) error) error {
		var index uint64
		defer func() { state.KeyChanges = append(state.KeyChanges, index) }()
		return scan(&index)
	})
	if err != nil {
		return nil, err
	}
	if state.Published, err = readCheckpoint(ctx, tx, "published"); err != nil {
		return nil, err
	}
	state.Signed, err = l.loadSigned(ctx, tx)
	return state, err
}

func (l *Log) loadStreams(ctx context.Context, tx *sql.Tx) ([]storage.Stream, error) {
	clear(l.streams)
	var list []storage.Stream
	err := each(ctx, tx, `SELECT id, producer, incarnation, size, edge FROM stream ORDER BY id`, func(scan func(...any) error) error {
		var id int64
		var producer, incarnation, edge []byte
		var s storage.Stream
		if err := scan(&id, &producer, &incarnation, &s.Size, &edge); err != nil {
			return err
		}
		copy(s.Stream.Producer[:], producer)
		copy(s.Stream.Incarnation[:], incarnation)
		var err error
		if s.Edge, err = storage.ParseEdge(edge); err != nil {
			return err
		}
		l.streams[s.Stream] = id
		list = append(list, s)
		return nil
	})
	return list, err
}

// each calls f for every row of a query.
func each(ctx context.Context, tx *sql.Tx, query string, f func(scan func(...any) error) error) error {
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
