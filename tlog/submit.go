package tlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

var (
	// ErrRefused is wrapped where a submission is not one that could ever be
	// stored.
	ErrRefused = errors.New("submission refused")
	// ErrSignature is wrapped where a seal is not signed by its producer.
	ErrSignature = errors.New("invalid signature")
	// ErrTooLarge is wrapped where a submission is above a limit.
	ErrTooLarge = errors.New("submission too large")
	// ErrBusy is wrapped where as many submissions wait as may wait.
	ErrBusy = errors.New("log is busy")
	// ErrUnavailable is wrapped where it is not known whether a submission was
	// stored. To submit it again is safe.
	ErrUnavailable = errors.New("storage is unavailable")
	// ErrStopped is wrapped after Run has ended.
	ErrStopped = errors.New("log has stopped")
)

// ClosedError says that the log takes no more entries.
type ClosedError struct {
	Successor keys.Public // the log that does
}

// Error implements error.
func (e *ClosedError) Error() string {
	return fmt.Sprintf("the operator has closed this log; %s goes on from it: submit there", e.Successor.Name)
}

// maxWrappedKey bounds a wrapped data key: one for some dozens of recipients.
const maxWrappedKey = 16 << 10

// SequenceError says that records are missing before the first one of a
// submission, or that a statement has not the next number.
type SequenceError struct {
	What     string // whose sequence, in words
	Got      uint64
	Expected uint64
}

// Error implements error.
func (e *SequenceError) Error() string {
	return fmt.Sprintf("%s: got %d, the next one is %d", e.What, e.Got, e.Expected)
}

// ForkError says that a submission contradicts what the same producer submitted
// before.
type ForkError struct {
	Stream   record.Stream
	Sequence uint64 // of the record, or the size of the seal
	Index    uint64 // of the stored entry that it contradicts, if Known
	Known    bool
	Detail   string
}

// Error implements error.
func (e *ForkError) Error() string {
	return fmt.Sprintf("fork of %s at %d: %s", e.Stream.Origin(), e.Sequence, e.Detail)
}

// submission is a parsed request on its way through the queue.
type submission struct {
	runs   []run
	change *item // a statement of the operator, then there are no runs
	items  int
	bytes  int
	keys   []storage.WrappedKey
	done   chan outcome // with room for one
}

type outcome struct {
	response *sealtapv1.SubmitResponse
	err      error
}

// run is a number of consecutive records of a stream with the seal that covers
// them.
type run struct {
	first   int // item
	stream  record.Stream
	key     keys.Public // of the producer, once its signature is verified
	records []item
	seal    record.Seal
	sealed  item
}

// item is one entry.
type item struct {
	entry  []byte
	leaf   record.Hash
	box    []byte
	change *change
}

// sequence is that of the first record.
func (r *run) sequence() uint64 { return r.seal.Size - uint64(len(r.records)) }

// Submit has a batch stored, and returns when it is durable or, where the request
// says so, when a published checkpoint covers it. A batch is stored as a whole or
// not at all. To submit the same entries again gives the same answer and stores
// nothing.
func (l *Log) Submit(ctx context.Context, req *sealtapv1.SubmitRequest) (*sealtapv1.SubmitResponse, error) {
	response, err := l.submit(ctx, req)
	l.metrics.submitted(err)
	return response, err
}

