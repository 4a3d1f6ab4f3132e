package http1

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// front is a running server.
type front struct {
	*Server
	addr string

	mu      sync.Mutex
	refused []string
	log     bytes.Buffer
}

func start(t testing.TB, h http.HandlerFunc, change func(*Config)) *front {
	t.Helper()
	f := prepare(t, h, change)
	f.run(t)
	return f
}

func prepare(t testing.TB, h http.HandlerFunc, change func(*Config)) *front {
	t.Helper()
	f := &front{}
	cfg := Config{Handler: h, Logger: slog.New(slog.NewTextHandler(f, nil)), Refused: func(w http.ResponseWriter, r *http.Request, e *Error) {
		f.mu.Lock()
		f.refused = append(f.refused, e.Reason)
		f.mu.Unlock()
		http.Error(w, e.Reason, e.Status)
	}}
	if change != nil {
		change(&cfg)
	}
	f.Server = New(cfg)
	return f
}

// run serves until the test ends.
func (f *front) run(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- f.Serve(l) }()
	t.Cleanup(func() {
		_ = f.Close()
		if err := <-done; err != http.ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
	})
}

// Write takes the log.
func (f *front) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(p)
}

func (f *front) reasons() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.refused...)
}

func (f *front) logged() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

// raw is a client that sees every byte.
type raw struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *raw {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &raw{c, t, bufio.NewReader(c)}
}

func (c *raw) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

func (c *raw) expect(s string) {
	c.t.Helper()
	b := make([]byte, len(s))
	if n, err := io.ReadFull(c.r, b); err != nil || string(b) != s {
		c.t.Fatalf("read %q, %v, want %q", b[:n], err, s)
	}
}

// answer reads an answer to a request with the method.
func (c *raw) answer(method string) (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("reading an answer: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("reading a body: %v after %q", err, body)
	}
	return res, string(body)
}

// closed checks that the server ends the connection without a further byte.
func (c *raw) closed() {
	c.t.Helper()
	if b, err := io.ReadAll(c.r); err != nil || len(b) > 0 {
		c.t.Errorf("%q, %v, want the end of the connection", b, err)
	}
}

// settled fails the test if goroutines outlive it.
func settled(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, there were %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
		}
	})
}

// row is one of testdata/requests.txt.
type row struct {
	name    string
	status  int
	request string
}

func rows(t testing.TB) (list []row) {
	t.Helper()
	text, err := os.ReadFile("testdata/requests.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		part := strings.Split(line, "\t")
		status, err := strconv.Atoi(part[1])
		if err != nil {
			t.Fatal(line)
		}
		request, err := strconv.Unquote(part[2])
		if err != nil {
			t.Fatal(line)
		}
		list = append(list, row{part[0], status, request})
	}
	return list
}

func tableLimits(c *Config) { c.MaxHeaderBytes, c.MaxTarget, c.MaxHeaders = 8192, 5000, 128 }
