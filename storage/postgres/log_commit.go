package postgres

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sealtap/sealtap/failpoint"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/pack"
)

// maxLogForks bounds what producers gone mad can make the log keep. The first
// forks prove the case.
const maxLogForks = 1024

// Commit implements [storage.Log].
func (l *Log) Commit(ctx context.Context, b *storage.Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.commit(ctx, b); err != nil {
		l.head = head{} // until it is known what is stored
		return fmt.Errorf("committing entries %d to %d: %w", b.First, b.First+uint64(len(b.Entries)), err)
	}
	return nil
}

func (l *Log) commit(ctx context.Context, b *storage.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	before, err := l.headAt(ctx, b.First)
	if err != nil {
		return err
	}
	packed := l.packer.Pack(before, b)
	defer l.packer.Done(packed)
	// One journey to the server: it takes all statements up to the end as one
	// transaction, and the first that fails undoes them.
	batch := new(pgx.Batch)
	batch.Queue(`SELECT fence($1)`, l.db.epoch.Load())
	batch.Queue(`SELECT advance($1, $2, $3)`, int64(b.First), int64(len(b.Entries)), b.Root[:])
	queueEntries(batch, packed)
	queueTiles(batch, b.Tiles)
	queueStreams(batch, b)
	if len(b.KeyChanges) > 0 {
		batch.Queue(`INSERT INTO key_change SELECT unnest($1::bigint[])`, signedInts(b.KeyChanges))
	}
	failpoint.Here("entries-written")
	if err := l.db.outcome(l.db.writer.SendBatch(ctx, batch).Close()); err != nil {
		return err
	}
	l.head = head{b.First + uint64(len(b.Entries)), packed.Head}
	return nil
}

// headAt returns the entries behind the last complete bundle of a log of the given
// size.
func (l *Log) headAt(ctx context.Context, size uint64) (entries []byte, err error) {
	if size%storage.BundleWidth == 0 {
		return nil, nil
	}
	if l.head.size == size {
		return l.head.entries, nil
	}
	err = l.db.view(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var stored int64
		if err := tx.QueryRow(ctx, `SELECT size FROM tree`).Scan(&stored); err != nil {
			return err
		}
		if uint64(stored) != size {
			return fmt.Errorf("%w: the log has %d entries", storage.ErrMoved, stored)
		}
		entries, _, err = readHead(ctx, tx)
		return err
	})
	return entries, err
}

// queueEntries writes the bundles that a batch completes, and puts the rest into the
// head.
func queueEntries(batch *pgx.Batch, p pack.Packed) {
	if len(p.Bundles) > 0 {
		batch.Queue(`INSERT INTO bundle (n, data) SELECT $1 + ordinality - 1, data FROM unnest($2::bytea[]) WITH ORDINALITY AS b (data)`,
			int64(p.First), p.Bundles)
		batch.Queue(`DELETE FROM head`)
	}
	if len(p.Row) > 0 {
		batch.Queue(`INSERT INTO head (first, data, leaves) VALUES ($1, $2, $3)`, int64(p.RowFirst), p.Row, p.Leaves)
	}
}

func queueTiles(batch *pgx.Batch, list []storage.Tile) {
	var ids []int64
	var hashes [][]byte
	for _, t := range list {
		if !pack.PartialLeaves(t) { // those are in head
			ids, hashes = append(ids, tileID(t.Level, t.N)), append(hashes, t.Hashes)
		}
	}
	if len(ids) > 0 {
		batch.Queue(`INSERT INTO tile (id, hashes) SELECT * FROM unnest($1::bigint[], $2::bytea[])
			ON CONFLICT (id) DO UPDATE SET hashes = excluded.hashes`, ids, hashes)
	}
}

func queueStreams(batch *pgx.Batch, b *storage.Batch) {
	if n := len(b.Streams); n > 0 {
		producers, incarnations, sizes, edges := make([][]byte, n), make([][]byte, n), make([]int64, n), make([][]byte, n)
		for i, s := range b.Streams {
			producers[i], incarnations[i], sizes[i], edges[i] = s.Stream.Producer[:], s.Stream.Incarnation[:], int64(s.Size), storage.EdgeBytes(s.Edge)
		}
		batch.Queue(`UPDATE stream SET size = u.size, edge = u.edge
			FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bytea[]) AS u (producer, incarnation, size, edge)
			WHERE stream.producer = u.producer AND stream.incarnation = u.incarnation`, producers, incarnations, sizes, edges)
		batch.Queue(`INSERT INTO stream (producer, incarnation, size, edge)
			SELECT u.producer, u.incarnation, u.size, u.edge
			FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bytea[]) WITH ORDINALITY AS u (producer, incarnation, size, edge, place)
			WHERE NOT EXISTS (SELECT 1 FROM stream AS s WHERE s.producer = u.producer AND s.incarnation = u.incarnation)
			ORDER BY place`, producers, incarnations, sizes, edges)
	}
	if n := len(b.Runs); n > 0 {
		producers, incarnations := make([][]byte, n), make([][]byte, n)
		sequences, firsts, counts := make([]int64, n), make([]int64, n), make([]int64, n)
		for i, r := range b.Runs {
			producers[i], incarnations[i] = r.Stream.Producer[:], r.Stream.Incarnation[:]
			sequences[i], firsts[i], counts[i] = int64(r.Sequence), int64(r.Index), int64(r.Count)
		}
		// A run of a stream that is not stored has no row to refer to, and fails.
		batch.Queue(`INSERT INTO run (stream, sequence, first, count)
			SELECT s.id, u.sequence, u.first, u.count
			FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[]) AS u (producer, incarnation, sequence, first, count)
			LEFT JOIN stream AS s ON s.producer = u.producer AND s.incarnation = u.incarnation`, producers, incarnations, sequences, firsts, counts)
	}
}

// AddFork implements [storage.Log].
func (l *Log) AddFork(ctx context.Context, f storage.Fork) (added bool, err error) {
	err = l.db.change(ctx, func(ctx context.Context, tx pgx.Tx) error {
		sum := sha256.Sum256(f.Entry)
		tag, err := tx.Exec(ctx, `INSERT INTO fork (producer, incarnation, sequence, entry_index, entry, entry_sha256, seal, seen)
			SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE (SELECT count(*) FROM fork) < $9 ON CONFLICT DO NOTHING`,
			f.Stream.Producer[:], f.Stream.Incarnation[:], int64(f.Sequence), int64(f.Index), f.Entry, sum[:], f.Seal, f.Seen.UnixNano(), maxLogForks)
		added = tag.RowsAffected() > 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("keeping fork: %w", err)
	}
	return added, nil
}

// tileID is the row of a tile: levels go to 7, since a log has less than 2^64
// entries.
func tileID(level uint, n uint64) int64 { return int64(uint64(level)<<56 | n) }

func signedInts(list []uint64) []int64 {
	out := make([]int64, len(list))
	for i, n := range list {
		out[i] = int64(n)
	}
	return out
}
