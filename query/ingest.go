package query

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/sealtap/sealtap/record"
)

// batchBundles bounds how many bundles one transaction covers.
const batchBundles = 16

// ingest is what following the log needs to remember. Only Run uses it.
type ingest struct {
	exchanges map[exchangeKey]*exchange // those that the tail has records of
	orphans   bool                      // whether there is any row in the table
	streams   map[record.Stream]*stream
	skipped   uint64 // entries of unknown kinds
	malformed uint64
}

// batch collects what some consecutive entries say, before any of it is kept.
type batch struct {
	first   uint64
	leaves  []record.Hash
	terms   []posting // of entries in the tail
	ids     []idPosting
	clock   []int64
	zone    zone
	patches map[uint64]map[term][]uint16 // for full segments, by segment
	facts   []fact
	changes []keyChange
	touched map[*stream]*run // the run that is open
}

// posting gives an entry of the tail a term.
type posting struct {
	lo uint16
	term
}

// fact is a row for a table that is not cut into segments.
type fact struct {
	sql  string
	args []any
}

// keyChange is a statement of the operator.
type keyChange struct {
	index uint64
	entry record.Entry
}

func (b *batch) add(sql string, args ...any) { b.facts = append(b.facts, fact{sql, args}) }

// step indexes the next entries, at most to the end of the segment.
func (ix *Index) step(ctx context.Context) error {
	b := &batch{first: ix.indexed, zone: ix.tail.zone, patches: make(map[uint64]map[term][]uint16), touched: make(map[*stream]*run)}
	end := min(ix.src.Size(), ix.tail.first+ix.segment, b.first-b.first%bundleWidth+batchBundles*bundleWidth)
	for index := b.first; index < end; index++ {
		// The whole bundle at once, so that a growing one is not read for each entry.
		n := index / bundleWidth
		entries, err := ix.bundles.get(ctx, n, int(min(end-n*bundleWidth, bundleWidth)))
		if err != nil {
			return err
		}
		entry := entries[index%bundleWidth]
		if err := ix.take(ctx, b, index, entry); err != nil {
			return fmt.Errorf("indexing entry %d: %w", index, err)
		}
	}
	b.finishStreams()
	if b.first == 0 && len(b.leaves) > 0 {
		b.add("INSERT OR REPLACE INTO meta VALUES ('genesis', ?)", b.leaves[0][:])
	}
	if err := ix.store().write(ctx, b); err != nil {
		return fmt.Errorf("writing search index: %w", err)
	}
	ix.apply(b)
	if ix.tail.full() {
		return ix.rotate(ctx)
	}
	return nil
}

// take indexes one entry. Only trouble with log or file is an error: what an
// entry says never is.
func (ix *Index) take(ctx context.Context, b *batch, index uint64, entry []byte) error {
	e, err := record.ParseBrief(entry)
	if err != nil {
		b.leaves = append(b.leaves, record.LeafHash(entry))
		ix.in.malformed++
		ix.log.Warn("entry is malformed and cannot be searched for", "index", index, "error", err, "malformed", ix.in.malformed)
		return nil
	}
	b.leaves = append(b.leaves, e.Leaf)
	switch {
	case e.Record != nil:
		return ix.takeRecord(ctx, b, index, &e)
	case e.Seal != nil:
		if e.Seal.Size <= math.MaxInt64 {
			b.add("INSERT OR IGNORE INTO seal VALUES (?, ?, ?)", ix.stream(b, e.Seal.Stream).id, e.Seal.Size, index)
		}
	case e.Genesis != nil, e.KeyChange != nil, e.Statement != nil:
		b.changes = append(b.changes, keyChange{index, e})
		b.add("INSERT INTO statement VALUES (?, ?)", index, entry)
	default:
		ix.in.skipped++
		ix.log.Info("entry is of a kind that this version does not know", "index", index, "kind", e.Kind, "skipped", ix.in.skipped)
	}
	return nil
}

func (ix *Index) takeRecord(ctx context.Context, b *batch, index uint64, e *record.Entry) error {
	r, lo := e.Record, uint16(index-ix.tail.first)
	t := r.GetTime()
	b.clock = append(b.clock, t)
	b.zone.minTime, b.zone.maxTime = min(b.zone.minTime, t), max(b.zone.maxTime, t)
	b.post(lo, ownTerms(r))
	// A beacon without a checkpoint proves life, but no time.
	if len(r.GetBeacon().GetCheckpoint()) > 0 && r.GetSequence() <= math.MaxInt64 {
		b.add("INSERT OR IGNORE INTO beacon VALUES (?, ?, ?)", ix.stream(b, r.Stream).id, r.GetSequence(), index)
	}
	if err := ix.join(ctx, b, index, r); err != nil {
		return err
	}
	return ix.grow(ctx, b, index, r, e.Leaf)
}

func (b *batch) post(lo uint16, terms []term) {
	for _, t := range terms {
		if x, ok := t.asID(); ok {
			b.ids = append(b.ids, idPosting{x, lo})
		} else {
			b.terms = append(b.terms, posting{lo, t})
		}
	}
}

// apply shows a written batch to searches.
func (ix *Index) apply(b *batch) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	t := ix.tail
	t.leaves = append(t.leaves, b.leaves...)
	t.clock = append(t.clock, b.clock...)
	t.zone = b.zone
	for _, p := range b.terms {
		t.add(p)
	}
	for _, p := range b.ids {
		t.ids.add(p)
	}
	for _, c := range b.changes {
		ix.applyStatement(c)
	}
	ix.indexed = b.first + uint64(len(b.leaves))
}

// applyStatement follows the operator's statements. The caller holds the lock.
func (ix *Index) applyStatement(c keyChange) {
	var err error
	switch {
	case c.entry.Genesis != nil && ix.ring == nil:
		ix.ring, err = record.NewKeyring(c.entry.Genesis, nil)
	case c.entry.KeyChange != nil && ix.ring != nil:
		if err = ix.ring.Apply(c.entry.KeyChange, c.index); err == nil {
			ix.enrol(c.entry.KeyChange, c.index)
		}
	case c.entry.Statement != nil && ix.ring != nil:
		err = ix.ring.ApplyStatement(c.entry.Statement, c.index)
	default:
		err = errors.New("a second genesis, or a key change without one")
	}
	if err != nil {
		ix.log.Warn("statement of the operator is not acceptable", "index", c.index, "error", err)
	}
}

// rotate writes the full tail and starts a new one.
func (ix *Index) rotate(ctx context.Context) error {
	sizes := make(map[int64]uint64)
	for _, s := range ix.in.streams {
		sizes[s.id] = s.size
	}
	if err := ix.store().writeSegment(ctx, ix.tail, sizes); err != nil {
		return fmt.Errorf("writing segment %d of search index: %w", ix.tail.first/ix.segment, err)
	}
	ix.mu.Lock()
	ix.zones = append(ix.zones, ix.tail.zone)
	ix.tail = newTail(ix.tail.first+ix.segment, ix.segment)
	ix.mu.Unlock()
	ix.in.exchanges = make(map[exchangeKey]*exchange)
	for _, s := range ix.in.streams {
		if !s.active {
			s.tree = nil // many streams never grow again
		}
		s.active = false
	}
	return nil
}
