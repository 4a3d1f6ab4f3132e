package proxy

import (
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// h2cBackend starts an upstream that speaks HTTP/2 without TLS, and returns its target.
func h2cBackend(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return "h2c://" + l.Addr().String()
}

// rawH2C starts an upstream that answers the first request of each connection of HTTP/2
// with these frames.
func rawH2C(t *testing.T, frames string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				head := make([]byte, len(preface))
				if _, err := io.ReadFull(c, head); err != nil {
					return
				}
				_, _ = io.WriteString(c, frame(4, 0, 0, ""))
				for {
					h := make([]byte, 9)
					if _, err := io.ReadFull(c, h); err != nil {
						return
					}
					if _, err := io.CopyN(io.Discard, c, int64(h[0])<<16|int64(h[1])<<8|int64(h[2])); err != nil {
						return
					}
					if h[3] == 1 {
						_, _ = io.WriteString(c, frames)
					}
				}
			}()
		}
	}()
	return "h2c://" + l.Addr().String()
}

// TestLastByteHeld: an upstream that has sent all bytes of its answer and does not end
// it does not get the last of them past the record.
func TestLastByteHeld(t *testing.T) {
	settled(t)
	ending := make(chan struct{})
	up := h2cBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5")
		_, _ = io.WriteString(w, "hello")
		w.(http.Flusher).Flush()
		<-ending
	})
	s := start(t, up, nil)
	c := dial(t, s.addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if h := c.head(); !strings.Contains(h, "Content-Length: 5\r\n") {
		t.Errorf("%q", h)
	}
	c.expect("hell")
	c.silent()
	if n := len(s.rec.all()); n != 1 {
		t.Errorf("%d records", n)
	}
	close(ending)
	c.expect("o")
	_, p := s.rec.last(t)
	wantOutcome(t, p, complete)
	wantBody(t, "sent", p.rec.GetResponse().GetSent(), []byte("hello"))
	wantBody(t, "received", p.rec.GetResponse().GetReceived(), []byte("hello"))

	// Where that record cannot be made the client does not have the whole answer.
	ending = make(chan struct{})
	s.rec.before = failing("response")
	c = dial(t, s.addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	c.head()
	c.expect("hell")
	close(ending)
	if text, err := c.rest(); text != "" {
		t.Errorf("%q, %v came although it is not recorded", text, err)
	}
}

// TestSwitchingOverHTTP2: an upstream of HTTP/2 that says 101 among its informational
// answers does not make the client believe in another answer than the record.
func TestSwitchingOverHTTP2(t *testing.T) {
	settled(t)
	up := rawH2C(t, frame(1, 4, 1, headerBlock(":status", "101", "upgrade", "websocket"))+
		frame(1, 4, 1, headerBlock(":status", "200", "content-length", "2"))+frame(0, 1, 1, "hi"))
	s := start(t, up, nil)
	c := dial(t, s.addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 502 ") {
		t.Errorf("%q", h)
	}
	_, p := s.rec.last(t)
	wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE)
	if st := p.rec.GetResponse().GetStatus(); st != 502 {
		t.Errorf("recorded %d", st)
	}
}

// TestTwoLengthsOverHTTP2: what HTTP/2 does not need a client of HTTP/1 gets: the length.
// An answer that gives two of them is none.
func TestTwoLengthsOverHTTP2(t *testing.T) {
	settled(t)
	for _, second := range []string{"3", "2", "x"} {
		up := rawH2C(t, frame(1, 4, 1, headerBlock(":status", "200", "content-length", second, "content-length", "2"))+frame(0, 1, 1, "hi"))
		s := start(t, up, nil)
		res, _ := get(t, client(t), request(t, "GET", s.url("/"), nil))
		if res.StatusCode != 502 {
			t.Errorf("%s: %d", second, res.StatusCode)
		}
		_, p := s.rec.last(t)
		wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE)
		s.stop()
	}
}

// TestClientThatReadsNothing: a connection of HTTP/2 on which nothing can be written ends,
// also once its exchanges have.
func TestClientThatReadsNothing(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 400 {
			if _, err := w.Write(make([]byte, 100_000)); err != nil {
				return
			}
		}
	})
	s := start(t, up, func(c *Config) { c.Timeouts.ClientStall = 3 * brief100 })
	c := dial(t, s.addr)
	const all = "\x7f\xff\xff\xff"
	c.send(preface + frame(4, 0, 0, "\x00\x04"+all) + frame(8, 0, 0, "\x7f\xf0\x00\x00") + frame(1, 5, 1, headerBlock(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x")))
	s.rec.wait(t, 2)
	_, p := s.rec.last(t)
	wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_TIMEOUT)
	// What is answered now has no room, and belongs to no exchange.
	_, _ = io.WriteString(c, strings.Repeat(frame(6, 0, 0, "12345678"), 9000))
	open := func() int {
		s.occupied.mu.Lock()
		defer s.occupied.mu.Unlock()
		return s.occupied.connections
	}
	for end := time.Now().Add(8 * time.Second); open() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("the connection is still there\n%s", buf[:runtime.Stack(buf, true)])
		}
	}
}
