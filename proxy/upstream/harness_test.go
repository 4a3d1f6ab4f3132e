package upstream

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// peer is the upstream's end of a connection.
type peer struct {
	net.Conn
	t  testing.TB
	r  *bufio.Reader
	no int // of the connection, from 1
}

// request reads one request and returns it with its body, or nil at the end of
// the connection.
func (p *peer) request() (*http.Request, string) {
	r, err := http.ReadRequest(p.r)
	if err != nil {
		return nil, ""
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, ""
	}
	return r, string(body)
}

func (p *peer) send(s string) { _, _ = io.WriteString(p.Conn, s) }

// gone waits until the other end has closed the connection.
func (p *peer) gone() { _, _ = io.Copy(io.Discard, p.r) }

// upstream is what the transport talks to.
type testUpstream struct {
	url   string
	conns atomic.Int32
}

// listen starts an upstream; f gets every connection.
func listen(t testing.TB, f func(p *peer)) *testUpstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &testUpstream{url: "http://" + l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			no := u.conns.Add(1)
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				f(&peer{c, t, bufio.NewReader(c), int(no)})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return u
}

// answering gives every request of every connection the same answer.
func answering(t testing.TB, answer string) *testUpstream {
	return listen(t, func(p *peer) {
		for {
			if r, _ := p.request(); r == nil {
				return
			}
			p.send(answer)
		}
	})
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func newTransport(t testing.TB, change func(*Config)) *Transport {
	cfg := Config{ResponseHeaderTimeout: 20 * time.Second}
	if change != nil {
		change(&cfg)
	}
	tr := New(cfg)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func newRequest(t testing.TB, method, url, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		b := new(Buffered)
		b.Reset([]byte(body))
		r.Body, r.ContentLength = b, int64(len(body))
	}
	return r
}

// streaming returns a request whose body cannot be had twice.
func streaming(t testing.TB, url string, body io.Reader, length int64) *http.Request {
	t.Helper()
	r, err := http.NewRequest("POST", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Body, r.ContentLength = io.NopCloser(body), length
	return r
}

// do returns an answer with its whole body.
func do(t testing.TB, tr *Transport, r *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading the answer: %v after %q", err, b)
	}
	return res, string(b)
}

// notes is an observer.
type notes struct {
	mu     sync.Mutex
	sent   []bool
	codes  []int
	headed http.Header
	err    error
}

func (n *notes) Sent(_ net.Conn, reused bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent = append(n.sent, reused)
}

func (n *notes) Answered() {}

func (n *notes) Informational(code int, h http.Header) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.codes, n.headed = append(n.codes, code), h
	return n.err
}

func (t *Transport) idleConns() int {
	t.pool.mu.Lock()
	defer t.pool.mu.Unlock()
	n := 0
	for _, h := range t.pool.hosts {
		n += len(h.idle)
	}
	return n
}

func (t *Transport) knownHosts() int {
	t.pool.mu.Lock()
	defer t.pool.mu.Unlock()
	return len(t.pool.hosts)
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain waited until " + what)
		}
	}
}

// settled fails the test if goroutines or descriptors outlive it.
func settled(t *testing.T) {
	t.Helper()
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	t.Cleanup(func() {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			g, f := runtime.NumGoroutine(), descriptors(t)
			if g <= goroutines && f <= files {
				return
			}
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d goroutines and %d descriptors, before there were %d and %d\n%s", g, f, goroutines, files, buf[:runtime.Stack(buf, true)])
			}
		}
	})
}

// descriptors counts sockets: files and the poller's own are not the transport's.
func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range d {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

func background() (context.Context, context.CancelFunc) {
	return context.WithCancel(context.Background())
}
