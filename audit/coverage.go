package audit

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness/policy"
)

// Coverage tells when the records of one producer's key stand, life after life. All
// its times are of the producer's own clock, which the audit holds against the
// witnesses' (time-order).
type Coverage struct {
	Name    string        `json:"name"`
	Key     string        `json:"key"` // identifier of the key, hexadecimal
	Revoked bool          `json:"revoked,omitempty"`
	Lives   []CoveredLife `json:"lives"` // oldest first
	// SealedUntil is the time of the newest record that is known to lie under a seal
	// that holds good, WitnessedUntil when the newest checkpoint in a beacon under that
	// seal was cosigned: the producer was there after that by the witnesses' clocks.
	SealedUntil    time.Time `json:"sealed_until,omitzero"`
	WitnessedUntil time.Time `json:"witnessed_until,omitzero"`
}

// CoveredLife is one incarnation in a [Coverage].
type CoveredLife struct {
	Incarnation string    `json:"incarnation"`
	Records     uint64    `json:"records"` // that are there
	Pruned      uint64    `json:"pruned,omitempty"`
	From        time.Time `json:"from,omitzero"` // of the first record that is there
	To          time.Time `json:"to,omitzero"`   // of the last
	SealedTo    time.Time `json:"sealed_to,omitzero"`
	Linked      bool      `json:"linked"` // it names a seal of the life before, or there is none before
	End         End       `json:"end"`
	Spans       []Span    `json:"spans,omitempty"`
}

// End says how a life ended.
type End string

// The ends.
const (
	Stopped End = "stopped" // by a stop record
	Unclean End = "unclean" // another life follows, and there is no stop record
	Silent  End = "silent"  // no stop record, and nothing for longer than heartbeat and slack
	Open    End = "open"    // it goes on, as far as the head tells
	Gone    End = "pruned"  // all of it lies below the log's minimum index
)

// SpanKind says what is wrong within a span of a life.
type SpanKind string

// The kinds of spans.
const (
	SpanSilent   SpanKind = "silent"   // nothing was written for longer than heartbeat and slack; no record is missing
	SpanDown     SpanKind = "down"     // between a stop record and a start record of the same incarnation
	SpanMissing  SpanKind = "missing"  // records are missing from the log
	SpanAltered  SpanKind = "altered"  // a record has been altered
	SpanGap      SpanKind = "gap"      // the producer declares exchanges without records
	SpanUnsealed SpanKind = "unsealed" // records under no seal
)

// Span is a part of a life in which something is wrong, or worth to know.
type Span struct {
	Kind   SpanKind  `json:"kind"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to,omitzero"` // zero: to the end of what is there
	First  uint64    `json:"first_sequence"`
	Last   uint64    `json:"last_sequence"`
	Count  uint64    `json:"count,omitempty"` // exchanges of a gap
	Reason string    `json:"reason,omitempty"`
}

// WitnessSeen is what is known of one witness of the policy: from the cosignatures
// on the head and on the checkpoints in beacons that hold good.
type WitnessSeen struct {
	Name  string    `json:"name"`
	Key   string    `json:"key"`                // identifier, hexadecimal
	First time.Time `json:"first,omitzero"`     // of its cosignatures that were seen
	Last  time.Time `json:"last,omitzero"`      // of them
	Size  uint64    `json:"size"`               // largest that it cosigned, among them
	Heads uint64    `json:"beacons"`            // how many beacons hold one of them
	OnNow bool      `json:"cosigned_this_head"` // it cosigned the head of the report
}

// Trust is what a report rests on.
type Trust struct {
	Policy   string   `json:"policy"`        // the text of the policy, in the one spelling
	SHA256   string   `json:"policy_sha256"` // of that text
	Quorum   string   `json:"quorum"`
	Logs     []KeyRef `json:"logs"`
	Operator *KeyRef  `json:"operator,omitempty"` // the pinned one
}

// KeyRef names a key: its identifier is what people compare.
type KeyRef struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	VKey string `json:"vkey"`
}

func refer(k keys.Public) KeyRef { return KeyRef{k.Name, k.ID().String(), k.String()} }

func trust(p *policy.Policy, operator *keys.Public) *Trust {
	text := p.Marshal()
	sum := sha256.Sum256(text)
	t := &Trust{Policy: string(text), SHA256: hex.EncodeToString(sum[:]), Quorum: p.Quorum}
	for _, l := range p.Logs {
		t.Logs = append(t.Logs, refer(l.Key))
	}
	if operator != nil {
		o := refer(*operator)
		t.Operator = &o
	}
	return t
}

// maxSpans bounds the spans of a report.
const maxSpans = 4096

// coverage collects what only a report draws.
type coverage struct {
	on      bool
	spans   int
	omitted int
	seen    map[keys.ID]*WitnessSeen // of the policy's witnesses, in beacons
	period  *periodScan              // nil without a period
}

// span adds a span to a stream. Of a report on a period those outside are left out.
func (c *coverage) span(s *stream, x Span) {
	if !c.on || c.period != nil && !c.period.touches(x.From, x.To) {
		return
	}
	if c.spans++; c.spans > maxSpans {
		c.omitted++
		return
	}
	s.spans = append(s.spans, x)
}

