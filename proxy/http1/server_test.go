package http1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestRequests goes through the table: what is taken is followed by the next
// request, what is not ends the connection, in whatever pieces it comes.
func TestRequests(t *testing.T) {
	settled(t)
	var mu sync.Mutex
	var taken []string
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		taken = append(taken, r.RequestURI)
		mu.Unlock()
		_, err := io.ReadAll(r.Body)
		var bad *Error
		if errors.As(err, &bad) {
			http.Error(w, bad.Reason, bad.Status)
		} else if err != nil {
			t.Errorf("reading the body: %v", err)
		}
	}, tableLimits)
	const next = "GET /next HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n"
	for _, tt := range rows(t) {
		for _, pieces := range []bool{false, true} {
			if pieces && len(tt.request) > 500 {
				continue
			}
			taken = nil
			before := len(f.reasons())
			c := dial(t, f.addr)
			if all := tt.request + next; pieces {
				for i := range len(all) {
					_, _ = io.WriteString(c, all[i:i+1]) // the server may have enough
				}
			} else {
				c.send(all)
			}
			res, body := c.answer("GET")
			if res.StatusCode != tt.status {
				t.Errorf("%s: %d %s", tt.name, res.StatusCode, body)
			}
			refused := f.reasons()[before:]
			switch chunk := strings.HasPrefix(tt.name, "chunk: "); {
			case tt.status == 200 && strings.Contains(tt.request, "HTTP/1.0"):
			case tt.status == 200:
				if res, _ := c.answer("GET"); res.StatusCode != 200 {
					t.Errorf("%s: the next request is answered with %d", tt.name, res.StatusCode)
				}
				if len(taken) != 2 || taken[1] != "/next" {
					t.Errorf("%s: %q are taken", tt.name, taken)
				}
			case chunk:
				if len(taken) != 1 || len(refused) != 0 {
					t.Errorf("%s: %q are taken, %q refused", tt.name, taken, refused)
				}
			default:
				if len(taken) != 0 || len(refused) != 1 {
					t.Errorf("%s: %q are taken, %q refused", tt.name, taken, refused)
				}
				if !res.Close {
					t.Errorf("%s: the answer does not say that the connection ends", tt.name)
				}
			}
			c.closed()
			c.Close()
		}
	}
}

// TestRefusedRequest: what was read ahead of the error is there to be written
// down, what nobody can read is not.
func TestRefusedRequest(t *testing.T) {
	settled(t)
	got := make(chan *http.Request, 1)
	f := start(t, nil, func(c *Config) {
		c.Refused = func(w http.ResponseWriter, r *http.Request, _ *Error) { got <- r }
		c.HeaderTimeout = 50 * time.Millisecond
	})
	for _, tt := range []struct{ send, want string }{
		{"GET /a?b HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nX-B : 2\r\n\r\n", `"GET" "/a?b" "HTTP/1.1" "" map[X-A:[1]]`},
		{"GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\nX-A: 1\r\n\r\n", `"GET" "/a" "HTTP/1.1" "" map[Host:[x y] X-A:[1]]`},
		{"GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\nContent-Length: 1\r\n\r\n", `"GET" "/a" "HTTP/1.1" "x" map[Content-Length:[1] Transfer-Encoding:[x]]`},
		{"GET /a HTTP/3.7\r\nHost: x\r\n\r\n", `"GET" "/a" "HTTP/3.7" "" map[]`},
		{"GET secret/a HTTP/1.1\r\nHost: x\r\n\r\n", `"GET" "" "HTTP/1.1" "" map[]`},
		{"secret: a\r\n\r\n", `"" "" "" "" map[]`},
		{"my /secret is\r\n\r\n", `"" "" "" "" map[]`},
		{"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", `"GET" "" "HTTP/1.1" "" map[]`},
		{"GET x://secret/a HTTP/2.0\r\nHost: x\r\n\r\n", `"GET" "" "HTTP/2.0" "" map[]`},
		{"GET /a HTTP/1.1\r\nX-A: 1\r\nX-B", `"GET" "/a" "HTTP/1.1" "" map[X-A:[1]]`},
		{"GE", `"" "" "" "" map[]`},
	} {
		c := dial(t, f.addr)
		c.send(tt.send)
		r := <-got
		if s := fmt.Sprintf("%q %q %q %q %v", r.Method, r.RequestURI, r.Proto, r.Host, r.Header); s != tt.want {
			t.Errorf("%q: %s, want %s", tt.send, s, tt.want)
		}
		if r.URL == nil || r.ContentLength != -1 || r.RemoteAddr != c.LocalAddr().String() {
			t.Errorf("%+v", r)
		}
		c.Close()
	}
}

func TestEndsWithinHead(t *testing.T) {
	settled(t)
	f := start(t, nil, nil)
	for _, s := range []string{"G", "GET / HTTP/1.1\r\nHost: x\r\n", "PRI * HT"} {
		c := dial(t, f.addr)
		c.send(s)
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		if res, _ := c.answer("GET"); res.StatusCode != 400 {
			t.Errorf("%d", res.StatusCode)
		}
		c.closed()
	}
	// Nothing at all is no request.
	n := len(f.reasons())
	c := dial(t, f.addr)
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	c.closed()
	if len(f.reasons()) != n {
		t.Error(f.reasons())
	}
}

