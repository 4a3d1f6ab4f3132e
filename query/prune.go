package query

import (
	"context"
	"fmt"
	"math"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// PrunedSource is a [Source] whose oldest entries may be gone (tlog-tiles,
// "Pruning"). The index then begins at the minimum index: what was below cannot
// be searched for, and what remains is proven from the edges of the producers'
// trees that the log kept.
type PrunedSource interface {
	Source
	// Minimum is the index from which on all entries are there.
	Minimum() uint64
	// Statements returns the indices of the operator's statements, the genesis
	// first. The bundles that hold them are there always.
	Statements() []uint64
	// StreamAtMinimum returns how many records a stream has below the minimum
	// index, and the right edge of the tree of that many.
	StreamAtMinimum(ctx context.Context, s record.Stream) (size uint64, edge []record.Hash, err error)
	// StreamsAtMinimum visits all streams that have records there.
	StreamsAtMinimum(ctx context.Context, visit func(s record.Stream, size uint64, edge []record.Hash) error) error
}

// floor is the index of the first entry that can be shown.
func (ix *Index) floor() uint64 {
	if p, ok := ix.src.(PrunedSource); ok {
		return p.Minimum()
	}
	return 0
}

// checkKept returns an error if an entry is not there any more.
func (ix *Index) checkKept(index uint64) error {
	floor := ix.floor()
	if index >= floor {
		return nil
	}
	for _, at := range ix.src.(PrunedSource).Statements() {
		if at/bundleWidth == index/bundleWidth {
			return nil
		}
	}
	return prunedError(index, floor)
}

func prunedError(index, floor uint64) error {
	return fmt.Errorf("entry %d is %w: the log's entries begin at its minimum index, %d", index, storage.ErrPruned, floor)
}

// Trim lets Run delete what is below the log's minimum index, which has moved.
func (ix *Index) Trim() {
	if wake := ix.wake.Load(); wake != nil {
		(*wake)()
	}
}

// trimSegments is how many segments one transaction deletes.
const trimSegments = 8

// trim deletes what is below the minimum index, segment by segment. Searches do
// not see it in any case.
func (ix *Index) trim(ctx context.Context, floor uint64) error {
	ix.bundles.forget()
	st := ix.store()
	ix.mu.Lock()
	zones := append([]zone(nil), ix.zones...)
	for seg := range min(floor/ix.segment, uint64(len(zones))) {
		zones[seg] = newZone()
	}
	ix.zones = zones
	ix.mu.Unlock()
	for {
		list, err := indices(st.trimmable, floor/ix.segment, trimSegments)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			break
		}
		if err := st.trimSegments(ctx, list); err != nil {
			return err
		}
	}
	if err := st.trimFacts(ctx, floor); err != nil {
		return err
	}
	ix.trimmed = floor
	return nil
}

