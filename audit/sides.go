package audit

import (
	"bytes"
	"fmt"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// Two proxies on one path: the record of the second names the exchange of the
// first as its caller. What one sent the other must have received.

// maxSides bounds how many exchanges wait for the one on the other side. The
// oldest gives way.
const maxSides = 32768

type exchangeID [16]byte

// part is what a request or a response record says of its exchange.
type part struct {
	id     exchangeID
	caller exchangeID // of a request; zero if there is none
	asked  body       // of either: absent where the other has it

	response bool
	settled  bool // the exchange came to its end, so that both sides saw all of it
	status   uint32
	tries    int
	received body // from the upstream
	sent     body // to the client
}

// body is what a record says of a body.
type body struct {
	there, streamed bool
	size            uint64
	sum             record.Hash
}

func bodyOf(b *sealtapv1.Body, streamed bool) (v body) {
	if b == nil || len(b.GetSha256()) != len(v.sum) {
		return body{}
	}
	return body{true, streamed, b.GetSize(), record.Hash(b.GetSha256())}
}

func (b body) String() string { return fmt.Sprintf("%d bytes (sha256 %.16s…)", b.size, b.sum) }

// partOf returns what a record says of its exchange; nil if it says nothing that
// could be compared.
func partOf(r record.Record) *part {
	if len(r.GetExchange()) != 16 {
		return nil
	}
	p := &part{id: exchangeID(r.GetExchange())}
	switch about := r.GetAbout().(type) {
	case *sealtapv1.Record_Request:
		q := about.Request
		if len(q.GetCaller()) == 16 {
			p.caller = exchangeID(q.GetCaller())
		}
		p.asked = bodyOf(q.GetBody(), false)
	case *sealtapv1.Record_Response:
		a := about.Response
		p.response, p.status, p.tries = true, a.GetStatus(), len(a.GetAttempts())
		p.settled = a.GetOutcome() == sealtapv1.Outcome_OUTCOME_COMPLETE && a.GetTunnel() == nil
		p.asked = bodyOf(a.GetRequestBody(), true)
		p.received, p.sent = bodyOf(a.GetReceived(), false), bodyOf(a.GetSent(), false)
	default:
		return nil
	}
	return p
}

// side is one exchange as one proxy saw it.
type side struct {
	part
	index         uint64 // of its newest record
	name          string
	producer      record.Stream
	seq           uint64
	asks, answers bool         // the records that were seen
	callees       []exchangeID // that name it as their caller
	paired        bool
}

func (s *side) whole() bool { return s.asks && s.answers }

// sides pairs exchanges. It holds up to maxSides of them.
type sides struct {
	a     *auditor
	limit int
	known map[exchangeID]*side
	order []exchangeID // oldest first
}

func newSides(a *auditor) *sides {
	return &sides{a: a, limit: maxSides, known: make(map[exchangeID]*side)}
}

// take takes the next record that is of an exchange.
func (s *sides) take(it *item) {
	p := it.part
	x := s.side(p.id)
	if x.whole() {
		return // a later life says the same of it again, or somebody else claims to
	}
	if (x.asks || x.answers) && x.producer.Producer != it.stream.Producer {
		return // exchange ids are each producer's own: the first one counts
	}
	x.index, x.producer, x.seq, x.name = it.index, it.stream, it.seq, s.a.nameOf(it.stream.Producer)
	if p.response {
		x.answers, x.settled, x.status, x.tries, x.received, x.sent = true, p.settled, p.status, p.tries, p.received, p.sent
	} else {
		x.asks, x.caller = true, p.caller
		if p.caller != (exchangeID{}) && p.caller != p.id {
			if c := s.side(p.caller); len(c.callees) < maxCallees {
				c.callees = append(c.callees, p.id)
			}
		}
	}
	if p.asked.there {
		x.asked = p.asked
	}
	if !x.whole() {
		return
	}
	if c := s.known[x.caller]; c != nil && c.whole() {
		s.pair(c, x)
	}
	for _, id := range x.callees {
		if y := s.known[id]; y != nil && y.whole() && y.caller == x.id {
			s.pair(x, y)
		}
	}
}

// maxCallees bounds the exchanges that name one caller: it may have tried again.
const maxCallees = 16

func (s *sides) side(id exchangeID) *side {
	x := s.known[id]
	if x != nil {
		return x
	}
	if len(s.order) >= s.limit {
		s.drop(s.order[0])
		s.order = s.order[1:]
	}
	x = &side{part: part{id: id}}
	s.known[id] = x
	s.order = append(s.order, id)
	return x
}

// drop lets go of an exchange, and counts it where it had not met the other side.
func (s *sides) drop(id exchangeID) {
	if x := s.known[id]; x.caller != (exchangeID{}) && !x.paired {
		s.a.report.Checked.SidesUnpaired++
	}
	delete(s.known, id)
}

// finish counts what never met its other side.
func (s *sides) finish() {
	for _, id := range s.order {
		s.drop(id)
	}
	s.order = nil
}

// pair compares what the caller sent and received with what the callee received
// and sent.
func (s *sides) pair(a, b *side) {
	if b.paired || a.producer.Producer == b.producer.Producer && a.id == b.id {
		return
	}
	b.paired = true
	checked := &s.a.report.Checked
	if !a.settled || !b.settled || a.tries > 1 {
		checked.SidesUnpaired++ // neither saw all that the other did
		return
	}
	checked.Sides++
	var what string
	switch {
	case a.asked.there && b.asked.there && differs(a.asked, b.asked):
		what = fmt.Sprintf("%s sent a request with a body of %s, and %s received one of %s", a.name, a.asked, b.name, b.asked)
	case a.status != b.status:
		what = fmt.Sprintf("%s answered with status %d, and %s received status %d", b.name, b.status, a.name, a.status)
	case a.received.there && b.sent.there && a.received != b.sent:
		what = fmt.Sprintf("%s sent an answer of %s, and %s received one of %s", b.name, b.sent, a.name, a.received)
	default:
		return
	}
	s.a.add(finding(SidesDiffer, "%s: either of the two or the network between them changed it (exchange %s of %s, %s of %s)",
		what, record.FormatUUID(a.id[:]), a.name, record.FormatUUID(b.id[:]), b.name).at(b.index).of(b.name, b.producer, b.seq))
}

// differs reports whether the callee cannot have received what the caller sent. One
// that streams may have had its answer before it took everything.
func differs(sent, received body) bool {
	if received.streamed && received.size < sent.size {
		return false
	}
	return sent.size != received.size || !bytes.Equal(sent.sum[:], received.sum[:])
}
