package proxy

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// TestRefusedRequests: every request that package http1 does not take leaves its
// two records, says so, ends its connection, and reaches nobody.
func TestRefusedRequests(t *testing.T) {
	settled(t)
	text, err := os.ReadFile("http1/testdata/requests.txt")
	if err != nil {
		t.Fatal(err)
	}
	var reached, whole atomic.Int32
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		if _, err := io.ReadAll(r.Body); err == nil {
			whole.Add(1)
		}
	})
	s := start(t, up, func(c *Config) { c.MaxHeaderBytes = 8192 })
	n := 0
	for _, line := range strings.Split(string(text), "\n") {
		part := strings.Split(line, "\t")
		if len(part) != 3 || part[1] == "200" {
			continue
		}
		name, status := part[0], part[1]
		request, err := strconv.Unquote(part[2])
		if err != nil {
			t.Fatal(err)
		}
		before := len(s.rec.all())
		c := dial(t, s.addr)
		c.send(request + "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
		h := c.head()
		if !strings.HasPrefix(h, "HTTP/1.1 "+status+" ") || !strings.Contains(h, "Sealtap-Exchange: ") || !strings.Contains(h, "Sealtap-Error: refused\r\n") || !strings.Contains(h, "Connection: close\r\n") {
			t.Errorf("%s: %s", name, h)
		}
		if rest, err := c.rest(); err != nil || strings.Contains(rest, "\r\nDate: ") {
			t.Errorf("%s: %q, %v", name, rest, err)
		}
		c.Close()
		s.rec.wait(t, before+2)
		_, p := s.rec.last(t)
		wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_REFUSED)
		if d := p.rec.GetResponse().GetDetail(); d == "" || strconv.Itoa(int(p.rec.GetResponse().GetStatus())) != status {
			t.Errorf("%s: %v", name, p.rec)
		}
		if got := len(s.rec.all()); got != before+2 {
			t.Errorf("%s: %d records", name, got-before)
		}
		// A body may turn out to be malformed when its beginning has passed.
		if reached.Load() != 0 && !strings.HasPrefix(name, "chunk: ") || whole.Load() != 0 {
			t.Fatalf("%s reached the upstream", name)
		}
		n++
	}
	if n < 100 {
		t.Errorf("only %d requests were tried", n)
	}
}

// TestRefusedSecrets: what cannot be read may hold secrets in unusual places.
func TestRefusedSecrets(t *testing.T) {
	settled(t)
	s := start(t, backend(t, func(http.ResponseWriter, *http.Request) { t.Error("reached") }), func(c *Config) { c.Seal = []string{} })
	for send, path := range map[string]string{
		"GET /a?access_token=Secret77 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer Secret77\r\nX-A : 1\r\n\r\n": "/a",
		"GET /a HTTP/1.1\r\nHost: x\r\nX-Token : Secret77\r\n\r\n":                                              "/a",
		"GET /a HTTP/1.1\r\nHost: x\r\nX-Token: Secret77\r\n folded: Secret77\r\n\r\n":                          "/a",
		"GET /a HTTP/1.1\r\nHost: Secret77@x\r\n\r\n":                                                           "/a",
		"GET http://ann:Secret77@/a HTTP/1.1\r\nHost: x\r\n\r\n":                                                "",
		"GET Secret77 HTTP/1.1\r\nHost: x\r\n\r\n":                                                              "",
		"Password: Secret77\r\n\r\n":                                                                            "",
		"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nSecret77\r\n":                         "/a",
		"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Secret77\r\n\r\n": "/a",
	} {
		c := dial(t, s.addr)
		c.send(send)
		if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 400 ") {
			t.Errorf("%q: %s", send, h)
		}
		body, _ := c.rest()
		q, p := s.rec.last(t)
		for what, b := range map[string][]byte{"answer": []byte(body), "request record": q.entry, "openings": q.openings, "response record": p.entry} {
			if bytes.Contains(b, []byte("Secret77")) {
				t.Errorf("%q: the %s holds the secret: %q", send, what, b)
			}
		}
		if got := q.rec.GetRequest().GetPath(); got != path {
			t.Errorf("%q: path %q", send, got)
		}
	}
}

// TestMalformedLate: a large body that turns out to be malformed cannot be taken
// for whole by the upstream, and the record says why.
func TestMalformedLate(t *testing.T) {
	settled(t)
	got := make(chan error, 1)
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		got <- err
	})
	s := start(t, up, nil)
	c := dial(t, s.addr)
	size := 200_000
	c.send("POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + strconv.FormatInt(int64(size), 16) + "\r\n" + strings.Repeat("x", size) + "\r\n")
	s.rec.wait(t, 1)
	c.send("+1\r\nx\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 400 ") || !strings.Contains(h, "Connection: close\r\n") {
		t.Errorf("%q", h)
	}
	if rest, err := c.rest(); err != nil || strings.Contains(rest, "\r\nDate: ") {
		t.Errorf("%q, %v", rest, err)
	}
	if err := <-got; err == nil {
		t.Error("the upstream takes the body for whole")
	}
	_, p := s.rec.last(t)
	wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_REFUSED)
	if d := p.rec.GetResponse().GetDetail(); !strings.Contains(d, "the size of a chunk") || p.rec.GetResponse().GetRequestBody().GetSize() != uint64(size) || len(s.rec.all()) != 2 {
		t.Errorf("%v", p.rec)
	}
}
