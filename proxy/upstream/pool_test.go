package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestPoisoned: bytes that an upstream sends behind an answer are never the
// answer to the next request, whenever they come.
func TestPoisoned(t *testing.T) {
	settled(t)
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	for name, answer := range map[string]string{
		"length":  ok,
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"none":    "HTTP/1.1 204 No Content\r\n\r\n",
		"HEAD":    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
	} {
		for _, when := range []string{"together", "later"} {
			late := make(chan bool)
			up := listen(t, func(p *peer) {
				for {
					if r, _ := p.request(); r == nil {
						return
					}
					switch {
					case p.no > 1:
						p.send(answer)
					case when == "together":
						p.send(answer + evil)
					default:
						p.send(answer)
						<-late
						p.send(evil)
						late <- true
					}
				}
			})
			tr := newTransport(t, nil)
			method := "GET"
			if name == "HEAD" {
				method = name
			}
			_, first := do(t, tr, newRequest(t, method, up.url, ""))
			if when == "later" {
				late <- true
				<-late
				time.Sleep(5 * time.Millisecond) // for the bytes to arrive: loopback is fast
			} else if n := tr.idleConns(); n != 0 {
				t.Errorf("%s: the connection is kept", name)
			}
			var n notes
			res, err := tr.Do(newRequest(t, method, up.url, ""), &n)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			if string(b) != first || up.conns.Load() != 2 || !slices.Equal(n.sent, []bool{false}) {
				t.Errorf("%s, %s: the second answer is %q, over connection %d, sent %v", name, when, b, up.conns.Load(), n.sent)
			}
		}
	}
}

// TestClosedIdle: a connection that was closed while it had no request is not
// used, so that even requests that must not be sent twice are answered.
func TestClosedIdle(t *testing.T) {
	settled(t)
	closed := make(chan bool, 1)
	up := listen(t, func(p *peer) {
		p.request()
		p.send(ok)
		p.Close()
		closed <- true
	})
	tr := newTransport(t, nil)
	for range 5 {
		var n notes
		res, err := tr.Do(newRequest(t, "POST", up.url, "x"), &n)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); string(b) != "ok" || err != nil || len(n.sent) != 1 {
			t.Errorf("%q, %v, sent %v", b, err, n.sent)
		}
		<-closed
		time.Sleep(5 * time.Millisecond) // for the FIN to arrive
	}
}

// TestSentAgain: a request that got no byte of an answer over a connection that
// had been used is sent again, once, if it may be.
func TestSentAgain(t *testing.T) {
	settled(t)
	key := func(r *http.Request) { r.Header.Set("Idempotency-Key", "7") }
	for _, tt := range []struct {
		method, body string
		change       func(*http.Request)
		again        bool
	}{
		{"GET", "", nil, true}, {"HEAD", "", nil, true}, {"OPTIONS", "", nil, true}, {"TRACE", "", nil, true},
		{"PUT", "abc", nil, true}, {"DELETE", "", nil, true},
		{"PUT", strings.Repeat("x", inlineLimit+1), nil, true},
		{"POST", "abc", nil, false}, {"PATCH", "abc", nil, false}, {"LOCK", "", nil, false}, {"POST", "", nil, false},
		{"POST", "abc", key, true},
		{"PUT", "", func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("abc")), 3 }, false},
		{"PUT", "", func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("abc")), -1 }, false},
		{"PUT", "", func(r *http.Request) {
			r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("abc")), nil }
			r.Body, _ = r.GetBody()
			r.ContentLength = 3
		}, true},
		{"PUT", "", func(r *http.Request) {
			r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("abc")), nil }
			r.Body, _ = r.GetBody()
			r.ContentLength = -1
		}, false}, // a streamed one is left to the sender
	} {
		t.Run(tt.method+tt.body[:min(3, len(tt.body))], func(t *testing.T) {
			bodies := make(chan string, 10)
			up := listen(t, func(p *peer) {
				for i := 0; ; i++ {
					r, b := p.request()
					if r == nil {
						return
					}
					bodies <- b
					if p.no == 1 && i == 1 {
						return
					}
					if p.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"); r.Method != "HEAD" {
						p.send("ok")
					}
				}
			})
			tr := newTransport(t, nil)
			do(t, tr, newRequest(t, "GET", up.url, ""))
			<-bodies
			r := newRequest(t, tt.method, up.url, tt.body)
			if tt.change != nil {
				tt.change(r)
			}
			var n notes
			res, err := tr.Do(r, &n)
			if again := err == nil; again != tt.again {
				t.Fatalf("sent again: %t, %v", again, err)
			}
			want := []bool{true}
			if tt.again {
				want = append(want, false)
				res.Body.Close()
				if a, b := <-bodies, <-bodies; a != b {
					t.Errorf("%d bytes, and then %d", len(a), len(b))
				}
			}
			if !slices.Equal(n.sent, want) {
				t.Errorf("sent %v", n.sent)
			}
		})
	}
}

