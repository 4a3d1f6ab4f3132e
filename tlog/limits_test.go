package tlog_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog"
)

const typePB = "Content-Type: application/x-protobuf"

func encode(t testing.TB, req *sealtapv1.SubmitRequest) []byte {
	t.Helper()
	b, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkLimit checks that an error over HTTP says which limit was hit, what it is
// and what was got.
func checkLimit(t *testing.T, resp *http.Response, body []byte, status int, limit string, got, maximum int) {
	t.Helper()
	p := checkProblem(t, resp, body, status)
	if p["limit"] != limit || p["got"] != float64(got) || p["maximum"] != float64(maximum) {
		t.Errorf("%s, want limit %s, got %d, maximum %d", body, limit, got, maximum)
	}
	if detail, _ := p["detail"].(string); !strings.Contains(detail, limit) {
		t.Errorf("detail %q does not name %s", detail, limit)
	}
	if retry := resp.Header.Get("Retry-After") != ""; retry != (status == 429 || status == 503) {
		t.Errorf("status %d with Retry-After %q", status, resp.Header.Get("Retry-After"))
	}
}

// TestLimitsOverHTTP hits each limit of the size of a batch.
func TestLimitsOverHTTP(t *testing.T) {
	f := newFixture(t)
	f.config = func(c *tlog.Config) { c.MaxBatchEntries, c.MaxBatchBytes = 10, 100_000 }
	f.start()
	url := f.serve().URL + "/v1/entries"
	p := f.producer("proxy-1")

	many := request(p.clone().batch(10)...)
	resp, body := call(t, "POST", url, encode(t, many), typePB)
	checkLimit(t, resp, body, 413, "batch_entries", 11, 10)

	long := request(make([]byte, record.MaxEntry+1))
	resp, body = call(t, "POST", url, encode(t, long), typePB)
	checkLimit(t, resp, body, 413, "entry_bytes", 65536, 65535)
	if fits, err := f.submit(make([]byte, record.MaxEntry)); errors.Is(err, tlog.ErrTooLarge) {
		t.Errorf("an entry of the largest size: %v, %v", fits, err)
	}

	large := request(make([]byte, 50_000), make([]byte, 50_001))
	resp, body = call(t, "POST", url, encode(t, large), typePB)
	checkLimit(t, resp, body, 413, "batch_bytes", 100_001, 100_000)

	// So long that it is not even read.
	resp, body = call(t, "POST", url, make([]byte, 1_000_000), typePB)
	checkLimit(t, resp, body, 413, "batch_bytes", 1_000_000, 100_000)
	if _, err := f.submit(p.batch(9)...); err != nil {
		t.Errorf("a batch of the largest number of entries: %v", err)
	}
}

// TestProducerRate has one producer use up what it may send. It alone is told to
// wait, and what it sent before is still answered for.
func TestProducerRate(t *testing.T) {
	f := newFixture(t)
	f.config = func(c *tlog.Config) { c.MaxBatchBytes, c.ProducerBytesPerSecond = 4000, 1 } // it does not come back during the test
	f.start()
	url := f.serve().URL + "/v1/entries"
	p, other := f.producer("proxy-1"), f.producer("proxy-2")
	var sent [][][]byte
	var err error
	for len(sent) < 100 {
		b := p.clone().batch(3)
		if _, err = f.submit(b...); err != nil {
			break
		}
		p.batch(0) // its clone went on: so does it
		for _, e := range b[:3] {
			p.tree.Append(record.LeafHash(e), nil)
		}
		sent = append(sent, b)
	}
	var limit *tlog.LimitError
	if !errors.Is(err, tlog.ErrRate) || !errors.As(err, &limit) || limit.RetryAfter <= 0 || len(sent) < 2 {
		t.Fatalf("after %d batches: %v", len(sent), err)
	}
	late := p.batch(3)
	resp, body := call(t, "POST", url, encode(t, request(late...)), typePB)
	problem := checkProblem(t, resp, body, http.StatusTooManyRequests)
	if problem["limit"] != "producer_bytes_per_second" || problem["maximum"] != 1.0 || resp.Header.Get("Retry-After") == "" ||
		!strings.Contains(problem["detail"].(string), `producer "proxy-1"`) {
		t.Errorf("%v %s", resp.Header, body)
	}
	size := f.log.Size()
	for range 200 { // repeats, by whomever, cost nothing
		f.mustSubmit(sent[0]...)
	}
	if f.log.Size() != size {
		t.Error("a repeat was stored")
	}
	f.mustSubmit(other.batch(3)...)

	// Somebody without the producer's key uses up nothing of another's.
	forged := other.clone()
	forged.signer = p.signer
	for range 50 {
		if _, err := f.submit(forged.clone().batch(9)...); err == nil || errors.Is(err, tlog.ErrRate) {
			t.Fatalf("signed by another: %v", err)
		}
	}
	f.mustSubmit(other.batch(3)...)
}

// TestRepeatsLeaveTheBudget has a third party send a producer's public entries
// again and again: the producer can still send what is new.
func TestRepeatsLeaveTheBudget(t *testing.T) {
	f := newFixture(t)
	f.config = func(c *tlog.Config) { c.MaxBatchBytes, c.ProducerBytesPerSecond = 4000, 1 }
	f.start()
	p := f.producer("proxy-1")
	public := p.batch(2)
	f.mustSubmit(public...)
	for range 300 {
		f.mustSubmit(public...)
	}
	f.mustSubmit(p.batch(2)...)
}

// TestQueueOverHTTP fills the queue, by number and by bytes, while nothing can be
// stored.
func TestQueueOverHTTP(t *testing.T) {
	f := newFixture(t)
	registry := prometheus.NewRegistry()
	f.config = func(c *tlog.Config) { c.MaxQueue, c.Metrics = 2, registry }
	f.start()
	p := f.producer("proxy-1")
	full(t, f, registry, 2, p.batch(1), "queue_batches", 3, 2)
	f.stop()

	registry = prometheus.NewRegistry()
	batch := p.batch(40)
	size := len(bytes.Join(batch, nil))
	f.config = func(c *tlog.Config) { c.MaxQueueBytes, c.Metrics = size+100, registry }
	f.start()
	full(t, f, registry, 1, batch, "queue_bytes", 2*size, size+100)
}

// full has waiting batches in the queue behind one that hangs, and checks the
// answer to one more.
func full(t *testing.T, f *fixture, registry *prometheus.Registry, waiting int, batch [][]byte, limit string, got, maximum int) {
	t.Helper()
	url := f.serve().URL + "/v1/entries"
	body := encode(t, request(batch...))
	reached, release := f.storage.Hold("Commit")
	done := make(chan int, waiting+1)
	send := func() {
		resp, err := http.Post(url, "application/x-protobuf", bytes.NewReader(body))
		if err != nil {
			done <- 0
			return
		}
		resp.Body.Close()
		done <- resp.StatusCode
	}
	go send()
	<-reached // it does not wait in the queue any more
	for range waiting {
		go send()
	}
	eventually(t, "waiting", func() bool { return metric(t, registry, "sealtap_log_queue") == float64(waiting) })
	resp, answer := call(t, "POST", url, body, typePB)
	checkLimit(t, resp, answer, http.StatusServiceUnavailable, limit, got, maximum)
	release()
	for range waiting + 1 {
		if status := <-done; status != http.StatusOK {
			t.Errorf("waiting in the queue: status %d", status)
		}
	}
}

func TestBusyGivesBack(t *testing.T) {
	f := newFixture(t)
	f.config = func(c *tlog.Config) { c.MaxQueue, c.MaxBatchBytes, c.ProducerBytesPerSecond = 1, 4000, 1 }
	f.start()
	p := f.producer("proxy-1")
	reached, release := f.storage.Hold("Commit")
	batch := p.batch(2)
	errs := make(chan error, 2)
	submit := func() { _, err := f.log.Submit(context.Background(), request(batch...)); errs <- err }
	go submit()
	<-reached
	go submit()
	busy := 0
	for range 100 {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // whoever gets into the queue does not wait
		if _, err := f.log.Submit(ctx, request(batch...)); errors.Is(err, tlog.ErrBusy) {
			busy++
		} else if errors.Is(err, tlog.ErrRate) {
			t.Errorf("after %d refusals that stored nothing: %v", busy, err)
		}
	}
	if busy < 90 {
		t.Errorf("%d refusals", busy)
	}
	release()
}
