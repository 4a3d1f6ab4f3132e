package record

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// Encode makes the bytes of a record entry. They are made once: whoever holds
// them hashes, stores and sends these very bytes, because protobuf has no
// canonical form.
func Encode(r *sealtapv1.Record) ([]byte, error) {
	entry := make([]byte, headerSize, 512)
	entry[0], entry[1] = Version, byte(KindRecord)
	entry, err := proto.MarshalOptions{}.MarshalAppend(entry, r)
	if err != nil {
		return nil, fmt.Errorf("encoding record: %w", err)
	}
	if len(entry) > MaxEntry {
		return nil, fmt.Errorf("encoding record: %w: %d bytes, the limit is %d", ErrMalformed, len(entry), MaxEntry)
	}
	return entry, nil
}

// Record is a decoded record with what identifies it.
type Record struct {
	*sealtapv1.Record
	Stream Stream
}

// Decode parses the body of a record entry and checks the lengths of everything
// that has a fixed one. It refuses encodings that another decoder may read as
// another record. Fields it does not know are kept.
func Decode(body []byte) (Record, error) {
	if err := recordShape().checkWire(body, nil); err != nil {
		return Record{}, err
	}
	pb := new(sealtapv1.Record)
	if err := proto.Unmarshal(body, pb); err != nil {
		return Record{}, fmt.Errorf("%w: not a record: %w", ErrMalformed, err)
	}
	r := Record{Record: pb}
	if err := fixed(r.Stream.Producer[:], pb.GetProducer(), "producer"); err != nil {
		return Record{}, err
	}
	if err := fixed(r.Stream.Incarnation[:], pb.GetIncarnation(), "incarnation"); err != nil {
		return Record{}, err
	}
	if n := len(pb.GetExchange()); n != 0 && n != 16 {
		return Record{}, fmt.Errorf("%w: an exchange id of %d bytes", ErrMalformed, n)
	}
	list := pb.GetSealed()
	if err := distinct(len(list), func(i int) string { return list[i].GetField() }); err != nil {
		return Record{}, err
	}
	for _, s := range list {
		if len(s.GetCommitment()) != len(Hash{}) {
			return Record{}, fmt.Errorf("%w: the commitment to %q has %d bytes", ErrMalformed, s.GetField(), len(s.GetCommitment()))
		}
	}
	return r, nil
}

func fixed(dst, src []byte, what string) error {
	if len(src) != len(dst) {
		return fmt.Errorf("%w: %s of %d bytes, want %d", ErrMalformed, what, len(src), len(dst))
	}
	copy(dst, src)
	return nil
}

// Entry is a parsed entry. Exactly one of the pointers is set for a kind that
// this program knows, none for another kind.
type Entry struct {
	Kind      Kind
	Leaf      Hash
	Record    *Record
	Seal      *Seal
	Genesis   *Genesis
	KeyChange *KeyChange
	Statement *Statement
}

// Parse parses an entry of any kind. It verifies no signature.
func Parse(entry []byte) (Entry, error) {
	kind, body, err := Split(entry)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Kind: kind, Leaf: LeafHash(entry)}
	switch kind {
	case KindRecord:
		var r Record
		r, err = Decode(body)
		e.Record = &r
	case KindSeal:
		var s Seal
		s, err = ParseSeal(body)
		e.Seal = &s
	case KindGenesis:
		var g Genesis
		g, err = ParseGenesis(body)
		e.Genesis = &g
	case KindKeyChange:
		var c KeyChange
		c, err = ParseKeyChange(body)
		e.KeyChange = &c
	case KindStatement:
		var s Statement
		s, err = ParseStatement(body)
		e.Statement = &s
	}
	if err != nil {
		return Entry{}, err
	}
	return e, nil
}

// Stage is the name of what a record is about, as it stands in output for
// programs: "request", "response", "start", "stop", "beacon", "gap", "config",
// "progress", or "unknown" for a record from a later version.
func (r Record) Stage() string {
	switch r.GetAbout().(type) {
	case *sealtapv1.Record_Request:
		return "request"
	case *sealtapv1.Record_Response:
		return "response"
	case *sealtapv1.Record_Start:
		return "start"
	case *sealtapv1.Record_Stop:
		return "stop"
	case *sealtapv1.Record_Beacon:
		return "beacon"
	case *sealtapv1.Record_Gap:
		return "gap"
	case *sealtapv1.Record_Config:
		return "config"
	case *sealtapv1.Record_Progress:
		return "progress"
	}
	return "unknown"
}

// NewStream returns the stream of a new incarnation of the producer.
func NewStream(producer keys.ID) Stream {
	s := Stream{Producer: producer}
	randRead(s.Incarnation[:])
	return s
}
