package upstream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestStreamedBody(t *testing.T) {
	settled(t)
	up := listen(t, func(p *peer) {
		for {
			r, b := p.request()
			if r == nil {
				return
			}
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Trailer: " + r.Trailer.Get("X-Sum") + "\r\nX-Got: " + r.Header.Get("Content-Length") + "\r\nX-Last: " + b[max(0, len(b)-3):] + "\r\n\r\n")
		}
	})
	tr := newTransport(t, nil)
	for _, size := range []int{0, 3, 32 << 10, partSize - chunkHead - chunkTail, 1 << 20} {
		for _, chunked := range []bool{false, true} {
			if size == 0 && !chunked {
				continue
			}
			body := strings.Repeat("x", max(0, size-3)) + "end"[:min(size, 3)]
			r := streaming(t, up.url, strings.NewReader(body), int64(size))
			want := ""
			if chunked {
				r.ContentLength, r.Trailer = -1, http.Header{"X-Sum": nil}
				r.Body = io.NopCloser(&atEnd{r.Body, func() { r.Trailer["X-Sum"] = []string{"7"} }})
				want = "7"
			}
			res, _ := do(t, tr, r)
			if res.Header.Get("X-Last") != body[max(0, size-3):] || res.Header.Get("X-Trailer") != want || (res.Header.Get("X-Got") == "") != chunked {
				t.Errorf("%d bytes, chunked %t: %v", size, chunked, res.Header)
			}
		}
	}
	if n := up.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// atEnd calls f at the end.
type atEnd struct {
	io.Reader
	f func()
}

func (a *atEnd) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err == io.EOF {
		a.f()
	}
	return n, err
}

// TestBothWays: an answer passes while the request is still being sent.
func TestBothWays(t *testing.T) {
	settled(t)
	up := listen(t, func(p *peer) {
		for {
			r, err := http.ReadRequest(p.r)
			if err != nil {
				return
			}
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			b := make([]byte, 100)
			for {
				n, err := r.Body.Read(b)
				if n > 0 {
					p.send("1\r\n" + strings.ToUpper(string(b[:1])) + "\r\n")
				}
				if err != nil {
					break
				}
			}
			p.send("0\r\n\r\n")
		}
	})
	tr := newTransport(t, nil)
	for range 2 {
		pr, pw := io.Pipe()
		res, err := tr.RoundTrip(streaming(t, up.url, pr, -1))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"a", "b", "c"} {
			_, _ = io.WriteString(pw, s)
			b := make([]byte, 1)
			if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != strings.ToUpper(s) {
				t.Fatalf("%q, %v", b, err)
			}
		}
		pw.Close()
		if b, err := io.ReadAll(res.Body); len(b) != 0 || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	}
	if n := up.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestEarlyAnswer: an answer before the end of the request is the answer, and the
// connection is not used again: what follows on it would be the rest of the body.
func TestEarlyAnswer(t *testing.T) {
	settled(t)
	const no = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
	for name, after := range map[string]func(p *peer){
		"the upstream reads on": func(p *peer) { p.gone() },
		"the upstream closes":   func(*peer) {},
		"the upstream is quiet": func(p *peer) { time.Sleep(100 * time.Millisecond) },
	} {
		up := listen(t, func(p *peer) {
			if _, err := http.ReadRequest(p.r); err == nil {
				p.send(no)
				after(p)
			}
		})
		tr := newTransport(t, nil)
		pr, pw := io.Pipe()
		go func() {
			for {
				if _, err := pw.Write(make([]byte, 1000)); err != nil {
					return
				}
			}
		}()
		for _, r := range []*http.Request{streaming(t, up.url, pr, -1), newRequest(t, "POST", up.url, strings.Repeat("x", 10<<20))} {
			res, b := do(t, tr, r)
			if res.StatusCode != 413 || b != "no" {
				t.Errorf("%s: %d %q", name, res.StatusCode, b)
			}
			if _, buffered := r.Body.(*Buffered); !buffered && tr.idleConns() != 0 {
				t.Errorf("%s: the connection is kept", name)
			}
		}
		pr.Close()
	}
}

