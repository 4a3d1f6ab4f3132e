package query

import (
	"context"
	"fmt"
	"math"

	"github.com/sealtap/sealtap/record"
)

// search is a parsed search.
type search struct {
	clauses []clause // at least one
	since   int64    // nanoseconds since the Unix epoch, inclusive
	until   int64    // exclusive, but for math.MaxInt64
	limit   int
	before  uint64 // only entries with a lower index
}

// clause is met by the entries that have any of its terms.
type clause struct {
	field  field
	values []string
	prefix bool // the values are prefixes
}

// last is the end of the time asked for, inclusive.
func (q *search) last() int64 {
	if q.until == math.MaxInt64 || q.until == math.MinInt64 {
		return q.until
	}
	return q.until - 1
}

func (q *search) timed() bool { return q.since != math.MinInt64 || q.until != math.MaxInt64 }

func (q *search) within(t int64) bool {
	return t >= q.since && (t < q.until || q.until == math.MaxInt64)
}

// search returns the indices of the newest records that match, newest first, at
// most limit of those under size, and whether there are more.
func (ix *Index) search(ctx context.Context, q *search, size uint64) (found []uint64, more bool, err error) {
	top := min(size, q.before)
	want := q.limit + 1
	ix.mu.RLock()
	st, zones, tail := ix.st, ix.zones, ix.tail
	top = min(top, ix.indexed)
	if top > tail.first && overlap(q, &tail.zone) {
		found, err = ix.searchView(q, tail, tail.first, top, want)
	}
	ix.mu.RUnlock()
	top = min(top, uint64(len(zones))*ix.segment)
	if err == nil && len(found) < want {
		var list []uint64
		list, err = ix.searchStored(ctx, q, st, zones, top, want-len(found))
		found = append(found, list...)
	}
	if err != nil {
		return nil, false, ix.report(st, fmt.Errorf("searching: %w", err))
	}
	if len(found) == want {
		return found[:q.limit], true, nil
	}
	return found, false, nil
}

// searchStored searches full segments, newest first.
func (ix *Index) searchStored(ctx context.Context, q *search, st *store, zones []zone, top uint64, want int) (found []uint64, err error) {
	first := &q.clauses[0]
	batch := 2 // segments at a time: many matches are in the newest, few need a look at all
	for top > 0 && len(found) < want {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%w: it took too long, make it narrower: %w", ErrUnavailable, err)
		}
		below := (top + ix.segment - 1) / ix.segment
		segs := []part{{seg: below - 1}}
		var known term
		if first.single() {
			known = term{first.field, first.values[0]}
			segs, err = st.withTerm(q, known, below, batch)
			if err != nil || len(segs) == 0 {
				return found, err
			}
			batch = min(2*batch, 64)
		}
		for _, p := range segs {
			if p.seg >= below {
				return nil, fmt.Errorf("%w: segment %d of %d", errDamaged, p.seg, below)
			}
			if len(found) < want && overlap(q, &zones[p.seg]) {
				list, err := ix.searchView(q, stored{st, p.seg, known, p.blob}, p.seg*ix.segment, top, want-len(found))
				if err != nil {
					return nil, err
				}
				found = append(found, list...)
			}
			top = min(top, p.seg*ix.segment)
		}
	}
	return found, nil
}

// single reports whether the clause asks for one exact term.
func (c *clause) single() bool { return !c.prefix && len(c.values) == 1 }

// withTerm returns the newest segments below one that have the term, at most n,
// newest first.
func (st *store) withTerm(q *search, t term, below uint64, n int) ([]part, error) {
	if x, ok := t.asID(); ok {
		return st.withID(q, x, below, n)
	}
	return parts(st.posts, t.field, []byte(t.value), below, q.since, q.last(), n)
}

// overlap reports whether a segment can hold a record from the time asked for.
func overlap(q *search, z *zone) bool {
	return z.minTime <= z.maxTime && z.maxTime >= q.since && (z.minTime < q.until || q.until == math.MaxInt64)
}

// searchView returns the newest entries of one segment that match, at most want
// of those with an index below top.
func (ix *Index) searchView(q *search, v view, first, top uint64, want int) ([]uint64, error) {
	var all set
	// The search has exact clauses first: where they leave nothing, prefixes,
	// which can have many terms, cost nothing.
	for i := range q.clauses {
		s := newSet(ix.segment)
		if err := q.clauses[i].collect(v, s); err != nil {
			return nil, err
		}
		if all == nil {
			all = s
			all.cut(min(top-first, ix.segment))
			all.cutBelow(max(ix.floor(), first) - first)
		} else {
			all.and(s)
		}
		if all.empty() {
			return nil, nil
		}
	}
	if q.timed() {
		if err := ix.keepTimes(q, v, all); err != nil {
			return nil, err
		}
	}
	var list []uint64
	for _, lo := range all.last(want) {
		list = append(list, first+uint64(lo))
	}
	return list, nil
}

func (c *clause) collect(v view, s set) error {
	for _, value := range c.values {
		var err error
		if c.prefix {
			err = v.orPrefix(s, term{c.field, value})
		} else {
			err = v.or(s, term{c.field, value})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keepTimes removes the records from outside the time asked for.
func (ix *Index) keepTimes(q *search, v view, all set) error {
	records := newSet(ix.segment)
	if err := v.or(records, term{fieldRecord, ""}); err != nil {
		return err
	}
	var order []uint16
	records.each(func(lo uint16) { order = append(order, lo) })
	i := 0
	err := v.times(func(t int64) bool {
		if i == len(order) {
			return false
		}
		if !q.within(t) {
			all.remove(order[i])
		}
		i++
		return true
	})
	if err == nil && i != len(order) {
		err = fmt.Errorf("%w: %d times for %d records", errDamaged, i, len(order))
	}
	return err
}

// LeafIndex returns the index of the entry with the given leaf hash, the newest
// if there are several. It can lie beyond the published size.
func (ix *Index) LeafIndex(ctx context.Context, leaf record.Hash) (index uint64, ok bool, err error) {
	ix.mu.RLock()
	st := ix.st
	index, ok = ix.tail.find(leaf)
	ix.mu.RUnlock()
	if ok && ix.checkKept(index) == nil {
		return index, true, nil
	}
	list, err := st.findLeaf(leaf)
	if err != nil {
		return 0, false, ix.report(st, fmt.Errorf("searching for a leaf: %w", err))
	}
	for _, index := range list {
		if ix.checkKept(index) != nil {
			continue
		}
		// The index keeps a part of the hash only: the log decides.
		h, err := ix.bundles.leaf(ctx, index)
		if err != nil {
			return 0, false, err
		}
		if h == leaf {
			return index, true, nil
		}
	}
	return 0, false, nil
}
