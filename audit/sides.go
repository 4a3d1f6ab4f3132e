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
	unknown  bool // of a response: nobody knows how the exchange ended
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

func bodyOf(b record.BodyFacts, streamed bool) (v body) {
	if len(b.SHA256) != len(v.sum) {
		return body{}
	}
	return body{true, streamed, b.Size, record.Hash(b.SHA256)}
}

func (b body) String() string { return fmt.Sprintf("%d bytes (sha256 %.16s…)", b.size, b.sum) }

// partOf reads what a record says of its exchange; it reports false if that is nothing
// that could be compared.
func partOf(f *record.Facts, p *part) bool {
	if len(f.Exchange) != len(p.id) {
		return false
	}
	p.id = exchangeID(f.Exchange)
	if f.Request {
		q := f.OfRequest()
		if len(q.Caller) == len(p.caller) {
			p.caller = exchangeID(q.Caller)
		}
		p.asked = bodyOf(q.Body, false)
		return true
	}
	if !f.Response {
		return false
	}
	a := f.OfResponse()
	p.response, p.status, p.tries = true, a.Status, a.Attempts
	p.unknown = a.Outcome == sealtapv1.Outcome_OUTCOME_UNKNOWN
	p.settled = a.Outcome == sealtapv1.Outcome_OUTCOME_COMPLETE && !a.Tunnel
	p.asked = bodyOf(a.RequestBody, true)
	p.received, p.sent = bodyOf(a.Received, false), bodyOf(a.Sent, false)
	return true
}

// side is one exchange as one proxy saw it.
type side struct {
	part
	index         uint64 // of its newest record
	producer      record.Stream
	seq           uint64
	asks, answers bool         // the records that were seen
	callees       []exchangeID // that name it as their caller
	paired        bool
}

func (s *side) whole() bool { return s.asks && s.answers }

// sides pairs exchanges. It holds up to limit of them, in a ring.
type sides struct {
	a      *auditor
	limit  int
	known  map[exchangeID]int // places in the ring
	ring   [][]side           // in pieces, so that it grows without being copied
	held   int
	oldest int // its place, once the ring is full
}

// piece is how many exchanges a piece of the ring has.
const piece = 1024

func (s *sides) at(i int) *side { return &s.ring[i/piece][i%piece] }

func newSides(a *auditor) *sides {
	return &sides{a: a, limit: maxSides, known: make(map[exchangeID]int)}
}

// get returns an exchange that is held, nil if it is not.
func (s *sides) get(id exchangeID) *side {
	if i, ok := s.known[id]; ok {
		return s.at(i)
	}
	return nil
}

// side returns an exchange, which is held from now on. It may give way to the next.
func (s *sides) side(id exchangeID) *side {
	if x := s.get(id); x != nil {
		return x
	}
	i := s.oldest
	if s.held < s.limit {
		if i = s.held; i%piece == 0 {
			s.ring = append(s.ring, make([]side, piece))
		}
		s.held++
	} else {
		s.drop(s.at(i))
		s.oldest = (i + 1) % s.limit
	}
	x := s.at(i)
	*x = side{part: part{id: id}}
	s.known[id] = i
	return x
}

// each visits all exchanges, oldest first.
func (s *sides) each(visit func(*side)) {
	for i := range s.held {
		visit(s.at((s.oldest + i) % s.held))
	}
}

// drop lets go of an exchange, and counts it where it had not met the other side.
func (s *sides) drop(x *side) {
	if x.caller != (exchangeID{}) && !x.paired {
		s.a.report.Checked.SidesUnpaired++
	}
	delete(s.known, x.id)
}

// finish counts what never met its other side.
func (s *sides) finish() {
	s.each(s.drop)
	s.ring, s.held, s.oldest = nil, 0, 0
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
	x.index, x.producer, x.seq = it.index, it.stream, it.seq
	if p.response {
		x.answers, x.settled, x.status, x.tries, x.received, x.sent = true, p.settled, p.status, p.tries, p.received, p.sent
	} else {
		x.asks, x.caller = true, p.caller
	}
	if p.asked.there {
		x.asked = p.asked
	}
	if !p.response && p.caller != (exchangeID{}) && p.caller != p.id {
		if c := s.side(p.caller); len(c.callees) < maxCallees {
			c.callees = append(c.callees, p.id)
		}
		x = s.get(p.id)
	}
	if x == nil || !x.whole() {
		return
	}
	if c := s.get(x.caller); c != nil && c.whole() {
		s.pair(c, x)
	}
	for _, id := range x.callees {
		if y := s.get(id); y != nil && y.whole() && y.caller == x.id {
			s.pair(x, y)
		}
	}
}

// maxCallees bounds the exchanges that name one caller: it may have tried again.
const maxCallees = 16

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
	caller, callee := s.a.nameOf(a.producer.Producer), s.a.nameOf(b.producer.Producer)
	var what string
	switch {
	case a.asked.there && b.asked.there && differs(a.asked, b.asked):
		what = fmt.Sprintf("%s sent a request with a body of %s, and %s received one of %s", caller, a.asked, callee, b.asked)
	case a.status != b.status:
		what = fmt.Sprintf("%s answered with status %d, and %s received status %d", callee, b.status, caller, a.status)
	case a.received.there && b.sent.there && a.received != b.sent:
		what = fmt.Sprintf("%s sent an answer of %s, and %s received one of %s", callee, b.sent, caller, a.received)
	default:
		return
	}
	s.a.add(finding(SidesDiffer, "%s: either of the two or the network between them changed it (exchange %s of %s, %s of %s)",
		what, record.FormatUUID(a.id[:]), caller, record.FormatUUID(b.id[:]), callee).at(b.index).of(callee, b.producer, b.seq))
}

// differs reports whether the callee cannot have received what the caller sent. One
// that streams may have had its answer before it took everything.
func differs(sent, received body) bool {
	if received.streamed && received.size < sent.size {
		return false
	}
	return sent.size != received.size || !bytes.Equal(sent.sum[:], received.sum[:])
}
