package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// TestHTTP2 goes through the proxy by HTTP/2 on both sides: with prior knowledge,
// with TLS, with trailers as gRPC sends them.
func TestHTTP2(t *testing.T) {
	settled(t)
	h := func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
			t.Errorf("the upstream got %s, %v", r.Proto, r.Header)
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		b := make([]byte, 10)
		for {
			n, err := r.Body.Read(b)
			_, _ = w.Write(b[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				break
			}
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}
	up := httptest.NewUnstartedServer(http.HandlerFunc(h))
	up.EnableHTTP2 = true
	up.StartTLS()
	defer up.Close()
	s := start(t, up.URL, func(c *Config) {
		c.UpstreamTLS = up.Client().Transport.(*http.Transport).TLSClientConfig
		c.TLS = &tls.Config{Certificates: up.TLS.Certificates}
	})
	plain := start(t, up.URL, func(c *Config) { c.UpstreamTLS = up.Client().Transport.(*http.Transport).TLSClientConfig })
	chained := start(t, "h2c://"+plain.addr, nil)
	for _, tt := range []struct {
		s      *server
		scheme string
	}{{s, "https"}, {plain, "http"}, {chained, "http"}} {
		tr := &http.Transport{TLSClientConfig: up.Client().Transport.(*http.Transport).TLSClientConfig, Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP2(true)
		tr.Protocols.SetUnencryptedHTTP2(true)
		pr, pw := io.Pipe()
		req := request(t, "POST", tt.scheme+"://"+tt.s.addr+"/svc/Method", pr)
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []string{"one", "two"} {
			_, _ = io.WriteString(pw, m)
			b := make([]byte, 3)
			if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != m {
				t.Fatalf("%q, %v", b, err)
			}
		}
		pw.Close()
		if _, err := io.ReadAll(res.Body); err != nil || res.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("%v, trailer %v", err, res.Trailer)
		}
		q, p := tt.s.rec.last(t)
		wantOutcome(t, p, complete)
		wantBody(t, "request", p.rec.GetResponse().GetRequestBody(), []byte("onetwo"))
		if q.rec.GetRequest().GetProtocol() != "HTTP/2.0" || q.rec.GetRequest().GetScheme() != tt.scheme || p.headers(t)["trailer:grpc-status"][0] != "0" {
			t.Errorf("%v %v", q.rec, p.headers(t))
		}
		tr.CloseIdleConnections()
	}
}

// TestHTTP2NotRecorded: END_STREAM does not pass before the record either.
func TestHTTP2NotRecorded(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "part")
		w.(http.Flusher).Flush()
		time.Sleep(5 * patience)
	})
	m := newMemory()
	m.before = failing("response")
	s := start(t, up, func(c *Config) { c.Recorder = m })
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(request(t, "GET", s.url("/"), nil))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("the client takes %q for whole", b)
	}
	res.Body.Close()
}

func TestLargeBodiesInBoundedMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("moves 400 MB")
	}
	settled(t)
	const size = 200 << 20
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", fmt.Sprint(n))
		_, _ = io.Copy(w, io.LimitReader(zeros{}, n))
	})
	s := start(t, up, nil)
	var peak uint64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	runtime.GC()
	var base runtime.MemStats
	runtime.ReadMemStats(&base)
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	req := request(t, "POST", s.url("/"), io.LimitReader(zeros{}, size))
	req.ContentLength = size
	res, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	n, err := io.Copy(h, res.Body)
	res.Body.Close()
	cancel()
	<-done
	if n != size || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if grown := int64(peak) - int64(base.HeapInuse); grown > 24<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	_, p := s.rec.last(t)
	for _, b := range []*sealtapv1.Body{p.rec.GetResponse().GetSent(), p.rec.GetResponse().GetReceived(), p.rec.GetResponse().GetRequestBody()} {
		if b.GetSize() != size || !bytes.Equal(b.GetSha256(), h.Sum(nil)) {
			t.Errorf("%v", b)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestStop: Run ends exchanges that do not end by themselves, and they leave
// their records.
func TestStop(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "part")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	s := start(t, up, func(c *Config) { c.Timeouts.Drain = 100 * time.Millisecond })
	c := dial(t, s.addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	c.head()
	c.expect("4\r\npart\r\n")
	s.stop()
	_, p := s.rec.last(t)
	wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_UNKNOWN)
	wantBody(t, "sent", p.rec.GetResponse().GetSent(), []byte("part"))
	if rest, err := c.rest(); strings.HasSuffix(rest, "0\r\n\r\n") {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestPooling: exchanges that run beside and after each other, some of them cut,
// never get each other's bytes, headers or records.
func TestPooling(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if len(b)%3 == 0 {
			time.Sleep(patience) // about when the timer runs out
		}
		w.Header().Set("X-Id", r.Header.Get("X-Id"))
		if len(b)%2 == 0 {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		}
		for len(b) > 0 {
			n := min(len(b), 3000)
			_, _ = w.Write(b[:n])
			b = b[n:]
			if len(b)%5 == 0 {
				w.(http.Flusher).Flush()
			}
		}
	})
	s := start(t, up, nil)
	sizes := []int{1, 2, 3, 100, 1023, 4096, 9000, 30_000, 65_536, 65_537, 120_000}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c := client(t)
			for i := range 60 {
				id := fmt.Sprintf("%d-%d-", g, i)
				body := strings.Repeat(id, 1+sizes[(g+i)%len(sizes)]/len(id))
				ctx, cancel := context.WithCancel(context.Background())
				req, _ := http.NewRequestWithContext(ctx, "POST", s.url("/"+id), strings.NewReader(body))
				if i%4 == 1 {
					req.ContentLength = -1
				}
				req.Header.Set("X-Id", id)
				if i%7 == 3 {
					time.AfterFunc(time.Duration(i%5)*time.Millisecond, cancel)
				}
				res, err := c.Do(req)
				if err == nil {
					var got []byte
					got, err = io.ReadAll(res.Body)
					res.Body.Close()
					if err == nil && (string(got) != body || res.Header.Get("X-Id") != id) {
						t.Errorf("%s: %d bytes of another exchange, %q", id, len(got), res.Header)
					}
				}
				if err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", id, err)
				}
				cancel()
			}
		}()
	}
	wg.Wait()
	s.stop()
	// Every exchange has its two records, and both speak of the same one.
	open := make(map[string]*sealtapv1.Request)
	for _, k := range s.rec.all() {
		id := string(k.rec.GetExchange())
		if q := k.rec.GetRequest(); q != nil {
			if got := "/" + k.headers(t)["x-id"][0]; q.GetPath() != got {
				t.Errorf("path %q, header %q", q.GetPath(), got)
			}
			open[id] = q
			continue
		}
		q, p := open[id], k.rec.GetResponse()
		delete(open, id)
		if p.GetOutcome() != complete {
			continue
		}
		asked := q.GetBody()
		if asked == nil {
			asked = p.GetRequestBody()
		}
		if !proto.Equal(asked, p.GetSent()) || !proto.Equal(p.GetReceived(), p.GetSent()) || "/"+k.headers(t)["x-id"][0] != q.GetPath() {
			t.Errorf("%s: asked %v, received %v, sent %v", q.GetPath(), asked, p.GetReceived(), p.GetSent())
		}
	}
	if len(open) != 0 {
		t.Errorf("%d exchanges have no response record", len(open))
	}
}

// TestHTTP2TrailersWithoutLength: a small answer with trailers gets no length that the
// upstream did not give. There are clients that read no further.
func TestHTTP2TrailersWithoutLength(t *testing.T) {
	settled(t)
	for _, body := range []string{"part", ""} {
		up := backend(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, body)
			w.(http.Flusher).Flush()
			w.Header().Set("X-Sum", "7")
		})
		s := start(t, up, nil)
		tr := &http.Transport{Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		defer tr.CloseIdleConnections()
		res, err := tr.RoundTrip(request(t, "GET", s.url("/"), nil))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if err != nil || string(b) != body || res.Trailer.Get("X-Sum") != "7" || res.ContentLength != -1 {
			t.Errorf("%q, %v, trailer %v, length %d, want %q and none", b, err, res.Trailer, res.ContentLength, body)
		}
		res.Body.Close()
		_, p := s.rec.last(t)
		wantOutcome(t, p, complete)
		wantBody(t, "sent", p.rec.GetResponse().GetSent(), []byte(body))
		s.stop()
	}
}
