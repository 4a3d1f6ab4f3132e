package audit

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// What an audit knows between two bundles, in the order of docs/formats.md. What
// is left out follows from it or is a cache: a root of the log that is not known any
// more is computed from proven tiles.

// knowledge takes everything. When it reads, the auditor is a new one.
func (c *coder) knowledge(a *auditor) error {
	c.report(a)
	c.findings(&a.findings, a.atHead)
	list(c, &a.doubts, func(d *doubt) { c.number(&d.index); c.text(&d.path) })
	c.number(&a.bracketed)
	opened := a.opened.Load()
	c.number(&opened)
	a.opened.Store(opened)
	c.logTree(a.log)
	if err := c.statements(a.producers); err != nil {
		return err
	}
	if err := c.producers(a.producers); err != nil {
		return err
	}
	if err := c.brackets(&a.brackets); err != nil {
		return err
	}
	c.sides(a.sides)
	if c.reading && c.err == nil && len(c.bytes) > 0 {
		c.fail()
	}
	return c.err
}

// report takes what the report says already.
func (c *coder) report(a *auditor) {
	r, k := a.report, &a.report.Checked
	c.text(&r.Operator)
	c.number(&r.Statements.Count)
	c.number(&r.Statements.LastIndex)
	c.text(&r.Statements.LastLeaf)
	maybe(c, &r.Predecessor, func(p *Predecessor) {
		c.text(&p.Origin)
		c.number(&p.Size)
		c.text(&p.Root)
		c.flag(&p.Verified)
		c.text(&p.how)
	})
	for _, n := range []*uint64{&k.Entries, &k.Records, &k.Seals, &k.KeyChanges, &k.Statements, &k.Pruned, &k.Beacons, &k.Sides, &k.SidesUnpaired, &k.Tiles, &k.Other} {
		c.number(n)
	}
	c.signed((*int64)(&k.WidestBracket))
}

// findings takes what was found in entries: what the head shows is found anew.
func (c *coder) findings(f *findings, head mark) {
	f.mu.Lock()
	defer f.mu.Unlock()
	type count struct {
		counted
		n uint64
	}
	var found []Finding
	var counts []count
	if !c.reading {
		found = f.list[head.list:]
		for k, n := range f.count {
			if n -= head.count[k]; n > 0 {
				counts = append(counts, count{k, uint64(n)})
			}
		}
		slices.SortFunc(counts, func(a, b count) int {
			return cmp.Or(cmp.Compare(a.code, b.code), cmp.Compare(a.severity, b.severity))
		})
	}
	list(c, &found, c.finding)
	list(c, &counts, func(x *count) { c.text((*string)(&x.code)); c.text((*string)(&x.severity)); c.number(&x.n) })
	if !c.reading {
		return
	}
	f.list = append(f.list, found...)
	if f.count == nil {
		f.count = make(map[counted]int)
	}
	for _, x := range counts {
		f.count[x.counted] += int(x.n)
		f.failed = f.failed || x.severity == Finds
	}
}

func (c *coder) finding(x *Finding) {
	c.text((*string)(&x.Code))
	c.text((*string)(&x.Severity))
	maybe(c, &x.Index, c.number)
	c.text(&x.Producer)
	c.text(&x.ProducerKey)
	c.text(&x.Incarnation)
	maybe(c, &x.Sequence, c.number)
	c.text(&x.Detail)
	if list(c, &x.Heads, c.text); len(x.Heads) == 0 {
		x.Heads = nil
	}
}

func (c *coder) logTree(t *logTree) {
	list(c, &t.levels, func(l *level) { c.number(&l.n); c.hashes(&l.hashes) })
	c.number(&t.bounded)
	var claims []bundleClaim
	for _, x := range t.latest {
		if x.ok {
			claims = append(claims, x)
		}
	}
	list(c, &claims, func(x *bundleClaim) { c.number(&x.n); c.claim(&x.claim) })
	for _, x := range claims {
		t.latest[x.n%recentBundles] = x
	}
}

func (c *coder) edge(e *edge) {
	c.number(&e.size)
	c.hashes(&e.hashes)
	if c.reading && c.err == nil {
		if _, err := newEdge(e.size, e.hashes); err != nil {
			c.fail()
		}
	}
}

func (c *coder) stream(id *record.Stream) {
	c.raw(id.Producer[:])
	c.raw(id.Incarnation[:])
}

func (c *coder) claim(x *claim) {
	c.signed(&x.time)
	c.number(&x.index)
	c.stream(&x.stream)
	c.number(&x.seq)
	c.flag(&x.ok)
}

