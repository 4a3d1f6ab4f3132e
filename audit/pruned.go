package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// PrunedSource is a [Source] of a log that may have let go of its oldest entries;
// *[client.Source] is one. What it says is believed only as far as the checkpoint
// and the operator's statements bear it out.
type PrunedSource interface {
	Source
	Retention(ctx context.Context) (*client.Retention, error)
}

// askRetention asks where the log begins, before its head is fetched: a minimum
// index of later lies under no earlier head.
func (a *auditor) askRetention(ctx context.Context) {
	a.kept = new(client.Retention)
	src, ok := a.src.(PrunedSource)
	if !ok {
		return
	}
	r, err := src.Retention(ctx)
	if err != nil {
		a.keptErr = err // it matters only if something turns out to be missing
		return
	}
	a.kept = r
}

// startPruned lets the audit begin at the minimum index: with the edge of the
// tree from the tiles above level 0, which must stand under the checkpoint; with
// the operator's statements from before, which are kept and proven; and with the
// edges of the producers' trees, which their next seals prove or refute. It reports
// whether there is anything to go on with.
func (a *auditor) startPruned(ctx context.Context) bool {
	m := a.kept.Minimum
	if m == 0 {
		return true
	}
	a.report.Checked.Pruned = m
	if m%tileWidth != 0 || m > a.head.Size {
		a.add(finding(RecordMissing, "the log says that its entries begin at index %d, which cannot be where a log of %d entries was pruned", m, a.head.Size))
		return false
	}
	edge, err := a.tree.Edge(ctx, m)
	if err != nil {
		a.failedRead(err, TileAltered, fmt.Sprintf("the edge of the tree at the minimum index %d is not what stands under the checkpoint", m))
		return false
	}
	if err := a.log.startAt(ctx, m, edge); err != nil {
		a.failedRead(err, TileAltered, "a tile below the minimum index is not what stands under the checkpoint")
		return false
	}
	if a.taken = m; a.TreeOnly {
		return true
	}
	return a.readStatements(ctx) && a.startStreams()
}

// readStatements takes the operator's statements from below the minimum index.
func (a *auditor) readStatements(ctx context.Context) bool {
	list := a.kept.Statements
	if len(list) == 0 || list[0] != 0 {
		a.add(finding(GenesisInvalid, "the log no longer shows its genesis, without which nothing says who may write to it").at(0))
		return false
	}
	const atATime = 256
	for len(list) > 0 {
		n := min(atATime, len(list))
		entries, err := a.tree.Entries(ctx, list[:n]...)
		if errors.Is(err, client.ErrPruned) || errors.Is(err, client.ErrNotFound) {
			a.add(finding(RecordMissing, "the log names the places of its operator's statements, but does not show what stands there: %v", err).at(list[0]))
			return false
		}
		if err != nil {
			a.failedRead(err, EntryAltered, "a statement of the operator from below the minimum index cannot be proven")
			return false
		}
		b := bundle{parts: make([]part, 0, n)}
		for i, entry := range entries {
			it := item{index: list[i], leaf: record.LeafHash(entry)}
			if a.parse(&it, entry, &b); it.err == nil && (it.kind == record.KindRecord || it.kind == record.KindSeal) {
				continue // it may be named, but it says nothing without the others of its stream
			}
			a.producers.entry(ctx, &it)
		}
		list = list[n:]
	}
	return true
}

// startStreams takes the producers' trees as the log says they were.
func (a *auditor) startStreams() bool {
	for i, at := range a.kept.Streams {
		tree, err := newEdge(at.Size, at.Edge)
		if err != nil || at.Size == 0 || a.producers.streams[at.Stream] != nil {
			a.add(finding(SealMismatch, "what the log says about the tree of producer %s at its minimum index, %d records with an edge of %d hashes, cannot be",
				a.nameOf(at.Stream.Producer), at.Size, len(at.Edge)))
			return false
		}
		s := a.producers.stream(at.Stream)
		s.base, s.next, s.order = at.Size, at.Size, i
		s.past = history{tree: tree, old: tree.clone(), mid: tree.clone()}
	}
	return a.checkSums()
}

// checkSums compares the number of records that the streams are said to have below
// the minimum index with the number of entries there. An entry is a record, a seal
// with one record or more before it, or a statement of the operator.
func (a *auditor) checkSums() bool {
	m, records := a.kept.Minimum, uint64(0)
	for _, at := range a.kept.Streams {
		if at.Size >= m-records { // the genesis is none
			a.add(finding(SealMismatch, "the log says that its producers have more records below its minimum index, %d, than there are entries", m))
			return false
		}
		records += at.Size
	}
	if statements := uint64(len(a.kept.Statements)); m > statements && (m-statements+1)/2 > records {
		a.add(finding(RecordMissing, "the log says that its producers have %d records and its operator %d statements below its minimum index, %d: with their seals these are fewer entries than there are",
			records, statements, m))
		return false
	}
	return true
}

