//go:build unix

package http1

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkServer posts 1 KiB and gets 1 KiB over 64 connections of loopback,
// with clients in the same process that do as little as they can. It compares
// what a request costs here, under net/http, and with a loop that knows what it
// will read (bare), which is what the other two cannot get below: compare what
// they cost more than it, in one run.
func BenchmarkServer(b *testing.B) {
	answer := []byte(strings.Repeat("a", 1024))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body [1025]byte
		if n, err := io.ReadFull(r.Body, body[:]); n != 1024 || err != io.ErrUnexpectedEOF {
			panic(err)
		}
		w.Header()["Content-Type"] = []string{"application/json"}
		w.Header()["Content-Length"] = []string{"1024"}
		_, _ = w.Write(answer)
	})
	for _, tt := range []struct {
		name  string
		serve func(net.Listener) func()
	}{
		{"bare", func(l net.Listener) func() { go bare(l, answer); return func() { l.Close() } }},
		{"http1", func(l net.Listener) func() {
			s := New(Config{Handler: h})
			go func() { _ = s.Serve(l) }()
			return func() { _ = s.Close() }
		}},
		{"net-http", func(l net.Listener) func() {
			s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
			go func() { _ = s.Serve(l) }()
			return func() { _ = s.Close() }
		}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer tt.serve(l)()
			b.ReportAllocs()
			before := cpu(b)
			load(b, l.Addr().String())
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N)/1e3, "cpu-µs/op")
		})
	}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const benchHead = "POST /orders/17?page=2 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench/1.0\r\nContent-Length: 1024\r\nContent-Type: application/json\r\n" +
	"Authorization: Bearer abcdefghijklmnop\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"

// load sends b.N requests over 64 connections.
func load(b *testing.B, addr string) {
	request := []byte(benchHead + strings.Repeat("q", 1024))
	var wg sync.WaitGroup
	const conns = 64
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer c.Close()
			buf := make([]byte, 4<<10)
			for range (b.N + conns - 1 - i) / conns {
				if _, err := c.Write(request); err != nil {
					b.Error(err)
					return
				}
				for want, n := 0, 0; want == 0 || n < want; {
					m, err := c.Read(buf[n:])
					if err != nil {
						b.Error(err)
						return
					}
					if n += m; want == 0 {
						if i := strings.Index(string(buf[:n]), "\r\n\r\n"); i >= 0 {
							want = i + 4 + 1024
						}
					}
				}
			}
		}()
	}
	wg.Wait()
}

// bare reads the benchmark's requests and answers them without looking.
func bare(l net.Listener, answer []byte) {
	text := []byte("HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 13:43:29 GMT\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + string(answer))
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			r := bufio.NewReaderSize(c, 4<<10)
			for {
				if _, err := r.Discard(len(benchHead) + 1024); err != nil {
					return
				}
				if _, err := c.Write(text); err != nil {
					return
				}
			}
		}()
	}
}

// again is a connection whose client sends the same request n times.
type again struct {
	wire
	n       int
	request []byte
}

func (c *again) Read(p []byte) (int, error) {
	if c.n == 0 {
		return 0, io.EOF
	}
	c.n--
	return copy(p, c.request), nil
}

func (c *again) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkWithoutNetwork is what a request costs beside the system's calls.
func BenchmarkWithoutNetwork(b *testing.B) {
	answer := make([]byte, 1024)
	kind, length := []string{"application/json"}, []string{"1024"}
	s := New(Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header()["Content-Type"], w.Header()["Content-Length"] = kind, length
		_, _ = w.Write(answer)
	})})
	b.ReportAllocs()
	s.newConn(&again{n: b.N, request: []byte(benchHead + strings.Repeat("q", 1024))}).serve()
}