// placed takes an unaltered record in the order of its tree, before the stream's
// latest time takes it in, with what lies before it.
func (c *coverage) placed(s *stream, it *item, p pause) {
	if !c.on {
		return
	}
	switch {
	case s.hole != nil:
		x := *s.hole
		s.hole = nil
		if x.To = at(it.time); x.From.IsZero() {
			x.From = x.To
		}
		c.span(s, x)
	case p == quiet:
		c.span(s, Span{Kind: SpanSilent, From: at(s.latest), To: at(it.time), First: it.seq - 1, Last: it.seq})
	case p == down:
		c.span(s, Span{Kind: SpanDown, From: at(s.latest), To: at(it.time), First: it.seq - 1, Last: it.seq})
	}
	if c.period != nil {
		c.period.record(s, it)
	}
}

// altered takes a record that has been altered, at its place in the tree.
func (c *coverage) altered(s *stream, it *item) {
	if t := at(s.latest); s.records > 1 {
		c.span(s, Span{Kind: SpanAltered, From: t, To: t, First: it.seq, Last: it.seq})
	}
}

// lost takes records that are missing, until the next one that is there.
func (c *coverage) lost(s *stream, first, last uint64) {
	if !c.on {
		return
	}
	if s.hole != nil {
		s.hole.Last = last
		return
	}
	s.hole = &Span{Kind: SpanMissing, First: first, Last: last}
	if s.records > 0 {
		s.hole.From = at(s.latest)
	}
}

// sealed takes a seal over all the records that were placed.
func (c *coverage) sealed(s *stream) {
	s.sealedTime, s.sealedBeacon = s.latest, s.beacon
}

// sighted takes a checkpoint in a beacon that is one of this log and satisfies the
// policy.
func (c *coverage) sighted(cp *policy.Checkpoint, quorum int64) {
	if !c.on {
		return
	}
	if c.seen == nil {
		c.seen = make(map[keys.ID]*WitnessSeen)
	}
	for _, x := range cp.Cosignatures {
		w := c.seen[x.Key.ID()]
		if w == nil {
			w = new(WitnessSeen)
			c.seen[x.Key.ID()] = w
		}
		w.Heads++
		w.take(cp.Size, x.Time)
	}
	if c.period != nil {
		c.period.head(cp.Size, quorum)
	}
}

func (w *WitnessSeen) take(size uint64, unix int64) {
	t := time.Unix(unix, 0).UTC()
	if w.First.IsZero() || t.Before(w.First) {
		w.First = t
	}
	if t.After(w.Last) {
		w.Last = t
	}
	w.Size = max(w.Size, size)
}

// finishCoverage writes into the report what it draws.
func (p *producers) finishCoverage(list []*stream, now int64) {
	a := p.a
	if !a.coverage.on {
		return
	}
	a.report.Coverage, a.report.SpansOmitted = p.covered(list, now), a.coverage.omitted
	if a.coverage.period != nil {
		p.finishPeriod(list)
	}
}

// witnesses returns the table of the policy's witnesses.
func (a *auditor) witnesses() []WitnessSeen {
	rows := make([]WitnessSeen, 0, len(a.Policy.Witnesses))
	for _, w := range a.Policy.Witnesses {
		row := WitnessSeen{}
		if seen := a.coverage.seen[w.Key.ID()]; seen != nil {
			row = *seen
		}
		row.Name, row.Key = w.Name, w.Key.ID().String()
		if a.head != nil {
			for _, c := range a.head.Cosignatures {
				if c.Witness == w.Name {
					row.OnNow = true
					row.take(a.head.Size, c.Time)
				}
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// covered returns the coverage of each key that wrote or may write.
func (p *producers) covered(list []*stream, now int64) []Coverage {
	rows := []Coverage{}
	place := make(map[keys.ID]int)
	row := func(id keys.ID) *Coverage {
		if _, ok := place[id]; !ok {
			place[id] = len(rows)
			rows = append(rows, Coverage{Name: p.a.nameOf(id), Key: id.String(), Lives: []CoveredLife{}})
		}
		return &rows[place[id]]
	}
	next := followers(list)
	for _, s := range list {
		c := row(s.id.Producer)
		c.Lives = append(c.Lives, s.covered(next[s], len(c.Lives) == 0, now))
		if s.sealedTime > 0 {
			c.SealedUntil = later(c.SealedUntil, at(s.sealedTime))
		}
		if s.sealedBeacon > 0 {
			c.WitnessedUntil = later(c.WitnessedUntil, at(s.sealedBeacon))
		}
	}
	if p.ring != nil {
		for _, k := range p.ring.Producers() {
			_, revoked := p.ring.Revoked(k.ID())
			row(k.ID()).Revoked = revoked
		}
	}
	return rows
}

// covered describes one life.
func (s *stream) covered(next *stream, first bool, now int64) CoveredLife {
	l := CoveredLife{End: s.end(next, now), Incarnation: s.id.Incarnation.String(), Records: s.records, Pruned: s.base, Linked: first || s.start == nil || s.start.GetPrevious() != nil}
	l.Spans = slices.Clone(s.spans)
	if s.records > 0 {
		l.From, l.To = at(s.firstTime), at(s.latest)
	}
	if s.sealedTime > 0 {
		l.SealedTo = at(s.sealedTime)
	}
	if s.hole != nil {
		l.Spans = append(l.Spans, *s.hole)
	}
	if s.tail != nil {
		l.Spans = append(l.Spans, Span{Kind: SpanUnsealed, From: at(s.tail.time), To: at(s.latest), First: s.tail.seq, Last: max(s.next, 1) - 1})
	}
	slices.SortStableFunc(l.Spans, func(a, b Span) int { return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.First, b.First)) })
	return l
}

func at(unixNano int64) time.Time { return time.Unix(0, unixNano).UTC() }

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
