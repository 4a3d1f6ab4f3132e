package audit

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
)

// What an audit holds in memory grows with the lives of producers, by about a
// kilobyte each, and not with the entries. What a single life may hold is bounded
// where it is held; the bounds here are for all lives together, however many
// somebody has begun. They depend on the entries alone, so that an audit that
// goes on from an earlier one finds what an audit of everything does.
const (
	// maxHeld is how many leaves of producers' recent records are held: 32 MiB.
	maxHeld = 1 << 20
	// fewHeld is how many a stream keeps that has not written lately.
	fewHeld = 64
	// maxWaiting is how many records and seals wait for a record before them.
	maxWaiting = 8 * maxPending
)

// hold counts leaves that are held. Where they are too many, those who have not
// written for longest forget: a seal or a repetition from them may come less late.
func (p *producers) hold(more int) {
	if p.held += more; p.held <= p.maxHeld {
		return
	}
	list := slices.SortedFunc(maps.Values(p.streams), func(a, b *stream) int {
		return cmp.Or(cmp.Compare(a.lastIndex, b.lastIndex), bytes.Compare(a.id.Incarnation[:], b.id.Incarnation[:]))
	})
	for _, keep := range []int{fewHeld, 0} {
		for _, s := range list {
			if p.held <= p.maxHeld/2 {
				return
			}
			p.held -= s.past.trim(keep)
		}
	}
}

// wait counts what waits. Where it is too much, those who wait for most are told
// that it is missing.
func (p *producers) wait(more int) {
	if p.waiting += more; p.waiting <= p.maxWaiting || p.shedding {
		return
	}
	p.shedding = true
	defer func() { p.shedding = false }()
	list := slices.SortedFunc(maps.Values(p.streams), func(a, b *stream) int {
		return cmp.Or(cmp.Compare(b.waiting(), a.waiting()), bytes.Compare(a.id.Incarnation[:], b.id.Incarnation[:]))
	})
	for _, s := range list {
		for s.waiting() > 0 {
			if p.waiting <= p.maxWaiting/2 {
				return
			}
			s.skip()
		}
	}
}

// waiting is how many records and seals of the stream wait.
func (s *stream) waiting() int { return len(s.pending) + len(s.seals) }
