package record

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

func field(num protowire.Number, wire protowire.Type) []byte {
	return protowire.AppendTag(nil, num, wire)
}

func text(num protowire.Number, s string) []byte {
	return protowire.AppendString(field(num, protowire.BytesType), s)
}

func number(num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(field(num, protowire.VarintType), v)
}

// TestOneReading: what two protobuf decoders may read as two records is none.
func TestOneReading(t *testing.T) {
	good, err := Encode(sample(NewStream(keys.ID{1})))
	if err != nil {
		t.Fatal(err)
	}
	body := good[headerSize:]
	request := func(b []byte) []byte {
		return append(protowire.AppendBytes(field(16, protowire.BytesType), b), body[:0]...)
	}
	base := func(r *sealtapv1.Record) []byte {
		r.Producer, r.Incarnation = make([]byte, 32), make([]byte, 16)
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	bare := base(&sealtapv1.Record{})
	sealed := text(6, string(append(text(1, "path"), text(2, string(make([]byte, 32)))...)))
	for name, b := range map[string][]byte{
		"a second sequence":               append(base(&sealtapv1.Record{Sequence: 7}), number(3, 8)...),
		"a second producer":               append(base(&sealtapv1.Record{}), text(1, strings.Repeat("x", 32))...),
		"a second request, to be merged":  append(append(bare[:len(bare):len(bare)], request(text(5, "GET"))...), request(text(8, "/"))...),
		"two members of the oneof":        append(append(bare[:len(bare):len(bare)], request(text(5, "GET"))...), text(19, "")...),
		"a second method within":          append(bare[:len(bare):len(bare)], request(append(text(5, "GET"), text(5, "PUT")...))...),
		"a second size deep within":       append(bare[:len(bare):len(bare)], request(text(13, string(append(number(1, 1), number(1, 2)...))))...),
		"two commitments to a field":      append(append(bare[:len(bare):len(bare)], sealed...), sealed...),
		"a number longer than it needs":   append(bare[:len(bare):len(bare)], 3<<3, 0x87, 0x00),
		"a tag longer than it needs":      append(bare[:len(bare):len(bare)], 0x80|3<<3, 0x00, 7),
		"a length longer than it needs":   append(bare[:len(bare):len(bare)], 16<<3&0x7f|2|0x80, 0x01, 0x80, 0x00),
		"a field number of 32 bits more":  append(bare[:len(bare):len(bare)], protowire.AppendVarint(nil, 1<<35|3<<3)...),
		"a bool of 2":                     append(bare[:len(bare):len(bare)], request(text(2, string(number(3, 2))))...),
		"a status of 33 bits":             append(bare[:len(bare):len(bare)], text(17, string(number(1, 1<<32|200)))...),
		"an outcome of 33 bits":           append(bare[:len(bare):len(bare)], text(17, string(number(8, 1<<32|1)))...),
		"a known field of another type":   append(bare[:len(bare):len(bare)], text(3, "7")...),
		"a group":                         append(append(bare[:len(bare):len(bare)], field(99, protowire.StartGroupType)...), field(99, protowire.EndGroupType)...),
		"a text that is not UTF-8":        append(bare[:len(bare):len(bare)], request(text(5, "\xff"))...),
		"nested beyond the schema, cut":   append(bare[:len(bare):len(bare)], request([]byte{0x12, 0x7f})...),
		"a field number of 0":             append(bare[:len(bare):len(bare)], 0x02, 0x00),
		"a sequence twice, the same bits": append(base(&sealtapv1.Record{Sequence: 7}), number(3, 7)...),
	} {
		if _, err := Decode(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"nothing more":               bare,
		"the usual":                  body,
		"fields to come":             append(append(bare[:len(bare):len(bare)], text(99, "x")...), number(99, 1)...),
		"fields to come, within":     append(bare[:len(bare):len(bare)], request(text(99, "x"))...),
		"a list":                     append(bare[:len(bare):len(bare)], request(append(text(11, ""), text(11, "")...))...),
		"the highest sequence":       base(&sealtapv1.Record{Sequence: 1<<64 - 1, Time: -1}),
		"fields in another order":    append(number(3, 7), bare...),
		"an absent and an empty one": append(bare[:len(bare):len(bare)], request(text(9, ""))...),
	} {
		if _, err := Decode(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNames: names in the operator's statements look like what they are.
func TestNames(t *testing.T) {
	operator := newKey(t, "operator")
	for name, good := range map[string]bool{"shop": true, "bücher.example": true, "shop\u200b": false, "shop\u202egpj": false, "sh\u00adop": false, "\ufeffshop": false} {
		k := newKey(t, name)
		for what, make := range map[string]func() ([]byte, error){
			"enrol": func() ([]byte, error) {
				return NewKeyChange(KeyChange{Origin: "log", Number: 1, Enrol: []keys.Public{k.Public}}, operator)
			},
			"log": func() ([]byte, error) { return NewGenesis(k.Public, operator, time.Unix(1, 0)) },
		} {
			entry, err := make()
			if err == nil {
				_, err = Parse(entry)
			}
			if (err == nil) != good {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
	}
}

// TestSaidTwice: a statement that says two things of one key is none.
func TestSaidTwice(t *testing.T) {
	operator, log, p := newKey(t, "operator"), newKey(t, "log"), newKey(t, "p").Public
	a, b := Incarnation{1}, Incarnation{2}
	for name, test := range map[string]struct {
		revoke []Revocation
		good   bool
	}{
		"once":              {[]Revocation{{p, []LastSequence{{a, 1}, {b, 1}}}}, true},
		"a key twice":       {[]Revocation{{p, []LastSequence{{a, 1}}}, {p, nil}}, false},
		"incarnation twice": {[]Revocation{{p, []LastSequence{{a, 1}, {a, 9}}}}, false},
	} {
		body := func(entry []byte, err error) []byte {
			if err != nil {
				t.Fatal(err)
			}
			return entry[headerSize:]
		}
		g, err := ParseGenesis(body(NewGenesis(log.Public, operator, time.Unix(1, 0))))
		if err != nil {
			t.Fatal(err)
		}
		ring, err := NewKeyring(&g, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range []KeyChange{{Enrol: []keys.Public{p}}, {Revoke: test.revoke}} {
			c.Origin, c.Number = "log", uint64(i+1)
			if c, err = ParseKeyChange(body(NewKeyChange(c, operator))); err != nil {
				t.Fatal(err)
			}
			if err = ring.Apply(&c, uint64(i+1)); (err == nil) != (i == 0 || test.good) {
				t.Errorf("%s: statement %d: %v", name, i, err)
			}
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	entry, err := Encode(sample(NewStream(keys.ID{1})))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(entry[headerSize:]); err != nil {
			b.Fatal(err)
		}
	}
}
