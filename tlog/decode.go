package tlog

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// readBody reads a body of at most limit bytes, into one piece of memory if the
// client says how long it is.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	var buf bytes.Buffer
	// More only as it comes: a header is no reason to set memory aside.
	if n := r.ContentLength; n > 0 && n <= limit {
		buf.Grow(int(min(n, firstRead)) + bytes.MinRead)
	}
	_, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	return buf.Bytes(), err
}

// firstRead is the room that a body gets before it comes. A proxy's batch fits.
const firstRead = 256 << 10

// Numbers of fields, from submit.proto.
const (
	fieldItems = 1

	fieldEntry    = 1
	fieldOpenings = 2
)

// decodeSubmit parses a SubmitRequest as proto.Unmarshal does, but entries and
// openings stay where they are in b, which the caller leaves alone from then on:
// they are most of it, and would be copied one by one. It stops at more than most
// items: an empty one takes two bytes here, and a hundred in memory.
func decodeSubmit(b []byte, most int) (*sealtapv1.SubmitRequest, error) {
	var rest []byte // everything that is no item
	var items [][]byte
	for b := b; len(b) > 0; {
		num, wire, tag, size, err := nextField(b)
		if err != nil {
			return nil, err
		}
		if num == fieldItems && wire == protowire.BytesType {
			item, _ := protowire.ConsumeBytes(b[tag:])
			if items = append(items, item); len(items) > most {
				return nil, tooManyItems(len(items), most)
			}
		} else {
			rest = append(rest, b[:tag+size]...)
		}
		b = b[tag+size:]
	}
	req := new(sealtapv1.SubmitRequest)
	if err := proto.Unmarshal(rest, req); err != nil {
		return nil, err
	}
	slab := make([]sealtapv1.Item, len(items))
	req.Items = make([]*sealtapv1.Item, len(items))
	for i, item := range items {
		req.Items[i] = &slab[i]
		if err := decodeItem(item, &slab[i]); err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
	}
	return req, nil
}

// decodeSubmitJSON parses the JSON form of a SubmitRequest. Every item and every
// key is an object, and nothing else has a brace in it.
func decodeSubmitJSON(b []byte, most int) (*sealtapv1.SubmitRequest, error) {
	if n := bytes.Count(b, []byte("{")); n > 2*most+1 {
		return nil, tooManyItems(n, most)
	}
	req := new(sealtapv1.SubmitRequest)
	return req, protojson.Unmarshal(b, req)
}

func tooManyItems(n, most int) error {
	return &LimitError{Kind: ErrTooLarge, Limit: limitBatchEntries, What: "entries in a batch, or more", Got: uint64(n), Max: uint64(most)}
}

func decodeItem(b []byte, it *sealtapv1.Item) error {
	for len(b) > 0 {
		num, wire, tag, size, err := nextField(b)
		if err != nil {
			return err
		}
		value := b[tag : tag+size]
		b = b[tag+size:]
		if wire != protowire.BytesType {
			continue
		}
		content, _ := protowire.ConsumeBytes(value)
		switch num {
		case fieldEntry:
			it.Entry = content[:len(content):len(content)]
		case fieldOpenings:
			it.Openings = content[:len(content):len(content)]
		}
	}
	return nil
}

// nextField returns number and type of the field that b begins with, and how many
// bytes its tag and its value have.
func nextField(b []byte) (num protowire.Number, wire protowire.Type, tag, size int, err error) {
	num, wire, tag = protowire.ConsumeTag(b)
	if tag < 0 || !num.IsValid() {
		return 0, 0, 0, 0, errors.New("a field without a tag")
	}
	if size = protowire.ConsumeFieldValue(num, wire, b[tag:]); size < 0 {
		return 0, 0, 0, 0, fmt.Errorf("field %d: %w", num, protowire.ParseError(size))
	}
	return num, wire, tag, size, nil
}
