package interop

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/interop/internal/stack"
)

const manyBytes = 200_000

// content is what the upstream has for ranges, the same every time.
func content() []byte { return bytes.Repeat([]byte("0123456789abcdef"), manyBytes/16) }

func zipped() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(content())
	_ = z.Close()
	return b.Bytes()
}

// matrixHandler is the upstream of curl. What it has nothing else for it answers with
// the target as it came.
func matrixHandler() http.Handler {
	plain, small := content(), zipped()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/range":
			http.ServeContent(w, r, "content.txt", time.Unix(1e9, 0), bytes.NewReader(plain))
		case "/gzip":
			if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
				w.Header().Set("Content-Encoding", "gzip")
				_, _ = w.Write(small)
				return
			}
			_, _ = w.Write(plain)
		case "/trailers":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "part")
			w.(http.Flusher).Flush()
			w.Header().Set("X-Sum", "seven")
		case "/echo":
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(body)
		case "/nothing":
			w.WriteHeader(http.StatusNoContent)
		case "/same":
			w.WriteHeader(http.StatusNotModified)
		default:
			_, _ = io.WriteString(w, r.RequestURI)
		}
	})
}

// curlCase is one thing that curl asks for, and what has to be recorded of it.
type curlCase struct {
	name   string
	args   []string
	target string // "/..."
	method string // GET, unless another
	status int    // 200, unless another
	path   string // as recorded: the target, unless another
	sent   []byte
	back   []byte // on the wire
	got    []byte // by the user of curl, unless it is back
	proto  string // HTTP/1.1, unless another
	check  func(t *testing.T, header textproto.MIMEHeader, req, res facts)
}

// run asks through a proxy, and compares both records with what curl saw.
func (c curlCase) run(t *testing.T, s *stack.Stack, base string, args ...string) {
	t.Helper()
	header, body := curl(t, append(append(append([]string{}, args...), c.args...), base+c.target)...)
	req, res := recorded(t, s, header.Get("Sealtap-Exchange"))
	or := func(s, other string) string {
		if s == "" {
			return other
		}
		return s
	}
	want := c.got
	if want == nil {
		want = c.back
	}
	if c.method != "HEAD" && !bytes.Equal(body, want) {
		t.Errorf("curl got %d bytes, want %d: %.100q", len(body), len(want), body)
	}
	path, _, _ := strings.Cut(c.target, "?")
	if req.Method != or(c.method, "GET") || req.Path != or(c.path, path) || req.Protocol != or(c.proto, "HTTP/1.1") {
		t.Errorf("recorded %s %s %s", req.Method, req.Path, req.Protocol)
	}
	status := c.status
	if status == 0 {
		status = 200
	}
	r := res.Response
	if r.Status != status || r.Outcome != "complete" || r.Size != uint64(len(c.back)) {
		t.Errorf("recorded status %d, outcome %s, %d bytes; want %d, complete, %d", r.Status, r.Outcome, r.Size, status, len(c.back))
	}
	if sum := digest(c.back); len(c.back) > 0 && (r.ReceivedSHA256 != sum || r.SentSHA256 != sum) {
		t.Errorf("recorded digests %s and %s, the body's is %s", r.ReceivedSHA256, r.SentSHA256, sum)
	}
	up := req.Request
	if up.SHA256 == "" {
		up = res.Request
	}
	if len(c.sent) > 0 && (up.SHA256 != digest(c.sent) || up.Size != uint64(len(c.sent))) {
		t.Errorf("recorded a request of %d bytes, %s", up.Size, up.SHA256)
	}
	if c.check != nil {
		c.check(t, header, req, res)
	}
}