// TestNotSentAgain: a new connection that gives no answer is an error at once,
// and so is one that gives a part of one.
func TestNotSentAgain(t *testing.T) {
	settled(t)
	up := listen(t, func(p *peer) { p.request() })
	tr := newTransport(t, nil)
	if _, err := tr.RoundTrip(newRequest(t, "GET", up.url, "")); !errors.Is(err, io.EOF) || up.conns.Load() != 1 {
		t.Errorf("%v, %d connections", err, up.conns.Load())
	}
	up = listen(t, func(p *peer) {
		p.request()
		p.send(ok)
		p.request()
		p.send("H")
	})
	do(t, tr, newRequest(t, "GET", up.url, ""))
	if _, err := tr.RoundTrip(newRequest(t, "GET", up.url, "")); !errors.Is(err, io.ErrUnexpectedEOF) || up.conns.Load() != 1 {
		t.Errorf("%v, %d connections", err, up.conns.Load())
	}
	// The second one fails as well: that is all.
	up = listen(t, func(p *peer) {
		if p.request(); p.no == 1 {
			p.send(ok)
			p.request()
		}
	})
	do(t, tr, newRequest(t, "GET", up.url, ""))
	if _, err := tr.RoundTrip(newRequest(t, "GET", up.url, "")); !errors.Is(err, io.EOF) || up.conns.Load() != 2 {
		t.Errorf("%v, %d connections", err, up.conns.Load())
	}
}

func TestPoolBounds(t *testing.T) {
	settled(t)
	hold := make(chan bool)
	up := listen(t, func(p *peer) {
		for {
			r, _ := p.request()
			if r == nil {
				return
			}
			if r.URL.Path == "/hold" {
				<-hold
			}
			p.send(ok)
		}
	})
	tr := newTransport(t, func(c *Config) { c.MaxConnsPerHost = 2 })
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { do(t, tr, newRequest(t, "GET", up.url+"/hold", "")) })
	}
	for range 10 {
		hold <- true
	}
	wg.Wait()
	if n := up.conns.Load(); n > 2 {
		t.Errorf("%d connections", n)
	}
	// Who waits for a turn can be told not to.
	for range 2 {
		wg.Go(func() { do(t, tr, newRequest(t, "GET", up.url+"/hold", "")) })
	}
	eventually(t, "both connections are taken", func() bool { return tr.idleConns() == 0 })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := tr.RoundTrip(newRequest(t, "GET", up.url, "").WithContext(ctx)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	hold <- true
	hold <- true
	wg.Wait()
	tr.CloseIdleConnections()
	if n := tr.knownHosts(); n != 0 {
		t.Errorf("%d hosts are remembered", n)
	}
}

func TestLastInFirstOut(t *testing.T) {
	up := listen(t, func(p *peer) {
		for {
			if r, _ := p.request(); r == nil {
				return
			}
			p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", p.no))
		}
	})
	tr := newTransport(t, nil)
	var open []*http.Response
	for range 3 {
		res, err := tr.RoundTrip(newRequest(t, "GET", up.url, ""))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, res)
	}
	for _, i := range []int{1, 2, 0} {
		_, _ = io.ReadAll(open[i].Body)
	}
	for range 3 {
		if _, b := do(t, tr, newRequest(t, "GET", up.url, "")); b != "1" {
			t.Errorf("connection %s, want the last one that was used", b)
		}
	}
}

// TestSweep: connections that are too old, or closed by the upstream, go away
// without a request.
func TestSweep(t *testing.T) {
	settled(t)
	up := answering(t, ok)
	tr := newTransport(t, func(c *Config) { c.IdleTimeout = 40 * time.Millisecond })
	do(t, tr, newRequest(t, "GET", up.url, ""))
	eventually(t, "the idle connection is closed", func() bool { return tr.idleConns() == 0 && tr.knownHosts() == 0 })

	closing := listen(t, func(p *peer) { p.request(); p.send(ok) })
	tr = newTransport(t, func(c *Config) { c.IdleTimeout = 10 * time.Second })
	do(t, tr, newRequest(t, "GET", closing.url, ""))
	do(t, tr, newRequest(t, "GET", up.url, ""))
	eventually(t, "a sweep finds the one that was closed", func() bool {
		tr.pool.mu.Lock()
		for _, h := range tr.pool.hosts {
			for _, c := range h.idle {
				c.idle = c.idle.Add(-2 * time.Second)
			}
		}
		tr.pool.mu.Unlock()
		tr.sweep()
		return tr.knownHosts() == 1
	})
	// The other one is as good as before.
	n := up.conns.Load()
	do(t, tr, newRequest(t, "GET", up.url, ""))
	if up.conns.Load() > n+1 { // the loop above may have made it too old
		t.Error("more than one connection was made")
	}
	tr = newTransport(t, func(c *Config) { c.MaxLifetime = time.Millisecond })
	do(t, tr, newRequest(t, "GET", up.url, ""))
	time.Sleep(2 * time.Millisecond)
	n = up.conns.Load()
	do(t, tr, newRequest(t, "GET", up.url, ""))
	if up.conns.Load() != n+1 {
		t.Error("a connection past its lifetime was used")
	}
}
