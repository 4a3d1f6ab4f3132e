// Package producer makes what a proxy would submit, as much and as fast as a test
// wants, and remembers what the log acknowledged.
//
// Start with [New], then alternate [Producer.Next] and [Producer.Done].
package producer

import (
	"fmt"
	"time"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// Producer is one stream of records. One goroutine uses it at a time.
type Producer struct {
	Stream record.Stream
	// Entries are all records and seals made so far, in the order of their making.
	Entries []Entry

	seal    func(size uint64, root record.Hash) ([]byte, error)
	boxes   *record.OpeningSealer // nil: no record has openings
	tree    *record.Tree
	pending *sealtapv1.SubmitRequest // not acknowledged
	first   int                      // of the pending entries
}

// Entry is what became of an entry.
type Entry struct {
	Bytes  []byte
	Opened bool // whether openings went with it
	Acked  bool
	Index  uint64 // if acknowledged
}

// New begins a new incarnation of the producer. With boxes some of its records
// have openings.
func New(key *keys.Private, boxes *record.OpeningSealer) (*Producer, error) {
	signer, err := key.Signer()
	if err != nil {
		return nil, err
	}
	p := &Producer{Stream: record.NewStream(key.ID()), boxes: boxes, tree: record.NewTree()}
	p.seal = func(size uint64, root record.Hash) ([]byte, error) {
		return record.NewSeal(p.Stream, size, root, signer)
	}
	return p, nil
}

// Next returns the submission that waits for an answer, or a new one of n records
// with their seal. about is given the sequence of each record.
func (p *Producer) Next(n int, about func(sequence uint64) *sealtapv1.Record) (*sealtapv1.SubmitRequest, error) {
	if p.pending != nil {
		return p.pending, nil
	}
	p.first = len(p.Entries)
	req := new(sealtapv1.SubmitRequest)
	for range n {
		it, err := p.record(about(p.tree.Size()))
		if err != nil {
			return nil, err
		}
		p.add(req, it)
	}
	if p.boxes != nil {
		req.Keys = []*sealtapv1.WrappedKey{p.boxes.WrappedKey()}
	}
	seal, err := p.seal(p.tree.Size(), p.tree.Root())
	if err != nil {
		return nil, err
	}
	p.add(req, &sealtapv1.Item{Entry: seal})
	p.pending = req
	return req, nil
}

func (p *Producer) add(req *sealtapv1.SubmitRequest, it *sealtapv1.Item) {
	req.Items = append(req.Items, it)
	p.Entries = append(p.Entries, Entry{Bytes: it.Entry, Opened: len(it.Openings) > 0})
}

func (p *Producer) record(r *sealtapv1.Record) (*sealtapv1.Item, error) {
	sequence := p.tree.Size()
	r.Producer, r.Incarnation, r.Sequence, r.Time = p.Stream.Producer[:], p.Stream.Incarnation[:], sequence, time.Now().UnixNano()
	if sequence == 0 {
		r.About = &sealtapv1.Record_Start{Start: &sealtapv1.Start{Version: "interop"}}
	}
	var opening *sealtapv1.Opening
	if p.boxes != nil && sequence%3 == 1 {
		opening = record.NewOpening(record.FieldQuery, record.TypeString, fmt.Appendf(nil, "secret=%d", sequence))
		commitment := record.Commitment(p.Stream, sequence, opening)
		r.Sealed = []*sealtapv1.SealedField{{Field: opening.Field, Commitment: commitment[:]}}
	}
	entry, err := record.Encode(r)
	if err != nil {
		return nil, err
	}
	it := &sealtapv1.Item{Entry: entry}
	leaf := record.LeafHash(entry)
	if opening != nil {
		if it.Openings, err = p.boxes.Seal(leaf, []*sealtapv1.Opening{opening}); err != nil {
			return nil, err
		}
	}
	p.tree.Append(leaf, nil)
	return it, nil
}

// Done takes the log's answer to the submission that waits. Every item must have
// an index, and one that had an index before must have the same.
func (p *Producer) Done(answer *sealtapv1.SubmitResponse) error {
	list := p.Entries[p.first:]
	told := 0
	for _, r := range answer.GetRuns() {
		for i := range r.GetCount() {
			item, index := r.GetFirstItem()+i, r.GetFirstIndex()+i
			if item >= uint64(len(list)) {
				return fmt.Errorf("the log answers for item %d of %d", item, len(list))
			}
			e := &list[item]
			if e.Acked && e.Index != index {
				return fmt.Errorf("an entry that was acknowledged as %d is acknowledged as %d now", e.Index, index)
			}
			e.Acked, e.Index = true, index
			told++
		}
	}
	if told != len(list) {
		return fmt.Errorf("the log answers for %d of %d items", told, len(list))
	}
	p.pending = nil
	return nil
}

// Waiting reports whether a submission has had no answer.
func (p *Producer) Waiting() bool { return p.pending != nil }

// Request makes an ordinary record.
func Request(path string) func(uint64) *sealtapv1.Record {
	return func(uint64) *sealtapv1.Record {
		return &sealtapv1.Record{About: &sealtapv1.Record_Request{Request: &sealtapv1.Request{Method: "POST", Path: path}}}
	}
}
