package tlog

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

func decodeSeeds(t testing.TB) [][]byte {
	b, err := proto.Marshal(&sealtapv1.SubmitRequest{
		Items: []*sealtapv1.Item{{Entry: []byte("one"), Openings: []byte("box")}, {}, {Entry: []byte("two")}},
		Keys:  []*sealtapv1.WrappedKey{{Id: make([]byte, 16), Wrapped: []byte("key")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	item := func(fields ...[]byte) []byte {
		var content []byte
		for _, f := range fields {
			content = append(content, f...)
		}
		return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), content)
	}
	text := func(num protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, num, protowire.BytesType), s)
	}
	number := func(num protowire.Number) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), 7)
	}
	return [][]byte{b, nil, b[:len(b)-1], item(text(1, "a"), text(1, "b")), item(number(1), text(2, "x"), text(9, "unknown")),
		append(number(1), number(77)...), {0xff}, {0x0a, 0xff}, {0x0b, 0x0c}}
}

// FuzzDecodeSubmit compares with the decoder of everybody else.
func FuzzDecodeSubmit(f *testing.F) {
	for _, seed := range decodeSeeds(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeSubmit(b)
		want := new(sealtapv1.SubmitRequest)
		wantErr := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, want)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, others say %v", err, wantErr)
		}
		if err == nil {
			got.ProtoReflect().SetUnknown(nil)
			if !proto.Equal(got, want) {
				t.Fatalf("decoded %v, others %v", got, want)
			}
		}
	})
}
