package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// pruneSchema is the migration that lets a log be pruned. Rows of key_change are
// indices of all statements of the operator, whatever their kind.
const pruneSchema = `
CREATE TABLE pruned (
	id      INTEGER PRIMARY KEY CHECK (id = 0),
	minimum INTEGER NOT NULL, -- index of the first entry that is kept
	at      BLOB NOT NULL,    -- checkpoint
	old     BLOB              -- checkpoint
) STRICT;
CREATE TABLE pruned_stream (
	stream INTEGER PRIMARY KEY REFERENCES stream,
	size   INTEGER NOT NULL, -- records below the minimum index
	edge   BLOB NOT NULL
) STRICT;
CREATE TABLE mark (
	size INTEGER PRIMARY KEY,
	time INTEGER NOT NULL, -- seconds since 1970
	note BLOB NOT NULL
) STRICT;
CREATE INDEX mark_time ON mark (time);
`

// pruneVersion is the version of the schema from which on a log can be pruned.
const pruneVersion = 2

// The log can be pruned.
var _ storage.Pruner = (*Log)(nil)

const selectPruned = `SELECT minimum, at, old FROM pruned`

// Pruned implements [storage.Pruner].
func (l *Log) Pruned(ctx context.Context) (storage.Pruned, error) {
	return readPruned(l.db.Reader.QueryRowContext(ctx, selectPruned))
}

func readPruned(row *sql.Row) (p storage.Pruned, err error) {
	err = row.Scan(&p.Minimum, &p.At, &p.Old)
	if errors.Is(err, sql.ErrNoRows) {
		return storage.Pruned{}, nil
	}
	if err != nil {
		return p, fmt.Errorf("reading minimum index: %w", err)
	}
	return p, nil
}

// isPruned reports whether a complete bundle that is not there need not be.
func (l *Log) isPruned(ctx context.Context, tx *sql.Tx, n uint64) bool {
	var gone bool
	err := tx.QueryRowContext(ctx, `SELECT minimum / 256 > ?1 AND NOT EXISTS (SELECT 1 FROM bundle WHERE n = ?1) FROM pruned`, int64(n)).Scan(&gone)
	return err == nil && gone
}

// SetPruned implements [storage.Pruner].
func (l *Log) SetPruned(ctx context.Context, p storage.Pruned, edges []storage.Stream) error {
	if err := l.setPruned(context.WithoutCancel(ctx), p, edges); err != nil {
		return fmt.Errorf("lifting minimum index to %d: %w", p.Minimum, err)
	}
	return nil
}

func (l *Log) setPruned(ctx context.Context, p storage.Pruned, edges []storage.Stream) error {
	tx, err := l.db.Writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	before, err := readPruned(tx.QueryRowContext(ctx, selectPruned))
	if err != nil {
		return err
	}
	published, err := readCheckpoint(ctx, tx, "published")
	if err == nil {
		err = p.Follows(before, published)
	}
	if err != nil {
		return err
	}
	for _, s := range edges {
		res, err := tx.ExecContext(ctx, `INSERT INTO pruned_stream (stream, size, edge)
			SELECT id, ?, ? FROM stream WHERE producer = ? AND incarnation = ?
			ON CONFLICT (stream) DO UPDATE SET size = excluded.size, edge = excluded.edge`,
			s.Size, storage.EdgeBytes(s.Edge), s.Stream.Producer[:], s.Stream.Incarnation[:])
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, fmt.Errorf("%w: stream %s is not stored", storage.ErrMoved, s.Stream.Origin()))
		}
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM mark WHERE size <= ?`, p.Minimum); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO pruned (id, minimum, at, old) VALUES (0, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET minimum = excluded.minimum, at = excluded.at, old = excluded.old`, p.Minimum, p.At, p.Old); err != nil {
		return err
	}
	err = tx.Commit()
	l.db.wal.wrote(len(edges) << 10)
	return err
}

// sweeps delete what is below the minimum index, each at most so many rows. Tiles
// of level 0 have ids below 1<<56, which are their numbers. Pages that become
// free are used for what comes next.
var sweeps = [...]string{
	`DELETE FROM bundle WHERE n IN (SELECT n FROM bundle WHERE n < ?1 / 256
		AND n NOT IN (SELECT entry / 256 FROM key_change) ORDER BY n LIMIT ?2)`,
	`DELETE FROM tile WHERE id IN (SELECT id FROM tile WHERE id < ?1 / 256
		AND id NOT IN (SELECT entry / 256 FROM key_change) ORDER BY id LIMIT ?2)`,
	`DELETE FROM run WHERE (stream, sequence) IN (SELECT r.stream, r.sequence FROM pruned_stream AS p
		CROSS JOIN run AS r ON r.stream = p.stream AND r.sequence < p.size WHERE r.sequence + r.count <= p.size AND ?1 > 0 LIMIT ?2)`,
}

