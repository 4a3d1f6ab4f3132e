package http1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestAnswers compares answers byte by byte. Each is asked for twice over one
// connection, if the first leaves that open.
func TestAnswers(t *testing.T) {
	settled(t)
	body := func(n int) string { return strings.Repeat("0123456789", n/10) }
	set := func(h http.Header, pairs ...string) {
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
	}
	for _, tt := range []struct {
		name, request string
		h             http.HandlerFunc
		want          string
		keep          bool
	}{
		{"nothing", "GET", func(http.ResponseWriter, *http.Request) {}, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true},
		{"small", "GET", func(w http.ResponseWriter, _ *http.Request) {
			set(w.Header(), "X-B", "2", "X-A", "1", "X-B", "3")
			w.WriteHeader(404)
			w.Header().Set("X-Late", "1")
			_, _ = io.WriteString(w, "hel")
			_, _ = io.WriteString(w, "lo")
		}, "HTTP/1.1 404 Not Found\r\nX-A: 1\r\nX-B: 2\r\nX-B: 3\r\nContent-Length: 5\r\n\r\nhello", true},
		{"with length", "GET", func(w http.ResponseWriter, _ *http.Request) {
			set(w.Header(), "Content-Length", "5")
			_, _ = io.WriteString(w, "hello")
		}, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true},
		{"flushed", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "hello")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, " there, you")
		}, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nb\r\n there, you\r\n0\r\n\r\n", true},
		{"held, then flushed", "GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "hello")
			_ = w.(interface{ FlushError() error }).FlushError()
		}, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true},
		{"large without length", "GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, body(10))
			_, _ = io.WriteString(w, body(10000))
			_, _ = io.WriteString(w, body(3000))
			_, _ = io.WriteString(w, body(3000))
		}, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n" + body(10) + "\r\n2710\r\n" + body(10000) + "\r\nbb8\r\n" + body(3000) + "\r\nbb8\r\n" + body(3000) + "\r\n0\r\n\r\n", true},
		{"large with length", "GET", func(w http.ResponseWriter, _ *http.Request) {
			set(w.Header(), "Content-Length", "100010")
			_, _ = io.WriteString(w, body(10))
			_, _ = io.WriteString(w, body(100000))
		}, "HTTP/1.1 200 OK\r\nContent-Length: 100010\r\n\r\n" + body(10) + body(100000), true},
		{"HEAD", "HEAD", func(w http.ResponseWriter, _ *http.Request) {
			set(w.Header(), "Content-Length", "5")
			if n, err := io.WriteString(w, "hello"); n != 5 || err != nil {
				t.Error(n, err)
			}
		}, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true},
		{"HEAD without length", "HEAD", func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() }, "HTTP/1.1 200 OK\r\n\r\n", true},
		{"204", "GET", func(w http.ResponseWriter, _ *http.Request) {
			set(w.Header(), "Content-Length", "0")
			w.WriteHeader(204)
			if _, err := io.WriteString(w, "hello"); err != http.ErrBodyNotAllowed {
				t.Error(err)
			}
		}, "HTTP/1.1 204 No Content\r\n\r\n", true},
		{"304", "GET", func(w http.ResponseWriter, _ *http.Request) {
			set(w.Header(), "Content-Length", "5", "Etag", `"x"`)
			w.WriteHeader(304)
		}, "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\nContent-Length: 5\r\n\r\n", true},
		{"304 without length", "GET", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }, "HTTP/1.1 304 Not Modified\r\n\r\n", true},
		{"too little", "GET", func(w http.ResponseWriter, _ *http.Request) {
			set(w.Header(), "Content-Length", "6")
			_, _ = io.WriteString(w, "hello")
		}, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", false},
		{"too much", "GET", func(w http.ResponseWriter, _ *http.Request) {
			set(w.Header(), "Content-Length", "5")
			_, _ = io.WriteString(w, "hello")
			if _, err := io.WriteString(w, "!"); err != http.ErrContentLength {
				t.Error(err)
			}
		}, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true},
		{"close", "GET", func(w http.ResponseWriter, _ *http.Request) { set(w.Header(), "Connection", "close") },
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", false},
		{"framing is not the handler's", "GET", func(w http.ResponseWriter, _ *http.Request) {
			set(w.Header(), "Transfer-Encoding", "gzip", "Content-Length", "5x")
			_, _ = io.WriteString(w, "hello")
		}, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true},
		{"lines in values", "GET", func(w http.ResponseWriter, _ *http.Request) {
			set(w.Header(), "X-A", "1\r\nX-B: 2\x003")
			w.Header()["X C"] = []string{"3"}
		}, "HTTP/1.1 200 OK\r\nX-A: 1  X-B: 2 3\r\nContent-Length: 0\r\n\r\n", true},
		{"early hints", "GET", func(w http.ResponseWriter, _ *http.Request) {
			set(w.Header(), "Link", "</a>", "Content-Length", "5")
			w.WriteHeader(103)
			clear(w.Header())
			w.WriteHeader(102)
			w.Header()["Date"] = nil
			_, _ = io.WriteString(w, "hello")
		}, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true},
		{"announced trailers", "GET", func(w http.ResponseWriter, _ *http.Request) {
			set(w.Header(), "Trailer", "X-Sum, Content-Length, x-none")
			_, _ = io.WriteString(w, "hello")
			set(w.Header(), "X-Sum", "7")
		}, "HTTP/1.1 200 OK\r\nTrailer: X-Sum, Content-Length, x-none\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n", true},
		{"prefixed trailers", "GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "hello")
			set(w.Header(), http.TrailerPrefix+"X-Sum", "7", http.TrailerPrefix+"Content-Length", "3")
		}, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n", true},
		{"status without a name", "GET", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(299) }, "HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n", true},
	} {
		f := start(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Date"] = nil
			tt.h(w, r)
		}, nil)
		c := dial(t, f.addr)
		c.send(tt.request + " / HTTP/1.1\r\nHost: x\r\n\r\n")
		c.expect(tt.want)
		if tt.keep {
			c.send(tt.request + " / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: x\r\n\r\n")
			rest, err := io.ReadAll(c.r)
			if err != nil || strings.Replace(string(rest), "Connection: close\r\n", "", 1) != tt.want {
				t.Errorf("%s: the second time %q, %v", tt.name, rest, err)
			}
		} else {
			c.closed()
		}
	}
}

