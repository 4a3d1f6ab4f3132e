package proxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// RecordReceipt implements [Promiser].
func (m *memory) RecordReceipt(ctx context.Context, r *sealtapv1.Record, openings []*sealtapv1.Opening) (*record.Receipt, error) {
	if err := m.Record(ctx, r, openings); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.key == nil {
		var err error
		if m.key, err = keys.Generate("memory", keys.Ed25519); err != nil {
			return nil, err
		}
	}
	signer, err := m.key.Signer()
	if err != nil {
		return nil, err
	}
	seq := r.GetSequence()
	batch, err := record.SignPromises([]record.Promise{{
		Stream: record.Stream{Producer: m.key.ID(), Incarnation: m.stream.Incarnation}, Sequence: seq, Time: r.GetTime(),
		Leaf: record.LeafHash(m.entries[seq].entry), Delay: 60,
	}}, signer)
	if err != nil {
		return nil, err
	}
	return batch.Receipt(0), nil
}

// wantReceipt checks that a receipt is the one of a record.
func wantReceipt(t *testing.T, m *memory, text string, k *kept) {
	t.Helper()
	r, err := record.ParseReceipt(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(m.key.Public); err != nil {
		t.Error(err)
	}
	if r.Sequence != k.rec.GetSequence() || r.Leaf != record.LeafHash(k.entry) {
		t.Errorf("the receipt is of record %d, want %d", r.Sequence, k.rec.GetSequence())
	}
}

func TestReceipts(t *testing.T) {
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Sealtap-Receipt", "AQ==") // somebody else's
		switch r.URL.Path {
		case "/chunked":
			w.Header().Set("Content-Type", "text/event-stream") // flows at once
			for range 3 {
				_, _ = w.Write([]byte("part"))
				w.(http.Flusher).Flush()
			}
		default:
			_, _ = w.Write([]byte("small"))
		}
	})
	s := start(t, up, func(c *Config) { c.Receipts = true })
	c := client(t)
	for _, path := range []string{"/small", "/chunked"} {
		res, _ := get(t, c, request(t, "GET", s.url(path), nil))
		q, p := s.rec.last(t)
		have := append(res.Header["Sealtap-Receipt"], res.Trailer["Sealtap-Receipt"]...)
		if len(have) != 2 {
			t.Fatalf("%s: %d receipts, want 2", path, len(have))
		}
		wantReceipt(t, s.rec, have[0], q)
		wantReceipt(t, s.rec, have[1], p)
		if inTrailer := len(res.Trailer) == 1; inTrailer != (path == "/chunked") {
			t.Errorf("%s: trailer %v", path, res.Trailer)
		}
	}
	// HTTP/1.0 has no trailers, and is told of the request all the same.
	raw := dial(t, s.addr)
	raw.send("GET /chunked HTTP/1.0\r\nHost: x\r\n\r\n")
	head := raw.head()
	if strings.Count(head, "Sealtap-Receipt: ") != 1 || strings.Contains(head, "Trailer") {
		t.Errorf("over HTTP/1.0 came %q", head)
	}
}

// TestReceiptOfFailure: an answer by the proxy itself has both receipts too.
func TestReceiptOfFailure(t *testing.T) {
	s := start(t, "http://127.0.0.1:1", func(c *Config) { c.Receipts = true })
	res, _ := get(t, client(t), request(t, "GET", s.url("/"), nil))
	q, p := s.rec.last(t)
	have := res.Header["Sealtap-Receipt"]
	if res.StatusCode != http.StatusBadGateway || len(have) != 2 {
		t.Fatalf("status %d, %d receipts", res.StatusCode, len(have))
	}
	wantReceipt(t, s.rec, have[0], q)
	wantReceipt(t, s.rec, have[1], p)
}

func TestReceiptsOnHTTP2(t *testing.T) {
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte("part"))
		w.(http.Flusher).Flush()
		_, _ = w.Write([]byte("part"))
	})
	s := start(t, up, func(c *Config) { c.Receipts = true })
	front := httptest.NewUnstartedServer(s.Handler())
	front.EnableHTTP2 = true
	front.StartTLS()
	t.Cleanup(front.Close)
	res, _ := get(t, front.Client(), request(t, "GET", front.URL, nil))
	q, p := s.rec.last(t)
	if res.ProtoMajor != 2 || len(res.Header["Sealtap-Receipt"]) != 1 || len(res.Trailer["Sealtap-Receipt"]) != 1 {
		t.Fatalf("%s: header %v, trailer %v", res.Proto, res.Header, res.Trailer)
	}
	wantReceipt(t, s.rec, res.Header["Sealtap-Receipt"][0], q)
	wantReceipt(t, s.rec, res.Trailer["Sealtap-Receipt"][0], p)
}

func TestNoReceiptsUnlessAskedFor(t *testing.T) {
	s := start(t, backend(t, func(w http.ResponseWriter, r *http.Request) {}), nil)
	if res, _ := get(t, client(t), request(t, "GET", s.url("/"), nil)); len(res.Header["Sealtap-Receipt"]) != 0 {
		t.Error("an answer carries receipts that nobody asked for")
	}
	if _, err := New(Config{Recorder: onlyRecords{}, DigestKey: []byte("0123456789abcdef"), Receipts: true}); err == nil {
		t.Error("a recorder that makes no receipts was taken")
	}
}

type onlyRecords struct{}

func (onlyRecords) Record(context.Context, *sealtapv1.Record, []*sealtapv1.Opening) error { return nil }

// TestReceiptOfWebSocket: a connection that is joined carries that of its request.
func TestReceiptOfWebSocket(t *testing.T) {
	up := rawBackend(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	})
	s := start(t, up, func(c *Config) { c.Receipts = true })
	c := dial(t, s.addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	head := c.head()
	q := &s.rec.wait(t, 1)[0]
	_, value, _ := strings.Cut(head, "Sealtap-Receipt: ")
	value, _, _ = strings.Cut(value, "\r\n")
	wantReceipt(t, s.rec, value, q)
}
