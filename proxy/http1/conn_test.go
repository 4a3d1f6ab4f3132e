package http1

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestClientGone: the context ends when the client goes away, but neither when
// it sends its next request early nor when only the handler is slow.
func TestClientGone(t *testing.T) {
	settled(t)
	entered := make(chan struct{}, 1)
	ended := make(chan error, 1)
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		_, _ = io.ReadAll(r.Body)
		if r.URL.Path == "/slow" {
			time.Sleep(50 * time.Millisecond)
			ended <- r.Context().Err()
			return
		}
		<-r.Context().Done()
		ended <- context.Cause(r.Context())
	}, func(c *Config) { c.Patience = 5 * time.Millisecond })
	for _, send := range []string{"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n", "POST /wait HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"} {
		for _, reset := range []bool{false, true} {
			c := dial(t, f.addr)
			c.send(send)
			<-entered
			if reset {
				_ = c.Conn.(*net.TCPConn).SetLinger(0)
			}
			c.Close()
			if err := <-ended; err != context.Canceled {
				t.Error(err)
			}
		}
	}
	c := dial(t, f.addr)
	c.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	for range 3 {
		<-entered
		time.Sleep(20 * time.Millisecond)
		c.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n") // while the client is looked for
		c.answer("GET")
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// TestHalfClosed: a client that has nothing more to say gets an answer that does
// not take long.
func TestHalfClosed(t *testing.T) {
	settled(t)
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %v", b, err)
	}, func(c *Config) { c.Patience = 10 * time.Second })
	for send, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":                                                    " <nil>",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab":                            "ab <nil>",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab":                            "ab unexpected EOF",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab":              "ab unexpected EOF",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n":     "ab unexpected EOF",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n": "ab <nil>",
	} {
		c := dial(t, f.addr)
		c.send(send)
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		if _, body := c.answer("GET"); body != want {
			t.Errorf("%q: %q", send, body)
		}
		c.closed()
	}
}

func TestHijack(t *testing.T) {
	settled(t)
	goOn := make(chan struct{})
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			<-goOn
		}
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if _, err := w.Write([]byte("x")); err != http.ErrHijacked {
			t.Error(err)
		}
		if n := buf.Reader.Buffered(); r.URL.Path == "/" && n < 4 {
			t.Errorf("%d bytes are buffered", n)
		}
		b := make([]byte, 8)
		_, err = io.ReadFull(buf, b)
		fmt.Fprintf(conn, "%s %v", b, err)
	}, func(c *Config) { c.Patience = 5 * time.Millisecond })
	c := dial(t, f.addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: y\r\nConnection: Upgrade\r\n\r\nearl")
	c.send("late")
	c.expect("earllate <nil>")
	c.closed()
	c = dial(t, f.addr)
	c.send("GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
	time.Sleep(15 * time.Millisecond)
	c.send("e") // while the client is looked for
	time.Sleep(15 * time.Millisecond)
	close(goOn)
	c.send("arllate")
	c.expect("earllate <nil>")
	c.closed()
	// A connection that was taken is not the server's any more.
	if err := f.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestTLS: by ALPN HTTP/2 goes to net/http, and HTTP/1 stays here; so does plain
// HTTP/2 with its preface.
func TestTLS(t *testing.T) {
	settled(t)
	ts := httptest.NewUnstartedServer(nil)
	ts.StartTLS()
	defer ts.Close()
	h := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %t", r.Proto, r.TLS != nil && r.TLS.HandshakeComplete)
	}
	start2 := func(with *tls.Config) *front {
		p := new(http.Protocols)
		p.SetHTTP2(true)
		p.SetUnencryptedHTTP2(true)
		return start(t, h, func(c *Config) {
			c.TLS, c.HTTP2 = with, &http.Server{Handler: http.HandlerFunc(h), Protocols: p}
		})
	}
	for _, tt := range []struct {
		scheme string
		two    bool
		want   string
	}{{"https", true, "HTTP/2.0 true"}, {"https", false, "HTTP/1.1 true"}, {"http", true, "HTTP/2.0 false"}, {"http", false, "HTTP/1.1 false"}} {
		var with *tls.Config
		if tt.scheme == "https" {
			with = &tls.Config{Certificates: ts.TLS.Certificates}
		}
		f := start2(with)
		tr := &http.Transport{TLSClientConfig: ts.Client().Transport.(*http.Transport).TLSClientConfig.Clone(), Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(!tt.two)
		tr.Protocols.SetHTTP2(tt.two)
		tr.Protocols.SetUnencryptedHTTP2(tt.two)
		for range 2 {
			res, err := (&http.Client{Transport: tr}).Post(tt.scheme+"://"+f.addr, "", strings.NewReader(strings.Repeat("x", 10_000)))
			if err != nil {
				t.Fatal(err)
			}
			if b, _ := io.ReadAll(res.Body); string(b) != tt.want {
				t.Errorf("%q, want %q", b, tt.want)
			}
			res.Body.Close()
		}
		if err := f.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		tr.CloseIdleConnections()
	}
	f := start2(&tls.Config{Certificates: ts.TLS.Certificates})
	c := dial(t, f.addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if res, body := c.answer("GET"); res.StatusCode != 400 || !strings.Contains(body, "without TLS") || len(f.reasons()) != 1 {
		t.Errorf("%v %s", res, body)
	}
	c.closed()
	c = dial(t, f.addr)
	c.send("\x16\x03\x01\x00\x05hello")
	_, _ = io.ReadAll(c.r)
	if len(f.reasons()) != 1 {
		t.Error(f.reasons())
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBigBodies(t *testing.T) {
	if testing.Short() {
		t.Skip("moves 400 MB")
	}
	settled(t)
	const size = 100 << 20
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 32<<10)
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, buf)
		if n != size || err != nil {
			t.Error(n, err)
		}
		if r.ContentLength > 0 {
			w.Header().Set("Content-Length", fmt.Sprint(n))
		}
		_, _ = io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(zeros{}, n), buf)
	}, nil)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	for _, length := range []int64{size, -1} {
		req, _ := http.NewRequest("POST", "http://"+f.addr, io.LimitReader(zeros{}, size))
		req.ContentLength = length
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil || (res.ContentLength > 0) != (length > 0) {
			t.Error(n, err, res.ContentLength)
		}
		res.Body.Close()
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("%d KiB were allocated", n>>10)
	}
}

