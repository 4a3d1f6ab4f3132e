package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRequestOnTheWire(t *testing.T) {
	settled(t)
	got := make(chan string, 1)
	up := listen(t, func(p *peer) {
		var b strings.Builder
		for !strings.Contains(b.String(), "END") {
			buf := make([]byte, 4096)
			n, err := p.r.Read(buf)
			if err != nil {
				break
			}
			b.Write(buf[:n])
		}
		got <- b.String()
		p.send(ok)
	})
	host := strings.TrimPrefix(up.url, "http://")
	for _, tt := range []struct {
		change func(*http.Request)
		body   string
		want   string
	}{
		{func(r *http.Request) {
			r.Header = http.Header{"X-B": {"2", "3"}, "X-A": {"1"}, "User-Agent": nil, "x-Raw": {"as it is"}, "Content-Length": {"9"}, "transfer-encoding": {"chunked"}, "host": {"other"}, "X-End": {"END"}}
		}, "", "GET /p HTTP/1.1\r\nHost: " + host + "\r\nX-A: 1\r\nX-B: 2\r\nX-B: 3\r\nX-End: END\r\nx-Raw: as it is\r\n\r\n"},
		{func(r *http.Request) { r.Host, r.Method = "shop.example", "POST"; r.Header.Set("A", "END") }, "", "POST /p HTTP/1.1\r\nHost: shop.example\r\nA: END\r\nContent-Length: 0\r\n\r\n"},
		{func(r *http.Request) { r.Method = "POST" }, "END", "POST /p HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 3\r\n\r\nEND"},
		{func(r *http.Request) { r.Method, r.Body = "POST", new(Buffered); r.Header.Set("A", "END") }, "", "POST /p HTTP/1.1\r\nHost: " + host + "\r\nA: END\r\nContent-Length: 0\r\n\r\n"},
		{func(r *http.Request) { r.URL.Opaque, r.URL.RawQuery, r.Close = "/a%2Fb|\"", "q=END", true }, "", "GET /a%2Fb|\"?q=END HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"},
		{func(r *http.Request) {
			r.Method, r.ContentLength, r.Trailer = "PUT", -1, http.Header{"X-Z": {"END"}, "X-C": {"1"}}
		}, "0123456789abcdef", "PUT /p HTTP/1.1\r\nHost: " + host + "\r\nTransfer-Encoding: chunked\r\nTrailer: X-C, X-Z\r\n\r\n10\r\n0123456789abcdef\r\n0\r\nX-C: 1\r\nX-Z: END\r\n\r\n"},
	} {
		r := newRequest(t, "GET", up.url+"/p", tt.body)
		tt.change(r)
		do(t, newTransport(t, nil), r)
		if g := <-got; g != tt.want {
			t.Errorf("on the wire:\n%q, want\n%q", g, tt.want)
		}
	}
}