// TestHopeless: what will never be a request is refused at once, without a wait
// for the rest of it.
func TestHopeless(t *testing.T) {
	settled(t)
	f := start(t, nil, func(c *Config) { c.HeaderTimeout = time.Hour })
	for s, want := range map[string]int{
		"\x16\x03\x01\x02\x00": 400, "GET / HTTP/1.1\rHost: x": 400, "\x7f": 400, "\n": 400,
		"GET /" + strings.Repeat("a", 33_000): 414, "GET / HTTP/1.1\r\nX-A: " + strings.Repeat("a", 66_000): 431,
	} {
		c := dial(t, f.addr)
		c.send(s)
		if res, _ := c.answer("GET"); res.StatusCode != want {
			t.Errorf("%.20q: %d", s, res.StatusCode)
		}
		c.Close()
	}
}

func TestSlowLoris(t *testing.T) {
	settled(t)
	f := start(t, func(http.ResponseWriter, *http.Request) {}, func(c *Config) {
		c.HeaderTimeout, c.IdleTimeout = 100*time.Millisecond, time.Second
	})
	c := dial(t, f.addr)
	time.Sleep(150 * time.Millisecond) // the first byte may take longer than the head
	begin := time.Now()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n")
	go func() {
		for time.Since(begin) < 5*time.Second { // a byte now and then does not help
			if _, err := io.WriteString(c, "X-A: 1\r\n"); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if res, _ := c.answer("GET"); res.StatusCode != 408 || time.Since(begin) < 100*time.Millisecond || time.Since(begin) > 4*time.Second {
		t.Errorf("%d after %v", res.StatusCode, time.Since(begin))
	}
	c.Close()
	d := dial(t, f.addr)
	for range 3 { // the timeout is that of each wait
		d.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		d.answer("GET")
		time.Sleep(400 * time.Millisecond)
	}
	d.closed()
	if got := f.reasons(); len(got) != 1 {
		t.Errorf("refused: %q", got)
	}
}

func TestPipelining(t *testing.T) {
	settled(t)
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/slow" {
			time.Sleep(120 * time.Millisecond) // the client is looked for meanwhile
		}
		fmt.Fprintf(w, "%s %s", r.URL, body)
	}, nil)
	for _, pieces := range []bool{false, true} {
		c := dial(t, f.addr)
		var all, want strings.Builder
		for i := range 40 {
			fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n%03d", i, i)
			fmt.Fprintf(&all, "POST /c%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n%03d\r\n0\r\n\r\n", i, i)
			fmt.Fprintf(&want, "/%d %03d/c%d %03d", i, i, i, i)
		}
		all.WriteString("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
		want.WriteString("/slow /slow /end ")
		rest := "GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET /end HTTP/1.1\r\nHost: x\r\n\r\n"
		if pieces {
			go func() {
				for _, b := range []byte(all.String()) {
					_, _ = c.Write([]byte{b})
				}
				time.Sleep(80 * time.Millisecond) // while the client is looked for
				for _, b := range []byte(rest) {
					_, _ = c.Write([]byte{b})
				}
			}()
		} else {
			c.send(all.String() + rest)
		}
		var got strings.Builder
		for range 83 {
			_, body := c.answer("GET")
			got.WriteString(body)
		}
		if got.String() != want.String() {
			t.Errorf("%s", got.String())
		}
	}
}

func TestShutdown(t *testing.T) {
	settled(t)
	entered, goOn := make(chan struct{}), make(chan struct{})
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			entered <- struct{}{}
			<-goOn
		}
		_, _ = io.WriteString(w, "done")
	}, nil)
	idle, fresh, busy, begun := dial(t, f.addr), dial(t, f.addr), dial(t, f.addr), dial(t, f.addr)
	idle.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	idle.answer("GET")
	begun.send("GET / HTTP/1.1\r\n")
	busy.send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	for s := f.states(); s[stateActive] != 2 || s[stateIdle] != 2; s = f.states() {
		time.Sleep(time.Millisecond) // the head that was begun is on its way
	}
	done := make(chan error, 1)
	go func() { done <- f.Shutdown(context.Background()) }()
	idle.closed()
	fresh.closed()
	if c, err := net.Dial("tcp", f.addr); err == nil {
		c.Close()
		t.Error("connections are still accepted")
	}
	select {
	case err := <-done:
		t.Fatalf("Shutdown did not wait: %v", err)
	default:
	}
	close(goOn)
	begun.send("Host: x\r\n\r\n")
	for _, c := range []*raw{busy, begun} {
		if res, body := c.answer("GET"); !res.Close || body != "done" {
			t.Errorf("%v %q", res, body)
		}
		c.closed()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	// And where something does not end, the context does.
	f = start(t, func(_ http.ResponseWriter, r *http.Request) { entered <- struct{}{}; <-r.Context().Done() }, nil)
	c := dial(t, f.addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := f.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	_ = f.Close()
}

func (s *Server) states() map[int32]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[int32]int)
	for c := range s.conns {
		m[c.state.Load()]++
	}
	return m
}
