package tlog_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"filippo.io/age"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/storagetest"
	"github.com/sealtap/sealtap/tlog"
)

func newSealer(t *testing.T) (*record.OpeningSealer, *age.X25519Identity) {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := record.NewOpeningSealer(identity.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	return sealer, identity
}

func TestOpenings(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	fail := make(chan bool, 1)
	f.config = func(c *tlog.Config) { c.Openings = failingOpenings{c.Openings, fail} }
	f.start()
	p := f.producer("proxy-1")
	sealer, identity := newSealer(t)
	it := p.sealedRecord(sealer)
	req := &sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{it, {Entry: p.seal()}}, Keys: []*sealtapv1.WrappedKey{sealer.WrappedKey()}}

	// Where openings cannot be stored, neither are entries: they would be public
	// without them. The repetition stores both.
	fail <- true
	if _, err := f.log.Submit(ctx, req); !errors.Is(err, tlog.ErrUnavailable) {
		t.Fatalf("while openings cannot be stored: %v", err)
	}
	if state, err := f.storage.Load(ctx); err != nil {
		t.Fatal(err)
	} else if state.Size != 2 {
		t.Fatalf("%d entries are stored, some without their openings", state.Size)
	}
	index := f.untilSubmitted(t, req).Runs[0].FirstIndex
	if index != 2 || f.log.Size() != 4 {
		t.Errorf("stored at %d, size %d", index, f.log.Size())
	}
	box, ok, err := f.openings.Opening(ctx, index)
	if err != nil || !ok || !bytes.Equal(box, it.Openings) {
		t.Fatalf("openings of %d: %v, %v, or others", index, ok, err)
	}
	id, err := record.BoxKey(box)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, ok, err := f.openings.WrappedKey(ctx, id)
	if err != nil || !ok {
		t.Fatalf("wrapped key: %v, %v", ok, err)
	}
	key, err := record.UnwrapKey(&sealtapv1.WrappedKey{Id: id[:], Wrapped: wrapped}, identity)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := record.OpenBox(box, record.LeafHash(it.Entry), key)
	if err != nil || len(opened) != 1 || string(opened[0].GetValue()) != "q=1" {
		t.Errorf("opened %v, %v", opened, err)
	}

	// Nobody can replace them by repeating the entries with others.
	other, _ := newSealer(t)
	otherBox, err := other.Seal(record.LeafHash(it.Entry), nil)
	if err != nil {
		t.Fatal(err)
	}
	again := &sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{{Entry: it.Entry, Openings: otherBox}, req.Items[1]}, Keys: []*sealtapv1.WrappedKey{other.WrappedKey()}}
	if _, err := f.log.Submit(ctx, again); err != nil {
		t.Fatal(err)
	}
	if box, _, err := f.openings.Opening(ctx, index); err != nil || !bytes.Equal(box, it.Openings) {
		t.Errorf("openings were replaced, or %v", err)
	}
}

// Openings come with the submission that stores their entry, or not at all: after
// that everybody can read the entry and submit it again, with openings of his own.
func TestOpeningsOfRepetitions(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	sealer, _ := newSealer(t)
	it := p.sealedRecord(sealer)
	seal := &sealtapv1.Item{Entry: p.seal()}
	resp, err := f.log.Submit(ctx, &sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{{Entry: it.Entry}, seal}})
	if err != nil {
		t.Fatal(err)
	}
	first := resp.Runs[0].FirstIndex
	// Alone, and before what is new.
	more := p.sealedRecord(sealer)
	for _, items := range [][]*sealtapv1.Item{{it, seal}, {it, more, {Entry: p.seal()}}} {
		if _, err := f.log.Submit(ctx, &sealtapv1.SubmitRequest{Items: items, Keys: []*sealtapv1.WrappedKey{sealer.WrappedKey()}}); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := f.openings.Opening(ctx, first); ok || err != nil {
			t.Errorf("a repetition brought openings in: %v, %v", ok, err)
		}
	}
	if box, _, err := f.openings.Opening(ctx, first+2); err != nil || !bytes.Equal(box, more.Openings) {
		t.Errorf("openings of what was new: %v, or others", err)
	}
	if id, err := record.BoxKey(more.Openings); err != nil {
		t.Error(err)
	} else if _, ok, err := f.openings.WrappedKey(ctx, id); !ok || err != nil {
		t.Errorf("the key of what was new: %v, %v", ok, err)
	}
}

// untilSubmitted submits until the log has recovered from a failure.
func (f *fixture) untilSubmitted(t *testing.T, req *sealtapv1.SubmitRequest) (resp *sealtapv1.SubmitResponse) {
	t.Helper()
	eventually(t, "recovery", func() bool {
		var err error
		if resp, err = f.log.Submit(context.Background(), req); err != nil && !errors.Is(err, tlog.ErrUnavailable) {
			t.Fatal(err)
		}
		return err == nil
	})
	return resp
}