// matrix is what curl asks for over any way into the proxy.
func matrix(t *testing.T) []curlCase {
	small, smallData := bodyFile(t, 900)
	large, largeData := bodyFile(t, 300_000)
	plain := content()
	return []curlCase{
		{name: "get", target: "/plain?x=1", back: []byte("/plain?x=1")},
		{name: "range", args: []string{"--range", "100-199"}, target: "/range", status: 206, back: plain[100:200]},
		{name: "range at the end", args: []string{"--range", "-70000"}, target: "/range", status: 206, back: plain[len(plain)-70000:]},
		{name: "head", args: []string{"--head"}, method: "HEAD", target: "/range", check: func(t *testing.T, h textproto.MIMEHeader, _, _ facts) {
			if h.Get("Content-Length") != fmt.Sprint(len(plain)) {
				t.Errorf("Content-Length %q", h.Get("Content-Length"))
			}
		}},
		{name: "gzip as it is", args: []string{"-H", "Accept-Encoding: gzip"}, target: "/gzip", back: zipped()},
		{name: "gzip for the user", args: []string{"--compressed"}, target: "/gzip", back: zipped(), got: plain},
		{name: "no gzip", target: "/gzip", back: plain},
		{name: "trailers", target: "/trailers", back: []byte("part"), check: func(t *testing.T, h textproto.MIMEHeader, _, res facts) {
			if h.Get("X-Sum") != "seven" || !bytes.Contains(res.Headers, []byte("trailer:x-sum")) {
				t.Errorf("curl got trailer %q; recorded %s", h.Get("X-Sum"), res.Headers)
			}
		}},
		{name: "upload", args: []string{"--data-binary", "@" + small}, method: "POST", target: "/echo", sent: smallData, back: smallData},
		{name: "large upload", args: []string{"-T", large}, method: "PUT", target: "/echo", sent: largeData, back: largeData},
		{name: "100-continue", args: []string{"-H", "Expect: 100-continue", "--expect100-timeout", "15", "-T", large}, method: "PUT", target: "/echo", sent: largeData, back: largeData},
		{name: "204", target: "/nothing", status: 204},
		{name: "304", target: "/same", status: 304},
		{name: "path as it is", args: []string{"--path-as-is"}, target: "/a/../b//c/./d%2Fe", back: []byte("/a/../b//c/./d%2Fe")},
	}
}

// TestCurlMatrix has curl ask for everything over every way into a reverse proxy, and
// compares the records of each exchange with what curl saw.
func TestCurlMatrix(t *testing.T) {
	t.Parallel()
	up := httptest.NewServer(matrixHandler())
	defer up.Close()
	c := newCertificate(t)
	plain := upProxy(t, up.URL, "")
	secure := upProxy(t, up.URL, fmt.Sprintf("  tls: {cert: %q, key: %q}\n", c.cert, c.key))
	secureURL := strings.Replace(secure.Proxy, "http:", "https:", 1)
	for _, way := range []struct {
		name, base, proto string
		s                 *stack.Stack
		args              []string
	}{
		{"HTTP1.1", plain.Proxy, "HTTP/1.1", plain, nil},
		{"HTTP1.0", plain.Proxy, "HTTP/1.0", plain, []string{"--http1.0"}},
		{"h2c", plain.Proxy, "HTTP/2.0", plain, []string{"--http2-prior-knowledge"}},
		{"TLS", secureURL, "HTTP/1.1", secure, []string{"--cacert", c.cert, "--http1.1"}},
		{"HTTP2", secureURL, "HTTP/2.0", secure, []string{"--cacert", c.cert, "--http2"}},
	} {
		t.Run(way.name, func(t *testing.T) {
			for _, c := range matrix(t) {
				if way.proto == "HTTP/1.0" && (c.name == "trailers" || c.name == "100-continue") {
					continue // HTTP/1.0 has neither
				}
				c.proto = way.proto
				t.Run(c.name, func(t *testing.T) { c.run(t, way.s, way.base, way.args...) })
			}
		})
	}
	audit(t, plain)
	audit(t, secure)
}

// source is the sealed address of a client, which a reader on this machine sees.
func source(t *testing.T, s *stack.Stack, req facts) string {
	t.Helper()
	raw, err := s.Get(t.Context(), fmt.Sprintf("/v1/records/%d", req.Index))
	if err != nil {
		t.Fatal(err)
	}
	var one struct{ Source struct{ Value string } }
	if err := json.Unmarshal(raw, &one); err != nil {
		t.Fatal(err)
	}
	return one.Source.Value
}

// curl reaches a proxy on a Unix socket, which reaches its upstream on another one.
func TestCurlUnix(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "sock") // short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "up"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: matrixHandler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	in := filepath.Join(dir, "in")
	s := upEdited(t, "", func(path string, text []byte) ([]byte, error) {
		text, err := config.Edit(path, text, map[string]string{"proxy.listen": "unix:" + in})
		more := fmt.Sprintf("\nproxy:\n  upstreams: [{name: up, targets: [\"unix:%s\"]}]\n  routes: [{service: shop, upstream: up}]\n", l.Addr())
		return bytes.Replace(text, []byte("\nproxy:\n"), []byte(more), 1), err
	})
	for _, c := range matrix(t) {
		if c.name == "path as it is" {
			continue // which a proxy with routes refuses
		}
		check := c.check
		c.check = func(t *testing.T, h textproto.MIMEHeader, req, res facts) {
			if check != nil {
				check(t, h, req, res)
			}
			if from := source(t, s, req); from != "unix" {
				t.Errorf("source %q", from)
			}
		}
		t.Run(c.name, func(t *testing.T) { c.run(t, s, "http://shop.example", "--unix-socket", in) })
	}
	audit(t, s)
}

