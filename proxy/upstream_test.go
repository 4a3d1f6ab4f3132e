package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// TestAmbiguousAnswers: an answer that could be read in two ways does not reach
// the client, and leaves a record that quotes nothing of it.
func TestAmbiguousAnswers(t *testing.T) {
	settled(t)
	const unreachable, truncated = sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE, sealtapv1.Outcome_OUTCOME_UPSTREAM_TRUNCATED
	for name, tt := range map[string]struct {
		answer  string
		outcome sealtapv1.Outcome
	}{
		"length and coding": {"HTTP/1.1 200 OK\r\nX-Token: hunter2\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", unreachable},
		"two lengths":       {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", unreachable},
		"bare LF":           {"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", unreachable},
		"a folded line":     {"HTTP/1.1 200 OK\r\nX-Token: hunter2\r\n hunter2\r\nContent-Length: 5\r\n\r\nhello", unreachable},
		"a bad chunk":       {"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhunter2\r\n0\r\n\r\n", truncated},
		"not HTTP":          {"SSH-2.0-OpenSSH hunter2\r\n\r\n", unreachable},
	} {
		up := rawBackend(t, func(c net.Conn, _ *http.Request) {
			_, _ = io.WriteString(c, tt.answer)
			_, _ = io.Copy(io.Discard, c)
		})
		s := start(t, up, nil)
		res, body := get(t, client(t), request(t, "POST", s.url("/"), strings.NewReader("x")))
		if res.StatusCode != http.StatusBadGateway || res.Header.Get("Sealtap-Error") == "" || res.Header.Get("X-Token") != "" || strings.Contains(string(body), "hunter2") {
			t.Errorf("%s: %d %v %s", name, res.StatusCode, res.Header, body)
		}
		_, p := s.rec.last(t)
		wantOutcome(t, p, tt.outcome)
		if d := p.rec.GetResponse().GetDetail(); !strings.Contains(d, "malformed answer: ") || strings.Contains(d, "hunter2") {
			t.Errorf("%s: detail %q", name, d)
		}
	}
}

// TestNextAnswer: what an upstream sends behind an answer is nobody's answer.
func TestNextAnswer(t *testing.T) {
	settled(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for no := 0; ; no++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			go func() {
				for in := bufio.NewReader(c); ; {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
					if no == 0 {
						time.Sleep(5 * time.Millisecond)
						_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
					}
				}
			}()
		}
	}()
	s := start(t, "http://"+l.Addr().String(), nil)
	for range 3 {
		if _, body := get(t, client(t), request(t, "POST", s.url("/"), strings.NewReader("x"))); string(body) != "good" {
			t.Errorf("%q", body)
		}
		_, p := s.rec.last(t)
		wantBody(t, "received", p.rec.GetResponse().GetReceived(), []byte("good"))
		time.Sleep(20 * time.Millisecond)
	}
}

// TestNothingAdded: no header is added for the upstream or the client, and one
// that ends here does so beside "close" too.
func TestNothingAdded(t *testing.T) {
	settled(t)
	got := make(chan string, 1)
	up := rawBackend(t, func(c net.Conn, r *http.Request) {
		got <- r.UserAgent()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nPragma: no-cache\r\nConnection: close, X-Internal\r\nX-Internal: 1\r\nContent-Length: 0\r\n\r\n")
	})
	s := start(t, up, nil)
	c := dial(t, s.addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	h := c.head()
	if ua := <-got; ua != "" || strings.Contains(h, "Cache-Control") || strings.Contains(h, "X-Internal") {
		t.Errorf("User-Agent %q, answer %q", ua, h)
	}
}

func TestUpstreamNames(t *testing.T) {
	for _, name := range []string{"http://h\u00e4user.example", "http://", "ftp://a", "http://u:p@a", "http://a?b"} {
		u, err := url.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Recorder: newMemory(), DigestKey: make([]byte, 16), Upstream: u}); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
