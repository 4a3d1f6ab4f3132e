package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// TestPartial: whatever is there of an answer reaches the client while the rest
// does not come, byte for byte.
func TestPartial(t *testing.T) {
	settled(t)
	for name, head := range map[string]string{
		"small with length": "Content-Length: 6\r\n",
		"large with length": "Content-Length: 100006\r\n",
		"to the close":      "Connection: close\r\n",
		"events":            "Content-Type: text/event-stream\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			goOn := make(chan string)
			up := rawBackend(t, func(c net.Conn, _ *http.Request) {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head+"\r\n")
				for s := range goOn {
					_, _ = io.WriteString(c, s)
				}
			})
			s := start(t, up, nil)
			res, err := client(t).Get(s.url("/"))
			if err != nil {
				t.Fatal(err) // even the headers must not wait
			}
			defer res.Body.Close()
			want := ""
			for _, part := range []string{"a", "b", "c", "de"} {
				goOn <- part
				want += part
				b := make([]byte, len(part))
				if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != part {
					t.Fatalf("%q, %v, want %q", b, err, part)
				}
			}
			if n := len(s.rec.all()); n != 1 {
				t.Fatalf("%d records", n)
			}
			last := "f"
			if name == "large with length" {
				last = strings.Repeat("f", 100_001)
			}
			goOn <- last
			close(goOn)
			if b, err := io.ReadAll(res.Body); err != nil || string(b) != last {
				t.Errorf("%d bytes, %v", len(b), err)
			}
			_, p := s.rec.last(t)
			wantOutcome(t, p, complete)
			wantBody(t, "sent", p.rec.GetResponse().GetSent(), []byte(want+last))
			wantBody(t, "received", p.rec.GetResponse().GetReceived(), []byte(want+last))
		})
	}
}

func TestTruncated(t *testing.T) {
	settled(t)
	for name, tt := range map[string]struct {
		answer, body string
		status       uint32
	}{
		"small":   {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "half", 502},
		"large":   {"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf", "half", 200},
		"chunked": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "half", 200},
	} {
		up := rawBackend(t, func(c net.Conn, _ *http.Request) { _, _ = io.WriteString(c, tt.answer) })
		s := start(t, up, nil)
		res, err := client(t).Get(s.url("/"))
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
			if tt.status == 200 && err == nil {
				t.Errorf("%s: the client takes the answer for whole", name)
			}
		}
		_, p := s.rec.last(t)
		wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_UPSTREAM_TRUNCATED)
		wantBody(t, name, p.rec.GetResponse().GetReceived(), []byte(tt.body))
		// A chunked answer may be cut before it was let pass.
		if st := p.rec.GetResponse().GetStatus(); st != tt.status && name != "chunked" {
			t.Errorf("%s: status %d", name, st)
		}
	}
}

func TestUpstreamFails(t *testing.T) {
	settled(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := "http://" + l.Addr().String()
	l.Close()
	silent := rawBackend(t, func(c net.Conn, _ *http.Request) { _, _ = io.Copy(io.Discard, c) })
	for _, tt := range []struct {
		up      string
		status  int
		outcome sealtapv1.Outcome
	}{
		{down, 502, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE},
		{silent, 504, sealtapv1.Outcome_OUTCOME_TIMEOUT},
		{rawBackend(t, func(net.Conn, *http.Request) {}), 502, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE},
		{rawBackend(t, func(c net.Conn, _ *http.Request) { _, _ = io.WriteString(c, "HTTP/1.1 042 What\r\n\r\n") }), 502, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE},
		{rawBackend(t, func(c net.Conn, _ *http.Request) {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")
		}), 502, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE},
	} {
		s := start(t, tt.up, func(c *Config) { c.Timeouts.ResponseHeader = 50 * time.Millisecond })
		res, body := get(t, client(t), request(t, "POST", s.url("/"), strings.NewReader("x")))
		if res.StatusCode != tt.status || res.Header.Get("Sealtap-Error") == "" {
			t.Errorf("%d %s", res.StatusCode, body)
		}
		_, p := s.rec.last(t)
		wantOutcome(t, p, tt.outcome)
		wantBody(t, "sent", p.rec.GetResponse().GetSent(), body)
		if p.rec.GetResponse().GetReceived() != nil {
			t.Error("nothing was received")
		}
	}
}

func TestClientAborts(t *testing.T) {
	settled(t)
	gone := make(chan struct{}, 1)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/stream":
			_, _ = io.WriteString(w, "part")
			w.(http.Flusher).Flush()
		case "/upload":
			_, _ = io.ReadAll(r.Body)
		}
		<-r.Context().Done()
		gone <- struct{}{}
	})
	s := start(t, up, nil)
	for _, tt := range []struct{ send, want string }{
		{"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		{"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", "part"},
		{"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc", ""},
		{"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", ""},
	} {
		n := len(s.rec.all())
		c := dial(t, s.addr)
		c.send(tt.send)
		s.rec.wait(t, n+1)
		if tt.want != "" {
			c.head()
			c.expect("4\r\npart\r\n")
		}
		time.Sleep(20 * time.Millisecond)
		c.Close()
		s.rec.wait(t, n+2)
		_, p := s.rec.last(t)
		wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_CLIENT_ABORT)
		if tt.want != "" {
			wantBody(t, "sent", p.rec.GetResponse().GetSent(), []byte(tt.want))
		}
		if strings.HasPrefix(tt.send, "POST") {
			wantBody(t, "request body", p.rec.GetResponse().GetRequestBody(), []byte("abc"))
		}
		<-gone
	}
	// A small body that does not arrive is not forwarded.
	n := len(s.rec.all())
	c := dial(t, s.addr)
	c.send("POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
	time.Sleep(10 * time.Millisecond)
	c.Close()
	s.rec.wait(t, n+2)
	_, p := s.rec.last(t)
	wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_CLIENT_ABORT)
	wantBody(t, "request body", p.rec.GetResponse().GetRequestBody(), []byte("abc"))
	select {
	case <-gone:
		t.Error("half a body reached the upstream")
	default:
	}
}

