package interop

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// curl runs curl, and returns the headers of the last answer and the body.
func curl(t *testing.T, args ...string) (header textproto.MIMEHeader, body []byte) {
	t.Helper()
	bin, err := exec.LookPath("curl")
	if err != nil {
		skip(t, "curl is not installed")
	}
	dump := filepath.Join(t.TempDir(), "headers")
	cmd := exec.Command(bin, append([]string{"--silent", "--show-error", "--fail", "--noproxy", "", "--max-time", "20", "--dump-header", dump}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if body, err = cmd.Output(); err != nil {
		t.Fatalf("curl %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	raw, err := os.ReadFile(dump)
	if err != nil {
		t.Fatal(err)
	}
	header = make(textproto.MIMEHeader)
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "HTTP/") {
			clear(header)
		}
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			header.Add(name, strings.TrimSpace(value))
		}
	}
	return header, body
}

// facts are what a test looks at in the records of an exchange.
type facts struct {
	Stage     string
	Method    string
	Scheme    string
	Path      string
	Protocol  string
	Operation struct{ Protocol, Name string }
	Index     uint64
	Headers   json.RawMessage
	Request   bodyFacts
	Response  struct {
		Status         int
		Size           uint64
		Outcome        string
		ReceivedSHA256 string `json:"received_sha256"`
		SentSHA256     string `json:"sent_sha256"`
		MessagesUp     int    `json:"messages_up"`
		MessagesDown   int    `json:"messages_down"`
	}
	Tunnel struct{ Up, Down bodyFacts }
}

type bodyFacts struct {
	Size   uint64
	SHA256 string
}

// recorded waits for both records of an exchange.
func recorded(t *testing.T, s *stack.Stack, exchange string) (request, response facts) {
	t.Helper()
	if exchange == "" {
		t.Fatal("the answer has no Sealtap-Exchange header")
	}
	return search(t, s, "exchange="+exchange)
}

func search(t *testing.T, s *stack.Stack, query string) (request, response facts) {
	t.Helper()
	var raw []byte
	if err := s.Await("both records of "+query, 20*time.Second, func() bool {
		var err error
		var page struct{ Records []facts }
		if raw, err = s.Get(t.Context(), "/v1/records?"+query); err != nil || json.Unmarshal(raw, &page) != nil {
			return false
		}
		for _, r := range page.Records {
			switch r.Stage {
			case "request":
				request = r
			case "response":
				response = r
			}
		}
		return request.Stage != "" && response.Stage != ""
	}); err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	return request, response
}

func digest(b []byte) string {
	h := sha256.Sum256(b)
	return base64.StdEncoding.EncodeToString(h[:])
}

func bodyFile(t *testing.T, size int) (path string, data []byte) {
	t.Helper()
	data = make([]byte, size)
	_, _ = rand.Read(data)
	path = filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, data
}

// curl gets through the reverse proxy what it would get without it, and both
// records of each exchange say so.
func TestCurlReverse(t *testing.T) {
	small, smallData := bodyFile(t, 1000)
	large, largeData := bodyFile(t, 3<<20)
	parts := []byte("part 0\npart 1\npart 2\npart 3\npart 4\n")
	for _, tc := range []struct {
		name       string
		args       []string
		method     string
		sent, back []byte // bodies
		length     string // Content-Length of the answer, if it matters
	}{
		{name: "post", args: []string{"--data-binary", "@" + small, "/echo"}, method: "POST", sent: smallData, back: smallData},
		{name: "large", args: []string{"--data-binary", "@" + large, "/echo"}, method: "POST", sent: largeData, back: largeData},
		{name: "chunked request", args: []string{"-H", "Transfer-Encoding: chunked", "--data-binary", "@" + small, "/echo"}, method: "POST", sent: smallData, back: smallData},
		{name: "large chunked request", args: []string{"-H", "Transfer-Encoding: chunked", "--data-binary", "@" + large, "/echo"}, method: "POST", sent: largeData, back: largeData},
		{name: "100-continue", args: []string{"-H", "Expect: 100-continue", "--expect100-timeout", "15", "--data-binary", "@" + large, "/echo"}, method: "POST", sent: largeData, back: largeData},
		{name: "chunked answer", args: []string{"/chunked"}, method: "GET", back: parts},
		{name: "HTTP/1.0", args: []string{"--http1.0", "/chunked"}, method: "GET", back: parts},
		{name: "head", args: []string{"--head", "/head"}, method: "HEAD", length: "12345"},
		{name: "empty put", args: []string{"-X", "PUT", "/echo"}, method: "PUT"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := append([]string{}, tc.args...)
			args[len(args)-1] = world.log.Proxy + args[len(args)-1]
			began := time.Now()
			header, body := curl(t, args...)
			if tc.method != "HEAD" && !bytes.Equal(body, tc.back) {
				t.Fatalf("%d bytes back, %d expected", len(body), len(tc.back))
			}
			if tc.length != "" && header.Get("Content-Length") != tc.length {
				t.Fatalf("Content-Length %q", header.Get("Content-Length"))
			}
			// curl sends the body after expect100-timeout even if no 100 came.
			if took := time.Since(began); took > 10*time.Second {
				t.Fatalf("took %v", took)
			}
			req, resp := recorded(t, world.log, header.Get("Sealtap-Exchange"))
			if req.Method != tc.method || resp.Response.Status != http.StatusOK || resp.Response.Outcome != "complete" {
				t.Errorf("recorded %s, status %d, outcome %s", req.Method, resp.Response.Status, resp.Response.Outcome)
			}
			if resp.Response.Size != uint64(len(tc.back)) {
				t.Errorf("recorded an answer of %d bytes, it had %d", resp.Response.Size, len(tc.back))
			}
			if len(tc.back) > 0 && (resp.Response.ReceivedSHA256 != digest(tc.back) || resp.Response.SentSHA256 != digest(tc.back)) {
				t.Errorf("recorded digests %s and %s, the body's is %s", resp.Response.ReceivedSHA256, resp.Response.SentSHA256, digest(tc.back))
			}
			if len(tc.sent) == len(smallData) && req.Request.SHA256 != digest(tc.sent) {
				t.Errorf("recorded digest %s of the request, the body's is %s", req.Request.SHA256, digest(tc.sent))
			}
		})
	}
}

