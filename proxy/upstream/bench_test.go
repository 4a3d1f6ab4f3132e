package upstream

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkRoundTrip posts 1 KiB and gets 1 KiB, over 64 connections, by this
// transport and by net/http's with the connections that it needs. The upstream is
// a process of its own, and does as little as one can, so that the CPU time per
// request, "cpu-ns/op", is the transports'.
func BenchmarkRoundTrip(b *testing.B) {
	url := fastUpstream(b)
	b.Run("upstream", func(b *testing.B) {
		tr := newTransport(b, nil)
		roundTrips(b, url, tr.RoundTrip)
	})
	b.Run("http.Transport", func(b *testing.B) {
		tr := &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true, IdleConnTimeout: 90 * time.Second, ResponseHeaderTimeout: 20 * time.Second}
		defer tr.CloseIdleConnections()
		roundTrips(b, url, tr.RoundTrip)
	})
}

func roundTrips(b *testing.B, url string, roundTrip func(*http.Request) (*http.Response, error)) {
	const workers = 64
	data := bytes.Repeat([]byte("q"), 1024)
	var left atomic.Int64
	var wg sync.WaitGroup
	// As a server gives them: one context for each request, made by it anyway.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	work := func(n int) {
		left.Store(int64(n))
		for range workers {
			wg.Go(func() {
				buf := make([]byte, 4096)
				for left.Add(-1) >= 0 {
					r, err := http.NewRequestWithContext(ctx, "POST", url, nil)
					if err != nil {
						b.Error(err)
						return
					}
					setBody(r, data)
					for _, name := range []string{"Accept", "Authorization", "Content-Type", "Sealtap-Exchange", "Traceparent", "User-Agent", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} {
						r.Header[name] = value
					}
					res, err := roundTrip(r)
					if err != nil {
						b.Error(err)
						return
					}
					n := 0
					for err == nil {
						var m int
						m, err = res.Body.Read(buf)
						n += m
					}
					res.Body.Close()
					if err != io.EOF || n != 1024 {
						b.Errorf("%d bytes, %v", n, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	work(1000) // opens the connections
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu(b)
	work(b.N)
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

var value = []string{"application/json; some value"}

func setBody(r *http.Request, data []byte) {
	body := new(Buffered)
	body.Reset(data)
	r.Body, r.ContentLength = body, int64(len(data))
	r.GetBody = func() (io.ReadCloser, error) { return body, nil }
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fastUpstream starts this program once more, as an upstream.
func fastUpstream(b *testing.B) string {
	c := exec.Command(os.Args[0], "-test.run=^TestFastUpstream$")
	c.Env = append(os.Environ(), "UPSTREAM_SERVE=1")
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	in, err := c.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); _ = c.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// TestFastUpstream is the upstream of the benchmark, and no test. It takes any
// 1 KiB of a body behind headers for a request.
func TestFastUpstream(t *testing.T) {
	if os.Getenv("UPSTREAM_SERVE") == "" {
		t.Skip("only for the benchmark")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("http://" + l.Addr().String() + "/orders")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answerFast(c)
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func answerFast(c net.Conn) {
	answer := []byte("HTTP/1.1 200 OK\r\nServer: fast\r\nDate: Tue, 24 Nov 2026 12:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("a", 1024))
	buf := make([]byte, 8192)
	for n := 0; ; {
		m, err := c.Read(buf[n:])
		if err != nil {
			return
		}
		n += m
		if i := bytes.Index(buf[:n], []byte("\r\n\r\n")); i >= 0 && n >= i+4+1024 {
			if _, err := c.Write(answer); err != nil {
				return
			}
			n = 0
		}
	}
}