func TestClientStalls(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		if r.Method == "GET" {
			for range 400 {
				if _, err := w.Write(make([]byte, 100_000)); err != nil {
					return
				}
			}
		}
	})
	s := start(t, up, func(c *Config) { c.Timeouts.ClientStall = 80 * time.Millisecond })
	for _, send := range []string{
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc",
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		n := len(s.rec.all())
		c := dial(t, s.addr)
		c.send(send)
		s.rec.wait(t, n+2)
		_, p := s.rec.last(t)
		wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_TIMEOUT)
		c.Close()
	}
}

// TestBidirectional: a chunked request whose client waits for the answer before
// it goes on.
func TestBidirectional(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			_, _ = w.Write(bytes.ToUpper(b[:n]))
			w.(http.Flusher).Flush()
			if err != nil {
				return
			}
		}
	})
	s := start(t, up, nil)
	c := dial(t, s.addr)
	c.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
	c.head()
	c.expect("2\r\nAB\r\n")
	c.send("3\r\ncde\r\n")
	c.expect("3\r\nCDE\r\n")
	c.send("0\r\n\r\n")
	c.expect("0\r\n\r\n")
	_, p := s.rec.last(t)
	wantOutcome(t, p, complete)
	wantBody(t, "request body", p.rec.GetResponse().GetRequestBody(), []byte("abcde"))
	wantBody(t, "sent", p.rec.GetResponse().GetSent(), []byte("ABCDE"))
}

func TestChunkedRequest(t *testing.T) {
	settled(t)
	got := make(chan string, 1)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- fmt.Sprintf("%d bytes, length %d, trailer %q", len(b), r.ContentLength, r.Trailer.Get("X-Sum"))
	})
	s := start(t, up, nil)
	for _, size := range []int{0, 5, 65536, 65537, 200_000} {
		req := request(t, "POST", s.url("/"), io.MultiReader(bytes.NewReader(make([]byte, size))))
		req.Trailer = http.Header{"X-Sum": {"abc"}, "X-Forwarded-For": {"6.6.6.6"}}
		get(t, client(t), req)
		if g := <-got; g != fmt.Sprintf("%d bytes, length -1, trailer %q", size, "abc") {
			t.Error(g)
		}
		q, p := s.rec.last(t)
		b := q.rec.GetRequest().GetBody()
		if b == nil {
			b = p.rec.GetResponse().GetRequestBody()
		}
		wantBody(t, "request", b, make([]byte, size))
	}
}

