package record

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// shape is what a message may look like on the wire.
type shape struct {
	name   protoreflect.FullName
	fields []fieldShape // by their numbers
}

type fieldShape struct {
	known bool
	bit   uint64 // of its own, or that of its oneof; 0 if it may occur any number of times
	wire  protowire.Type
	limit uint64 // of a varint
	text  bool   // whether it must be UTF-8
	child *shape // of a message
	fact  fact   // which one it is; 0 for none
}

var recordShape = sync.OnceValue(func() *shape {
	s := newShape((*sealtapv1.Record)(nil).ProtoReflect().Descriptor(), make(map[protoreflect.FullName]*shape))
	for _, f := range factFields {
		at := s
		for _, num := range f.path[:len(f.path)-1] {
			at = at.fields[num].child
		}
		at.fields[f.path[len(f.path)-1]].fact = f.fact
	}
	return s
})

func newShape(d protoreflect.MessageDescriptor, known map[protoreflect.FullName]*shape) *shape {
	if s := known[d.FullName()]; s != nil {
		return s
	}
	s := &shape{name: d.FullName()}
	known[d.FullName()] = s
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		f := fieldShape{known: true, bit: 1 << i, wire: protowire.BytesType}
		if o := fd.ContainingOneof(); o != nil {
			f.bit = 1 << o.Fields().Get(0).Index()
		}
		if fd.IsList() {
			f.bit = 0
		}
		switch fd.Kind() {
		case protoreflect.BoolKind:
			f.wire, f.limit = protowire.VarintType, 1
		case protoreflect.EnumKind:
			f.wire, f.limit = protowire.VarintType, math.MaxInt32
		case protoreflect.Uint32Kind:
			f.wire, f.limit = protowire.VarintType, math.MaxUint32
		case protoreflect.Uint64Kind:
			f.wire, f.limit = protowire.VarintType, math.MaxUint64
		case protoreflect.Sfixed64Kind:
			f.wire = protowire.Fixed64Type
		case protoreflect.StringKind:
			f.text = true
		case protoreflect.MessageKind:
			f.child = newShape(fd.Message(), known)
		}
		for len(s.fields) <= int(fd.Number()) {
			s.fields = append(s.fields, fieldShape{})
		}
		s.fields[fd.Number()] = f
	}
	return s
}

// checkWire refuses encodings that two protobuf decoders may read in two ways:
// where a field occurs twice one takes the last, another the first, a third
// merges them; numbers that are too long or too large are cut in different
// places. What we do not know is skipped, like everywhere. (docs/formats.md,
// "Records") On its way it collects facts, unless they are nil.
func (s *shape) checkWire(b []byte, facts *Facts) error {
	var seen uint64
	for len(b) > 0 {
		num, wire, n := protowire.Number(b[0]>>3), protowire.Type(b[0]&7), 1
		if b[0] >= 0x80 { // few have so high a number
			var tag uint64
			if tag, n = protowire.ConsumeVarint(b); n != protowire.SizeVarint(tag) {
				num = 0
			} else {
				num, wire = protowire.DecodeTag(tag)
			}
		}
		if !num.IsValid() || wire == protowire.StartGroupType || wire == protowire.EndGroupType {
			return fmt.Errorf("%w: a field of %s has no tag that all read alike", ErrMalformed, s.name)
		}
		size := fieldSize(num, wire, b[n:])
		if size < 0 {
			return fmt.Errorf("%w: field %d of %s: %w", ErrMalformed, num, s.name, protowire.ParseError(size))
		}
		value := b[n : n+size]
		b = b[n+size:]
		if int(num) >= len(s.fields) || !s.fields[num].known {
			continue
		}
		f := &s.fields[num]
		if seen&f.bit != 0 {
			return fmt.Errorf("%w: field %d of %s, or another of its kind, occurs twice", ErrMalformed, num, s.name)
		}
		seen |= f.bit
		if err := f.checkValue(wire, value, facts); err != nil {
			return fmt.Errorf("%w: field %d of %s: %w", ErrMalformed, num, s.name, err)
		}
		if f.fact != 0 && facts != nil {
			facts.take(f.fact, value)
		}
	}
	return nil
}

// fieldSize is protowire.ConsumeFieldValue, which is slower with what most fields are:
// fewer than 128 bytes behind their length.
func fieldSize(num protowire.Number, wire protowire.Type, b []byte) int {
	if wire == protowire.BytesType && len(b) > 0 && b[0] < 0x80 && int(b[0]) < len(b) {
		return 1 + int(b[0])
	}
	return protowire.ConsumeFieldValue(num, wire, b)
}

func (f *fieldShape) checkValue(wire protowire.Type, value []byte, facts *Facts) error {
	if wire != f.wire {
		return fmt.Errorf("its wire type is %d, not %d", wire, f.wire)
	}
	if wire == protowire.Fixed64Type {
		return nil
	}
	v, n := uint64(value[0]), 1 // of what has a length, the length
	if v >= 0x80 {
		if v, n = protowire.ConsumeVarint(value); n != protowire.SizeVarint(v) {
			return fmt.Errorf("a number has more bytes than it needs")
		}
	}
	if wire == protowire.VarintType && v > f.limit {
		return fmt.Errorf("%d is out of range", v)
	}
	if f.text && !utf8.Valid(value[n:]) {
		return errors.New("it is not UTF-8")
	}
	if f.child != nil {
		return f.child.checkWire(value[n:], facts)
	}
	return nil
}
