package tlog_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/tlog"
)

func published(entries ...[]byte) *sealtapv1.SubmitRequest {
	req := request(entries...)
	req.Level = sealtapv1.Level_LEVEL_PUBLISHED
	return req
}

// also changes the configuration of the next start, beside what is changed already.
func (f *fixture) also(change func(*tlog.Config)) {
	before := f.config
	f.config = func(c *tlog.Config) {
		if before != nil {
			before(c)
		}
		change(c)
	}
}

// covers checks that a response has a checkpoint that satisfies the policy and
// covers all that it places.
func (f *fixture) covers(resp *sealtapv1.SubmitResponse) {
	f.t.Helper()
	cp, err := f.policy.Verify([]byte(resp.GetCheckpoint()))
	if err != nil {
		f.t.Fatalf("the checkpoint of an answer: %v", err)
	}
	for _, r := range resp.GetRuns() {
		if end := r.GetFirstIndex() + r.GetCount(); end > cp.Size {
			f.t.Errorf("the checkpoint is of size %d, the batch ends at %d", cp.Size, end)
		}
	}
}

func TestLevelPublished(t *testing.T) {
	f := newFixture(t)
	ws := f.witnesses(2)
	f.also(func(c *tlog.Config) { c.PublishWait = 20 * time.Millisecond })
	f.start()
	p := f.producer("proxy-1")
	f.published(f.log.Size())
	ctx := context.Background()

	if resp := f.mustSubmit(p.batch(2)...); resp.GetCheckpoint() != "" {
		t.Error("a checkpoint that nobody asked for")
	}
	f.published(f.log.Size())
	ws[0].down.Store(true)
	batch := p.batch(3)
	for range 2 { // the second time they are stored already
		_, err := f.log.Submit(ctx, published(batch...))
		if !errors.Is(err, tlog.ErrUnpublished) {
			t.Fatalf("below quorum: %v", err)
		}
	}
	size := f.log.Size()
	if got := f.log.Published(); got >= size {
		t.Fatalf("published %d of %d below quorum", got, size)
	}
	server := f.serve()
	body, err := proto.Marshal(published(batch...))
	if err != nil {
		t.Fatal(err)
	}
	resp, answer := call(t, "POST", server.URL+"/v1/entries", body, "Content-Type: application/x-protobuf")
	problem := checkProblem(t, resp, answer, http.StatusServiceUnavailable)
	if resp.Header.Get("Retry-After") == "" || problem["durable"] != true || !strings.Contains(problem["detail"].(string), "to submit the same batch again is safe") {
		t.Errorf("%v %s", resp.Header, answer)
	}
	f.stop()

	// The witness comes back while somebody waits.
	f.also(func(c *tlog.Config) { c.PublishWait = time.Minute })
	ws[0].down.Store(false)
	f.start()
	got, err := f.log.Submit(ctx, published(batch...))
	if err != nil || f.log.Size() != size {
		t.Fatalf("a repeat: %v, size %d, want %d", err, f.log.Size(), size)
	}
	f.covers(got)
	fresh, err := f.log.Submit(ctx, published(p.batch(2)...))
	if err != nil {
		t.Fatal(err)
	}
	f.covers(fresh)
	js, err := protojson.Marshal(published(batch...))
	if err != nil {
		t.Fatal(err)
	}
	resp, answer = call(t, "POST", f.serve().URL+"/v1/entries", js, "Content-Type: application/json")
	again := new(sealtapv1.SubmitResponse)
	if err := protojson.Unmarshal(answer, again); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, answer)
	}
	f.covers(again)
}

// TestLevelPublishedWakes has many wait for one checkpoint, which comes when the
// witness is back, long before any of them would give up.
func TestLevelPublishedWakes(t *testing.T) {
	f := newFixture(t)
	ws := f.witnesses(1)
	f.also(func(c *tlog.Config) { c.PublishWait = time.Minute })
	f.start()
	var batches [][][]byte
	for _, name := range []string{"a", "b", "c", "d"} {
		batches = append(batches, f.producer(name).batch(3))
	}
	f.published(f.log.Size())
	ws[0].down.Store(true)
	before := f.log.Size()
	type result struct {
		resp *sealtapv1.SubmitResponse
		err  error
	}
	done := make(chan result, len(batches))
	for _, b := range batches {
		go func() {
			resp, err := f.log.Submit(context.Background(), published(b...))
			done <- result{resp, err}
		}()
	}
	eventually(t, "stored", func() bool { return f.log.Size() == before+16 })
	select {
	case r := <-done:
		t.Fatalf("answered below quorum: %v, %v", r.resp, r.err)
	case <-time.After(20 * time.Millisecond):
	}
	ws[0].down.Store(false)
	for range batches {
		r := <-done
		if r.err != nil {
			t.Fatal(r.err)
		}
		f.covers(r.resp)
	}
}

// TestLevelPublishedEnds is about those who do not wait to the end: nothing of
// them stays.
func TestLevelPublishedEnds(t *testing.T) {
	f := newFixture(t)
	ws := f.witnesses(1)
	f.also(func(c *tlog.Config) { c.PublishWait, c.MaxQueue = time.Minute, 4 })
	f.start()
	p := f.producer("proxy-1")
	f.published(f.log.Size())
	ws[0].down.Store(true)
	batch := p.batch(1)
	f.mustSubmit(batch...)
	body, err := proto.Marshal(published(batch...))
	if err != nil {
		t.Fatal(err)
	}
	server := f.serve()
	transport := new(http.Transport)
	for range 4 {
		ctx, cancel := context.WithCancel(context.Background())
		req, err := http.NewRequestWithContext(ctx, "POST", server.URL+"/v1/entries", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-protobuf")
		gone := make(chan error)
		go func() {
			resp, err := transport.RoundTrip(req)
			if err == nil {
				resp.Body.Close()
			}
			gone <- err
		}()
		eventually(t, "waiting", func() bool { return f.log.Waiting() == 1 })
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("the client that left: %v", err)
		}
		eventually(t, "no more waiting", func() bool { return f.log.Waiting() == 0 })
	}
	transport.CloseIdleConnections()
	eventually(t, "no goroutine of a submission is left", func() bool {
		stacks := make([]byte, 4<<20)
		return !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("(*Log).Submit("))
	})

	// A deadline of the caller's ends the wait a little before it.
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := f.log.Submit(ctx, published(batch...)); !errors.Is(err, tlog.ErrUnpublished) {
		t.Errorf("with a deadline: %v", err)
	}
	// No more may wait than may queue.
	errs := make(chan error, 5)
	for n := range 5 {
		go func() { _, err := f.log.Submit(context.Background(), published(batch...)); errs <- err }()
		if n < 4 { // one after the other: the queue before it takes four as well
			eventually(t, "waiting", func() bool { return f.log.Waiting() == int64(n+1) })
		}
	}
	var limit *tlog.LimitError
	if err := <-errs; !errors.Is(err, tlog.ErrUnpublished) || !errors.As(err, &limit) || limit.Max != 4 {
		t.Errorf("one more than may wait: %v", err)
	}
	go f.stop()
	for range 4 {
		if err := <-errs; !errors.Is(err, tlog.ErrUnpublished) {
			t.Errorf("waiting for a log that stops: %v", err)
		}
	}
}

func TestUnknownLevel(t *testing.T) {
	f := newFixture(t).start()
	req := request(f.producer("proxy-1").batch(1)...)
	req.Level = 7
	if _, err := f.log.Submit(context.Background(), req); !errors.Is(err, tlog.ErrRefused) {
		t.Errorf("level 7: %v", err)
	}
}