func TestDate(t *testing.T) {
	settled(t)
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/own" {
			w.Header().Set("Date", "Tue, 15 Nov 1994 08:12:31 GMT")
		}
	}, nil)
	c := dial(t, f.addr)
	for range 2 {
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /own HTTP/1.1\r\nHost: x\r\n\r\n")
		res, _ := c.answer("GET")
		if d, err := http.ParseTime(res.Header.Get("Date")); err != nil || time.Since(d).Abs() > time.Minute {
			t.Error(res.Header)
		}
		if res, _ = c.answer("GET"); res.Header.Get("Date") != "Tue, 15 Nov 1994 08:12:31 GMT" {
			t.Error(res.Header)
		}
	}
}

func TestHTTP10(t *testing.T) {
	settled(t)
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		if r.URL.Path == "/stream" {
			w.Header().Set("Trailer", "X-Sum")
			w.WriteHeader(103)
			w.(http.Flusher).Flush()
			w.Header().Set("X-Sum", "7")
			w.Header().Del("Trailer")
		}
		_, _ = io.WriteString(w, "hello")
	}, nil)
	c := dial(t, f.addr)
	for range 2 {
		c.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		c.expect("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello")
	}
	c.send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
	c.expect("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nConnection: close\r\n\r\nhello")
	c.closed()
	c = dial(t, f.addr)
	c.send("GET / HTTP/1.0\r\n\r\n")
	c.expect("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
	c.closed()
}