// TestRequestRefused: what a request holds cannot make two of it.
func TestRequestRefused(t *testing.T) {
	up := answering(t, ok)
	tr := newTransport(t, nil)
	for name, change := range map[string]func(*http.Request){
		"method":           func(r *http.Request) { r.Method = "GET / HTTP/1.1\r\nA: b\r\n\r\nGET" },
		"CONNECT":          func(r *http.Request) { r.Method = "CONNECT" },
		"host":             func(r *http.Request) { r.Host = "a\r\nB: c" },
		"a host with user": func(r *http.Request) { r.Host = "u@a" },
		"target":           func(r *http.Request) { r.URL.Opaque = "/a b" },
		"query":            func(r *http.Request) { r.URL.RawQuery = "a\r\nB: c" },
		"name":             func(r *http.Request) { r.Header["A: b\r\nC"] = []string{"d"} },
		"value":            func(r *http.Request) { r.Header["A"] = []string{"b\r\nC: d"} },
		"zero in value":    func(r *http.Request) { r.Header["A"] = []string{"b\x00"} },
		"LF in value":      func(r *http.Request) { r.Header["A"] = []string{"b\nc"} },
		"trailer":          func(r *http.Request) { r.ContentLength, r.Trailer = -1, http.Header{"A\r\nB": {"c"}} },
		"framing trailer":  func(r *http.Request) { r.ContentLength, r.Trailer = -1, http.Header{"content-length": {"3"}} },
		"trailer's value":  func(r *http.Request) { r.ContentLength, r.Trailer = -1, http.Header{"A": {"b\r\nc"}} },
		"length":           func(r *http.Request) { r.ContentLength = 2 },
		"no body":          func(r *http.Request) { r.Body = nil },
		"no host":          func(r *http.Request) { r.URL.Host = "" },
		"scheme":           func(r *http.Request) { r.URL.Scheme = "ftp" },
		"host in letters":  func(r *http.Request) { r.Host, r.URL.Host = "x", "h\u00e4user.example" },
	} {
		r := newRequest(t, "POST", up.url, "abc")
		change(r)
		if _, err := tr.RoundTrip(r); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := up.conns.Load(); n != 0 || tr.knownHosts() != 0 {
		t.Errorf("%d connections, %d hosts", n, tr.knownHosts())
	}
}

func TestTimeout(t *testing.T) {
	settled(t)
	up := listen(t, func(p *peer) {
		r, _ := p.request()
		if r == nil {
			return
		}
		switch r.URL.Path {
		case "/half":
			p.send("HTTP/1.1 200 OK\r\nConte")
		case "/hints":
			for range 20 {
				p.send("HTTP/1.1 103 Early Hints\r\n\r\n")
				time.Sleep(5 * time.Millisecond)
			}
		case "/body":
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
			time.Sleep(150 * time.Millisecond)
			p.send("k")
		}
		p.gone()
	})
	tr := newTransport(t, func(c *Config) { c.ResponseHeaderTimeout = 40 * time.Millisecond })
	for _, path := range []string{"/", "/half", "/hints"} {
		for _, r := range []*http.Request{newRequest(t, "GET", up.url+path, ""), newRequest(t, "POST", up.url+path, "abc"), streaming(t, up.url+path, strings.NewReader("abc"), -1)} {
			_, err := tr.RoundTrip(r)
			var to interface{ Timeout() bool }
			if !errors.Is(err, ErrTimeout) || !errors.As(err, &to) || !to.Timeout() {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	// A body may take longer, and the connection is as good as before.
	for range 2 {
		if _, b := do(t, tr, newRequest(t, "GET", up.url+"/body", "")); b != "ok" {
			t.Errorf("%q", b)
		}
		tr.CloseIdleConnections()
	}
}

// TestSlow: the first glance being over changes nothing.
func TestSlow(t *testing.T) {
	settled(t)
	up := listen(t, func(p *peer) {
		for {
			if r, _ := p.request(); r == nil {
				return
			}
			for _, part := range []string{"HTTP/1.1 200", " OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r", "\no\r\n1\r\nk\r\n0\r\n", "\r\n"} {
				time.Sleep(glance + glance/4)
				p.send(part)
			}
		}
	})
	tr := newTransport(t, nil)
	ctx, cancel := background()
	defer cancel()
	for range 3 {
		if _, b := do(t, tr, newRequest(t, "GET", up.url, "").WithContext(ctx)); b != "ok" {
			t.Errorf("%q", b)
		}
	}
	if n := up.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestCancel: the end of a context ends whatever is waited for, at once.
func TestCancel(t *testing.T) {
	settled(t)
	reached := make(chan bool, 1)
	up := listen(t, func(p *peer) {
		if r, _ := p.request(); r != nil && r.URL.Path == "/body" {
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
		}
		reached <- true
		p.gone()
		reached <- false
	})
	cause := errors.New("the client went away")
	for _, wait := range []time.Duration{0, 2 * glance} {
		for _, path := range []string{"/", "/body"} {
			for _, kind := range []string{"none", "buffered", "streamed"} {
				tr := newTransport(t, nil)
				r := newRequest(t, "POST", up.url+path, "")
				switch kind {
				case "buffered":
					r = newRequest(t, "POST", up.url+path, "abc")
				case "streamed":
					r = streaming(t, up.url+path, strings.NewReader("abc"), 3)
				}
				ctx, cancel := context.WithCancelCause(context.Background())
				done := make(chan error, 1)
				go func() {
					res, err := tr.RoundTrip(r.WithContext(ctx))
					if err == nil {
						_, err = io.ReadAll(res.Body)
						res.Body.Close()
					}
					done <- err
				}()
				<-reached
				time.Sleep(wait)
				cancel(cause)
				select {
				case err := <-done:
					if !errors.Is(err, cause) {
						t.Errorf("%s, %s: %v", path, kind, err)
					}
				case <-time.After(10 * time.Second):
					t.Fatalf("%s, %s, after %v: it goes on", path, kind, wait)
				}
				<-reached // the upstream sees it too
				if tr.knownHosts() != 0 {
					t.Error("the host is still in use")
				}
			}
		}
	}
	ctx, cancel := background()
	cancel()
	if _, err := newTransport(t, nil).RoundTrip(newRequest(t, "GET", up.url, "").WithContext(ctx)); !errors.Is(err, context.Canceled) {
		t.Errorf("before it began: %v", err)
	}
}

// TestCloseBesideRead: closing a body ends a read of it that waits.
func TestCloseBesideRead(t *testing.T) {
	settled(t)
	for _, head := range []string{"Content-Length: 10", "Transfer-Encoding: chunked", "Connection: close"} {
		up := answering(t, "HTTP/1.1 200 OK\r\n"+head+"\r\n\r\n")
		res, err := newTransport(t, nil).RoundTrip(newRequest(t, "GET", up.url, ""))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := res.Body.Read(make([]byte, 10))
			done <- err
		}()
		time.Sleep(5 * time.Millisecond)
		res.Body.Close()
		if err := <-done; err == nil || err == io.EOF {
			t.Errorf("%s: %v", head, err)
		}
		if _, err := res.Body.Read(make([]byte, 10)); err == nil || err == io.EOF {
			t.Errorf("%s: after it was closed: %v", head, err)
		}
	}
}

func TestInformational(t *testing.T) {
	settled(t)
	up := answering(t, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"+ok)
	tr := newTransport(t, nil)
	var n notes
	res, err := tr.Do(newRequest(t, "GET", up.url, ""), &n)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if !slices.Equal(n.codes, []int{100, 103, 102}) {
		t.Errorf("%v", n.codes)
	}
	n = notes{err: errors.New("enough")}
	if _, err := tr.Do(newRequest(t, "GET", up.url, ""), &n); err != n.err || len(n.codes) != 1 {
		t.Errorf("%v, %v", err, n.codes)
	}
}

func TestSwitch(t *testing.T) {
	settled(t)
	up := listen(t, func(p *peer) {
		r, _ := p.request()
		if r == nil || r.Header.Get("Upgrade") != "websocket" {
			t.Errorf("the upstream got %v", r)
			return
		}
		p.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nearly ")
		b, _ := io.ReadAll(p.r)
		p.send(strings.ToUpper(string(b)))
	})
	tr := newTransport(t, nil)
	ctx, cancel := background()
	r := newRequest(t, "GET", up.url, "").WithContext(ctx)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	res, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // what happens from here on is up to the caller
	time.Sleep(2 * glance)
	rw := res.Body.(interface {
		io.ReadWriteCloser
		CloseWrite() error
	})
	if _, err := io.WriteString(rw, "and late"); err != nil {
		t.Fatal(err)
	}
	if err := rw.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(rw); string(b) != "early AND LATE" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	rw.Close()
	rw.Close()
	if tr.knownHosts() != 0 {
		t.Error("the host is still in use")
	}
}

// TestOtherConnections: whatever dials may lead elsewhere; a wrapped connection is
// respected.
func TestOtherConnections(t *testing.T) {
	settled(t)
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	})}
	go srv.Serve(l)
	defer srv.Close()
	var mu sync.Mutex
	passed, dialled := 0, 0
	for _, wrapped := range []bool{false, true} {
		tr := newTransport(t, func(c *Config) {
			c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, "unix", path)
				mu.Lock()
				defer mu.Unlock()
				dialled++
				if wrapped {
					return counted{c, &mu, &passed}, err
				}
				return c, err
			}
		})
		for i := range 5 {
			body := strings.Repeat("x", 1+i*20_000)
			if _, b := do(t, tr, newRequest(t, "POST", "http://app.internal/", body)); b != body {
				t.Errorf("%d bytes, want %d", len(b), len(body))
			}
		}
		tr.CloseIdleConnections()
	}
	if passed == 0 || dialled != 2 {
		t.Errorf("%d bytes through the wrapper, dialled %d times", passed, dialled)
	}
}

