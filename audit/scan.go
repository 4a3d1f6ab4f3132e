package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

const tileWidth = client.TileWidth

// bundle is what a worker makes of one entry bundle: all that can be done to it
// without knowing the bundles before.
type bundle struct {
	n         uint64
	leaves    []record.Hash
	root      record.Hash  // of the leaves, if there are tileWidth of them
	items     []item       // one for each leaf
	parts     []part       // of items
	entries   [][]byte     // while it is read
	raw, tile []byte       // what it was read into
	facts     record.Facts // of the entry that is read
	found     []Finding
	doubts    []doubt
	err       error // something could not be fetched: nothing else is set
}

// doubt is an entry that does not hash to what its tile says, where it cannot be
// proven at once which of the two is wrong.
type doubt struct {
	index uint64
	path  string // of the tile
}

// item is what is kept of an entry until its place in a producer's tree is known.
type item struct {
	index   uint64
	leaf    record.Hash
	kind    record.Kind
	altered bool  // its bytes are not those that were hashed: they are a claim at best
	err     error // it does not parse; nothing below is set

	stream   record.Stream // of records and seals
	seq      uint64        // of records
	time     int64         // of records
	about    any           // of records: *sealtapv1.Start, *sealtapv1.Gap, *sealtapv1.Stop, *sighting, a stage or nil
	openings []error       // of records: what is wrong with openings at hand
	part     *part         // of records of exchanges; until they are taken
	beacon   int64         // of beacons that hold good: when the quorum cosigned, Unix nanoseconds; else 0

	seal      *record.Seal
	sealErr   error // of its signature
	sealKnown bool  // sealErr says something: the key was known already
	genesis   *record.Genesis
	change    *record.KeyChange
	statement *record.Statement
	entry     []byte // of the operator's: genesis, change and statement
}

// stage is what is kept of records that no check is interested in.
type stage byte

const (
	isRequest stage = iota + 1
	isResponse
	isUnknown // a response, whose outcome is unknown
)

// farAway bounds times, in Unix nanoseconds (the year 2116), so that arithmetic on
// them cannot overflow.
const farAway = 1 << 62

// sighting is a beacon with a checkpoint that is verified as far as the policy goes.
type sighting struct {
	cp     *policy.Checkpoint // nil if there is an err
	err    error
	origin string // of the log that it is about, whatever else is wrong with it
	signed []byte // the checkpoint, if there is an err
	quorum error  // why the checkpoint does not satisfy the policy, so that it bounds no time; nil if it does
}

// scan reads all entries, each bundle on a worker of its own, and consumes the
// bundles in order. At most twice Parallel bundles are in memory. It reports
// whether it came to the end.
func (a *auditor) scan(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	type job struct {
		n    uint64
		done chan *bundle
	}
	jobs, order := make(chan job), make(chan job, a.Parallel)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range a.Parallel {
		wg.Go(func() {
			for j := range jobs {
				j.done <- a.readBundle(ctx, j.n)
			}
		})
	}
	wg.Go(func() {
		defer close(order)
		defer close(jobs)
		for n := max(a.kept.Minimum, a.taken) / tileWidth; n < (a.head.Size+tileWidth-1)/tileWidth; n++ {
			j := job{n, make(chan *bundle, 1)}
			select {
			case order <- j:
			case <-ctx.Done():
				return
			}
			select {
			case jobs <- j:
			case <-ctx.Done():
				j.done <- &bundle{n: n, err: ctx.Err()}
				return
			}
		}
	})
	for j := range order {
		b := <-j.done
		if b.err != nil {
			a.keepStarted()
			a.gone(ctx, b)
			return false
		}
		n := b.n
		a.consume(ctx, b)
		a.reuse(b)
		if a.remembers && time.Since(a.keptAt) > saveEvery {
			a.keepStarted()
		}
		if a.Progress != nil {
			a.Progress(min((n+1)*tileWidth, a.head.Size), a.head.Size)
		}
	}
	if err := ctx.Err(); err != nil {
		a.unavailable(fmt.Errorf("auditing entries: %w", err))
		return false
	}
	return true
}

// consume takes the next bundle in order.
func (a *auditor) consume(ctx context.Context, b *bundle) {
	for _, x := range b.found {
		a.add(x)
	}
	a.doubts = append(a.doubts, b.doubts[:min(len(b.doubts), limit-len(a.doubts))]...)
	a.log.append(ctx, b)
	if s := a.before.head; s != nil && s.Size < a.head.Size && s.Size/tileWidth == b.n {
		if root, ok := a.log.rootAt(s.Size); ok {
			a.compareRoot(root)
		}
	}
	if a.TreeOnly {
		end := b.n*tileWidth + uint64(len(b.leaves))
		a.report.Checked.Entries += end - max(a.taken, b.n*tileWidth)
		a.taken = end
	}
	for i := range b.items {
		if it := &b.items[i]; it.index >= a.taken {
			a.taken = it.index + 1
			a.producers.entry(ctx, it)
		}
	}
	a.log.claim(b)
}