func TestContinue(t *testing.T) {
	settled(t)
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		switch r.URL.Path {
		case "/read":
			b, _ := io.ReadAll(r.Body)
			_, _ = w.Write(b)
		case "/ask":
			w.WriteHeader(100)
			b, _ := io.ReadAll(r.Body)
			_, _ = w.Write(b)
		case "/late":
			w.WriteHeader(200)
			_, _ = io.Copy(w, r.Body) // it is too late to ask for the body
		}
	}, nil)
	ask := "Host: x\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n"
	for _, path := range []string{"/read", "/ask"} {
		c := dial(t, f.addr)
		for range 2 {
			c.send("POST " + path + " HTTP/1.1\r\n" + ask)
			c.expect("HTTP/1.1 100 Continue\r\n\r\n")
			c.send("ab")
			c.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab")
		}
	}
	// Who does not wait gets it all the same.
	c := dial(t, f.addr)
	c.send("POST /read HTTP/1.1\r\n" + ask + "ab")
	c.expect("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab")
	// Nobody knows whether a body follows that was not asked for.
	c.send("POST /ignore HTTP/1.1\r\n" + ask)
	c.expect("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	c.closed()
	c = dial(t, f.addr)
	c.send("POST /late HTTP/1.1\r\n" + ask + "ab")
	if res, body := c.answer("POST"); body != "ab" || res.Close {
		t.Errorf("%v %q", res, body)
	}
	// HTTP/1.0 has no such answer.
	c = dial(t, f.addr)
	c.send("POST /read HTTP/1.0\r\n" + ask + "ab")
	c.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab")
}

// TestBodies: a body that the handler leaves is no part of the next request.
func TestBodies(t *testing.T) {
	settled(t)
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/close":
			r.Body.Close()
			if _, err := r.Body.Read(make([]byte, 1)); err != http.ErrBodyReadAfterClose {
				t.Error(err)
			}
		case "/part":
			_, _ = io.ReadFull(r.Body, make([]byte, 2))
		case "/all":
			b, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%d %v %s", len(b), err, r.Trailer.Get("X-Sum"))
		}
	}, nil)
	const end = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	for _, tt := range []struct {
		path, length, body string
		keep               bool
	}{
		{"/none", "Content-Length: 5", "hello", true},
		{"/close", "Content-Length: 5", "hello", true},
		{"/part", "Content-Length: 5", "hello", true},
		{"/part", "Transfer-Encoding: chunked", "1\r\na\r\n4\r\nbcde\r\n0\r\nX-Sum: 7\r\n\r\n", true},
		{"/none", "Content-Length: 60000", strings.Repeat("x", 60000), true},
		{"/part", "Transfer-Encoding: chunked", "7530\r\n" + strings.Repeat("x", 30000) + "\r\n0\r\n\r\n", true},
		{"/none", "Content-Length: 100000", strings.Repeat("x", 100000), false},
		{"/part", "Transfer-Encoding: chunked", "30d40\r\n" + strings.Repeat("x", 200000) + "\r\n0\r\n\r\n", false},
		{"/none", "Transfer-Encoding: chunked", "x\r\n", false},
		{"/all", "Content-Length: 200000", strings.Repeat("x", 200000), true},
		{"/all", "Transfer-Encoding: chunked", strings.Repeat("1\r\na\r\n", 20000) + "0\r\n\r\n", true},
		{"/all", "Transfer-Encoding: chunked", "30d40\r\n" + strings.Repeat("x", 200000) + "\r\n0\r\nX-Sum: 7\r\n\r\n", true},
	} {
		c := dial(t, f.addr)
		go func() {
			_, _ = io.WriteString(c, "POST "+tt.path+" HTTP/1.1\r\nHost: x\r\n"+tt.length+"\r\n\r\n"+tt.body+end)
		}()
		_, body := c.answer("POST")
		if tt.path == "/all" && !strings.HasPrefix(body, fmt.Sprintf("%d <nil>", map[bool]int{true: 20000, false: 200000}[strings.HasPrefix(tt.body, "1\r")])) {
			t.Errorf("%s: %s", tt.length, body)
		}
		if tt.keep {
			if res, _ := c.answer("GET"); res.StatusCode != 200 {
				t.Errorf("%s %s: %d", tt.path, tt.length, res.StatusCode)
			}
		}
		rest, _ := io.ReadAll(c.r) // a reset is as good as an end
		if len(rest) != 0 {
			t.Errorf("%s %s: %q", tt.path, tt.length, rest)
		}
		c.Close()
	}
}