func (st *store) trimSegments(ctx context.Context, segs []uint64) error {
	tx, err := st.db.Writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	z := newZone()
	for _, seg := range segs {
		for _, table := range []string{"clock", "post", "id", "leaf"} {
			if _, err := tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE seg = ?", seg); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, "UPDATE zone SET min_time = ?, max_time = ?, min_exchange = ?, max_exchange = ? WHERE seg = ?",
			z.minTime, z.maxTime, z.minExchange[:], z.maxExchange[:], seg); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// cutRun keeps what of a run reaches beyond the floor. Runs do not overlap, so it is
// the last that begins below, if any.
const cutRun = `INSERT OR REPLACE INTO run SELECT stream, seq + (?1 - idx), ?1, n - (?1 - idx)
	FROM run WHERE idx = (SELECT max(idx) FROM run WHERE idx < ?1) AND idx + n > ?1`

// trimRows is how many rows of a table one transaction deletes.
const trimRows = 4096

// trims delete what lies below the floor, each at most so many rows. They find it by
// index: what stays is not looked at.
var trims = [...]string{
	`DELETE FROM run WHERE (stream, seq) IN (SELECT stream, seq FROM run WHERE idx < ? LIMIT ?)`,
	`DELETE FROM seal WHERE (stream, size) IN (SELECT stream, size FROM seal WHERE idx < ? LIMIT ?)`,
	`DELETE FROM beacon WHERE (stream, seq) IN (SELECT stream, seq FROM beacon WHERE idx < ? LIMIT ?)`,
	`DELETE FROM orphan WHERE (exchange, idx) IN (SELECT exchange, idx FROM orphan WHERE idx < ? LIMIT ?)`,
}

func (st *store) trimFacts(ctx context.Context, floor uint64) error {
	if _, err := st.db.Writer.ExecContext(ctx, cutRun, floor); err != nil {
		return err
	}
	for _, s := range trims {
		for n := int64(trimRows); n == trimRows; {
			res, err := st.db.Writer.ExecContext(ctx, s, floor, trimRows)
			if err != nil {
				return err
			}
			if n, err = res.RowsAffected(); err != nil {
				return err
			}
		}
	}
	return nil
}

// skipPruned lets an index that has read less than the log has pruned begin at the
// minimum index: with empty segments before it, the operator's statements, and the
// producers' trees as they were there. It returns the zones, and the tail with
// which to go on.
func (ix *Index) skipPruned(ctx context.Context, st *store, zones []zone, streams map[record.Stream]*stream) ([]zone, *tail, error) {
	durable := uint64(len(zones)) * ix.segment
	tail := newTail(durable, ix.segment)
	p, ok := ix.src.(PrunedSource)
	if !ok || p.Minimum() <= durable {
		return zones, tail, nil
	}
	floor := p.Minimum()
	tx, err := st.db.Writer.BeginTx(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	defer tx.Rollback()
	for ; tail.first+ix.segment <= floor; tail.first += ix.segment {
		z := newZone()
		last, err := ix.lastLeaf(ctx, tail.first+ix.segment-1)
		if err != nil {
			return nil, nil, err
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO zone VALUES (?, ?, ?, ?, ?, ?)", tail.first/ix.segment,
			z.minTime, z.maxTime, z.minExchange[:], z.maxExchange[:], last[:]); err != nil {
			return nil, nil, err
		}
		zones = append(zones, z)
	}
	tail.leaves = make([]record.Hash, floor-tail.first)
	for _, index := range p.Statements() {
		if index >= floor {
			break
		}
		entry, err := ix.bundles.entry(ctx, index)
		if err != nil {
			return nil, nil, err
		}
		if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO statement VALUES (?, ?)", index, entry); err != nil {
			return nil, nil, err
		}
		if leaf := record.LeafHash(entry); index == 0 {
			if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO meta VALUES ('genesis', ?)", leaf[:]); err != nil {
				return nil, nil, err
			}
		}
	}
	err = p.StreamsAtMinimum(ctx, func(key record.Stream, size uint64, _ []record.Hash) error {
		s := streams[key]
		if s == nil {
			s = &stream{id: int64(len(streams)) + 1}
			streams[key] = s
		}
		s.size = size
		_, err := tx.ExecContext(ctx, "INSERT INTO stream VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET size = excluded.size",
			s.id, key.Producer[:], key.Incarnation[:], size)
		return err
	})
	if err == nil && p.Minimum() != floor {
		err = fmt.Errorf("%w: the minimum index moves on from %d", ErrUnavailable, floor)
	}
	if err == nil {
		err = tx.Commit()
	}
	return zones, tail, err
}

// lastLeaf returns the leaf hash of the last entry of a segment below the floor, zero
// if the entry is gone: by the one that is there the index knows its log again.
func (ix *Index) lastLeaf(ctx context.Context, index uint64) (record.Hash, error) {
	if ix.checkKept(index) != nil {
		return record.Hash{}, nil
	}
	return ix.bundles.leaf(ctx, index)
}

// streamTree gives the tiles of a producer's tree, as far as the log has them.
func (ix *Index) streamTree(ctx context.Context, st *store, key record.Stream, id int64) (tiles.Reader, error) {
	t := streamTiles{ix: ix, st: st, id: id}
	p, ok := ix.src.(PrunedSource)
	if !ok {
		return t, nil
	}
	size, edge, err := p.StreamAtMinimum(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if size == 0 {
		return t, nil
	}
	t.base = size
	return tiles.NewPruned(t, size, edge)
}

// firstRun returns the first run of a stream that is not below the minimum index,
// from there on.
func (st *store) firstRun(stream int64, floor uint64) (r run, err error) {
	err = st.runFirst.QueryRow(stream, min(floor, math.MaxInt64)).Scan(&r.seq, &r.index, &r.n)
	if err == nil && r.index < floor {
		d := floor - r.index
		r = run{r.seq + d, floor, r.n - d}
	}
	return r, err
}

// cutBelow removes everything before begin.
func (s set) cutBelow(begin uint64) {
	for i := range s {
		switch first := uint64(i) * 64; {
		case first+64 <= begin:
			s[i] = 0
		case first < begin:
			s[i] &^= 1<<(begin-first) - 1
		}
	}
}