func (l *Log) submit(ctx context.Context, req *sealtapv1.SubmitRequest) (*sealtapv1.SubmitResponse, error) {
	s, err := l.parse(req)
	if err != nil {
		return nil, err
	}
	for i := range s.runs {
		if err := l.verify(&s.runs[i]); err != nil {
			return nil, err
		}
	}
	taken, err := l.charge(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := l.enqueue(s); err != nil {
		l.refund(taken)
		return nil, err
	}
	bodyOf(ctx).end() // the queue counts it
	var o outcome
	select {
	case o = <-s.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w before the batch was stored", ErrUnavailable, ctx.Err())
	case <-l.term.Load().stopped:
		return nil, l.notWriting()
	}
	if o.err == nil && req.GetLevel() == sealtapv1.Level_LEVEL_PUBLISHED {
		o.err = l.awaitPublished(ctx, o.response)
	}
	if o.err != nil {
		return nil, o.err
	}
	return o.response, nil
}

func (l *Log) enqueue(s *submission) error {
	if !l.Writing() {
		return l.notWriting()
	}
	// An empty queue takes a submission of any allowed size.
	before := l.queuedBytes.Add(int64(s.bytes)) - int64(s.bytes)
	waiting := l.queued.Add(1)
	switch most := int64(l.config.MaxQueueBytes); {
	case before > 0 && before+int64(s.bytes) > most:
		l.leaveQueue(s)
		return &LimitError{Kind: ErrBusy, Limit: limitQueueBytes, What: "bytes would wait to be stored", Got: uint64(before) + uint64(s.bytes), Max: uint64(most)}
	case waiting > int64(l.config.MaxQueue):
		l.leaveQueue(s)
		return &LimitError{Kind: ErrBusy, Limit: limitQueue, What: "submissions would wait to be stored", Got: uint64(waiting), Max: uint64(l.config.MaxQueue)}
	}
	l.queue <- s // has room for as many as may wait
	return nil
}

// leaveQueue says that a submission waits no more.
func (l *Log) leaveQueue(s *submission) {
	l.queuedBytes.Add(-int64(s.bytes))
	l.queued.Add(-1)
}

// parse checks everything about a request that does not depend on what is
// stored.
func (l *Log) parse(req *sealtapv1.SubmitRequest) (*submission, error) {
	items := req.GetItems()
	if len(items) == 0 {
		return nil, fmt.Errorf("%w: it has no items", ErrRefused)
	}
	if err := checkLevel(req.GetLevel()); err != nil {
		return nil, err
	}
	s := &submission{items: len(items), done: make(chan outcome, 1)}
	for _, it := range items {
		s.bytes += len(it.GetEntry()) + len(it.GetOpenings())
	}
	for _, k := range req.GetKeys() {
		s.bytes += len(k.GetWrapped())
	}
	if err := l.checkSize(s.items, s.bytes); err != nil {
		return nil, err
	}
	used := make(map[record.KeyID]bool)
	var open *run // the run that lacks its seal
	for i, it := range items {
		var err error
		if open, err = l.parseItem(s, open, i, it, used); err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%w: no seal follows the record at item %d", ErrRefused, len(items)-1)
	}
	return s, s.parseKeys(req.GetKeys(), used)
}

// parseItem adds an item to the submission. It returns the run that goes on.
func (l *Log) parseItem(s *submission, open *run, i int, pb *sealtapv1.Item, used map[record.KeyID]bool) (*run, error) {
	if err := checkEntry(pb.GetEntry()); err != nil {
		return nil, err
	}
	kind, body, err := record.Split(pb.GetEntry())
	if err == nil && kind == record.KindRecord {
		return l.parseRecord(open, i, pb, body, used)
	}
	if len(pb.GetOpenings()) > 0 {
		return nil, fmt.Errorf("%w: openings of an entry that is no record", ErrRefused)
	}
	e, err := record.Parse(pb.GetEntry())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	it := item{entry: pb.GetEntry(), leaf: e.Leaf, change: newChange(e)}
	switch {
	case e.Seal != nil:
		if open == nil {
			open = &run{first: i, stream: e.Seal.Stream, seal: *e.Seal}
		}
		if e.Seal.Stream != open.stream || e.Seal.Size != open.seal.Size {
			return nil, fmt.Errorf("%w: a seal of %s with size %d; the records before it are of %s and end at %d", ErrRefused,
				e.Seal.Stream.Origin(), e.Seal.Size, open.stream.Origin(), open.seal.Size)
		}
		open.seal, open.sealed = *e.Seal, it
		s.runs = append(s.runs, *open)
		return nil, nil
	case it.change != nil:
		if s.items != 1 {
			return nil, fmt.Errorf("%w: a statement of the operator is submitted on its own", ErrRefused)
		}
		s.change = &it
		return nil, nil
	}
	return nil, fmt.Errorf("%w: an entry of kind %s is not submitted", ErrRefused, e.Kind)
}

// parseRecord adds a record to the open run, or begins one. What the record is
// about is not decoded: nothing here depends on it.
func (l *Log) parseRecord(open *run, i int, pb *sealtapv1.Item, body []byte, used map[record.KeyID]bool) (*run, error) {
	h, err := record.Scan(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if len(pb.GetOpenings()) > 0 {
		if err := l.checkBox(h, pb.GetOpenings(), used); err != nil {
			return nil, err
		}
	}
	if open == nil {
		open = &run{first: i, stream: h.Stream}
		open.seal.Size = h.Sequence // counts up to what the seal must say
	}
	if h.Stream != open.stream {
		return nil, fmt.Errorf("%w: a record of another stream than the one before, which lacks its seal", ErrRefused)
	}
	if want := open.seal.Size; h.Sequence != want || want+1 == 0 {
		return nil, fmt.Errorf("%w: sequence %d follows %d", ErrRefused, h.Sequence, want-1)
	}
	open.records = append(open.records, item{entry: pb.GetEntry(), leaf: record.LeafHash(pb.GetEntry()), box: pb.GetOpenings()})
	open.seal.Size++
	return open, nil
}

func (l *Log) checkBox(h record.Head, box []byte, used map[record.KeyID]bool) error {
	if l.config.Openings == nil {
		return fmt.Errorf("%w: this log keeps no openings", ErrRefused)
	}
	if h.Sealed == 0 {
		return fmt.Errorf("%w: openings of an entry without sealed fields", ErrRefused)
	}
	id, err := record.BoxKey(box)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	used[id] = true
	return nil
}

// parseKeys takes the data keys that the openings of the submission use.
func (s *submission) parseKeys(list []*sealtapv1.WrappedKey, used map[record.KeyID]bool) error {
	for _, k := range list {
		if len(k.GetId()) != len(record.KeyID{}) || len(k.GetWrapped()) == 0 || len(k.GetWrapped()) > maxWrappedKey {
			return fmt.Errorf("%w: a wrapped key of %d bytes with an id of %d bytes: it has from 1 to %d, and its id %d", ErrRefused,
				len(k.GetWrapped()), len(k.GetId()), maxWrappedKey, len(record.KeyID{}))
		}
		if id := record.KeyID(k.GetId()); used[id] {
			s.keys = append(s.keys, storage.WrappedKey{ID: id, Wrapped: k.GetWrapped()})
			used[id] = false // once
		}
	}
	return nil
}

// verify checks that the producer may write the run and signed it. It is done
// by the caller's goroutine, because it takes the longest; the writer asks the
// keyring again.
func (l *Log) verify(r *run) error {
	key, err := l.admit(r)
	if err != nil {
		return err
	}
	if err := r.seal.Verify(key); err != nil {
		return fmt.Errorf("%w: seal of size %d: %w", ErrSignature, r.seal.Size, err)
	}
	r.key = key
	return nil
}

func (l *Log) admit(r *run) (keys.Public, error) {
	l.ringMu.RLock()
	defer l.ringMu.RUnlock()
	return l.ring.Admit(r.stream, max(r.seal.Size, 1)-1)
}