// TestLateReader: whoever reads a body when its handler has returned gets
// nothing, and above all nothing of the next request.
func TestLateReader(t *testing.T) {
	settled(t)
	got := make(chan error, 1)
	late := make(chan io.Reader, 1)
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/leave":
			late <- r.Body
		case "/reading":
			begun := make(chan struct{})
			go func() {
				close(begun)
				_, err := io.ReadAll(r.Body)
				got <- err
			}()
			<-begun
			time.Sleep(10 * time.Millisecond)
		}
	}, nil)
	c := dial(t, f.addr)
	c.send("POST /leave HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
	c.answer("POST")
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
	c.answer("POST")
	// The request before is over now, for the server too.
	if n, err := (<-late).Read(make([]byte, 10)); n != 0 || err != http.ErrBodyReadAfterClose {
		t.Error(n, err)
	}
	// A read that is under way when the handler returns ends.
	c.send("POST /reading HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
	c.answer("POST")
	if err := <-got; err == nil {
		t.Error("half a body was taken for whole")
	}
	c.closed()
}

func TestPanics(t *testing.T) {
	settled(t)
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "part")
		if r.URL.Path == "/flushed" {
			w.(http.Flusher).Flush()
		}
		if r.URL.Path == "/bug" {
			panic("a bug")
		}
		panic(http.ErrAbortHandler)
	}, nil)
	for _, path := range []string{"/held", "/flushed", "/bug"} {
		c := dial(t, f.addr)
		c.send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
		rest, _ := io.ReadAll(c.r)
		if bytes.HasSuffix(rest, []byte("0\r\n\r\n")) || path != "/flushed" && len(rest) > 0 || path == "/flushed" && !bytes.Contains(rest, []byte("part")) {
			t.Errorf("%s: %q", path, rest)
		}
	}
	if log := f.logged(); strings.Count(log, "panicked") != 1 || !strings.Contains(log, "a bug") || !strings.Contains(log, "answer_test.go") {
		t.Error(log)
	}
}

func TestDeadlines(t *testing.T) {
	settled(t)
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		ctl := http.NewResponseController(w)
		soon := time.Now().Add(30 * time.Millisecond)
		var err error
		if r.URL.Path == "/write" {
			_ = ctl.SetWriteDeadline(soon)
			for err == nil {
				_, err = w.Write(make([]byte, 1<<20))
			}
			if r.Context().Err() == nil {
				t.Error("the context goes on when writing failed")
			}
		} else {
			_ = ctl.SetReadDeadline(soon)
			_, err = io.ReadAll(r.Body)
		}
		var timeout interface{ Timeout() bool }
		if !errors.As(err, &timeout) || !timeout.Timeout() || time.Now().Before(soon) {
			t.Errorf("%s: %v", r.URL, err)
		}
		_ = ctl.SetReadDeadline(time.Time{})
	}, nil)
	c := dial(t, f.addr)
	c.send("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
	if res, _ := c.answer("POST"); res.StatusCode != 200 {
		t.Error(res)
	}
	c.closed()
	c = dial(t, f.addr)
	c.send("GET /write HTTP/1.1\r\nHost: x\r\n\r\n")
	time.Sleep(100 * time.Millisecond)
	_, _ = io.Copy(io.Discard, c.r)
}

// TestStalledReader: a client that takes nothing of its answer does not keep its
// connection, even where the handler has set no deadline.
func TestStalledReader(t *testing.T) {
	settled(t)
	for name, size := range map[string]int{"large": 1 << 20, "small": 100} {
		ended := make(chan error, 1)
		f := start(t, func(w http.ResponseWriter, _ *http.Request) {
			var err error
			for err == nil {
				if _, err = w.Write(make([]byte, size)); err == nil && size < 1000 {
					err = w.(interface{ FlushError() error }).FlushError()
				}
			}
			ended <- err
		}, func(c *Config) { c.WriteTimeout = 50 * time.Millisecond })
		c := dial(t, f.addr)
		_ = c.Conn.(*net.TCPConn).SetReadBuffer(4096)
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		select {
		case err := <-ended:
			if !isTimeout(err) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: writing does not end", name)
		}
		c.Close()
	}
}
