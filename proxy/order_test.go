package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

const complete = sealtapv1.Outcome_OUTCOME_COMPLETE

func TestExchange(t *testing.T) {
	settled(t)
	var s *server
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		e := s.rec.all()
		if len(e) != 1 || e[0].rec.GetRequest() == nil {
			t.Errorf("the upstream is reached with %d records, want the request record", len(e))
		}
		body, _ := io.ReadAll(r.Body)
		if string(body) != "order 7" || r.Header.Get("Sealtap-Exchange") == "" || r.Host != "shop.example" || r.Header.Get("Traceparent") == "" {
			t.Errorf("the upstream got %q, %v", body, r.Header)
		}
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, "done")
	})
	s = start(t, up, nil)
	req := request(t, "POST", s.url("/a%2Fb/c?x=1;y=2"), strings.NewReader("order 7"))
	req.Host = "shop.example"
	res, body := get(t, client(t), req)
	if res.StatusCode != 201 || string(body) != "done" || res.ContentLength != 4 {
		t.Errorf("the client got %v, %q", res, body)
	}
	q, p := s.rec.last(t)
	rq, rp := q.rec.GetRequest(), p.rec.GetResponse()
	wantBody(t, "request", rq.GetBody(), []byte("order 7"))
	wantBody(t, "received", rp.GetReceived(), []byte("done"))
	wantBody(t, "sent", rp.GetSent(), []byte("done"))
	wantOutcome(t, p, complete)
	if rq.GetMethod() != "POST" || rq.GetPath() != "/a%2Fb/c" || q.opening(t, "query") != "x=1;y=2" || rq.GetQuery() != "" || rq.GetAuthority() != "shop.example" ||
		rq.GetScheme() != "http" || rq.GetProtocol() != "HTTP/1.1" || rq.GetService() != "shop" || len(rq.GetTrace()) != 16 || rq.GetSource() != "" {
		t.Errorf("request record %v", rq)
	}
	if src := q.opening(t, "source"); !strings.HasPrefix(src, "127.0.0.1:") {
		t.Errorf("source %q", src)
	}
	if rp.GetStatus() != 201 || rp.GetDurationNs() == 0 || rp.GetRequestBody() != nil || p.rec.GetTime() < q.rec.GetTime() {
		t.Errorf("response record %v", rp)
	}
	if id := res.Header.Get("Sealtap-Exchange"); id != fmt.Sprintf("%x-%x-%x-%x-%x", q.rec.Exchange[:4], q.rec.Exchange[4:6], q.rec.Exchange[6:8], q.rec.Exchange[8:10], q.rec.Exchange[10:]) || id[14] != '7' {
		t.Errorf("the answer says exchange %q, the record %x", id, q.rec.Exchange)
	}
	if got := p.headers(t); got["content-type"][0] != "text/plain" {
		t.Errorf("headers of the answer: %v", got)
	}
}

func TestRequestNotRecorded(t *testing.T) {
	settled(t)
	for _, hook := range []string{"before", "after"} {
		var reached atomic.Int32
		up := backend(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
		m := newMemory()
		if hook == "before" {
			m.before = failing("request")
		} else {
			m.after = failing("request") // failed, but had been kept
		}
		s := start(t, up, func(c *Config) { c.Recorder = m })
		for _, body := range []string{"", "small", strings.Repeat("x", 100_000)} {
			res, _ := get(t, client(t), request(t, "POST", s.url("/"), strings.NewReader(body)))
			if res.StatusCode != 503 || res.Header.Get("Sealtap-Error") != "audit-unavailable" || res.Header.Get("Sealtap-Exchange") == "" {
				t.Errorf("%d %v", res.StatusCode, res.Header)
			}
		}
		c := dial(t, s.addr)
		c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 503 ") {
			t.Errorf("a WebSocket: %q", h)
		}
		if reached.Load() != 0 {
			t.Errorf("%s: the upstream was reached", hook)
		}
	}
	var reached atomic.Int32
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			c.Close()
		}
	}()
	m := newMemory()
	m.before = failing("request")
	s := start(t, "", func(c *Config) { c.Recorder = m })
	c := dial(t, s.addr)
	c.send("CONNECT " + l.Addr().String() + " HTTP/1.1\r\nHost: " + l.Addr().String() + "\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 503 ") || reached.Load() != 0 {
		t.Errorf("CONNECT: %q, %d connections", h, reached.Load())
	}
}

