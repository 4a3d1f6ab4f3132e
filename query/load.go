package query

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// load takes up the index at the end of its last full segment. What is beyond
// is read from the log again.
func (ix *Index) load(ctx context.Context) error {
	st := ix.store()
	zones, last, err := st.loadZones(ctx)
	if err != nil {
		return err
	}
	durable := uint64(len(zones)) * ix.segment
	ix.bundles.forget()
	if err := ix.checkLog(ctx, st, durable, last); err != nil {
		return err
	}
	for _, table := range []string{"run", "seal", "beacon", "statement", "orphan"} {
		if _, err := st.db.Writer.ExecContext(ctx, "DELETE FROM "+table+" WHERE idx >= ?", durable); err != nil {
			return err
		}
	}
	in := ingest{exchanges: make(map[exchangeKey]*exchange)}
	if in.streams, err = st.loadStreams(ctx); err != nil {
		return err
	}
	if err := st.db.Reader.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM orphan)").Scan(&in.orphans); err != nil {
		return err
	}
	zones, tail, err := ix.skipPruned(ctx, st, zones, in.streams)
	if err != nil {
		return err
	}
	statements, err := st.loadStatements(ctx)
	if err != nil {
		return err
	}
	ix.in, ix.trimmed = in, 0
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.zones, ix.indexed, ix.tail = zones, tail.first+uint64(len(tail.leaves)), tail
	ix.ring, ix.names, ix.enrolments = nil, make(map[keys.ID]string), nil
	for _, c := range statements {
		ix.applyStatement(c)
	}
	return nil
}

// checkLog checks that the index was made from this log: by the genesis and by
// the last entry of the full segments.
func (ix *Index) checkLog(ctx context.Context, st *store, durable uint64, last record.Hash) error {
	genesis, err := st.genesis(ctx)
	if err != nil || genesis == nil {
		return err
	}
	if size := ix.src.Size(); size < max(durable, 1) {
		return fmt.Errorf("%w: the log has %d entries, the index %d", errOtherLog, size, max(durable, 1))
	}
	first, err := ix.bundles.leaf(ctx, 0)
	if err != nil {
		return err
	}
	if string(first[:]) != string(genesis) {
		return fmt.Errorf("%w: the genesis is another", errOtherLog)
	}
	if durable == 0 || ix.checkKept(durable-1) != nil {
		return nil
	}
	got, err := ix.bundles.leaf(ctx, durable-1)
	if err != nil {
		return err
	}
	if got != last {
		return fmt.Errorf("%w: entry %d is another", errOtherLog, durable-1)
	}
	return nil
}

// genesis returns the leaf hash of entry 0, nil if nothing was indexed yet.
func (st *store) genesis(ctx context.Context) (leaf []byte, err error) {
	err = st.db.Reader.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = 'genesis'").Scan(&leaf)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return leaf, err
}

// loadZones returns the bounds of the full segments and the leaf hash of the
// last entry in them.
func (st *store) loadZones(ctx context.Context) (zones []zone, last record.Hash, err error) {
	rows, err := st.db.Reader.QueryContext(ctx, "SELECT seg, min_time, max_time, min_exchange, max_exchange, last FROM zone ORDER BY seg")
	if err != nil {
		return nil, last, err
	}
	defer rows.Close()
	for rows.Next() {
		var z zone
		var seg int
		var minX, maxX, leaf []byte
		if err := rows.Scan(&seg, &z.minTime, &z.maxTime, &minX, &maxX, &leaf); err != nil {
			return nil, last, err
		}
		if seg != len(zones) || len(minX) != 16 || len(maxX) != 16 || len(leaf) != len(last) {
			return nil, last, fmt.Errorf("%w: segment %d where %d should be", errDamaged, seg, len(zones))
		}
		z.minExchange, z.maxExchange, last = [16]byte(minX), [16]byte(maxX), record.Hash(leaf)
		zones = append(zones, z)
	}
	return zones, last, rows.Err()
}

func (st *store) loadStreams(ctx context.Context) (map[record.Stream]*stream, error) {
	rows, err := st.db.Reader.QueryContext(ctx, "SELECT id, producer, incarnation, size FROM stream")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	streams := make(map[record.Stream]*stream)
	for rows.Next() {
		s := new(stream)
		var producer, incarnation []byte
		if err := rows.Scan(&s.id, &producer, &incarnation, &s.size); err != nil {
			return nil, err
		}
		if len(producer) != len(keys.ID{}) || len(incarnation) != len(record.Incarnation{}) {
			return nil, fmt.Errorf("%w: stream %d has no name", errDamaged, s.id)
		}
		streams[record.Stream{Producer: keys.ID(producer), Incarnation: record.Incarnation(incarnation)}] = s
	}
	return streams, rows.Err()
}

func (st *store) loadStatements(ctx context.Context) ([]keyChange, error) {
	rows, err := st.db.Reader.QueryContext(ctx, "SELECT idx, entry FROM statement ORDER BY idx")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []keyChange
	for rows.Next() {
		var c keyChange
		var entry []byte
		if err := rows.Scan(&c.index, &entry); err != nil {
			return nil, err
		}
		if c.entry, err = record.Parse(entry); err != nil {
			return nil, fmt.Errorf("%w: statement %d: %w", errDamaged, c.index, err)
		}
		list = append(list, c)
	}
	return list, rows.Err()
}

// write keeps what a batch says, beside what the tail holds in memory.
func (st *store) write(ctx context.Context, b *batch) error {
	if len(b.facts) == 0 && len(b.patches) == 0 {
		return nil
	}
	tx, err := st.db.Writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, f := range b.facts {
		if _, err := tx.ExecContext(ctx, f.sql, f.args...); err != nil {
			return err
		}
	}
	for seg, terms := range b.patches {
		for t, members := range terms {
			if err := st.patch(ctx, tx, seg, t, members); err != nil {
				return err
			}
		}
	}
	return tx.Commit()
}

// patch gives entries of a full segment a term.
func (st *store) patch(ctx context.Context, tx *sql.Tx, seg uint64, t term, members []uint16) error {
	if x, ok := t.asID(); ok {
		return patchID(ctx, tx, seg, x, members)
	}
	var old []byte
	err := tx.QueryRowContext(ctx, "SELECT members FROM post WHERE seg = ? AND field = ? AND term = ?", seg, t.field, []byte(t.value)).Scan(&old)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	s := newSet(st.segment)
	if err := s.or(old); err != nil {
		return err
	}
	for _, lo := range members {
		s.add(lo)
	}
	var all []uint16
	s.each(func(lo uint16) { all = append(all, lo) })
	_, err = tx.ExecContext(ctx, "INSERT OR REPLACE INTO post VALUES (?, ?, ?, ?)", seg, t.field, []byte(t.value), encodeMembers(all, st.segment))
	return err
}
