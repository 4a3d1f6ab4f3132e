package http1

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// wire is a connection in memory whose client says everything at once, in
// pieces, and then no more.
type wire struct {
	in   *bytes.Reader
	step int
	out  bytes.Buffer
}

func (c *wire) Read(p []byte) (int, error)       { return c.in.Read(p[:min(len(p), c.step)]) }
func (c *wire) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *wire) Close() error                     { return nil }
func (c *wire) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *wire) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *wire) SetDeadline(time.Time) error      { return nil }
func (c *wire) SetReadDeadline(time.Time) error  { return nil }
func (c *wire) SetWriteDeadline(time.Time) error { return nil }

// understood is a request as somebody understands it.
type understood struct {
	method, target, url, host, proto string
	coding                           []string
	length                           int64
	close                            bool
	headers, trailers                http.Header
	body                             string
	end                              int // where the next request begins; -1 if the body is malformed
}

func understand(r *http.Request, at func() int) (u understood) {
	u = understood{method: r.Method, target: r.RequestURI, url: fmt.Sprintf("%#v", *r.URL), host: r.Host, proto: fmt.Sprint(r.Proto, r.ProtoMajor, r.ProtoMinor),
		coding: r.TransferEncoding, length: r.ContentLength, close: r.Close, headers: r.Header.Clone()}
	if r.URL.User != nil { // a pointer
		u.url = r.URL.String()
	}
	b, err := io.ReadAll(r.Body)
	u.body, u.trailers, u.end = string(b), r.Trailer.Clone(), -1
	if err == nil {
		u.end = at()
	}
	return u
}

// ours is what this server takes of a stream of requests.
func ours(data []byte, step int) (taken []understood, refused int) {
	c := &wire{in: bytes.NewReader(data), step: step}
	s := New(Config{Limits: Limits{MaxHeaderBytes: 8192}, Patience: time.Hour})
	s.cfg.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		taken = append(taken, understand(r, func() int {
			in := w.(*response).c.in
			return len(data) - c.in.Len() - (in.w - in.r)
		}))
	})
	s.cfg.Refused = func(w http.ResponseWriter, _ *http.Request, e *Error) {
		refused++
		w.WriteHeader(e.Status)
	}
	s.newConn(c).serve()
	_ = s.Shutdown(context.Background())
	return taken, refused
}

// FuzzRequest compares with net/http: whatever is taken here it takes too, and
// understands alike, up to where the next request begins. Nor does it matter in
// which pieces the bytes come.
func FuzzRequest(f *testing.F) {
	for _, tt := range rows(f) {
		if len(tt.request) < 4000 {
			f.Add([]byte(tt.request))
			f.Add([]byte(tt.request + "GET /next HTTP/1.1\r\nHost: x\r\n\r\n"))
		}
	}
	f.Fuzz(agree)
}

// agree fails the test if net/http understands otherwise what is taken here.
func agree(t *testing.T, data []byte) {
	taken, refused := ours(data, len(data)+1)
	if again, r := ours(data, 3); !reflect.DeepEqual(taken, again) || r != refused {
		t.Errorf("in pieces %d requests are taken and %d refused, at once %d and %d:\n%+v\n%+v", len(again), r, len(taken), refused, again, taken)
	}
	if refused > 1 {
		t.Errorf("%d requests were refused over one connection", refused)
	}
	rest := bytes.NewReader(data)
	br := bufio.NewReaderSize(rest, 64<<10)
	at := func() int { return len(data) - rest.Len() - br.Buffered() }
	for i, u := range taken {
		if p, _ := br.Peek(2); string(p) == "\r\n" {
			_, _ = br.Discard(2) // net/http does not ignore it
		}
		r, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("request %d is taken as %+v, by net/http it is not: %v", i, u, err)
		}
		theirs := understand(r, at)
		if u.headers["Pragma"] != nil && u.headers["Cache-Control"] == nil {
			delete(theirs.headers, "Cache-Control") // net/http makes it up
		}
		if u.end < 0 {
			return // refused here, while it is read
		}
		if !reflect.DeepEqual(u, theirs) {
			t.Fatalf("request %d:\nours   %+v\ntheirs %+v", i, u, theirs)
		}
	}
}

