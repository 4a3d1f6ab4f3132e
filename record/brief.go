package record

import (
	"google.golang.org/protobuf/encoding/protowire"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// Brief checks the body of a record entry exactly as [Decode] does, and decodes of
// requests and responses what exchanges are searched by: trace, who it was, service,
// method, path and operation; status. Other facts are left out. Records about the producer
// itself, and of exchanges under way, are few, and decoded as a whole. Byte strings stay where they are in body.
func Brief(body []byte) (Record, error) {
	h, err := Scan(body)
	if err != nil {
		return Record{}, err
	}
	pb := &sealtapv1.Record{Producer: h.Stream.Producer[:], Incarnation: h.Stream.Incarnation[:], Sequence: h.Sequence}
	whole := false
	each(body, func(num protowire.Number, value []byte) {
		switch num {
		case fieldTime:
			t, _ := protowire.ConsumeFixed64(value)
			pb.Time = int64(t)
		case fieldExchange:
			pb.Exchange = content(value)
		case fieldRequest:
			pb.About = &sealtapv1.Record_Request{Request: briefRequest(content(value))}
		case fieldResponse:
			pb.About = &sealtapv1.Record_Response{Response: briefResponse(content(value))}
		default:
			whole = whole || num >= fieldStart && num <= fieldProgress
		}
	})
	if whole {
		return Decode(body)
	}
	return Record{Record: pb, Stream: h.Stream}, nil
}

// The numbers of the fields that Brief reads, from record.proto. What is decoded
// as a whole stands between fieldStart and fieldProgress.
const (
	fieldTime     = 4
	fieldRequest  = 16
	fieldResponse = 17
	fieldStart    = 18
	fieldProgress = 23

	fieldTrace     = 1
	fieldWho       = 2
	fieldService   = 4
	fieldMethod    = 5
	fieldPath      = 8
	fieldOperation = 14

	fieldWhoID         = 1
	fieldOperationName = 2
	fieldStatus        = 1
)

func briefRequest(message []byte) *sealtapv1.Request {
	q := new(sealtapv1.Request)
	each(message, func(num protowire.Number, value []byte) {
		switch num {
		case fieldTrace:
			q.Trace = content(value)
		case fieldWho:
			q.Who = new(sealtapv1.Who)
			each(content(value), func(num protowire.Number, value []byte) {
				if num == fieldWhoID {
					q.Who.Id = string(content(value))
				}
			})
		case fieldService:
			q.Service = string(content(value))
		case fieldMethod:
			q.Method = string(content(value))
		case fieldPath:
			q.Path = string(content(value))
		case fieldOperation:
			q.Operation = new(sealtapv1.Operation)
			each(content(value), func(num protowire.Number, value []byte) {
				if num == fieldOperationName {
					q.Operation.Name = string(content(value))
				}
			})
		}
	})
	return q
}

func briefResponse(message []byte) *sealtapv1.Response {
	p := new(sealtapv1.Response)
	each(message, func(num protowire.Number, value []byte) {
		if num == fieldStatus {
			v, _ := protowire.ConsumeVarint(value)
			p.Status = uint32(v)
		}
	})
	return p
}

// each visits the fields of a message that has passed checkWire.
func each(message []byte, visit func(num protowire.Number, value []byte)) {
	for len(message) > 0 {
		num, wire, n := protowire.ConsumeTag(message)
		size := protowire.ConsumeFieldValue(num, wire, message[n:])
		visit(num, message[n:n+size])
		message = message[n+size:]
	}
}

// ParseBrief parses an entry as [Parse] does, a record as [Brief] does.
func ParseBrief(entry []byte) (Entry, error) {
	kind, body, err := Split(entry)
	if err != nil || kind != KindRecord {
		return Parse(entry)
	}
	r, err := Brief(body)
	if err != nil {
		return Entry{}, err
	}
	return Entry{Kind: kind, Leaf: LeafHash(entry), Record: &r}, nil
}