type counted struct {
	net.Conn
	mu *sync.Mutex
	n  *int
}

func (c counted) Write(p []byte) (int, error) {
	c.mu.Lock()
	*c.n += len(p)
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// TestCrowd: many at once never get each other's answers.
func TestCrowd(t *testing.T) {
	settled(t)
	up := listen(t, func(p *peer) {
		for i := 0; ; i++ {
			r, _ := p.request()
			if r == nil {
				return
			}
			id := r.Header.Get("X-Id")
			switch i % 4 {
			case 0:
				p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Id: %s\r\nContent-Length: %d\r\n\r\n%s", id, len(id), id))
			case 1:
				p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Id: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", id, len(id), id))
			case 2:
				p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Id: %s\r\nContent-Length: %d\r\n\r\n", id, len(id)))
				time.Sleep(time.Millisecond)
				p.send(id)
			default:
				p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Id: %s\r\n\r\n%s", id, id))
				return
			}
		}
	})
	tr := newTransport(t, nil)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 50 {
				id := fmt.Sprintf("%d-%d", g, i)
				ctx, cancel := background()
				r := newRequest(t, "GET", up.url, "").WithContext(ctx)
				r.Header.Set("X-Id", id)
				if i%7 == 3 {
					time.AfterFunc(500*time.Microsecond, cancel)
				}
				res, err := tr.RoundTrip(r)
				if err == nil {
					var b []byte
					if b, err = io.ReadAll(res.Body); err == nil && (string(b) != id || res.Header.Get("X-Id") != id) {
						t.Errorf("%s got %q, %v", id, b, res.Header)
					}
					res.Body.Close()
				}
				if err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", id, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
}
