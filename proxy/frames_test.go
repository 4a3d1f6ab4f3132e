package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// headerBlock encodes headers as literals (RFC 7541, section 6.2.2).
func headerBlock(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		b.WriteByte(0)
		for _, s := range pairs[i : i+2] {
			if n := len(s); n < 127 {
				b.WriteByte(byte(n))
			} else {
				b.WriteByte(127)
				for n -= 127; n >= 128; n >>= 7 {
					b.WriteByte(byte(n) | 128)
				}
				b.WriteByte(byte(n))
			}
			b.WriteString(s)
		}
	}
	return b.String()
}

// attempts returns the pairs of records of requests that nobody has read.
func (s *server) attempts() (responses []*sealtapv1.Response) {
	all := s.rec.all()
	for i := range all {
		if q := all[i].rec.GetRequest(); q != nil && q.GetMethod() == "" && q.GetProtocol() == "HTTP/2.0" && i+1 < len(all) {
			responses = append(responses, all[i+1].rec.GetResponse())
		}
	}
	return responses
}

// TestRefusedHTTP2: what net/http refuses before anybody sees it leaves a record
// that says how many requests there were, and never one too many.
func TestRefusedHTTP2(t *testing.T) {
	up := backend(t, func(http.ResponseWriter, *http.Request) {})
	good := headerBlock(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x")
	big := strings.Repeat("v", 12_000)
	for name, test := range map[string]struct {
		frames string
		want   string // in the detail
	}{
		"no path":       {frame(1, 5, 1, headerBlock(":method", "GET", ":scheme", "http")), "a request of HTTP/2, not taken"},
		"upper case":    {frame(1, 5, 1, headerBlock(":method", "GET", ":scheme", "http", ":path", "/", "X-A", "1")), "PROTOCOL_ERROR"},
		"connection":    {frame(1, 5, 1, good+headerBlock("connection", "close")), "a request of HTTP/2"},
		"beside a good": {frame(1, 5, 1, good) + frame(1, 5, 3, headerBlock(":method", "GET")) + frame(1, 5, 5, good), "a request of HTTP/2"},
		"two":           {frame(1, 5, 1, headerBlock(":method", "GET")) + frame(1, 5, 3, headerBlock(":method", "GET")), "2 requests of HTTP/2"},
		"too large":     {frame(1, 1, 1, good+headerBlock("x-a", big)) + frame(9, 4, 1, headerBlock("x-b", big)), "a request of HTTP/2"},
		"bad coding":    {frame(1, 5, 1, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "COMPRESSION_ERROR"},
		"no end":        {frame(1, 1, 1, good), "did not arrive in time"},
		"half":          {frame(1, 5, 1, good)[:20], "did not arrive in time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, up, func(c *Config) { c.MaxHeaderBytes, c.Timeouts.RequestHeader = 8192, 3*brief100 })
			c := dial(t, s.addr)
			c.send(preface + frame(4, 0, 0, "") + test.frames)
			for end := time.Now().Add(8 * time.Second); len(s.attempts()) == 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("there is no record")
				}
			}
			c.Close()
			time.Sleep(1200 * time.Millisecond) // what the end of the connection has to say
			got := s.attempts()
			if name == "two" && len(got) == 2 { // a second began between them
				for _, p := range got {
					if !strings.Contains(p.GetDetail(), "a request of HTTP/2") {
						t.Error(p)
					}
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("%d attempts are recorded", len(got))
			}
			if p := got[0]; p.GetOutcome() != sealtapv1.Outcome_OUTCOME_REFUSED || p.GetStatus() != 0 || p.GetSent() != nil || !strings.Contains(p.GetDetail(), test.want) {
				t.Error(p)
			}
		})
	}
}

// TestNoAttempts: requests that are taken, cut and given up leave their own
// records only, also over TLS.
func TestNoAttempts(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cut" {
			_, _ = io.WriteString(w, "some")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	defer certificate.Close()
	s := start(t, up, func(c *Config) { c.TLS = &tls.Config{Certificates: certificate.TLS.Certificates} })
	tr := certificate.Client().Transport.(*http.Transport).Clone()
	tr.ForceAttemptHTTP2 = true
	tr.DialContext = nil
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: 20 * time.Second}
	var wg sync.WaitGroup
	_, port, _ := net.SplitHostPort(s.addr)
	for i := range 60 {
		wg.Go(func() {
			path := "/"
			if i%3 == 0 {
				path = "/cut"
			}
			res, err := c.Get("https://127.0.0.1:" + port + path)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := io.ReadAll(res.Body); (err != nil) != (path == "/cut") || res.ProtoMajor != 2 || res.TLS == nil {
				t.Errorf("%s: %v, %s", path, err, res.Proto)
			}
			res.Body.Close()
		})
	}
	wg.Wait()
	tr.CloseIdleConnections()
	time.Sleep(1200 * time.Millisecond)
	all := s.rec.wait(t, 120)
	if got := s.attempts(); len(got) > 0 || len(all) != 120 {
		t.Errorf("%d records, %v", len(all), got)
	}
	if q := all[0].rec.GetRequest(); q.GetScheme() != "https" || q.GetProtocol() != "HTTP/2.0" {
		t.Errorf("%v", q)
	}
}