// startAt begins the log's tree at a number of whole bundles, of which it is told
// the edge. It compares the tiles from before: all of them must be there still.
func (t *logTree) startAt(ctx context.Context, size uint64, hashes []record.Hash) error {
	n := size / tileWidth
	full, err := newEdge(n, hashes)
	if err != nil {
		return err
	}
	t.full, t.next, t.bounded = full, n, n
	for l := uint(1); size>>(8*l) > 0; l++ {
		nodes := size >> (8 * l) // of this level of tiles
		for first := uint64(0); first < nodes; first += tileWidth {
			// Read through the tree, which proves every tile that it reads.
			hashes, err := t.a.tree.Nodes(ctx, 8*l, first, min(first+tileWidth, nodes))
			if err != nil {
				return err
			}
			if len(hashes) == tileWidth {
				t.a.report.Checked.Tiles++
				continue
			}
			for len(t.levels) < int(l) {
				t.levels = append(t.levels, level{n: size >> (8 * (uint(len(t.levels)) + 2))})
			}
			t.levels[l-1].hashes = hashes
		}
		for len(t.levels) < int(l) {
			t.levels = append(t.levels, level{n: size >> (8 * (uint(len(t.levels)) + 2))})
		}
	}
	return nil
}

// gone judges what could not be read: that the log no longer keeps it is for the
// log to say of what is below its minimum index only.
func (a *auditor) gone(ctx context.Context, b *bundle) {
	first := b.n * tileWidth
	if src, ok := a.src.(PrunedSource); ok && (errors.Is(b.err, client.ErrPruned) || errors.Is(b.err, client.ErrNotFound)) {
		now, err := src.Retention(ctx)
		switch {
		case err != nil:
			a.unavailable(errors.Join(b.err, err))
		case now.Minimum > first:
			a.unavailable(fmt.Errorf("the log was pruned to %d while it was audited: audit it again", now.Minimum))
		case now.Minimum == 0:
			a.unavailable(b.err) // a log that was never pruned has promised nothing in particular
		default:
			a.add(finding(RecordMissing, "the log says that it keeps all entries from index %d on, but not those from %d on: %v", now.Minimum, first, b.err).at(first))
		}
		return
	}
	a.unavailable(b.err)
	if a.keptErr != nil {
		a.unavailable(fmt.Errorf("asking where the log begins: %w", a.keptErr))
	}
}

// finishPruned checks that the operator's policy allowed what was let go, and
// compares an earlier audit's head that lies below.
func (a *auditor) finishPruned(ctx context.Context) {
	if a.kept.Minimum == 0 {
		return
	}
	a.compareBelow(ctx)
	if a.TreeOnly {
		a.add(notice(Pruned, "the first %d entries are not there any more; whether the operator allows that was not looked at", a.kept.Minimum).at(0))
		return
	}
	if a.producers.ring == nil {
		return // there is a finding already
	}
	why, err := a.permission(ctx)
	switch {
	case errors.Is(err, client.ErrNotAllowed):
		a.add(finding(RecordMissing, "the first %d entries are not there any more, and %v", a.kept.Minimum, err).at(0))
	case err != nil:
		a.failedRead(err, RecordMissing, fmt.Sprintf("whether the first %d entries may be gone cannot be told", a.kept.Minimum))
	default:
		a.add(notice(Pruned, "the first %d entries are not there any more, as the operator allows: %s. They were not audited; evidence from before still proves what they said",
			a.kept.Minimum, why).at(0))
	}
}

// permission checks the decision that the log shows, and returns the policy in words.
func (a *auditor) permission(ctx context.Context) (string, error) {
	d := client.Decision{
		Minimum: a.kept.Minimum, At: a.kept.At, Old: a.kept.Old, Origin: a.head.Origin, Size: a.head.Size, Policy: a.Policy, Ring: a.producers.ring,
		IsPrefix: func(ctx context.Context, head checkpoint.Body) (bool, error) {
			return a.producers.isPrefix(ctx, head, a.head.Size)
		},
	}
	why, err := d.Check(ctx)
	if f := (*client.ForkedError)(nil); errors.As(err, &f) {
		a.add(Finding{Code: Fork, Severity: Finds, Heads: []string{string(f.Checkpoint.Note), string(a.head.Note)},
			Detail: fmt.Sprintf("the checkpoint of %d entries that the log shows for what it let go is not one of this history", f.Checkpoint.Size)})
	}
	return why, err
}

// comparable reports whether the tiles that a pruned log keeps give the root at a
// size: below the minimum index they do so for whole bundles only.
func (a *auditor) comparable(size uint64) bool {
	return size >= a.kept.Minimum || size%tileWidth == 0
}

// compareBelow compares an earlier audit's head that lies below the minimum index:
// if the tiles that are left give no root at its size, then as far as its last
// whole bundle, whose edge the state file holds.
func (a *auditor) compareBelow(ctx context.Context) {
	before := a.before.head
	if before == nil || before.Size >= a.kept.Minimum {
		return
	}
	if a.comparable(before.Size) {
		root, err := a.tree.RootAt(ctx, before.Size)
		if err != nil {
			a.failedRead(err, TileAltered, "the head of an earlier audit cannot be compared")
			return
		}
		a.compareRoot(root)
		return
	}
	whole := before.Size - before.Size%tileWidth
	if whole > 0 && a.before.edge == nil {
		a.add(notice(Pruned, "the head of %d entries that an earlier audit verified lies below the minimum index, and its state file tells too little to compare it: only the witnesses vouch that the log has not forked since", before.Size))
		return
	}
	edge, err := a.tree.Edge(ctx, whole)
	switch {
	case err != nil:
		a.failedRead(err, TileAltered, "the head of an earlier audit cannot be compared")
	case slices.Equal(edge, a.before.edge):
		a.report.Checked.Consistent = true
	default:
		a.add(Finding{Code: Fork, Severity: Finds, Heads: []string{string(before.Note), string(a.head.Note)}, Detail: fmt.Sprintf(
			"the log has another history than an earlier audit verified: its first %d entries are others", whole)})
	}
}