// readBundle fetches bundle n and its tile, hashes and parses the entries.
func (a *auditor) readBundle(ctx context.Context, n uint64) *bundle {
	b := a.emptyBundle(n)
	width := int(min(tileWidth, a.head.Size-n*tileWidth))
	leave, size := a.enter(), 0
	defer func() {
		clear(b.entries) // what they lie in may be large
		b.facts = record.Facts{}
		leave(size)
	}()
	raw, err := a.fetchBundle(ctx, b, width)
	size = len(raw)
	if err != nil && !errors.Is(err, client.ErrVerification) {
		b.err = err
		return b
	}
	entries, damage := client.SplitBundleInto(b.entries, raw, width)
	if b.entries = entries; err != nil {
		damage = err
	}
	for _, e := range entries {
		b.leaves = append(b.leaves, record.LeafHash(e))
	}
	altered := a.compareTile(ctx, b, width, damage)
	if b.err != nil {
		return b
	}
	if width == tileWidth {
		b.root = subtree(b.leaves)
	}
	if a.TreeOnly {
		return b
	}
	b.items = b.items[:width]
	for i := range b.items {
		it := &b.items[i]
		it.index, it.leaf, it.altered = n*tileWidth+uint64(i), b.leaves[i], altered[i]
		if i >= len(entries) {
			it.err = damage
			continue
		}
		a.parse(it, entries[i], b)
	}
	return b
}

// compareTile compares the leaf hashes of a bundle with the level 0 tile that
// the log serves. Where they differ it takes for leaves what is proven to stand
// under the checkpoint, and tells which entries are not those.
func (a *auditor) compareTile(ctx context.Context, b *bundle, width int, damage error) (altered [tileWidth]bool) {
	tile, tileErr := a.fetchTile(ctx, b, width)
	if tileErr != nil && !errors.Is(tileErr, client.ErrVerification) {
		b.err = tileErr
		return altered
	}
	if tileErr == nil && damage == nil && isTile(tile, b.leaves) {
		return altered
	}
	want := hashes(tile)
	first, path := b.n*tileWidth, client.TilePath("0", b.n, width)
	if tileErr != nil {
		b.found = append(b.found, finding(TileAltered, "%s cannot be right: %v", path, tileErr).at(first))
	}
	proven, err := a.tree.Leaves(ctx, first, first+uint64(width))
	switch {
	case err == nil:
		want = proven
	case !errors.Is(err, client.ErrVerification):
		b.err = err
		return altered
	}
	have := len(b.leaves)
	for i, leaf := range b.leaves {
		index := first + uint64(i)
		switch {
		case i >= len(want) || leaf == want[i]:
		case err != nil:
			b.doubts = append(b.doubts, doubt{index, path})
		default:
			altered[i] = true
			b.leaves[i] = want[i]
			b.found = append(b.found, finding(EntryAltered, "entry %d has been altered: it does not hash to what is proven to stand there under the checkpoint", index).at(index))
		}
	}
	for i := have; i < width; i++ {
		altered[i] = true
		b.leaves = append(b.leaves, record.Hash{})
		if i < len(want) {
			b.leaves[i] = want[i]
		}
	}
	switch at := first + uint64(have); {
	case have < width:
		b.found = append(b.found, finding(EntryAltered, "entries %d to %d cannot be read: %v", at, first+uint64(width)-1, damage).at(at))
	case damage != nil:
		b.found = append(b.found, finding(EntryAltered, "%s has been altered: %v", client.TilePath("entries", b.n, width), damage).at(at-1))
	case len(b.found) == 0 && len(b.doubts) == 0:
		b.found = append(b.found, finding(TileAltered, "%s is not made of the entries that it stands for", path).at(first))
	}
	return altered
}

