package tlog_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proto/sealtap/v1/sealtapv1connect"
	"github.com/sealtap/sealtap/serve"
	"github.com/sealtap/sealtap/tlog"
)

// listen serves the log as the command does, with HTTP/2.
func (f *fixture) listen() (url string) {
	f.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve.HTTP(ctx, ln, f.log.Handler()) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	})
	return "http://" + ln.Addr().String()
}

// rpcClients are clients of the three protocols, gRPC by HTTP/2 alone.
func rpcClients(t *testing.T, url string) map[string]sealtapv1connect.LogServiceClient {
	t.Helper()
	two := &http.Transport{Protocols: new(http.Protocols)}
	two.Protocols.SetUnencryptedHTTP2(true)
	one := new(http.Transport)
	t.Cleanup(func() { two.CloseIdleConnections(); one.CloseIdleConnections() })
	return map[string]sealtapv1connect.LogServiceClient{
		"connect":          sealtapv1connect.NewLogServiceClient(&http.Client{Transport: one}, url),
		"connect as JSON":  sealtapv1connect.NewLogServiceClient(&http.Client{Transport: one}, url, connect.WithProtoJSON()),
		"connect by HTTP2": sealtapv1connect.NewLogServiceClient(&http.Client{Transport: two}, url, connect.WithSendGzip()),
		"grpc":             sealtapv1connect.NewLogServiceClient(&http.Client{Transport: two}, url, connect.WithGRPC()),
		"grpc-web":         sealtapv1connect.NewLogServiceClient(&http.Client{Transport: one}, url, connect.WithGRPCWeb()),
	}
}

// checkRPC checks the code of an error, and returns its detail.
func checkRPC(t *testing.T, err error, code connect.Code) *sealtapv1.SubmitError {
	t.Helper()
	var e *connect.Error
	if !errors.As(err, &e) || e.Code() != code {
		t.Fatalf("%v, want code %s", err, code)
	}
	for _, d := range e.Details() {
		v, err := d.Value()
		if detail, ok := v.(*sealtapv1.SubmitError); ok && err == nil {
			if retry := e.Meta().Get("Retry-After") != ""; retry != (detail.GetRetryAfterSeconds() > 0) {
				t.Errorf("%v: Retry-After %q, %d s in the detail", e, e.Meta().Get("Retry-After"), detail.GetRetryAfterSeconds())
			}
			return detail
		}
	}
	t.Fatalf("%v has no SubmitError", e)
	return nil
}

func TestRPC(t *testing.T) {
	f := newFixture(t)
	f.config = func(c *tlog.Config) { c.MaxBatchEntries, c.MaxBatchBytes, c.ProducerBytesPerSecond = 20, 20_000, 1 }
	f.start()
	for name, client := range rpcClients(t, f.listen()) {
		t.Run(name, func(t *testing.T) {
			p := f.producer(strings.ReplaceAll(name, " ", "-"))
			submit := func(req *sealtapv1.SubmitRequest) (*sealtapv1.SubmitResponse, error) {
				resp, err := client.Submit(t.Context(), connect.NewRequest(req))
				if err != nil {
					return nil, err
				}
				return resp.Msg, nil
			}
			start := p.clone()
			batch := p.batch(2)
			resp, err := submit(published(batch...))
			if err != nil {
				t.Fatal(err)
			}
			f.covers(resp)
			if again := f.mustSubmit(batch...); len(resp.GetRuns()) != 1 || again.GetRuns()[0].GetFirstIndex() != resp.GetRuns()[0].GetFirstIndex() {
				t.Errorf("placed at %v, over HTTP at %v", resp.GetRuns(), again.GetRuns())
			}

			ahead := p.clone()
			ahead.batch(3)
			_, err = submit(request(ahead.batch(1)...))
			if d := checkRPC(t, err, connect.CodeFailedPrecondition); d.GetExpected() != 2 || d.GetStatus() != http.StatusConflict || d.GetFork() {
				t.Errorf("hole: %v", d)
			}
			_, err = submit(request(append([][]byte{start.record("another")}, start.batch(2)...)...))
			if d := checkRPC(t, err, connect.CodeAlreadyExists); !d.GetFork() || d.GetIndex() != resp.GetRuns()[0].GetFirstIndex() {
				t.Errorf("fork: %v", d)
			}
			_, err = submit(request(newProducer(t, newKey(t, "stranger", 1)).batch(1)...))
			checkRPC(t, err, connect.CodePermissionDenied)
			_, err = submit(request(batch[0]))
			checkRPC(t, err, connect.CodeInvalidArgument)
			_, err = submit(request(p.clone().batch(20)...))
			if d := checkRPC(t, err, connect.CodeResourceExhausted); d.GetLimit() != "batch_entries" || d.GetGot() != 21 || d.GetMaximum() != 20 || d.GetRetryAfterSeconds() != 0 {
				t.Errorf("too many: %v", d)
			}
			for err = nil; err == nil; {
				_, err = submit(request(p.batch(15)...))
			}
			if d := checkRPC(t, err, connect.CodeResourceExhausted); d.GetLimit() != "producer_bytes_per_second" || d.GetRetryAfterSeconds() == 0 {
				t.Errorf("over the rate: %v", d)
			}
			// What is not even read has no detail.
			_, err = submit(request(make([]byte, 100_000)))
			if connect.CodeOf(err) != connect.CodeResourceExhausted {
				t.Errorf("a long message: %v", err)
			}
		})
	}
}

// TestRPCUnpublished ends a wait with an error that says what became of the batch.
func TestRPCUnpublished(t *testing.T) {
	f := newFixture(t)
	ws := f.witnesses(1)
	f.also(func(c *tlog.Config) { c.PublishWait = time.Minute })
	f.start()
	p := f.producer("proxy-1")
	f.published(f.log.Size())
	ws[0].down.Store(true)
	client := rpcClients(t, f.listen())["grpc"]
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // travels as grpc-timeout
	defer cancel()
	_, err := client.Submit(ctx, connect.NewRequest(published(p.batch(1)...)))
	if d := checkRPC(t, err, connect.CodeUnavailable); !d.GetDurable() || d.GetStatus() != http.StatusServiceUnavailable || d.GetRetryAfterSeconds() == 0 {
		t.Errorf("%v", d)
	}
}

// TestRPCBomb sends little that unpacks to much.
func TestRPCBomb(t *testing.T) {
	f := newFixture(t).start()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(make([]byte, 18<<20)); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	resp, body := call(t, "POST", f.listen()+sealtapv1connect.LogServiceSubmitProcedure, packed.Bytes(),
		"Content-Type: application/proto", "Content-Encoding: gzip")
	if resp.StatusCode != http.StatusTooManyRequests || !strings.Contains(string(body), "resource_exhausted") {
		t.Errorf("%s %s", resp.Status, body)
	}
}
