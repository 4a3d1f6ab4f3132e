package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/pack"
	"github.com/sealtap/sealtap/storage/signed"
)

// Log is the storage of a log. It implements [storage.Log] and [storage.Pruner].
type Log struct {
	db     *DB
	signed signed.File
	packer *pack.Packer

	// signing is held by the one who changes a checkpoint.
	signing sync.Mutex

	// mu is held by the one who adds entries.
	mu   sync.Mutex
	head head // what is in the table, if it is of the right size
}

// head is the entries behind the last complete bundle.
type head struct {
	size    uint64 // of the log
	entries []byte // in the form of a bundle
}

var _ storage.Pruner = (*Log)(nil)

// Log returns the log in the database. The file keeps the last checkpoint that this
// process signed, so that a database which is put back from an older copy is noticed.
func (db *DB) Log(file string) (*Log, error) {
	packer, err := pack.New()
	if err != nil {
		return nil, err
	}
	return &Log{db: db, signed: signed.File(file), packer: packer}, nil
}

// Close frees what the log holds, not the database.
func (l *Log) Close() error {
	l.packer.Close()
	return nil
}

// Load implements [storage.Log].
func (l *Log) Load(ctx context.Context) (*storage.State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	state := new(storage.State)
	err := l.db.view(ctx, func(ctx context.Context, tx pgx.Tx) error { return l.load(ctx, tx, state) })
	if err != nil {
		return nil, fmt.Errorf("loading log: %w", damage(err))
	}
	return state, nil
}

func (l *Log) load(ctx context.Context, tx pgx.Tx, state *storage.State) (err error) {
	var size int64
	var root []byte
	if err := tx.QueryRow(ctx, `SELECT size, root FROM tree`).Scan(&size, &root); err != nil {
		return err
	}
	state.Size = uint64(size)
	copy(state.Root[:], root)
	if state.Head, _, err = readHead(ctx, tx); err != nil {
		return err
	}
	if state.Streams, err = loadStreams(ctx, tx); err != nil {
		return err
	}
	if state.KeyChanges, err = loadKeyChanges(ctx, tx); err != nil {
		return err
	}
	if state.Published, err = readCheckpoint(ctx, tx, "published", ""); err != nil {
		return err
	}
	state.Signed, err = l.loadSigned(ctx, tx, "")
	return err
}

func loadKeyChanges(ctx context.Context, tx pgx.Tx) ([]uint64, error) {
	rows, err := tx.Query(ctx, `SELECT entry FROM key_change ORDER BY entry`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (uint64, error) {
		var index int64
		err := row.Scan(&index)
		return uint64(index), err
	})
}

func loadStreams(ctx context.Context, tx pgx.Tx) ([]storage.Stream, error) {
	rows, err := tx.Query(ctx, `SELECT id, producer, incarnation, size, edge FROM stream ORDER BY id`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (storage.Stream, error) {
		s, _, err := scanStream(row)
		return s, err
	})
}

// scanStream reads a stream from id, producer, incarnation, size and edge.
func scanStream(row pgx.CollectableRow) (s storage.Stream, id int64, err error) {
	var producer, incarnation, edge []byte
	var size int64
	if err := row.Scan(&id, &producer, &incarnation, &size, &edge); err != nil {
		return s, 0, err
	}
	s.Stream, s.Size = streamOf(producer, incarnation), uint64(size)
	s.Edge, err = storage.ParseEdge(edge)
	return s, id, err
}

func streamOf(producer, incarnation []byte) (s record.Stream) {
	copy(s.Producer[:], producer)
	copy(s.Incarnation[:], incarnation)
	return s
}

// readHead returns the entries behind the last complete bundle, and their leaf
// hashes.
func readHead(ctx context.Context, tx pgx.Tx) (entries, leaves []byte, err error) {
	rows, err := tx.Query(ctx, `SELECT data, leaves FROM head ORDER BY first`)
	if err != nil {
		return nil, nil, err
	}
	var data, hashes []byte
	_, err = pgx.ForEachRow(rows, []any{&data, &hashes}, func() error {
		entries, leaves = append(entries, data...), append(leaves, hashes...)
		return nil
	})
	return entries, leaves, err
}

func readCheckpoint(ctx context.Context, tx pgx.Tx, kind, lock string) (*storage.Head, error) {
	var h storage.Head
	var size int64
	var root []byte
	err := tx.QueryRow(ctx, `SELECT size, root, note FROM checkpoint WHERE kind = $1 `+lock, kind).Scan(&size, &root, &h.Note)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	h.Size, h.Root = uint64(size), record.Hash(root)
	return &h, nil
}