// statements takes the operator's statements; reading applies them again, with
// their signatures.
func (c *coder) statements(p *producers) error {
	list(c, &p.said, func(s *said) { c.number(&s.index); c.blob(&s.entry) })
	if !c.reading || c.err != nil {
		return c.err
	}
	for _, s := range p.said {
		if err := p.hear(s); err != nil {
			return fmt.Errorf("the statement of the operator at index %d: %w", s.index, err)
		}
	}
	return nil
}

// hear takes a statement that was accepted before.
func (p *producers) hear(s said) error {
	e, err := record.Parse(s.entry)
	if err != nil {
		return err
	}
	if e.Genesis != nil && p.ring == nil {
		p.ring, err = record.NewKeyring(e.Genesis, nil) // where it is not the pinned one there is a finding
		return err
	}
	if p.ring == nil || e.KeyChange == nil && e.Statement == nil {
		return errShort
	}
	if e.KeyChange != nil {
		p.ring.Number = e.KeyChange.Number - 1 // some before it may have been unreadable
		if err := p.ring.Apply(e.KeyChange, s.index); err != nil {
			return err
		}
		for _, k := range e.KeyChange.Enrol {
			p.a.known.Store(k.ID(), k)
		}
	} else {
		p.ring.Number = e.Statement.Number - 1
		if err := p.ring.ApplyStatement(e.Statement, s.index); err != nil {
			return err
		}
	}
	p.last = &stated{p.ring.Number, e.Leaf}
	return nil
}

func (c *coder) producers(p *producers) error {
	c.flag(&p.uncertain)
	list(c, &p.strays, c.item)
	refused := slices.SortedFunc(maps.Keys(p.refused), compareStreams)
	list(c, &refused, c.stream)
	for _, id := range refused {
		p.refused[id] = true
	}
	c.number(&p.weak)
	c.finding(&p.firstWeak)
	streams := slices.SortedFunc(maps.Values(p.streams), func(a, b *stream) int { return compareStreams(a.id, b.id) })
	list(c, &streams, func(s **stream) {
		if c.reading {
			*s = &stream{a: p.a}
		}
		c.life(*s)
	})
	if c.reading {
		for _, s := range streams {
			p.streams[s.id] = s
			p.held += len(s.past.leaves)
			p.waiting += s.waiting()
		}
	}
	return c.err
}

func compareStreams(a, b record.Stream) int {
	return cmp.Or(bytes.Compare(a.Producer[:], b.Producer[:]), bytes.Compare(a.Incarnation[:], b.Incarnation[:]))
}

// life takes the stream of one life of a producer.
func (c *coder) life(s *stream) {
	c.stream(&s.id)
	c.text(&s.name)
	order := uint64(s.order)
	c.number(&s.base)
	c.number(&order)
	s.order = int(order)
	c.history(&s.past)
	c.flag(&s.broken)
	c.number(&s.next)
	c.waiting(s)
	for _, n := range []*uint64{&s.signed, &s.sealed, &s.sealAt, &s.records, &s.firstIndex, &s.lastIndex} {
		c.number(n)
	}
	for _, n := range []*int64{&s.firstTime, &s.latest, &s.beacon, (*int64)(&s.heartbeat)} {
		c.signed(n)
	}
	there := s.start != nil
	if c.flag(&there); there {
		if c.reading {
			s.start = new(sealtapv1.Start)
		}
		c.message(s.start)
	}
	c.flag(&s.stopped)
	maybe(c, &s.tail, c.claim)
	c.flag(&s.unsure)
	c.interrupted(s)
}

// interrupted takes what interrupted a life.
func (c *coder) interrupted(s *stream) {
	l := &s.silences.longest
	for _, n := range []*uint64{&s.silences.count, &l.index, &l.seq, &s.restarts.count, &s.restarts.index, &s.restarts.seq, &s.closed} {
		c.number(n)
	}
	for _, n := range []*int64{&s.silences.total, &l.from, &l.to, &l.due} {
		c.signed(n)
	}
}

func (c *coder) history(h *history) {
	c.edge(&h.tree)
	c.edge(&h.old)
	c.edge(&h.mid)
	c.hashes(&h.leaves)
	if c.reading && c.err == nil {
		// A broken tree does not grow; in any other the leaves lead from the old edge to it.
		if h.old.size > h.mid.size || h.mid.size > h.tree.size || h.old.size+uint64(len(h.leaves)) != h.tree.size {
			c.fail()
		}
	}
}