// TestAgree is FuzzRequest with requests that are made of the right parts, and
// of wrong ones in the right places.
func TestAgree(t *testing.T) {
	n := 20_000
	if testing.Short() {
		n = 2000
	}
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	taken := 0
	for range n {
		// Mostly the first of them, which is right.
		one := func(list ...string) string {
			if rnd.IntN(25) > 0 {
				return list[0]
			}
			return list[rnd.IntN(len(list))]
		}
		any := func(list ...string) string { return list[rnd.IntN(len(list))] }
		eol := func() string { return one("\r\n", "\r\n", "\n", "\r", "\r\r\n", "\r\n\r\n", "\n\r\n", "\r\n ") }
		sp := func() string { return one(" ", " ", "  ", "\t", "", "\x0b", "\xa0") }
		var b strings.Builder
		for range 1 + rnd.IntN(3) {
			b.WriteString(one("", "\r\n", "\r\n\r\n", "\n", " "))
			b.WriteString(any("GET", "POST", "OPTIONS", "CONNECT", "get", "M-SEARCH", "PRI", "P(", "") + sp())
			b.WriteString(any("/", "/a?b=c", "/a%2fb", "//x/y", "/a/../b", "*", "x:443", "[::1]:443", "http://x/", "http://x", "HTTP://X/a?", "http://u@x/", "https://x:443/a", "/?", "/a;b", "/%zz",
				"/a#b", "/\xff", "http:x", "x", "http://[::1]/", "http://[fe80::1%25en0]/", "http://x:/", "/\"<>{}|\\^`", "mailto:a@x", "/a?%zz?") + sp())
			b.WriteString(one("HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/11", "http/1.1", "HTTP/1.1.1") + eol())
			b.WriteString(one("Host: x", "host: x", "HOST:x", "Host:  x  ", "Host: ", "Host: y", "Host : x", "Host: x:443", "Host: [::1]", "Host: x,y", "Host: x\r\nHost: x", "X: y") + eol())
			for range rnd.IntN(3) {
				b.WriteString(any("X-A: 1", "x-b:\t2 ", "X_C: 3", "Connection: close", "Connection: keep-alive", "connection: Upgrade, Close", "Pragma: no-cache", "X-D:", "X-A: \xe9", "X-E: \x00", "X F: 1",
					"Trailer: X-T, x-u", "Trailer: Content-Length", "Expect: 100-continue", "Content-Encoding: gzip", "X-A: "+strings.Repeat("v", rnd.IntN(40))+one("", "\x7f", "\t", "\x01")) + eol())
			}
			body := any("", "", "hello", "5\r\nhello\r\n0\r\n\r\n")
			b.WriteString(any("", "Content-Length: "+one(strconv.Itoa(len(body)), "0", "5", "+5", "05", "5,5", "-0", "0x5", "5 ", "18446744073709551621")+eol()))
			if rnd.IntN(2) == 0 {
				b.WriteString(any("T", "t") + one("ransfer-Encoding: ", "ransfer-Encoding:", "ransfer-Encoding : ", "ransfer_Encoding: ") +
					one("chunked", "Chunked", "chunked, chunked", "identity", "gzip, chunked", "\tchunked", "chunked ", "x", "") + eol())
				body = ""
				for range rnd.IntN(3) {
					data := strings.Repeat("d", 1+rnd.IntN(20))
					body += one("", "0", "00", "+", "0x", " ") + fmt.Sprintf(any("%x", "%X"), len(data)) + one("", ";a", ";a=b", "; a", " ;a", " ", ";\"", ";\n") + eol() + data + eol()
				}
				body += one("0", "00", "0;a", "-0", "") + eol() + any("", "X-T: 1"+eol(), "x-t:1"+eol()+"X-T: 2"+eol(), "Content-Length: 1"+eol(), "X-U : 1"+eol()) + eol()
			}
			b.WriteString(eol() + body)
		}
		got, _ := ours([]byte(b.String()), 1<<20)
		taken += len(got)
		if agree(t, []byte(b.String())); t.Failed() {
			t.Fatalf("seed %d: %q", seed, b.String())
		}
	}
	if taken < n/10 {
		t.Errorf("only %d requests were taken of more than %d: the parts are badly chosen", taken, n)
	}
	t.Logf("%d requests were taken", taken)
}

// FuzzField compares the check of values, eight bytes at a time, with one that
// is obviously right.
func FuzzField(f *testing.F) {
	for _, s := range []string{"", "abc", "12345678", "1234567\x7f", "\x80\xff~ \t", "12345678\x1f", "\x00", "aaaaaaaa\taaaaaaa\x01", "\x1f\x80\x7f\x81\x20\x9f\xa0\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := true
		for i := range len(s) {
			if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
				want = false
			}
		}
		if validValue(s) != want {
			t.Errorf("%q: %t", s, !want)
		}
	})
}