func TestResponseNotRecorded(t *testing.T) {
	settled(t)
	big := strings.Repeat("0123456789abcdef", 20_000)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/small":
			_, _ = io.WriteString(w, "secret answer")
		case "/empty":
			w.WriteHeader(204)
		case "/large":
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			_, _ = io.WriteString(w, big)
		case "/chunked":
			_, _ = io.WriteString(w, "first")
			w.(http.Flusher).Flush()
			time.Sleep(10 * patience)
			_, _ = io.WriteString(w, "second")
		}
	})
	m := newMemory()
	m.before = failing("response")
	s := start(t, up, func(c *Config) { c.Recorder = m })
	for _, path := range []string{"/small", "/empty"} {
		res, body := get(t, client(t), request(t, "GET", s.url(path), nil))
		if res.StatusCode != 503 || res.Header.Get("Sealtap-Error") != "audit-unavailable" || strings.Contains(string(body), "secret") {
			t.Errorf("%s: %d %q", path, res.StatusCode, body)
		}
	}
	for _, path := range []string{"/large", "/chunked"} {
		for _, version := range []string{"1.0", "1.1"} {
			c := dial(t, s.addr)
			c.send("GET " + path + " HTTP/" + version + "\r\nHost: x\r\n\r\n")
			h := c.head()
			if !strings.Contains(h, " 200 OK") {
				t.Fatalf("%s: %q", path, h)
			}
			body, err := c.rest()
			whole := path == "/large" && len(body) >= len(big) || strings.HasSuffix(body, "0\r\n\r\n")
			if whole {
				t.Errorf("%s over HTTP/%s: a whole answer passed unrecorded", path, version)
			}
			if version == "1.0" && path == "/chunked" && err == nil {
				t.Errorf("over HTTP/1.0 the answer ended like a whole one: %q", body)
			}
		}
	}
}

// TestEndWaits proves with a recorder that blocks that all of an answer but its
// end has passed, and that its end has not, before the response record.
func TestEndWaits(t *testing.T) {
	settled(t)
	big := strings.Repeat("z", 200_000)
	for _, tt := range []struct {
		name, method, version string
		answer                string // of the upstream
		before                string // what the client has while the record is not there; "" means nothing at all
		last                  string
	}{
		{"small", "GET", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "", "hello"},
		{"head", "HEAD", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "", ""},
		{"204", "GET", "1.1", "HTTP/1.1 204 No Content\r\n\r\n", "", ""},
		{"304", "GET", "1.1", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n", "", ""},
		{"empty", "GET", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", ""},
		{"small chunked", "GET", "1.1", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "", "hello"},
		{"large", "GET", "1.1", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(big), big), big[1:], "z"},
		{"events", "GET", "1.1", "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ndata: 1\n\r\n0\r\n\r\n", "8\r\ndata: 1\n\r\n", "0\r\n\r\n"},
		{"trailers", "GET", "1.1", "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTrailer: Grpc-Status\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nGrpc-Status: 0\r\n\r\n", "3\r\nabc\r\n", "0\r\nGrpc-Status: 0\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up := rawBackend(t, func(c net.Conn, _ *http.Request) { _, _ = io.WriteString(c, tt.answer) })
			g := newGate("response")
			m := newMemory()
			m.before = g.hook
			s := start(t, up, func(c *Config) { c.Recorder = m })
			c := dial(t, s.addr)
			c.send(tt.method + " / HTTP/" + tt.version + "\r\nHost: x\r\n\r\n")
			if tt.before != "" {
				c.head()
				c.expect(tt.before)
			}
			<-g.reached
			c.silent()
			if n := len(m.all()); n != 1 {
				t.Fatalf("%d records", n)
			}
			close(g.open)
			if tt.before == "" {
				if h := c.head(); tt.last != "" && !strings.Contains(h, fmt.Sprintf("Content-Length: %d\r\n", len(tt.last))) {
					t.Errorf("headers %q", h)
				}
			}
			c.expect(tt.last)
			c.silent()
			wantOutcome(t, &m.wait(t, 2)[1], complete)
			if tt.name == "trailers" {
				if got := m.all()[1]; got.headers(t)["trailer:grpc-status"] == nil {
					t.Errorf("the trailer is not recorded: %v", got.headers(t))
				}
			}
		})
	}
}

// TestRequestBodyOrder proves that an upstream sees no connection, and a large
// body does not pass, before the request record.
func TestRequestBodyOrder(t *testing.T) {
	settled(t)
	var reached atomic.Int32
	body := bytes.Repeat([]byte("q"), 300_000)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		got, _ := io.ReadAll(r.Body)
		if !bytes.Equal(got, body) {
			t.Errorf("the upstream got %d bytes", len(got))
		}
	})
	g := newGate("request")
	m := newMemory()
	m.before = g.hook
	s := start(t, up, func(c *Config) { c.Recorder = m })
	done := make(chan struct{})
	c := client(t)
	go func() {
		defer close(done)
		res, err := c.Post(s.url("/"), "text/plain", bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		res.Body.Close()
	}()
	<-g.reached
	if reached.Load() != 0 {
		t.Error("the upstream was reached before the record")
	}
	close(g.open)
	<-done
	q, p := m.last(t)
	if q.rec.GetRequest().GetBody() != nil {
		t.Error("a streamed body stands in the request record")
	}
	wantBody(t, "request body", p.rec.GetResponse().GetRequestBody(), body)
}
