package query

import (
	"context"
	"fmt"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// exchangeKey names an exchange. The producer is part of it, so that nobody can
// give another's records a status.
type exchangeKey struct {
	producer keys.ID
	exchange [16]byte
}

// exchange is what the records of one exchange lend each other.
type exchange struct {
	asked    bool     // whether there is a request
	terms    []term   // from the request
	status   []term   // from the responses
	requests []uint64 // indices of requests
	waiting  []uint64 // indices of responses, until there is a request
}

// join gives the responses of an exchange the terms of its request, and the
// request the status of its responses, whichever comes first.
//
// BUG: if an exchange has requests in two segments, the older one is not given
// the status of later responses.
func (ix *Index) join(ctx context.Context, b *batch, index uint64, r *record.Record) error {
	if len(r.GetExchange()) != 16 {
		return nil
	}
	key := exchangeKey{r.Stream.Producer, [16]byte(r.GetExchange())}
	x := ix.in.exchanges[key]
	b.zone.noteExchange(key.exchange)
	switch {
	case r.GetRequest() != nil:
		if x == nil {
			x = new(exchange)
			ix.in.exchanges[key] = x
		}
		return ix.joinRequest(ctx, b, index, r, key, x)
	case r.GetResponse() != nil:
		if x == nil {
			x = new(exchange)
			if err := ix.findRequests(ctx, key, x); err != nil {
				return err
			}
			ix.in.exchanges[key] = x
		}
		ix.joinResponse(b, index, r, x)
	}
	return nil
}

func (z *zone) noteExchange(id [16]byte) {
	if string(id[:]) < string(z.minExchange[:]) {
		z.minExchange = id
	}
	if string(id[:]) > string(z.maxExchange[:]) {
		z.maxExchange = id
	}
}

func (ix *Index) joinRequest(ctx context.Context, b *batch, index uint64, r *record.Record, key exchangeKey, x *exchange) error {
	terms := requestTerms(r.GetRequest())
	ix.give(b, index, terms)
	x.requests = append(x.requests, index)
	if !x.asked {
		x.asked, x.terms = true, terms
		if err := ix.findOrphans(ctx, key, x); err != nil {
			return err
		}
		for _, response := range x.waiting {
			ix.give(b, response, terms)
		}
		x.waiting = nil
	}
	ix.give(b, index, x.status)
	return nil
}

func (ix *Index) joinResponse(b *batch, index uint64, r *record.Record, x *exchange) {
	status := responseTerms(r.GetResponse())
	ix.give(b, index, status)
	x.status = append(x.status, status...)
	for _, request := range x.requests {
		ix.give(b, request, status)
	}
	if x.asked {
		ix.give(b, index, x.terms)
		return
	}
	x.waiting = append(x.waiting, index)
	b.add("INSERT INTO orphan VALUES (?, ?)", r.GetExchange(), index)
	ix.in.orphans = true
}

// give gives an entry terms, be it in the tail or in a full segment.
func (ix *Index) give(b *batch, index uint64, terms []term) {
	if index >= ix.tail.first {
		b.post(uint16(index-ix.tail.first), terms)
		return
	}
	if index < ix.floor() {
		return
	}
	seg, lo := index/ix.segment, uint16(index%ix.segment)
	if b.patches[seg] == nil {
		b.patches[seg] = make(map[term][]uint16)
	}
	for _, t := range terms {
		b.patches[seg][t] = insert(b.patches[seg][t], lo)
	}
}

// findRequests looks for the requests of an exchange in the full segments,
// newest first: exchanges rarely take long.
func (ix *Index) findRequests(ctx context.Context, key exchangeKey, x *exchange) error {
	st := ix.store()
	for i := len(ix.zones) - 1; i >= 0; i-- {
		if z := &ix.zones[i]; string(key.exchange[:]) < string(z.minExchange[:]) || string(key.exchange[:]) > string(z.maxExchange[:]) {
			continue
		}
		s := newSet(ix.segment)
		if err := (stored{st: st, seg: uint64(i)}).or(s, term{fieldExchange, string(key.exchange[:])}); err != nil {
			return fmt.Errorf("searching for a request: %w", err)
		}
		for _, lo := range s.last(int(ix.segment)) {
			index := uint64(i)*ix.segment + uint64(lo)
			if index < ix.floor() {
				continue
			}
			r, err := ix.record(ctx, index)
			if err != nil {
				return err
			}
			if r != nil && r.GetRequest() != nil && r.Stream.Producer == key.producer {
				x.requests = append(x.requests, index)
				x.asked, x.terms = true, requestTerms(r.GetRequest())
			}
		}
		if x.asked {
			return nil
		}
	}
	return nil
}

// findOrphans looks for responses in the full segments that were logged before
// their request.
func (ix *Index) findOrphans(ctx context.Context, key exchangeKey, x *exchange) error {
	if !ix.in.orphans {
		return nil
	}
	list, err := indices(ix.store().orphans, key.exchange[:], ix.tail.first)
	if err != nil {
		return fmt.Errorf("searching for responses: %w", err)
	}
	for _, index := range list {
		if index < ix.floor() {
			continue
		}
		r, err := ix.record(ctx, index)
		if err != nil {
			return err
		}
		if r != nil && r.GetResponse() != nil && r.Stream.Producer == key.producer {
			x.waiting = append(x.waiting, index)
			x.status = append(x.status, responseTerms(r.GetResponse())...)
		}
	}
	return nil
}

// record reads an entry of the log that may be a record; nil if it is not.
func (ix *Index) record(ctx context.Context, index uint64) (*record.Record, error) {
	entry, err := ix.bundles.entry(ctx, index)
	if err != nil {
		return nil, err
	}
	e, err := record.Parse(entry)
	if err != nil {
		return nil, nil
	}
	return e.Record, nil
}