// TestIdleConnections: one that waits costs little, whatever it did before.
func TestIdleConnections(t *testing.T) {
	settled(t)
	f := prepare(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	}, nil)
	const n = 200
	var buffers atomic.Int32
	f.buffers.New = func() any {
		buffers.Add(1)
		return new(buffer)
	}
	f.run(t)
	request := "POST / HTTP/1.1\r\nHost: x\r\nX-Large: " + strings.Repeat("x", 20_000) + "\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("y", 100_000)
	measure := func() uint64 {
		for range 6 { // stacks shrink by half each time
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	var conns []*raw
	before := measure()
	for range n {
		c := dial(t, f.addr)
		c.send(request)
		if res, _ := http.ReadResponse(c.r, nil); res != nil {
			_, _ = io.Copy(io.Discard, res.Body)
		}
		c.r = nil
		conns = append(conns, c)
	}
	if per := int64(measure()-before) / n; per > 16<<10 {
		t.Errorf("%d bytes for each idle connection", per)
	} else {
		t.Logf("%d bytes for each idle connection, its client included", per)
	}
	// The race detector makes pools forget many.
	if made := buffers.Load(); made > n-20 {
		t.Errorf("%d buffers were made for %d connections one after the other: they keep them", made, n)
	}
	// They are all of use still.
	for _, c := range conns {
		c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if b, err := io.ReadAll(c.Conn); err != nil || !bytes.HasPrefix(b, []byte("HTTP/1.1 200 OK\r\n")) {
			t.Fatalf("%q, %v", b, err)
		}
	}
}

// TestUnixSocket: the other kind of connection that waits without a buffer.
func TestUnixSocket(t *testing.T) {
	settled(t)
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })})
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", l.Addr().String()) }}
	defer tr.CloseIdleConnections()
	for range 3 {
		res, err := (&http.Client{Transport: tr}).Post("http://x/", "", strings.NewReader(strings.Repeat("x", 50_000)))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); len(b) != 50_000 || err != nil {
			t.Error(len(b), err)
		}
		res.Body.Close()
	}
}

// counted is a connection that counts writes.
type counted struct {
	wire
	writes []int
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes = append(c.writes, len(p))
	return c.wire.Write(p)
}

// TestOneWrite: a small answer is one write, head and body; so is each part of
// one that is flushed.
func TestOneWrite(t *testing.T) {
	for want, h := range map[int]http.HandlerFunc{
		1: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1024")
			w.WriteHeader(201)
			_, _ = w.Write(make([]byte, 1024))
		},
		2: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "a")
			_, _ = io.WriteString(w, "b")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "c")
			_, _ = io.WriteString(w, "d")
		},
	} {
		c := &counted{wire: wire{in: bytes.NewReader([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")), step: 1000}}
		New(Config{Handler: h}).newConn(c).serve()
		if len(c.writes) != want {
			t.Errorf("writes of %v bytes, want %d", c.writes, want)
		}
	}
}

// TestGoroutines: a request costs none, unless it takes long.
func TestGoroutines(t *testing.T) {
	settled(t)
	const n = 20
	entered, goOn := make(chan struct{}), make(chan struct{})
	f := start(t, func(w http.ResponseWriter, r *http.Request) { entered <- struct{}{}; <-goOn }, func(c *Config) { c.Patience = time.Hour })
	before := runtime.NumGoroutine()
	for range n {
		dial(t, f.addr).send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		<-entered
	}
	if more := runtime.NumGoroutine() - before; more > n {
		t.Errorf("%d goroutines serve %d requests", more, n)
	}
	close(goOn)
}
