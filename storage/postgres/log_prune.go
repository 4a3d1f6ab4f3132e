package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

const selectPruned = `SELECT minimum, at, old FROM pruned`

// Pruned implements [storage.Pruner].
func (l *Log) Pruned(ctx context.Context) (storage.Pruned, error) {
	return readPruned(func(dest ...any) error { return l.db.one(ctx, dest, selectPruned) })
}

func readPruned(scan func(dest ...any) error) (p storage.Pruned, err error) {
	var minimum int64
	err = scan(&minimum, &p.At, &p.Old)
	if errors.Is(err, pgx.ErrNoRows) {
		return storage.Pruned{}, nil
	}
	if err != nil {
		return p, fmt.Errorf("reading minimum index: %w", err)
	}
	p.Minimum = uint64(minimum)
	return p, nil
}

// SetPruned implements [storage.Pruner].
func (l *Log) SetPruned(ctx context.Context, p storage.Pruned, edges []storage.Stream) error {
	err := l.db.change(ctx, func(ctx context.Context, tx pgx.Tx) error { return setPruned(ctx, tx, p, edges) })
	if err != nil {
		return fmt.Errorf("lifting minimum index to %d: %w", p.Minimum, err)
	}
	return nil
}

func setPruned(ctx context.Context, tx pgx.Tx, p storage.Pruned, edges []storage.Stream) error {
	before, err := readPruned(tx.QueryRow(ctx, selectPruned+` FOR UPDATE`).Scan)
	if err != nil {
		return err
	}
	published, err := readCheckpoint(ctx, tx, "published", "")
	if err == nil {
		err = p.Follows(before, published)
	}
	if err != nil {
		return err
	}
	for _, s := range edges {
		tag, err := tx.Exec(ctx, `INSERT INTO pruned_stream (stream, size, edge)
			SELECT id, $1, $2 FROM stream WHERE producer = $3 AND incarnation = $4
			ON CONFLICT (stream) DO UPDATE SET size = excluded.size, edge = excluded.edge`,
			int64(s.Size), storage.EdgeBytes(s.Edge), s.Stream.Producer[:], s.Stream.Incarnation[:])
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return fmt.Errorf("%w: stream %s is not stored", storage.ErrMoved, s.Stream.Origin())
		}
	}
	if _, err := tx.Exec(ctx, `DELETE FROM mark WHERE size <= $1`, int64(p.Minimum)); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO pruned (id, minimum, at, old) VALUES (0, $1, $2, $3)
		ON CONFLICT (id) DO UPDATE SET minimum = excluded.minimum, at = excluded.at, old = excluded.old`, int64(p.Minimum), p.At, p.Old)
	return err
}

// sweeps delete what is below the minimum index, each at most so many rows. Tiles
// of level 0 have ids below 1<<56, which are their numbers.
var sweeps = [...]string{
	`DELETE FROM bundle WHERE n IN (SELECT n FROM bundle WHERE n < $1 / 256
		AND n NOT IN (SELECT entry / 256 FROM key_change) ORDER BY n LIMIT $2)`,
	`DELETE FROM tile WHERE id IN (SELECT id FROM tile WHERE id >= 0 AND id < $1 / 256
		AND id NOT IN (SELECT entry / 256 FROM key_change) ORDER BY id LIMIT $2)`,
	`DELETE FROM run USING (SELECT r.stream, r.sequence FROM pruned_stream AS p
		JOIN run AS r ON r.stream = p.stream AND r.sequence < p.size WHERE r.sequence + r.count <= p.size AND $1 > 0 LIMIT $2) AS gone
		WHERE run.stream = gone.stream AND run.sequence = gone.sequence`,
}

// Sweep implements [storage.Pruner].
func (l *Log) Sweep(ctx context.Context, bundles int) (more bool, err error) {
	err = l.db.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		p, err := readPruned(tx.QueryRow(ctx, selectPruned).Scan)
		if err != nil {
			return err
		}
		for _, s := range sweeps {
			tag, err := tx.Exec(ctx, s, int64(p.Minimum), bundles)
			if err != nil {
				return fmt.Errorf("below %d: %w", p.Minimum, err)
			}
			more = more || tag.RowsAffected() >= int64(bundles)
		}
		return nil
	})
	if err != nil {
		return true, fmt.Errorf("deleting entries: %w", err)
	}
	return more, nil
}

// StreamNames implements [storage.Pruner].
func (l *Log) StreamNames(ctx context.Context) ([]record.Stream, error) {
	list, err := all(ctx, l.db, func(row pgx.CollectableRow) (record.Stream, error) {
		var producer, incarnation []byte
		err := row.Scan(&producer, &incarnation)
		return streamOf(producer, incarnation), err
	}, `SELECT producer, incarnation FROM stream ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("reading streams: %w", err)
	}
	return list, nil
}