// curl uses the forward proxy for plain HTTP, for a tunnel to plain HTTP and for
// TLS through CONNECT.
func TestCurlForward(t *testing.T) {
	s, err := stack.Up(world.bin, filepath.Join(t.TempDir(), "data"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
	plain := newUpstream()
	defer plain.Close()
	secure := httptest.NewTLSServer(plain.Config.Handler)
	defer secure.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(ca, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	path, data := bodyFile(t, 1000)

	t.Run("absolute form", func(t *testing.T) {
		header, body := curl(t, "-x", s.Proxy, "--data-binary", "@"+path, plain.URL+"/echo")
		if !bytes.Equal(body, data) {
			t.Fatalf("%d bytes back", len(body))
		}
		req, resp := recorded(t, s, header.Get("Sealtap-Exchange"))
		if req.Method != "POST" || req.Path != "/echo" || resp.Response.SentSHA256 != digest(data) {
			t.Errorf("recorded %+v and %+v", req, resp)
		}
	})
	t.Run("tunnel", func(t *testing.T) {
		_, body := curl(t, "-x", s.Proxy, "--proxytunnel", "--data-binary", "@"+path, plain.URL+"/echo")
		if !bytes.Equal(body, data) {
			t.Fatalf("%d bytes back", len(body))
		}
	})
	t.Run("tls", func(t *testing.T) {
		_, body := curl(t, "-x", s.Proxy, "--cacert", ca, "--data-binary", "@"+path, secure.URL+"/echo")
		if !bytes.Equal(body, data) {
			t.Fatalf("%d bytes back", len(body))
		}
	})
	if req, resp := search(t, s, "method=CONNECT"); req.Method != "CONNECT" || resp.Response.Status != http.StatusOK {
		t.Errorf("tunnels are recorded as %+v and %+v", req, resp)
	}
}