// curl says with the PROXY protocol who it is, before HTTP/1.1 and HTTP/2; without it
// the proxy answers nothing.
func TestCurlPROXY(t *testing.T) {
	t.Parallel()
	up := httptest.NewServer(matrixHandler())
	defer up.Close()
	s := upProxy(t, up.URL, "  proxy_protocol: {from: [127.0.0.1]}\n")
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		args := []string{"--haproxy-protocol"}
		if proto == "HTTP/2.0" {
			args = append(args, "--http2-prior-knowledge")
		}
		for _, c := range matrix(t)[:4] {
			c.proto = proto
			c.check = func(t *testing.T, _ textproto.MIMEHeader, req, _ facts) {
				if from := source(t, s, req); !strings.HasPrefix(from, "127.0.0.1:") {
					t.Errorf("source %q", from)
				}
			}
			t.Run(proto+" "+c.name, func(t *testing.T) { c.run(t, s, s.Proxy, args...) })
		}
	}
	if out, err := exec.Command("curl", "--silent", "--max-time", "20", s.Proxy+"/without").CombinedOutput(); err == nil {
		t.Errorf("without a header of the PROXY protocol there is an answer: %s", out)
	}
	audit(t, s)
}

// curl goes through a forward proxy in every way there is: what lies inside TLS is
// recorded where the proxy intercepts; of an opaque tunnel the bytes that both sides
// of it saw.
func TestCurlForwardMatrix(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var taps []*tap
	plain := httptest.NewServer(matrixHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(matrixHandler())
	secure.Listener = tapListener{secure.Listener, func(c *tap) {
		mu.Lock()
		defer mu.Unlock()
		taps = append(taps, c)
	}}
	secure.EnableHTTP2 = true
	secure.StartTLS()
	defer secure.Close()
	c := newCertificate(t) // the one that every httptest server has
	ca := filepath.Join(t.TempDir(), "operator")
	if out, err := exec.Command(world.bin, "keygen", "--ca", "operator", "--out", ca+".key").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socks := l.Addr().String()
	l.Close()
	s := upProxy(t, "", fmt.Sprintf("  forward:\n    socks: {listen: %q}\n    intercept: {ca_cert: %q, ca_key: %q, hosts: [\"*\"], except: [localhost], roots: %q}\n", socks, ca+".crt", ca+".key", c.cert))
	trust := []string{"--cacert", ca + ".crt"}
	for _, way := range []struct {
		name, base string
		args       []string
		proto      string
	}{
		{"absolute form", plain.URL, []string{"-x", s.Proxy}, ""},
		{"CONNECT, intercepted", secure.URL, append([]string{"-x", s.Proxy, "--http1.1"}, trust...), "HTTP/1.1"},
		{"CONNECT, intercepted, HTTP2", secure.URL, append([]string{"-x", s.Proxy, "--http2"}, trust...), "HTTP/2.0"},
		{"SOCKS5, intercepted", secure.URL, append([]string{"--socks5", socks, "--http1.1"}, trust...), "HTTP/1.1"},
		{"SOCKS5 with a name, intercepted", secure.URL, append([]string{"--socks5-hostname", socks, "--http2"}, trust...), "HTTP/2.0"},
	} {
		t.Run(way.name, func(t *testing.T) {
			for _, c := range matrix(t) {
				c.proto = way.proto
				t.Run(c.name, func(t *testing.T) { c.run(t, s, way.base, way.args...) })
			}
		})
	}
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(secure.URL, "https://"))
	for _, args := range [][]string{{"-x", s.Proxy}, {"--socks5-hostname", socks}} {
		t.Run("opaque "+args[0], func(t *testing.T) {
			before := len(taps)
			_, body := curl(t, append(args, "--insecure", "--no-keepalive", "https://localhost:"+port+"/range")...)
			if !bytes.Equal(body, content()) {
				t.Errorf("%d bytes came", len(body))
			}
			mu.Lock()
			defer mu.Unlock()
			if len(taps) != before+1 {
				t.Fatalf("%d connections", len(taps)-before)
			}
			tunnelRecorded(t, s, taps[before])
		})
	}
	audit(t, s)
}

// tunnelRecorded waits for a record of a tunnel with the bytes that passed its end.
func tunnelRecorded(t *testing.T, s *stack.Stack, end *tap) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		for _, e := range exchanges(t, s, nil) {
			if u := e.response.Tunnel; u.Up == end.read.facts() && u.Down == end.written.facts() && u.Down.Size > manyBytes {
				if e.request.Method != "CONNECT" || e.response.Response.Outcome != "complete" {
					t.Errorf("recorded %+v", e)
				}
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no tunnel is recorded with %+v up and %+v down", end.read.facts(), end.written.facts())
		}
	}
}