// parse reads the entry into the item and checks what needs no history.
func (a *auditor) parse(it *item, entry []byte, b *bundle) {
	kind, body, err := record.Split(entry)
	if err != nil {
		it.err = err
		return
	}
	if it.kind = kind; kind == record.KindRecord { // the leaf hash is known: Parse would make it again
		f := &b.facts
		if it.err = f.Look(body); it.err != nil {
			return
		}
		it.stream, it.seq, it.time = f.Stream, f.Sequence, min(max(f.Time, 0), farAway)
		if !it.altered {
			a.parseRecord(it, body, b)
		}
		return
	}
	if kind != record.KindSeal { // it stays, and what it was read into is used again
		entry = slices.Clone(entry)
		it.entry = entry
	}
	e, err := record.Parse(entry)
	if err != nil {
		it.err = err
		return
	}
	it.statement = e.Statement
	if it.genesis, it.change, it.seal = e.Genesis, e.KeyChange, e.Seal; it.seal != nil {
		it.stream = it.seal.Stream
		if key, ok := a.known.Load(it.stream.Producer); ok {
			it.sealErr, it.sealKnown = it.seal.Verify(key.(keys.Public)), true
			it.seal.Note = nil // which would keep the whole bundle
		} else {
			it.seal.Note = slices.Clone(it.seal.Note)
		}
	}
}

func (a *auditor) parseRecord(it *item, body []byte, b *bundle) {
	f := &b.facts
	var p part
	if partOf(f, &p) {
		b.parts = append(b.parts, p) // never beyond its capacity
		it.part = &b.parts[len(b.parts)-1]
	}
	switch {
	case f.Request:
		it.about = isRequest
	case f.Response && p.unknown:
		it.about = isUnknown
	case f.Response:
		it.about = isResponse
	}
	var openings []*sealtapv1.Opening
	if a.Openings != nil {
		var err error
		if openings, err = a.Openings(it.index, it.leaf); err != nil {
			it.openings = append(it.openings, err)
		}
	}
	if !f.Own && len(openings) == 0 {
		return
	}
	r, err := record.Decode(body)
	if err != nil {
		it.err = err // never: Look has found nothing wrong
		return
	}
	switch about := r.GetAbout().(type) {
	case *sealtapv1.Record_Start:
		it.about = about.Start
	case *sealtapv1.Record_Stop:
		it.about = about.Stop
	case *sealtapv1.Record_Gap:
		it.about = about.Gap
	case *sealtapv1.Record_Beacon:
		if c := about.Beacon.GetCheckpoint(); len(c) > 0 {
			it.about = a.beacons.verify(a.Policy, c)
		}
	}
	for _, o := range openings {
		a.opened.Add(1)
		if err := record.CheckOpening(r, o); err != nil {
			it.openings = append(it.openings, err)
		}
	}
}

// beaconCache remembers verified checkpoints: producers see the same ones.
type beaconCache struct {
	mu   sync.Mutex
	seen map[record.Hash]*sighting
}

const cachedBeacons = 1024

func (c *beaconCache) verify(p *policy.Policy, signed []byte) *sighting {
	key := record.Hash(sha256.Sum256(signed))
	c.mu.Lock()
	s := c.seen[key]
	c.mu.Unlock()
	if s != nil {
		return s
	}
	s = &sighting{origin: originOf(signed)}
	// A policy may have become stricter since: then the producer was content with
	// fewer witnesses, and nobody has done anything wrong.
	if s.cp, s.err = p.Verify(signed); errors.Is(s.err, policy.ErrQuorum) {
		s.quorum = s.err
		s.cp, s.err = p.VerifyLogOnly(signed)
	}
	if s.err != nil {
		s.signed = signed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.seen) >= cachedBeacons || c.seen == nil {
		c.seen = make(map[record.Hash]*sighting)
	}
	c.seen[key] = s
	return s
}

// isTile reports whether a tile holds the hashes.
func isTile(tile []byte, list []record.Hash) bool {
	const size = len(record.Hash{})
	if len(tile) != size*len(list) {
		return false
	}
	for i := range list {
		if !bytes.Equal(tile[i*size:(i+1)*size], list[i][:]) {
			return false
		}
	}
	return true
}

// hashes cuts a tile apart.
func hashes(tile []byte) []record.Hash {
	list := make([]record.Hash, len(tile)/len(record.Hash{}))
	for i := range list {
		list[i] = record.Hash(tile[i*len(list[i]):])
	}
	return list
}

// subtree returns the root of tileWidth hashes.
func subtree(list []record.Hash) record.Hash {
	var work [tileWidth]record.Hash
	copy(work[:], list)
	for n := tileWidth / 2; n > 0; n /= 2 {
		for i := range n {
			work[i] = node(&work[2*i], &work[2*i+1])
		}
	}
	return work[0]
}

// node is an interior node of RFC 6962, section 2.1.
func node(left, right *record.Hash) record.Hash {
	var buf [1 + 2*len(record.Hash{})]byte
	buf[0] = 0x01
	copy(buf[1:], left[:])
	copy(buf[1+len(left):], right[:])
	return sha256.Sum256(buf[:])
}