const selectPrunedStreams = `SELECT stream.id, producer, incarnation, pruned_stream.size, pruned_stream.edge
	FROM pruned_stream JOIN stream ON stream.id = pruned_stream.stream`

// PrunedStream implements [storage.Pruner].
func (l *Log) PrunedStream(ctx context.Context, s record.Stream) (storage.Stream, bool, error) {
	list, _, err := l.prunedStreams(ctx, selectPrunedStreams+` WHERE producer = $1 AND incarnation = $2`, s.Producer[:], s.Incarnation[:])
	if err != nil {
		return storage.Stream{}, false, fmt.Errorf("reading pruned stream %s: %w", s.Origin(), err)
	}
	if len(list) == 0 {
		return storage.Stream{}, false, nil
	}
	return list[0], true, nil
}

// PrunedStreams implements [storage.Pruner].
func (l *Log) PrunedStreams(ctx context.Context, place uint64, limit int) ([]storage.Stream, uint64, error) {
	list, ids, err := l.prunedStreams(ctx, selectPrunedStreams+` WHERE stream.id > $1 ORDER BY stream.id LIMIT $2`, int64(place), limit+1)
	if err != nil {
		return nil, 0, fmt.Errorf("reading pruned streams: %w", err)
	}
	if len(list) > limit {
		return list[:limit], uint64(ids[limit-1]), nil
	}
	return list, 0, nil
}

func (l *Log) prunedStreams(ctx context.Context, query string, args ...any) (list []storage.Stream, ids []int64, err error) {
	list, err = all(ctx, l.db, func(row pgx.CollectableRow) (storage.Stream, error) {
		s, id, err := scanStream(row)
		ids = append(ids, id)
		return s, err
	}, query, args...)
	return list, ids, err
}

// AddMark implements [storage.Pruner].
func (l *Log) AddMark(ctx context.Context, m storage.Mark) error {
	// A larger head is never older than a smaller one, whatever a clock says.
	err := l.db.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO mark (size, time, note)
			VALUES ($1, greatest($2, (SELECT max(time) FROM mark WHERE size < $1)), $3) ON CONFLICT DO NOTHING`, int64(m.Size), m.Time.Unix(), m.Note)
		return err
	})
	if err != nil {
		return fmt.Errorf("keeping the time of a checkpoint: %w", err)
	}
	return nil
}

// MarkBefore implements [storage.Pruner].
func (l *Log) MarkBefore(ctx context.Context, t time.Time) (storage.Mark, bool, error) {
	var m storage.Mark
	var size, seconds int64
	err := l.db.one(ctx, []any{&size, &seconds, &m.Note}, `SELECT size, time, note FROM mark WHERE time <= $1 ORDER BY time DESC, size DESC LIMIT 1`, t.Unix())
	if errors.Is(err, pgx.ErrNoRows) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("reading the times of checkpoints: %w", err)
	}
	m.Size, m.Time = uint64(size), time.Unix(seconds, 0).UTC()
	return m, true, nil
}
