package tlog

import (
	"bytes"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
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
		got, err := decodeSubmit(b, 1<<30)
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

// TestDecodeBounds: what is small here and large in memory is refused before it is
// there, and a header that promises much gets nothing for it.
func TestDecodeBounds(t *testing.T) {
	const most = 100
	for name, decode := range map[string]func() error{
		"protobuf": func() error {
			_, err := decodeSubmit(bytes.Repeat([]byte{0x0a, 0x00}, 1<<20), most)
			return err
		},
		"JSON": func() error {
			_, err := decodeSubmitJSON([]byte(`{"items":[{}`+strings.Repeat(",{}", 1<<20)+`]}`), most)
			return err
		},
		"JSON keys": func() error {
			_, err := decodeSubmitJSON([]byte(`{"keys":[{}`+strings.Repeat(",{}", 1<<20)+`]}`), most)
			return err
		},
	} {
		var limit *LimitError
		if err := decode(); !errors.As(err, &limit) || !errors.Is(err, ErrTooLarge) || limit.Limit != limitBatchEntries {
			t.Errorf("%s: %v", name, err)
		}
	}
	full := &sealtapv1.SubmitRequest{}
	for range most {
		full.Items = append(full.Items, &sealtapv1.Item{Entry: []byte("{")})
		full.Keys = append(full.Keys, &sealtapv1.WrappedKey{})
	}
	text, err := protojson.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeSubmitJSON(text, most); err != nil || !proto.Equal(got, full) {
		t.Errorf("as many as there may be: %v", err)
	}

	r := httptest.NewRequest("POST", "/v1/entries", strings.NewReader("x"))
	r.ContentLength = 16 << 20
	body, err := readBody(httptest.NewRecorder(), r, 32<<20)
	if err != nil || string(body) != "x" || cap(body) > 1<<20 {
		t.Errorf("a body of %d bytes, room for %d, %v", len(body), cap(body), err)
	}
}
