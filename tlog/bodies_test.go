package tlog_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealtap/sealtap/proto/sealtap/v1/sealtapv1connect"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog"
)

// room is what the bodies of the tests share: one of the largest size.
const room = 2*100_000 + 64*10

func newCrowded(t *testing.T) (*fixture, *prometheus.Registry) {
	f, registry := newFixture(t), prometheus.NewRegistry()
	f.config = func(c *tlog.Config) {
		c.MaxBatchEntries, c.MaxBatchBytes, c.MaxReadingBytes, c.Metrics = 10, 100_000, 1, registry
	}
	return f.start(), registry
}

// slow begins a request and sends a part of its body. The answer comes on the
// channel.
func slow(t *testing.T, url, path, headers string, announced, sent int) <-chan *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: log\r\nContent-Length: %d\r\n%s\r\n\r\n", path, announced, headers)
	if _, err := conn.Write(append([]byte(head), make([]byte, sent)...)); err != nil {
		t.Fatal(err)
	}
	answer := make(chan *http.Response, 1)
	go func() {
		defer close(answer)
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			answer <- resp
		}
	}()
	return answer
}

// TestReadingBytes has a sender who stops in the middle take most of the room that
// all have.
func TestReadingBytes(t *testing.T) {
	f, registry := newCrowded(t)
	url := f.listen()
	p := f.producer("proxy-1")
	reading := func() float64 { return metric(t, registry, "sealtap_log_reading_bytes") }

	// What is announced takes no room, what has come does.
	announced := slow(t, url, "/v1/entries", typePB, 200_000, 10)
	eventually(t, "the first one's bytes", func() bool { return reading() == 10 })
	answer := slow(t, url, "/v1/entries", typePB, 200_000, 150_000)
	eventually(t, "the part that was sent", func() bool { return reading() == 150_010 })
	large := bytes.Repeat([]byte(" "), 90_000)
	check := func(path, contentType string) {
		t.Helper()
		resp, body := call(t, "POST", url+path, large, contentType)
		checked := checkProblem(t, resp, body, http.StatusServiceUnavailable)
		if checked["limit"] != "reading_bytes" || checked["maximum"] != float64(room) || checked["got"].(float64) <= room || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %v %s", path, resp.Header, body)
		}
	}
	check("/v1/entries", typePB)
	check(proofURL, "Content-Type: application/json")
	for name, client := range rpcClients(t, url) {
		_, err := client.Submit(t.Context(), connect.NewRequest(request(bytes.Repeat([]byte("0123456789abcdef"), 5600))))
		if d := checkRPC(t, err, connect.CodeUnavailable); d.GetLimit() != "reading_bytes" || d.GetMaximum() != room || d.GetRetryAfterSeconds() == 0 {
			t.Errorf("%s: %v", name, d)
		}
	}
	// So does what comes compressed.
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(large); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	resp, body := call(t, "POST", url+sealtapv1connect.LogServiceSubmitProcedure, packed.Bytes(), "Content-Type: application/proto", "Content-Encoding: gzip")
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s %s", resp.Status, body)
	}

	// What fits is taken, and gives back what it took.
	resp, body = call(t, "POST", url+"/v1/entries", encode(t, request(p.batch(5)...)), typePB)
	if resp.StatusCode != http.StatusOK {
		t.Errorf("what fits: %s %s", resp.Status, body)
	}
	eventually(t, "the others to be gone", func() bool { return reading() == 150_010 })
	select {
	case resp := <-answer:
		t.Fatalf("evicted before its time: %v", resp)
	default:
	}

	// The slowest makes room, then the next one.
	f.log.SetBodyPatience(time.Nanosecond)
	for _, c := range []<-chan *http.Response{announced, answer} {
		check("/v1/entries", typePB)
		resp := <-c
		if resp == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("whoever was in the way is answered %v", resp)
		}
	}
	eventually(t, "room", func() bool { return reading() == 0 })
	if resp, body = call(t, "POST", url+"/v1/entries", large, typePB); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("with room: %s %s", resp.Status, body)
	}
}

// TestWaitingIsNotReading: what waits in the queue leaves the room to others.
func TestWaitingIsNotReading(t *testing.T) {
	f, registry := newCrowded(t)
	url := f.listen()
	p := f.producer("proxy-1")
	reached, release := f.storage.Hold("Commit")
	done := make(chan int, 1)
	body := encode(t, request(p.batch(9)...))
	go func() {
		resp, err := http.Post(url+"/v1/entries", "application/x-protobuf", bytes.NewReader(body))
		if err != nil {
			done <- 0
			return
		}
		resp.Body.Close()
		done <- resp.StatusCode
	}()
	<-reached
	if n := metric(t, registry, "sealtap_log_reading_bytes"); n != 0 {
		t.Errorf("%v bytes are being read, of a batch that waits to be stored", n)
	}
	release()
	if status := <-done; status != http.StatusOK {
		t.Errorf("status %d", status)
	}
}

// TestRPCKeepsEntries has many messages come while one is being stored: they come in
// the same buffers.
func TestRPCKeepsEntries(t *testing.T) {
	f := newFixture(t).start()
	for _, name := range []string{"connect", "grpc"} {
		client := rpcClients(t, f.listen())[name]
		p := f.producer(name)
		batch := p.batch(20)
		want := slices.Clone(batch)
		reached, release := f.storage.Hold("Commit")
		errs := make(chan error, 1)
		go func() {
			_, err := client.Submit(t.Context(), connect.NewRequest(request(batch...)))
			errs <- err
		}()
		<-reached
		rubbish := request(bytes.Repeat([]byte{0xff}, len(bytes.Join(batch, nil))))
		for range 100 {
			if _, err := client.Submit(t.Context(), connect.NewRequest(rubbish)); err == nil {
				t.Fatal("rubbish was stored")
			}
		}
		size := f.log.Size()
		release()
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
		f.restart() // what was only in memory is gone
		for i, entry := range want {
			if got, err := f.log.Entry(t.Context(), size+uint64(i)); err != nil || record.LeafHash(got) != record.LeafHash(entry) {
				t.Fatalf("%s: entry %d is stored as something else, or %v", name, i, err)
			}
		}
	}
}

// TestSlowStreamMakesRoom: by HTTP/2 too, where the connection goes on.
func TestSlowStreamMakesRoom(t *testing.T) {
	f, registry := newCrowded(t)
	url := f.listen()
	two := &http.Transport{Protocols: new(http.Protocols)}
	two.Protocols.SetUnencryptedHTTP2(true)
	defer two.CloseIdleConnections()
	in, out := io.Pipe()
	defer out.Close()
	req, err := http.NewRequest(http.MethodPost, url+"/v1/entries", in)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	status := make(chan int, 1)
	go func() {
		resp, err := two.RoundTrip(req)
		if err != nil {
			t.Error(err)
			status <- 0
			return
		}
		resp.Body.Close()
		status <- resp.StatusCode
	}()
	if _, err := out.Write(make([]byte, 150_000)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the part that was sent", func() bool { return metric(t, registry, "sealtap_log_reading_bytes") == 150_000 })
	f.log.SetBodyPatience(time.Nanosecond)
	large := bytes.Repeat([]byte(" "), 90_000)
	resp, body := call(t, "POST", url+"/v1/entries", large, typePB)
	checkProblem(t, resp, body, http.StatusServiceUnavailable)
	if got := <-status; got != http.StatusServiceUnavailable {
		t.Errorf("whoever was in the way is answered %d", got)
	}
	eventually(t, "room", func() bool { return metric(t, registry, "sealtap_log_reading_bytes") == 0 })
}