func TestContinueAndEarlyHints(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(413)
			return
		}
		w.Header().Set("Link", "</a.css>")
		w.Header().Set("Connection", "X-Private")
		w.Header().Set("X-Private", "1")
		w.WriteHeader(103)
		clear(w.Header())
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	s := start(t, up, nil)
	for _, size := range []int{10, 100_000} {
		c := dial(t, s.addr)
		c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", size))
		c.expect("HTTP/1.1 100 Continue\r\n\r\n")
		c.send(strings.Repeat("x", size))
		if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 200 ") {
			t.Errorf("%q", h)
		}
		c.expect(fmt.Sprint(size))
	}
	// Refused before the body was sent: the client need not send it.
	c := dial(t, s.addr)
	c.send("POST /no HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 413 ") {
		t.Errorf("%q", h)
	}
	// 103 passes, without its hop-by-hop headers, and is recorded.
	var hints []textproto.MIMEHeader
	req := request(t, "GET", s.url("/"), nil)
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		if code == 103 {
			hints = append(hints, h)
		}
		return nil
	}}))
	res, _ := get(t, client(t), req)
	if len(hints) != 1 || hints[0].Get("Link") == "" || hints[0].Get("X-Private") != "" || res.Header.Get("Link") != "" {
		t.Errorf("hints %v, answer %v", hints, res.Header)
	}
	_, p := s.rec.last(t)
	if d := p.rec.GetResponse().GetDetail(); !strings.Contains(d, "informational answers: 103") {
		t.Errorf("detail %q", d)
	}
	if h := p.headers(t); len(h["103:link"]) != 1 || h["103:link"][0] != "</a.css>" || len(h["103:x-private"]) != 1 {
		t.Errorf("headers of the 103 are not recorded: %v", h)
	}
	if !hasChange(p, removed, "103:x-private") || hasChange(p, removed, "103:link") || hasChange(p, removed, "103") {
		t.Errorf("changes %v", p.rec.GetResponse().GetChanges())
	}
	// Of HTTP/1.0 nothing of it passes, and the record says so.
	old := dial(t, s.addr)
	old.send("GET / HTTP/1.0\r\n\r\n")
	if h := old.head(); !strings.HasPrefix(h, "HTTP/1.1 200 ") {
		t.Errorf("%q", h)
	}
	_, p = s.rec.last(t)
	if !hasChange(p, removed, "103") || len(p.headers(t)["103:link"]) != 1 {
		t.Errorf("changes %v", p.rec.GetResponse().GetChanges())
	}
}

func hasChange(k *kept, kind sealtapv1.ChangeKind, name string) bool {
	list := append(k.rec.GetRequest().GetChanges(), k.rec.GetResponse().GetChanges()...)
	return slices.ContainsFunc(list, func(c *sealtapv1.Change) bool { return c.GetKind() == kind && c.GetName() == name })
}

// TestManyInformational: what an upstream says before its answer has a bound.
func TestManyInformational(t *testing.T) {
	settled(t)
	for name, heads := range map[string]string{
		"many":  strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", 20),
		"large": strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: "+strings.Repeat("a", 3000)+"\r\n\r\n", 3),
	} {
		up := rawBackend(t, func(c net.Conn, _ *http.Request) {
			_, _ = io.WriteString(c, heads+"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		})
		s := start(t, up, func(c *Config) { c.MaxHeaderBytes = 8192 })
		res, _ := get(t, client(t), request(t, "GET", s.url("/"), nil))
		if res.StatusCode != 502 {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
		s.stop()
	}
}

// TestEarlyAnswer: an answer before the end of a large body does not wait for it.
func TestEarlyAnswer(t *testing.T) {
	settled(t)
	up := rawBackend(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno\n")
		_, _ = io.Copy(io.Discard, c)
	})
	s := start(t, up, nil)
	c := dial(t, s.addr)
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" + strings.Repeat("x", 1000))
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 413 ") || !strings.Contains(h, "Connection: close") {
		t.Errorf("%q", h)
	}
	c.expect("no\n")
	_, p := s.rec.last(t)
	wantOutcome(t, p, complete)
	if n := p.rec.GetResponse().GetRequestBody().GetSize(); n > 1000 {
		t.Errorf("%d bytes of the body are recorded", n)
	}
}

// TestRetry: the transport sends a request again over a new connection where
// the old one turns out to be closed. The record says so.
func TestRetry(t *testing.T) {
	settled(t)
	n := 0
	up := rawBackend(t, func(c net.Conn, _ *http.Request) {
		n++
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_, _ = c.Read(make([]byte, 1)) // and closes at the next request
	})
	s := start(t, up, nil)
	for range 2 {
		get(t, client(t), request(t, "GET", s.url("/"), nil))
	}
	_, p := s.rec.last(t)
	if d := p.rec.GetResponse().GetDetail(); n != 2 || d != "2 attempts" {
		t.Errorf("%d connections, detail %q", n, d)
	}
}

// TestSmallTrailers proves that an answer which comes at once, trailers included,
// keeps them.
func TestSmallTrailers(t *testing.T) {
	settled(t)
	for _, announce := range []string{"Trailer: X-Sum\r\n", ""} {
		up := rawBackend(t, func(c net.Conn, _ *http.Request) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+announce+"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\nSealtap-Error: no\r\n\r\n")
		})
		s := start(t, up, nil)
		res, err := client(t).Get(s.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(body) != "abc" || res.Trailer.Get("X-Sum") != "7" || res.Trailer.Get("Sealtap-Error") != "" {
			t.Errorf("announced by %q: body %q, error %v, trailers %v", announce, body, err, res.Trailer)
		}
		if _, p := s.rec.last(t); p.headers(t)["trailer:x-sum"] == nil {
			t.Errorf("the trailer is not recorded: %v", p.headers(t))
		}
	}
}