// waiting takes what waits for records before it.
func (c *coder) waiting(s *stream) {
	pending := slices.SortedFunc(maps.Values(s.pending), func(a, b item) int { return cmp.Compare(a.seq, b.seq) })
	list(c, &pending, c.item)
	seals := slices.SortedFunc(maps.Values(s.seals), func(a, b sealed) int { return cmp.Compare(a.size, b.size) })
	list(c, &seals, func(x *sealed) { c.number(&x.size); c.number(&x.index); c.raw(x.root[:]) })
	if !c.reading {
		return
	}
	s.pending, s.seals = make(map[uint64]item, len(pending)), make(map[uint64]sealed, len(seals))
	for _, it := range pending {
		s.pending[it.seq] = it
	}
	for _, x := range seals {
		s.seals[x.size] = x
	}
}

// item takes a record whose place in its tree is not known yet.
func (c *coder) item(it *item) {
	c.number(&it.index)
	c.raw(it.leaf[:])
	kind := uint64(it.kind)
	c.number(&kind)
	it.kind = record.Kind(kind)
	c.flag(&it.altered)
	c.stream(&it.stream)
	c.number(&it.seq)
	c.signed(&it.time)
	c.signed(&it.beacon)
	c.about(it)
}

// The numbers of what a record that waits can be about.
const (
	aboutOther = iota // nothing more is asked of it
	aboutStart
	aboutStop
	aboutGap
	aboutUnknown // a response whose outcome is unknown
)

func (c *coder) about(it *item) {
	n := uint64(aboutOther)
	switch about := it.about.(type) {
	case stage:
		if about == isUnknown {
			n = aboutUnknown
		}
	case *sealtapv1.Start:
		n = aboutStart
	case *sealtapv1.Stop:
		n = aboutStop
	case *sealtapv1.Gap:
		n = aboutGap
	}
	c.number(&n)
	if c.reading {
		switch n {
		case aboutOther:
			return
		case aboutStart:
			it.about = new(sealtapv1.Start)
		case aboutStop:
			it.about = new(sealtapv1.Stop)
		case aboutGap:
			it.about = new(sealtapv1.Gap)
		case aboutUnknown:
			it.about = isUnknown
		default:
			c.fail()
			return
		}
	}
	if m, ok := it.about.(proto.Message); ok {
		c.message(m)
	}
}

func (c *coder) message(m proto.Message) {
	var b []byte
	if !c.reading {
		b, _ = proto.Marshal(m) // it was decoded from bytes: there is no error in it
	}
	c.blob(&b)
	if c.reading && proto.Unmarshal(b, m) != nil {
		c.fail()
	}
}

func (c *coder) brackets(b *brackets) error {
	c.number(&b.size)
	list(c, &b.open, func(r **run) {
		var id record.Stream
		current := false
		if c.reading {
			*r = new(run)
		} else {
			id, current = (*r).s.id, (*r).s.run == *r
		}
		c.stream(&id)
		c.flag(&current)
		x := *r
		c.signed(&x.after)
		c.signed(&x.claimed)
		c.number(&x.first)
		c.number(&x.last)
		c.number(&x.sequence)
		if !c.reading {
			return
		}
		if x.s = b.a.producers.streams[id]; x.s == nil {
			c.fail()
			return
		}
		if current {
			x.s.run = x
		}
	})
	return c.err
}

// sides takes the exchanges that wait for their other side, oldest first.
func (c *coder) sides(s *sides) {
	n := c.count(s.held, 1)
	if !c.reading {
		s.each(c.side)
		return
	}
	if n > s.limit {
		c.fail()
		return
	}
	for range n {
		var x side
		c.side(&x)
		if _, twice := s.known[x.id]; twice {
			c.fail()
			return
		}
		*s.side(x.id) = x
	}
}

func (c *coder) side(x *side) {
	c.raw(x.id[:])
	c.raw(x.caller[:])
	status, tries := uint64(x.status), uint64(x.tries)
	for _, n := range []*uint64{&status, &tries, &x.index, &x.seq} {
		c.number(n)
	}
	x.status, x.tries = uint32(status), int(tries)
	for _, b := range []*body{&x.asked, &x.received, &x.sent} {
		if c.flag(&b.there); b.there {
			c.flag(&b.streamed)
			c.number(&b.size)
			c.raw(b.sum[:])
		}
	}
	c.stream(&x.producer)
	for _, f := range []*bool{&x.settled, &x.asks, &x.answers, &x.paired} {
		c.flag(f)
	}
	list(c, &x.callees, func(id *exchangeID) { c.raw(id[:]) })
}