// Sweep implements [storage.Pruner].
func (l *Log) Sweep(ctx context.Context, bundles int) (more bool, err error) {
	if err := ctx.Err(); err != nil {
		return true, fmt.Errorf("deleting entries: %w", err)
	}
	ctx = context.WithoutCancel(ctx)
	tx, err := l.db.Writer.BeginTx(ctx, nil)
	if err != nil {
		return true, fmt.Errorf("deleting entries: %w", err)
	}
	defer tx.Rollback()
	p, err := readPruned(tx.QueryRowContext(ctx, selectPruned))
	if err != nil {
		return true, err
	}
	for _, s := range sweeps {
		res, err := tx.ExecContext(ctx, s, p.Minimum, bundles)
		if err != nil {
			return true, fmt.Errorf("deleting entries below %d: %w", p.Minimum, err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return true, fmt.Errorf("deleting entries below %d: %w", p.Minimum, err)
		}
		more = more || n >= int64(bundles)
	}
	if err := tx.Commit(); err != nil {
		return true, fmt.Errorf("deleting entries below %d: %w", p.Minimum, err)
	}
	l.db.wal.wrote(bundles << 10) // of a row that goes little is written
	return more, nil
}

// StreamNames implements [storage.Pruner].
func (l *Log) StreamNames(ctx context.Context) ([]record.Stream, error) {
	rows, err := l.db.Reader.QueryContext(ctx, `SELECT producer, incarnation FROM stream ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("reading streams: %w", err)
	}
	defer rows.Close()
	var list []record.Stream
	for rows.Next() {
		var producer, incarnation []byte
		if err := rows.Scan(&producer, &incarnation); err != nil {
			return nil, fmt.Errorf("reading streams: %w", err)
		}
		list = append(list, streamOf(producer, incarnation))
	}
	return list, rows.Err()
}

func streamOf(producer, incarnation []byte) (s record.Stream) {
	copy(s.Producer[:], producer)
	copy(s.Incarnation[:], incarnation)
	return s
}

const selectPrunedStreams = `SELECT stream.id, producer, incarnation, pruned_stream.size, pruned_stream.edge
	FROM pruned_stream JOIN stream ON stream.id = pruned_stream.stream`

func scanPruned(scan func(...any) error) (s storage.Stream, id uint64, err error) {
	var producer, incarnation, edge []byte
	if err := scan(&id, &producer, &incarnation, &s.Size, &edge); err != nil {
		return s, 0, err
	}
	s.Stream = streamOf(producer, incarnation)
	s.Edge, err = storage.ParseEdge(edge)
	return s, id, err
}

// PrunedStream implements [storage.Pruner].
func (l *Log) PrunedStream(ctx context.Context, s record.Stream) (storage.Stream, bool, error) {
	row := l.db.Reader.QueryRowContext(ctx, selectPrunedStreams+` WHERE producer = ? AND incarnation = ?`, s.Producer[:], s.Incarnation[:])
	p, _, err := scanPruned(row.Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return storage.Stream{}, false, nil
	}
	if err != nil {
		return storage.Stream{}, false, fmt.Errorf("reading pruned stream %s: %w", s.Origin(), err)
	}
	return p, true, nil
}

// PrunedStreams implements [storage.Pruner].
func (l *Log) PrunedStreams(ctx context.Context, place uint64, limit int) ([]storage.Stream, uint64, error) {
	rows, err := l.db.Reader.QueryContext(ctx, selectPrunedStreams+` WHERE stream.id > ? ORDER BY stream.id LIMIT ?`, int64(place), limit+1)
	if err != nil {
		return nil, 0, fmt.Errorf("reading pruned streams: %w", err)
	}
	defer rows.Close()
	var list []storage.Stream
	for rows.Next() {
		s, id, err := scanPruned(rows.Scan)
		if err != nil {
			return nil, 0, fmt.Errorf("reading pruned streams: %w", err)
		}
		if len(list) == limit {
			return list, place, nil
		}
		list, place = append(list, s), id
	}
	return list, 0, rows.Err()
}

// AddMark implements [storage.Pruner].
func (l *Log) AddMark(ctx context.Context, m storage.Mark) error {
	// A larger head is never older than a smaller one, whatever a clock says.
	_, err := l.db.Writer.ExecContext(context.WithoutCancel(ctx), `INSERT OR IGNORE INTO mark (size, time, note)
		VALUES (?1, max(?2, coalesce((SELECT max(time) FROM mark WHERE size < ?1), ?2)), ?3)`, m.Size, m.Time.Unix(), m.Note)
	if err != nil {
		return fmt.Errorf("keeping the time of a checkpoint: %w", err)
	}
	return nil
}

// MarkBefore implements [storage.Pruner].
func (l *Log) MarkBefore(ctx context.Context, t time.Time) (storage.Mark, bool, error) {
	var m storage.Mark
	var seconds int64
	err := l.db.Reader.QueryRowContext(ctx, `SELECT size, time, note FROM mark WHERE time <= ? ORDER BY time DESC, size DESC LIMIT 1`, t.Unix()).
		Scan(&m.Size, &seconds, &m.Note)
	if errors.Is(err, sql.ErrNoRows) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("reading the times of checkpoints: %w", err)
	}
	m.Time = time.Unix(seconds, 0).UTC()
	return m, true, nil
}

// Pruned returns how far the log was pruned, and the indices of its statements
// below the minimum.
func (f *LogFile) Pruned(ctx context.Context) (p storage.Pruned, statements []uint64, err error) {
	if f.version < pruneVersion {
		return p, nil, nil
	}
	if p, err = f.log.Pruned(ctx); err != nil || p.Minimum == 0 {
		return p, nil, damage(err)
	}
	rows, err := f.log.db.Reader.QueryContext(ctx, `SELECT entry FROM key_change WHERE entry < ? ORDER BY entry`, p.Minimum)
	if err != nil {
		return p, nil, damage(err)
	}
	defer rows.Close()
	for rows.Next() {
		var index uint64
		if err := rows.Scan(&index); err != nil {
			return p, nil, damage(err)
		}
		statements = append(statements, index)
	}
	return p, statements, damage(rows.Err())
}

// PrunedStreams returns streams as they were at the minimum index, as
// [storage.Pruner] does.
func (f *LogFile) PrunedStreams(ctx context.Context, place uint64, limit int) ([]storage.Stream, uint64, error) {
	list, next, err := f.log.PrunedStreams(ctx, place, limit)
	return list, next, damage(err)
}