// Openings are stored ahead of their entries. Where the entries then were not, the
// openings must not become those of what is stored at their index later.
func TestOpeningsOfEntriesNeverStored(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t).start()
	p, q := f.producer("proxy-1"), f.producer("proxy-2")
	sealer, _ := newSealer(t)
	it := p.sealedRecord(sealer)
	req := &sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{it, {Entry: p.seal()}}, Keys: []*sealtapv1.WrappedKey{sealer.WrappedKey()}}
	f.storage.Fail("Commit", storagetest.Failed)
	if _, err := f.log.Submit(ctx, req); !errors.Is(err, tlog.ErrUnavailable) {
		t.Fatalf("while entries cannot be stored: %v", err)
	}
	var index uint64
	other := q.batch(1)
	eventually(t, "recovery", func() bool {
		resp, err := f.submit(other...)
		if err == nil {
			index = resp.Runs[0].FirstIndex
		}
		return err == nil
	})
	if _, ok, err := f.openings.Opening(ctx, index); ok || err != nil {
		t.Errorf("entry %d has the openings of one that was never stored: %v, %v", index, ok, err)
	}
	index = f.untilSubmitted(t, req).Runs[0].FirstIndex
	if box, _, err := f.openings.Opening(ctx, index); err != nil || !bytes.Equal(box, it.Openings) {
		t.Errorf("openings of entry %d: %v, or others", index, err)
	}
}

func TestOpeningsRefused(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	sealer, _ := newSealer(t)
	plain := p.clone()
	unsealed := plain.batch(1)
	sealed := p.clone()
	it := sealed.sealedRecord(sealer)
	seal := &sealtapv1.Item{Entry: sealed.seal()}
	for name, req := range map[string]*sealtapv1.SubmitRequest{
		"of a record without sealed fields": {Items: []*sealtapv1.Item{{Entry: unsealed[0], Openings: it.Openings}, {Entry: unsealed[1]}}},
		"of a seal":                         {Items: []*sealtapv1.Item{it, {Entry: seal.Entry, Openings: it.Openings}}},
		"not encrypted":                     {Items: []*sealtapv1.Item{{Entry: it.Entry, Openings: []byte("plain")}, seal}},
		"key without an id":                 {Items: []*sealtapv1.Item{it, seal}, Keys: []*sealtapv1.WrappedKey{{Wrapped: []byte("x")}}},
		"key too long":                      {Items: []*sealtapv1.Item{it, seal}, Keys: []*sealtapv1.WrappedKey{{Id: make([]byte, 16), Wrapped: make([]byte, 1<<20)}}},
	} {
		if _, err := f.log.Submit(context.Background(), req); !errors.Is(err, tlog.ErrRefused) {
			t.Errorf("openings %s: %v", name, err)
		}
	}
	none := newFixture(t)
	none.config = func(c *tlog.Config) { c.Openings = nil }
	none.start()
	if _, err := none.log.Submit(context.Background(), &sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{it, seal}}); !errors.Is(err, tlog.ErrRefused) {
		t.Errorf("openings for a log that keeps none: %v", err)
	}
}

// sealedRecord returns a record with a sealed field, and its openings.
func (p *producer) sealedRecord(sealer *record.OpeningSealer) *sealtapv1.Item {
	p.t.Helper()
	o := record.NewOpening(record.FieldQuery, record.TypeString, []byte("q=1"))
	c := record.Commitment(p.stream, p.tree.Size(), o)
	entry := p.encode(&sealtapv1.Record{Producer: p.stream.Producer[:], Incarnation: p.stream.Incarnation[:], Sequence: p.tree.Size(),
		Sealed: []*sealtapv1.SealedField{{Field: record.FieldQuery, Commitment: c[:]}},
		About:  &sealtapv1.Record_Request{Request: &sealtapv1.Request{Method: "GET"}}})
	box, err := sealer.Seal(record.LeafHash(entry), []*sealtapv1.Opening{o})
	if err != nil {
		p.t.Fatal(err)
	}
	return &sealtapv1.Item{Entry: entry, Openings: box}
}

var _ storage.Openings = failingOpenings{}

// failingOpenings fails once.
type failingOpenings struct {
	storage.Openings
	fail chan bool
}

func (o failingOpenings) Put(ctx context.Context, openings []storage.Opening, keys []storage.WrappedKey) error {
	select {
	case <-o.fail:
		return storagetest.ErrInjected
	default:
		return o.Openings.Put(ctx, openings, keys)
	}
}