// TestBlockedWrite: a request in memory that the upstream does not take does not
// keep its answer away, nor the end of the context.
func TestBlockedWrite(t *testing.T) {
	settled(t)
	up := listen(t, func(p *peer) {
		_ = p.Conn.(*net.TCPConn).SetReadBuffer(4096)
		if r, err := http.ReadRequest(p.r); err == nil && r.URL.Path == "/answered" {
			p.send(ok)
		}
		time.Sleep(200 * time.Millisecond)
	})
	tr := newTransport(t, nil)
	for _, size := range []int{inlineLimit, 8 << 20} {
		if _, b := do(t, tr, newRequest(t, "POST", up.url+"/answered", strings.Repeat("x", size))); b != "ok" {
			t.Errorf("%q", b)
		}
		ctx, cancel := background()
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := tr.RoundTrip(newRequest(t, "POST", up.url+"/quiet", strings.Repeat("x", size)).WithContext(ctx)); !errors.Is(err, ctx.Err()) {
			t.Errorf("%v", err)
		}
	}
}

// TestBodyFails: where the client's body ends too early, the upstream does not
// take it for whole.
func TestBodyFails(t *testing.T) {
	settled(t)
	got := make(chan error, 1)
	up := listen(t, func(p *peer) {
		r, err := http.ReadRequest(p.r)
		if err == nil {
			_, err = io.ReadAll(r.Body)
		}
		got <- err
		p.send(ok)
	})
	broken := errors.New("the client is gone")
	tr := newTransport(t, nil)
	for _, length := range []int64{-1, 10} {
		r := streaming(t, up.url, io.MultiReader(strings.NewReader("abc"), failing{broken}), length)
		if _, err := tr.RoundTrip(r); !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
		if err := <-got; err == nil {
			t.Error("the upstream takes the body for whole")
		}
	}
	if _, err := tr.RoundTrip(streaming(t, up.url, strings.NewReader("abc"), 4)); !errors.Is(err, ErrRequest) {
		t.Errorf("a body that is shorter than it says: %v", err)
	}
	if err := <-got; err == nil {
		t.Error("the upstream takes the body for whole")
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// closing counts how often a body is closed.
type closing struct {
	io.Reader
	n chan bool
}

func (c closing) Close() error { c.n <- true; return nil }

// TestBodyIsClosed: that is what tells its owner that it is not read any more.
func TestBodyIsClosed(t *testing.T) {
	settled(t)
	up := answering(t, ok)
	for _, tt := range []func(*http.Request){
		func(*http.Request) {},
		func(r *http.Request) { r.Method = "a b" },
		func(r *http.Request) { r.URL.Host = "127.0.0.1:1" },
		func(r *http.Request) { r.URL.Scheme = "x" },
		func(r *http.Request) {
			r.ContentLength = 3
			r.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("not again") }
		},
	} {
		b := closing{strings.NewReader("abc"), make(chan bool, 10)}
		r := streaming(t, up.url, nil, -1)
		r.Body = b
		tt(r)
		if res, err := newTransport(t, nil).RoundTrip(r); err == nil {
			res.Body.Close()
		}
		<-b.n
	}
}

// TestExpect: the body waits for the upstream's word, but not for ever.
func TestExpect(t *testing.T) {
	settled(t)
	up := listen(t, func(p *peer) {
		for {
			r, err := http.ReadRequest(p.r)
			if err != nil {
				return
			}
			switch r.URL.Path {
			case "/no":
				p.send("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
				if b, _ := io.ReadAll(p.r); len(b) > 0 {
					t.Errorf("%q was sent all the same", b)
				}
				return
			case "/yes":
				_ = p.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				if b, _ := p.r.Peek(1); len(b) > 0 {
					t.Errorf("%q came too early", b)
				}
				_ = p.SetReadDeadline(time.Time{})
				p.send("HTTP/1.1 100 Continue\r\n\r\n")
			}
			b, _ := io.ReadAll(r.Body)
			if string(b) != "abc" {
				t.Errorf("%q", b)
			}
			p.send(ok)
		}
	})
	tr := newTransport(t, nil)
	for path, status := range map[string]int{"/yes": 200, "/no": 417, "/silence": 200} {
		r := streaming(t, up.url+path, strings.NewReader("abc"), 3)
		r.Header.Set("Expect", "100-Continue")
		if res, _ := do(t, tr, r); res.StatusCode != status {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
}

// TestChunk: the frame of a chunk fits around it.
func TestChunk(t *testing.T) {
	for _, n := range []int{1, 15, 16, 255, 4096, partSize - chunkHead - chunkTail} {
		b := make([]byte, partSize)
		for i := range n {
			b[chunkHead+i] = 'x'
		}
		p := chunk(b, n)
		if cap(p) > partSize {
			t.Error("the buffer was too small")
		}
		r := reader{src: bytes.NewReader(p)}
		if size, _, err := r.chunkSize(); size != int64(n) || err != nil {
			t.Errorf("%d, %v, want %d", size, err, n)
		}
	}
}
