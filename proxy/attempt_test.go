package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

func TestMayRetry(t *testing.T) {
	base := retryCase{method: "GET", replayable: true}
	for _, c := range []struct {
		name   string
		change func(*retryCase)
		want   bool
	}{
		{"nothing sent", func(*retryCase) {}, true},
		{"nothing sent of a POST", func(c *retryCase) { c.method = "POST" }, true},
		{"connecting took too long", func(c *retryCase) { c.method, c.timeout = "POST", true }, true},
		{"nothing sent of an upgrade", func(c *retryCase) { c.upgrade = true }, true},
		{"the body is gone", func(c *retryCase) { c.replayable = false }, false},
		{"sent GET", func(c *retryCase) { c.connected = true }, true},
		{"sent HEAD", func(c *retryCase) { c.connected, c.method = true, "HEAD" }, true},
		{"sent PUT", func(c *retryCase) { c.connected, c.method = true, "PUT" }, true},
		{"sent DELETE", func(c *retryCase) { c.connected, c.method = true, "DELETE" }, true},
		{"sent OPTIONS", func(c *retryCase) { c.connected, c.method = true, "OPTIONS" }, true},
		{"sent POST", func(c *retryCase) { c.connected, c.method = true, "POST" }, false},
		{"sent PATCH", func(c *retryCase) { c.connected, c.method = true, "PATCH" }, false},
		{"sent what is not known", func(c *retryCase) { c.connected, c.method = true, "get" }, false},
		{"sent PUT, the body is gone", func(c *retryCase) { c.connected, c.method, c.replayable = true, "PUT", false }, false},
		{"sent, and too slow", func(c *retryCase) { c.connected, c.timeout = true, true }, false},
		{"sent upgrade", func(c *retryCase) { c.connected, c.upgrade = true, true }, false},
		{"answer began", func(c *retryCase) { c.connected, c.answered = true, true }, false},
	} {
		k := base
		c.change(&k)
		if got := mayRetry(k); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestRetries: what the clients of a pool see whose first target misbehaves, and
// what the records say.
func TestRetries(t *testing.T) {
	cut := func(answer string) func(t *testing.T, n *atomic.Int32) string {
		return func(t *testing.T, n *atomic.Int32) string {
			return rawBackend(t, func(c net.Conn, _ *http.Request) {
				n.Add(1)
				_, _ = io.WriteString(c, answer)
			})
		}
	}
	refused := func(t *testing.T, _ *atomic.Int32) string { return dead(t) }
	large := strings.Repeat("x", 100<<10) // is streamed
	for _, c := range []struct {
		name         string
		first        func(*testing.T, *atomic.Int32) string
		method, body string
		status       int
		attempts     int
		detail       string // of the first
	}{
		{"refused GET", refused, "GET", "", 200, 2, "connection refused"},
		{"refused POST", refused, "POST", "abc", 200, 2, "connection refused"},
		{"refused streamed POST", refused, "POST", large, 200, 2, "connection refused"},
		{"cut GET", cut(""), "GET", "", 200, 2, "EOF"},
		{"cut PUT", cut(""), "PUT", "abc", 200, 2, "EOF"},
		{"cut streamed PUT", cut(""), "PUT", large, 502, 1, ""},
		{"cut POST", cut(""), "POST", "abc", 502, 1, "EOF"},
		{"cut after a byte", cut("H"), "GET", "", 502, 1, ""},
		{"cut after 1xx", cut("HTTP/1.1 103 Early\r\n\r\n"), "GET", "", 502, 1, ""},
		{"cut in the answer", cut("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"), "GET", "", 502, 1, ""},
		{"503 of the upstream", cut("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), "GET", "", 503, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			settled(t)
			var n, seen atomic.Int32
			good := backend(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				if string(b) != c.body || r.Header.Get("Sealtap-Exchange") == "" || len(r.Header["Via"]) != 1 {
					t.Errorf("the upstream got %d bytes, headers %v", len(b), r.Header)
				}
				seen.Add(1)
			})
			bad := c.first(t, &n)
			p := poolOf(t, "", good, bad) // the turn begins with the second
			p.Retries = 1
			s := pooled(t, p, nil)
			req := request(t, c.method, s.url("/x"), strings.NewReader(c.body))
			if c.body == "" {
				req.Body = nil
			}
			res, err := client(t).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != c.status {
				t.Errorf("status %d, want %d", res.StatusCode, c.status)
			}
			if want := int32(c.attempts - 1); seen.Load() != want {
				t.Errorf("the good one was asked %d times, want %d", seen.Load(), want)
			}
			_, r := s.rec.last(t)
			list := r.rec.GetResponse().GetAttempts()
			if len(list) != c.attempts || !strings.Contains(list[0].GetDetail(), c.detail) || list[0].GetUpstream() != strings.TrimPrefix(bad, "http://") || list[0].GetDurationNs() == 0 {
				t.Fatalf("attempts %v", list)
			}
			if c.attempts == 2 && (list[1].GetUpstream() != strings.TrimPrefix(good, "http://") || list[1].GetStatus() != 200 || list[1].GetDetail() != "") {
				t.Errorf("attempts %v", list)
			}
			if c.body != "" && c.status == 200 {
				sent := r.rec.GetResponse().GetRequestBody()
				if q, _ := s.rec.last(t); sent == nil {
					sent = q.rec.GetRequest().GetBody()
				}
				wantBody(t, "request", sent, []byte(c.body))
			}
		})
	}
}

// TestRetriesEnd: as often as configured and no more, to the last target's error.
func TestRetriesEnd(t *testing.T) {
	settled(t)
	p := poolOf(t, "", dead(t), dead(t), dead(t))
	p.Retries = 4
	s := pooled(t, p, nil)
	res, _ := get(t, client(t), request(t, "GET", s.url("/"), nil))
	if res.StatusCode != 502 || res.Header.Get("Sealtap-Error") != codeUnreachable {
		t.Errorf("%v", res)
	}
	_, r := s.rec.last(t)
	wantOutcome(t, r, sealtapv1.Outcome_OUTCOME_UPSTREAM_UNREACHABLE)
	list := r.rec.GetResponse().GetAttempts()
	if len(list) != 5 || !strings.HasSuffix(r.rec.GetResponse().GetDetail(), "; 5 attempts") {
		t.Errorf("attempts %v, detail %q", list, r.rec.GetResponse().GetDetail())
	}
	s.stop()
	for _, u := range s.pools[0].targets {
		if n := u.inFlight.Load(); n != 0 {
			t.Errorf("%s has %d in flight in the end", u.name, n)
		}
	}
}

// TestAttemptsBound: however many there are, the record has the first and the last.
func TestAttemptsBound(t *testing.T) {
	all := newAttempts(nil, nil, 1<<16)
	for i := range 3 * maxAttempts {
		all.begin(fmt.Sprint(i)).finish(nil, fmt.Errorf("no"))
	}
	x := &exchange{tries: all}
	var p sealtapv1.Response
	x.captureAttempts(&p)
	if n := len(p.GetAttempts()); n != maxAttempts || p.GetAttempts()[0].GetUpstream() != "0" || p.GetAttempts()[n-1].GetUpstream() != "23" || all.count() != 24 {
		t.Errorf("%v of %d", p.GetAttempts(), all.count())
	}
}

// TestOneTarget: where there is no choice and no failure the record stays small.
func TestOneTarget(t *testing.T) {
	settled(t)
	s := pooled(t, poolOf(t, "", named(t, "a")), nil)
	get(t, client(t), request(t, "GET", s.url("/"), nil))
	if _, r := s.rec.last(t); len(r.rec.GetResponse().GetAttempts()) != 0 {
		t.Errorf("attempts %v", r.rec.GetResponse().GetAttempts())
	}
}

// TestRetryStopsWithClient: nobody is asked for a client that went away.
func TestRetryStopsWithClient(t *testing.T) {
	settled(t)
	ctx, cancel := context.WithCancel(context.Background())
	up := rawBackend(t, func(c net.Conn, _ *http.Request) {
		cancel()
		_, _ = c.Read(make([]byte, 1)) // until the proxy has seen it, and hangs up
	})
	var n atomic.Int32
	other := backend(t, func(http.ResponseWriter, *http.Request) { n.Add(1) })
	p := poolOf(t, "", other, up)
	p.Retries = 1
	s := pooled(t, p, nil)
	_, err := client(t).Do(request(t, "GET", s.url("/"), nil).WithContext(ctx))
	if err == nil {
		t.Fatal("it was answered")
	}
	_, r := s.rec.last(t)
	wantOutcome(t, r, sealtapv1.Outcome_OUTCOME_CLIENT_ABORT)
	if a := r.rec.GetResponse().GetAttempts(); n.Load() != 0 || len(a) != 1 {
		t.Errorf("the other target was asked: %v", a)
	}
}
