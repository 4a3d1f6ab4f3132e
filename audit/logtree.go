package audit

import (
	"context"
	"strconv"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// recentBundles is for how many bundles the log's tree remembers what it needs
// for the root at every size: 8 KiB each.
const recentBundles = 1024

// logTree recomputes the log's tree and compares the tiles above level 0.
type logTree struct {
	a      *auditor
	full   edge          // over the roots of full bundles
	tail   []record.Hash // leaves of the last bundle, if it is partial
	levels []level       // of tiles, from level 1 up
	recent [recentBundles]recentBundle
	latest [recentBundles]bundleClaim
	next   uint64 // number of the next bundle

	bounded uint64 // bundles below this one lie under a checkpoint that a beacon held
}

// level is the last tile of a level, as far as it is filled.
type level struct {
	n      uint64 // number of the tile
	hashes []record.Hash
}

// recentBundle holds what the root at a size within a bundle follows from.
type recentBundle struct {
	n      uint64
	before edge // over the bundles before
	leaves []record.Hash
}

// bundleClaim is the latest time that a record in a bundle claims.
type bundleClaim struct {
	n uint64
	claim
}

// claim is a time that a record says of itself.
type claim struct {
	time   int64
	index  uint64
	stream record.Stream
	seq    uint64
	ok     bool
}

func newLogTree(a *auditor) *logTree { return &logTree{a: a} }

// append adds the leaves of the next bundle.
func (t *logTree) append(ctx context.Context, b *bundle) {
	r := &t.recent[b.n%recentBundles]
	r.n = b.n
	r.before.size, r.before.hashes = t.full.size, append(r.before.hashes[:0], t.full.hashes...)
	r.leaves = append(r.leaves[:0], b.leaves...)
	t.next = b.n + 1
	t.a.report.Checked.Tiles++
	if len(b.leaves) < tileWidth {
		t.tail = r.leaves
		return
	}
	t.tail = nil
	t.full.append(b.root)
	for h, l := b.root, 0; ; l++ {
		if l == len(t.levels) {
			t.levels = append(t.levels, level{})
		}
		at := &t.levels[l]
		at.hashes = append(at.hashes, h)
		if len(at.hashes) < tileWidth {
			return
		}
		h = subtree(at.hashes)
		t.compare(ctx, l)
		*at = level{n: at.n + 1, hashes: at.hashes[:0]}
	}
}

// finish compares the tiles that are left, and returns the root of all entries.
func (t *logTree) finish(ctx context.Context) record.Hash {
	for l := range t.levels {
		if len(t.levels[l].hashes) > 0 {
			t.compare(ctx, l)
		}
	}
	return rootOf(&t.full, t.tail)
}

// compare compares a tile that the entries give with the one that the log serves.
func (t *logTree) compare(ctx context.Context, l int) {
	at := t.levels[l]
	width := len(at.hashes)
	served, err := t.a.src.Tile(ctx, uint(l+1), at.n, width)
	path := client.TilePath(strconv.Itoa(l+1), at.n, width)
	covers := uint64(1) << (8 * (l + 1)) // entries under one hash
	first := at.n * tileWidth * covers
	if err != nil {
		t.a.failedRead(err, TileAltered, path+" cannot be right")
		return
	}
	t.a.report.Checked.Tiles++
	for i, h := range hashes(served) {
		if h != at.hashes[i] {
			from := first + uint64(i)*covers
			t.a.add(finding(TileAltered, "%s, hash %d, is not the root of entries %d to %d: either they or the tile have been altered",
				path, i, from, from+covers-1).at(from))
		}
	}
}

// edge returns the right edge of the tree over the full bundles.
func (t *logTree) edge() []record.Hash { return t.full.clone().hashes }

// rootAt returns the root of the first size entries, if that is not too long ago.
func (t *logTree) rootAt(size uint64) (record.Hash, bool) {
	n := size / tileWidth
	if n == t.next && size%tileWidth == 0 {
		return rootOf(&t.full, nil), true
	}
	r := &t.recent[n%recentBundles]
	if n >= t.next || r.n != n || size%tileWidth > uint64(len(r.leaves)) {
		return record.Hash{}, false
	}
	return rootOf(&r.before, r.leaves[:size%tileWidth]), true
}

// rootOf returns the root of a log that has the leaves behind the bundles.
func rootOf(bundles *edge, leaves []record.Hash) record.Hash {
	// A whole bundle is a complete subtree, so the edge is that of as many entries.
	entries := edge{bundles.size * tileWidth, bundles.hashes}
	return entries.rootWith(leaves)
}

// claim remembers the latest time that a record of the bundle claims.
func (t *logTree) claim(b *bundle) {
	latest := &t.latest[b.n%recentBundles]
	*latest = bundleClaim{n: b.n}
	for i := range b.items {
		it := &b.items[i]
		if it.kind == record.KindRecord && it.err == nil && !it.altered && (!latest.ok || it.time > latest.time) {
			latest.claim = claim{it.time, it.index, it.stream, it.seq, true}
		}
	}
}

// bound checks the records under a checkpoint that was cosigned at a time: they
// were in the log by then, so none can have been made later. It looks at whole
// bundles, the last of which may lie under a later checkpoint only.
func (t *logTree) bound(size uint64, unixNano int64) {
	if t.next > recentBundles {
		t.bounded = max(t.bounded, t.next-recentBundles)
	}
	for ; t.bounded < size/tileWidth; t.bounded++ {
		c := t.latest[t.bounded%recentBundles]
		if c.ok && c.n == t.bounded && c.time > unixNano+int64(t.a.Skew) {
			t.a.add(finding(TimeOrder, "the record says it was made at %s, but it stands under a checkpoint of %d entries that was cosigned at %s: it was prepared for later",
				clock(c.time), size, clock(unixNano)).at(c.index).of(t.a.nameOf(c.stream.Producer), c.stream, c.seq))
		}
	}
}
