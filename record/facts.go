package record

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// Facts is what an auditor asks of every record. Byte strings stay where they are
// in the record's body.
type Facts struct {
	Head
	Time     int64
	Exchange []byte // 16 bytes, or none
	// Own is set where the record is about its producer, and not about an exchange:
	// such records are few, and worth decoding.
	Own bool
	// Request is set where the record is about one, Response likewise.
	Request, Response bool

	values   [factLast][]byte // as they stand in the record
	attempts int
	err      error      // of a sealed field
	few      [16][]byte // the names of the first sealed fields
	more     [][]byte   // of all, where there are more
}

// RequestFacts is what two proxies on one path must agree on of a request.
type RequestFacts struct {
	Caller []byte
	Body   BodyFacts
}

// ResponseFacts is what they must agree on of a response.
type ResponseFacts struct {
	Status                      uint32
	Outcome                     sealtapv1.Outcome
	Tunnel                      bool
	Attempts                    int
	RequestBody, Received, Sent BodyFacts
}

// BodyFacts is size and digest of a body.
type BodyFacts struct {
	Size   uint64
	SHA256 []byte // 32 bytes where something is said of the body
}

// fact numbers a field that is collected while a record is checked.
type fact uint8

const (
	factProducer fact = iota + 1
	factIncarnation
	factSequence
	factTime
	factExchange
	factRequest
	factResponse
	factCaller
	factRequestBody
	factStatus
	factReceived
	factSent
	factAskedBody
	factOutcome
	factTunnel
	factOwn
	factLast // of those of which there is one
	factSealed
	factAttempts
)

// factFields says where they stand: the numbers of their fields from record.proto,
// outermost first.
var factFields = []struct {
	fact fact
	path []protowire.Number
}{
	{factProducer, []protowire.Number{fieldProducer}},
	{factIncarnation, []protowire.Number{fieldIncarnation}},
	{factSequence, []protowire.Number{fieldSequence}},
	{factTime, []protowire.Number{fieldTime}},
	{factExchange, []protowire.Number{fieldExchange}},
	{factSealed, []protowire.Number{fieldSealed}},
	{factRequest, []protowire.Number{fieldRequest}},
	{factCaller, []protowire.Number{fieldRequest, 18}},
	{factRequestBody, []protowire.Number{fieldRequest, 13}},
	{factResponse, []protowire.Number{fieldResponse}},
	{factStatus, []protowire.Number{fieldResponse, fieldStatus}},
	{factReceived, []protowire.Number{fieldResponse, 4}},
	{factSent, []protowire.Number{fieldResponse, 5}},
	{factAskedBody, []protowire.Number{fieldResponse, 6}},
	{factOutcome, []protowire.Number{fieldResponse, 8}},
	{factTunnel, []protowire.Number{fieldResponse, 10}},
	{factAttempts, []protowire.Number{fieldResponse, 11}},
	{factOwn, []protowire.Number{fieldStart}},
	{factOwn, []protowire.Number{19}},
	{factOwn, []protowire.Number{20}},
	{factOwn, []protowire.Number{21}},
	{factOwn, []protowire.Number{22}},
}

// take takes a field while checkWire passes over the record.
func (f *Facts) take(what fact, value []byte) {
	switch what {
	case factSealed:
		name, err := lookSealed(content(value))
		if f.err == nil {
			f.err = err
		}
		switch {
		case f.Sealed < len(f.few):
			f.few[f.Sealed] = name
		case f.Sealed == len(f.few):
			f.more = append(f.more, f.few[:]...)
			fallthrough
		default:
			f.more = append(f.more, name)
		}
		f.Sealed++
	case factAttempts:
		f.attempts++
	default:
		f.values[what] = value
	}
}

// Look checks the body of a record entry exactly as [Decode] does, and reads its
// facts, in place of those of another one. It allocates nothing.
func (f *Facts) Look(body []byte) error {
	*f = Facts{}
	if err := recordShape().checkWire(body, f); err != nil {
		return err
	}
	// The lengths of what was taken are right, and no field that counts stands
	// there twice.
	if f.err != nil {
		return f.err
	}
	if err := f.distinctNames(); err != nil {
		return err
	}
	v := &f.values
	f.Sequence, f.Exchange, f.Own, f.Request, f.Response = varint(v[factSequence]), content(v[factExchange]), v[factOwn] != nil, v[factRequest] != nil, v[factResponse] != nil
	if v[factTime] != nil {
		t, _ := protowire.ConsumeFixed64(v[factTime])
		f.Time = int64(t)
	}
	if err := fixed(f.Stream.Producer[:], content(v[factProducer]), "producer"); err != nil {
		return err
	}
	if err := fixed(f.Stream.Incarnation[:], content(v[factIncarnation]), "incarnation"); err != nil {
		return err
	}
	if n := len(f.Exchange); n != 0 && n != 16 {
		return fmt.Errorf("%w: an exchange id of %d bytes", ErrMalformed, n)
	}
	return nil
}

// distinctNames is distinct for names as they stand in a record.
func (f *Facts) distinctNames() error {
	if f.Sealed > len(f.few) {
		return distinct(f.Sealed, func(i int) string { return string(f.more[i]) })
	}
	for i := range f.Sealed {
		for j := range i {
			if string(f.few[i]) == string(f.few[j]) {
				return fmt.Errorf("%w: two commitments to %q", ErrMalformed, string(f.few[i]))
			}
		}
	}
	return nil
}

// OfRequest returns the facts of a request.
func (f *Facts) OfRequest() RequestFacts {
	v := &f.values
	return RequestFacts{Caller: content(v[factCaller]), Body: lookBody(v[factRequestBody])}
}

// OfResponse returns the facts of a response.
func (f *Facts) OfResponse() ResponseFacts {
	v := &f.values
	return ResponseFacts{
		Status: uint32(varint(v[factStatus])), Outcome: sealtapv1.Outcome(varint(v[factOutcome])), Tunnel: v[factTunnel] != nil, Attempts: f.attempts,
		RequestBody: lookBody(v[factAskedBody]), Received: lookBody(v[factReceived]), Sent: lookBody(v[factSent]),
	}
}

// varint is the value of a field that holds one; 0 where it is not there.
func varint(value []byte) uint64 {
	if len(value) == 0 {
		return 0
	}
	if value[0] < 0x80 {
		return uint64(value[0])
	}
	n, _ := protowire.ConsumeVarint(value)
	return n
}

// The numbers of the fields of Body, from record.proto.
const (
	fieldBodySize   = 1
	fieldBodySHA256 = 2
)

func lookBody(value []byte) (b BodyFacts) {
	for c := (cursor{content(value)}); c.more(); {
		switch num, value := c.next(); num {
		case fieldBodySize:
			b.Size = varint(value)
		case fieldBodySHA256:
			b.SHA256 = content(value)
		}
	}
	return b
}

// cursor visits the fields of a message that has passed checkWire.
type cursor struct{ rest []byte }

func (c *cursor) more() bool { return len(c.rest) > 0 }

// next returns the number of the next field, and its value as it stands there.
func (c *cursor) next() (protowire.Number, []byte) {
	num, wire, n := protowire.ConsumeTag(c.rest)
	size := fieldSize(num, wire, c.rest[n:])
	value := c.rest[n : n+size]
	c.rest = c.rest[n+size:]
	return num, value
}
