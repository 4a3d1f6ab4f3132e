package query

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// stream is what following the log remembers of a producer's tree.
type stream struct {
	id     int64
	size   uint64        // records in the tree
	tree   *tiles.Writer // nil until the tree grows
	active bool          // whether it has grown in this segment
	broken bool          // whether a record came that does not continue the tree
}

// run is a number of records with consecutive sequences and indices.
type run struct{ seq, index, n uint64 }

// stream returns the stream, which may be a new one.
func (ix *Index) stream(b *batch, key record.Stream) *stream {
	if s := ix.in.streams[key]; s != nil {
		return s
	}
	s := &stream{id: int64(len(ix.in.streams)) + 1}
	ix.in.streams[key] = s
	b.add("INSERT INTO stream VALUES (?, ?, ?, 0)", s.id, key.Producer[:], key.Incarnation[:])
	return s
}

// grow appends a record to its producer's tree. Where the log has a hole or a
// fork, which it should have refused, the record is found by searches, but
// cannot be proven in the producer's tree: that is for an audit to judge.
func (ix *Index) grow(ctx context.Context, b *batch, index uint64, r *record.Record, leaf record.Hash) error {
	s := ix.stream(b, r.Stream)
	if r.GetSequence() != s.size {
		if !s.broken { // and likely all after it: said once
			ix.log.Warn("record does not continue its producer's tree: audit the log", "index", index,
				"producer", r.Stream.Producer, "incarnation", r.Stream.Incarnation, "sequence", r.GetSequence(), "expected", s.size)
		}
		s.broken = true
		return nil
	}
	if s.tree == nil {
		var err error
		if s.tree, err = ix.restore(ctx, r.Stream, s); err != nil {
			return err
		}
	}
	s.tree.Append(leaf)
	s.active = true
	if open := b.touched[s]; open != nil && open.seq+open.n == s.size && open.index+open.n == index {
		open.n++
	} else {
		b.closeRun(s)
		b.touched[s] = &run{s.size, index, 1}
	}
	s.size++
	return nil
}

// restore continues a tree from its tiles.
func (ix *Index) restore(ctx context.Context, key record.Stream, s *stream) (*tiles.Writer, error) {
	if s.size == 0 {
		return tiles.NewWriter(), nil
	}
	tree, err := ix.streamTree(ctx, ix.store(), key, s.id)
	if err != nil {
		return nil, err
	}
	w, err := tiles.RestoreWriter(ctx, tree, s.size)
	if errors.Is(err, tiles.ErrIncomplete) {
		err = fmt.Errorf("%w: %w", errDamaged, err)
	}
	return w, err
}

func (b *batch) closeRun(s *stream) {
	if r := b.touched[s]; r != nil {
		b.add("INSERT INTO run VALUES (?, ?, ?, ?)", s.id, r.seq, r.index, r.n)
	}
}

// finishStreams writes down how the trees have grown. Tiles of level 0 are not
// kept: the leaves of a producer's tree are leaves of the log.
func (b *batch) finishStreams() {
	for s := range b.touched {
		b.closeRun(s)
		save := func(t tiles.Tile) {
			if t.Level > 0 {
				b.add("INSERT OR REPLACE INTO tile VALUES (?, ?, ?, ?)", s.id, t.Level, t.N, t.Hashes)
			}
		}
		full := s.tree.Complete()
		for _, t := range full {
			save(t)
		}
		if len(full) > 0 {
			for _, t := range s.tree.Partial() {
				save(t)
			}
		}
	}
}

// streamTiles gives the tiles of a producer's tree.
type streamTiles struct {
	ix *Index
	st *store
	id int64
	// base is the number of records below the log's minimum index, in the place of
	// whose hashes are zeroes.
	base uint64
}

// Tile implements [tiles.Reader].
func (t streamTiles) Tile(ctx context.Context, level uint, n uint64) ([]byte, error) {
	if level > 0 {
		hashes, err := blob(t.st.tile, t.id, level, n)
		if err != nil {
			return nil, fmt.Errorf("reading producer tile %d/%d: %w", level, n, err)
		}
		return hashes, nil
	}
	begin, end := n*tiles.Width, (n+1)*tiles.Width
	next := min(max(begin, t.base), end)
	hashes := make([]byte, int(next-begin)*len(record.Hash{}), tiles.Size)
	if next == end {
		return hashes, nil
	}
	runs, err := t.st.runsBetween(t.id, next, end)
	if err != nil {
		return nil, fmt.Errorf("reading producer tile 0/%d: %w", n, err)
	}
	for _, r := range runs {
		for ; next < end && r.seq <= next && next < r.seq+r.n; next++ {
			leaf, err := t.ix.bundles.leaf(ctx, r.index+next-r.seq)
			if err != nil {
				return nil, err
			}
			hashes = append(hashes, leaf[:]...)
		}
	}
	return hashes, nil
}

// runsBetween returns the runs that hold sequences from begin to before end.
func (st *store) runsBetween(stream int64, begin, end uint64) ([]run, error) {
	first, ok, err := st.runAt(stream, begin)
	if err != nil || !ok {
		return nil, err
	}
	rows, err := st.runs.Query(stream, first.seq, end)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []run
	for rows.Next() {
		var r run
		if err := rows.Scan(&r.seq, &r.index, &r.n); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

// runAt returns the last run that begins at or before a sequence.
func (st *store) runAt(stream int64, seq uint64) (r run, ok bool, err error) {
	err = st.run.QueryRow(stream, seq).Scan(&r.seq, &r.index, &r.n)
	if errors.Is(err, sql.ErrNoRows) {
		return run{}, false, nil
	}
	return r, err == nil, err
}

// streamID returns the number of a stream in the file, 0 if it is not known.
func (st *store) streamID(ctx context.Context, s record.Stream) (id int64, err error) {
	err = st.db.Reader.QueryRowContext(ctx, "SELECT id FROM stream WHERE producer = ? AND incarnation = ?",
		s.Producer[:], s.Incarnation[:]).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return id, err
}
