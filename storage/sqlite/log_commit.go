package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sealtap/sealtap/failpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/pack"
)

// maxLogForks bounds what producers gone mad can make the log keep. The first
// forks prove the case.
const maxLogForks = 1024

// Commit implements [storage.Log].
func (l *Log) Commit(ctx context.Context, b *storage.Batch) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("committing entries: %w", err)
	}
	// Once begun it is not interrupted: the driver would watch the context with a
	// goroutine for each statement.
	ctx = context.WithoutCancel(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	written, err := l.transact(ctx, b)
	if err != nil {
		return fmt.Errorf("committing entries %d to %d: %w", b.First, b.First+uint64(len(b.Entries)), err)
	}
	l.db.wal.wrote(written)
	return nil
}

// transact stores the batch, and returns about how many bytes that were.
func (l *Log) transact(ctx context.Context, b *storage.Batch) (int, error) {
	before, err := l.headAt(ctx, b.First)
	if err != nil {
		return 0, err
	}
	// The packing takes the most time: the database is not locked meanwhile.
	packed := l.packer.Pack(before, b)
	defer l.packer.Done(packed)
	tx, err := l.db.Writer.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	added, err := l.commit(ctx, tx, b, packed)
	failpoint.Here("entries-written")
	if err == nil {
		l.head = head{} // until it is known what is stored
		err = tx.Commit()
	}
	if err != nil {
		return 0, err
	}
	for s, id := range added {
		l.streams[s] = id
	}
	l.head = head{b.First + uint64(len(b.Entries)), packed.Head}
	return packed.Bytes() + tileBytes(b.Tiles), nil
}

// headAt returns the entries behind the last complete bundle of a log of the
// given size.
func (l *Log) headAt(ctx context.Context, size uint64) ([]byte, error) {
	if size%storage.BundleWidth == 0 {
		return nil, nil
	}
	if l.head.size == size {
		return l.head.entries, nil
	}
	rows, err := l.readHead(ctx, size)
	return rows.entries, err
}

func (l *Log) commit(ctx context.Context, tx *sql.Tx, b *storage.Batch, p pack.Packed) (added map[record.Stream]int64, err error) {
	var size uint64
	err = tx.QueryRowContext(ctx, `SELECT size FROM tree`).Scan(&size)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	if b.First != size {
		return nil, fmt.Errorf("%w: the log has %d entries", storage.ErrMoved, size)
	}
	if err := l.commitEntries(ctx, tx, p); err != nil {
		return nil, err
	}
	tile := tx.StmtContext(ctx, l.writes.tile)
	for _, t := range b.Tiles {
		if pack.PartialLeaves(t) {
			continue // in head
		}
		if _, err := tile.ExecContext(ctx, tileID(t.Level, t.N), t.Hashes); err != nil {
			return nil, err
		}
	}
	if added, err = l.commitStreams(ctx, tx, b); err != nil {
		return nil, err
	}
	for _, index := range b.KeyChanges {
		if _, err := tx.StmtContext(ctx, l.writes.keyChange).ExecContext(ctx, index); err != nil {
			return nil, err
		}
	}
	_, err = tx.StmtContext(ctx, l.writes.tree).ExecContext(ctx, size+uint64(len(b.Entries)), b.Root[:])
	return added, err
}

// commitEntries writes the bundles that the batch completes, and puts the rest
// into the head.
func (l *Log) commitEntries(ctx context.Context, tx *sql.Tx, p pack.Packed) error {
	for i, frame := range p.Bundles {
		if _, err := tx.StmtContext(ctx, l.writes.bundle).ExecContext(ctx, p.First+uint64(i), frame); err != nil {
			return err
		}
	}
	if len(p.Bundles) > 0 {
		if _, err := tx.StmtContext(ctx, l.writes.fold).ExecContext(ctx); err != nil {
			return err
		}
	}
	if len(p.Row) == 0 {
		return nil
	}
	_, err := tx.StmtContext(ctx, l.writes.head).ExecContext(ctx, p.RowFirst, p.Row, p.Leaves)
	return err
}

func (l *Log) commitStreams(ctx context.Context, tx *sql.Tx, b *storage.Batch) (map[record.Stream]int64, error) {
	var added map[record.Stream]int64
	set, run := tx.StmtContext(ctx, l.writes.setStream), tx.StmtContext(ctx, l.writes.run)
	for _, s := range b.Streams {
		edge := storage.EdgeBytes(s.Edge)
		if id, ok := l.streams[s.Stream]; ok {
			if _, err := set.ExecContext(ctx, s.Size, edge, id); err != nil {
				return nil, err
			}
			continue
		}
		var id int64
		add := tx.StmtContext(ctx, l.writes.addStream)
		if err := add.QueryRowContext(ctx, s.Stream.Producer[:], s.Stream.Incarnation[:], s.Size, edge).Scan(&id); err != nil {
			return nil, err
		}
		if added == nil {
			added = make(map[record.Stream]int64)
		}
		added[s.Stream] = id
	}
	for _, r := range b.Runs {
		id, ok := l.streams[r.Stream]
		if !ok {
			id, ok = added[r.Stream]
		}
		if !ok {
			return nil, fmt.Errorf("a run of stream %s, which is not stored", r.Stream.Origin())
		}
		if _, err := run.ExecContext(ctx, id, r.Sequence, r.Index, r.Count); err != nil {
			return nil, err
		}
	}
	return added, nil
}

// AddFork implements [storage.Log].
func (l *Log) AddFork(ctx context.Context, f storage.Fork) (bool, error) {
	res, err := l.db.Writer.ExecContext(context.WithoutCancel(ctx), `INSERT OR IGNORE INTO fork
		(producer, incarnation, sequence, entry_index, entry, seal, seen)
		SELECT ?, ?, ?, ?, ?, ?, ? WHERE (SELECT count(*) FROM fork) < ?`,
		f.Stream.Producer[:], f.Stream.Incarnation[:], f.Sequence, f.Index, f.Entry, f.Seal, f.Seen.UnixNano(), maxLogForks)
	if err != nil {
		return false, fmt.Errorf("keeping fork: %w", err)
	}
	l.db.wal.wrote(len(f.Entry) + len(f.Seal))
	n, err := res.RowsAffected()
	return n > 0, err
}

func tileBytes(list []storage.Tile) int {
	n := 0
	for _, t := range list {
		n += len(t.Hashes)
	}
	return n
}

// tileID is the row of a tile: levels go to 7, since a log has less than 2^64
// entries.
func tileID(level uint, n uint64) int64 { return int64(uint64(level)<<56 | n) }
