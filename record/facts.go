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
	about    protowire.Number
	message  []byte // of what it is about
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

// Look checks the body of a record entry exactly as [Decode] does, and reads its
// facts. It allocates nothing.
func Look(body []byte) (Facts, error) {
	if err := recordShape().checkWire(body); err != nil {
		return Facts{}, err
	}
	var f Facts
	var producer, incarnation []byte
	var few [16][]byte
	names := few[:0]
	// What stands in body has passed checkWire: its lengths are right, and no
	// field that counts stands there twice.
	for c := (cursor{body}); c.more(); {
		switch num, value := c.next(); {
		case num == fieldProducer:
			producer = content(value)
		case num == fieldIncarnation:
			incarnation = content(value)
		case num == fieldSequence:
			f.Sequence, _ = protowire.ConsumeVarint(value)
		case num == fieldTime:
			t, _ := protowire.ConsumeFixed64(value)
			f.Time = int64(t)
		case num == fieldExchange:
			f.Exchange = content(value)
		case num == fieldSealed:
			name, err := lookSealed(content(value))
			if err != nil {
				return Facts{}, err
			}
			names = append(names, name)
		case num >= fieldRequest && num <= fieldProgress:
			f.about, f.message = num, content(value)
		}
	}
	if err := distinctNames(names); err != nil {
		return Facts{}, err
	}
	f.Sealed = len(names)
	if err := fixed(f.Stream.Producer[:], producer, "producer"); err != nil {
		return Facts{}, err
	}
	if err := fixed(f.Stream.Incarnation[:], incarnation, "incarnation"); err != nil {
		return Facts{}, err
	}
	if n := len(f.Exchange); n != 0 && n != 16 {
		return Facts{}, fmt.Errorf("%w: an exchange id of %d bytes", ErrMalformed, n)
	}
	return f, nil
}

// distinctNames is distinct for names as they stand in a record.
func distinctNames(names [][]byte) error {
	if len(names) > 16 {
		return distinct(len(names), func(i int) string { return string(names[i]) })
	}
	for i := range names {
		for j := range i {
			if string(names[i]) == string(names[j]) {
				return fmt.Errorf("%w: two commitments to %q", ErrMalformed, names[i])
			}
		}
	}
	return nil
}

// Request returns the facts of a request; it reports false where the record is about
// something else.
func (f *Facts) Request() (q RequestFacts, ok bool) {
	if f.about != fieldRequest {
		return q, false
	}
	for c := (cursor{f.message}); c.more(); {
		switch num, value := c.next(); num {
		case fieldCaller:
			q.Caller = content(value)
		case fieldRequestBody:
			q.Body = lookBody(content(value))
		}
	}
	return q, true
}

// Response returns the facts of a response; it reports false where the record is about
// something else.
func (f *Facts) Response() (p ResponseFacts, ok bool) {
	if f.about != fieldResponse {
		return p, false
	}
	for c := (cursor{f.message}); c.more(); {
		switch num, value := c.next(); num {
		case fieldStatus:
			v, _ := protowire.ConsumeVarint(value)
			p.Status = uint32(v)
		case fieldReceived:
			p.Received = lookBody(content(value))
		case fieldSent:
			p.Sent = lookBody(content(value))
		case fieldAskedBody:
			p.RequestBody = lookBody(content(value))
		case fieldOutcome:
			v, _ := protowire.ConsumeVarint(value)
			p.Outcome = sealtapv1.Outcome(v)
		case fieldTunnel:
			p.Tunnel = true
		case fieldAttempts:
			p.Attempts++
		}
	}
	return p, true
}

// About reports whether the record is about its producer, and not about an exchange
// that has begun or ended: such records are few, and worth decoding.
func (f *Facts) About() bool { return f.about >= fieldStart && f.about < fieldProgress }

func lookBody(message []byte) (b BodyFacts) {
	for c := (cursor{message}); c.more(); {
		switch num, value := c.next(); num {
		case fieldBodySize:
			b.Size, _ = protowire.ConsumeVarint(value)
		case fieldBodySHA256:
			b.SHA256 = content(value)
		}
	}
	return b
}

// The numbers of the fields that these read, from record.proto.
const (
	fieldCaller      = 18
	fieldRequestBody = 13

	fieldReceived  = 4
	fieldSent      = 5
	fieldAskedBody = 6
	fieldOutcome   = 8
	fieldTunnel    = 10
	fieldAttempts  = 11

	fieldBodySize   = 1
	fieldBodySHA256 = 2
)

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
