package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/route"
)

const brief100 = 100 * time.Millisecond // a time-out of tests: nothing has to happen within it

// h2c returns a client of HTTP/2 without TLS.
func h2c(t *testing.T) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// wantRefused checks the last exchange, and that the upstream was not asked.
func wantRefused(t *testing.T, s *server, status int, code string, h http.Header) {
	t.Helper()
	_, p := s.rec.last(t)
	wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_REFUSED)
	if got := p.rec.GetResponse().GetStatus(); got != uint32(status) || h.Get("Sealtap-Error") != code || h.Get("Sealtap-Exchange") == "" {
		t.Errorf("recorded %d, answered %v", got, h)
	}
}

// TestSlowLoris: a client that sends its head a byte at a time does not keep its
// connection, however steadily it sends.
func TestSlowLoris(t *testing.T) {
	settled(t)
	s := start(t, backend(t, func(http.ResponseWriter, *http.Request) { t.Error("reached") }), func(c *Config) { c.Timeouts.RequestHeader = 2 * brief100 })
	c := dial(t, s.addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\n")
	ended := make(chan string, 1)
	go func() {
		text, _ := c.rest()
		ended <- text
	}()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case text := <-ended:
			if !strings.HasPrefix(text, "HTTP/1.1 408 ") || !strings.Contains(text, "Connection: close") {
				t.Errorf("%q", text)
			}
			_, p := s.rec.last(t)
			wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_REFUSED)
			return
		case <-tick.C:
			_, _ = io.WriteString(c, "a") // of a line that never ends
		case <-time.After(8 * time.Second):
			t.Fatal("the connection was kept")
		}
	}
}

// TestKeepAlive: a connection without a request ends by itself.
func TestKeepAlive(t *testing.T) {
	settled(t)
	s := start(t, backend(t, func(http.ResponseWriter, *http.Request) {}), func(c *Config) { c.Timeouts.ClientIdle = brief100 })
	for _, request := range []string{"", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"} {
		c := dial(t, s.addr)
		c.send(request)
		if _, err := c.rest(); err != nil {
			t.Errorf("%q: %v", request, err)
		}
	}
}

// TestSilentUpstream: an upstream that falls silent in the middle of an answer
// does not keep the exchange, and one that sends now and then is left alone.
func TestSilentUpstream(t *testing.T) {
	settled(t)
	release := make(chan bool)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/declared" {
			w.Header().Set("Content-Length", "1000")
		}
		for range 8 {
			_, _ = io.WriteString(w, "abc")
			w.(http.Flusher).Flush()
			if r.URL.Path != "/steady" {
				<-release
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	defer close(release)
	s := start(t, up, func(c *Config) { c.Timeouts.AnswerIdle = 3 * brief100 })
	for name, c := range map[string]*http.Client{"HTTP/1": client(t), "HTTP/2": h2c(t)} {
		for _, path := range []string{"/declared", "/chunked"} {
			n := len(s.rec.all())
			res, err := c.Get(s.url(path))
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(res.Body); err == nil || string(b) != "abc" {
				t.Errorf("%s, %s: %q, %v", name, path, b, err)
			}
			res.Body.Close()
			s.rec.wait(t, n+2)
			_, p := s.rec.last(t)
			wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_TIMEOUT)
			wantBody(t, "received", p.rec.GetResponse().GetReceived(), []byte("abc"))
		}
		if _, body := get(t, c, request(t, "GET", s.url("/steady"), nil)); len(body) != 24 {
			t.Errorf("%s: of a steady answer came %q", name, body)
		}
	}
}

// TestSilentAnswerOfUpload: an upstream that is silent while it takes a body is not
// the one to wait for.
func TestSilentAnswerOfUpload(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.WriteString(w, "begin")
		w.(http.Flusher).Flush()
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n)
	})
	s := start(t, up, func(c *Config) { c.Timeouts.AnswerIdle = 4 * brief100 })
	c := dial(t, s.addr)
	c.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
	c.head()
	for range 16 {
		time.Sleep(50 * time.Millisecond)
		c.send("1\r\na\r\n")
	}
	c.send("0\r\n\r\n")
	c.expect("5\r\nbegin\r\n2\r\n17\r\n0\r\n\r\n")
}

// TestSilentBody: a client that falls silent in the middle of its body does not
// keep the exchange, in either version.
func TestSilentBody(t *testing.T) {
	settled(t)
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body) })
	s := start(t, up, func(c *Config) { c.Timeouts.ClientBody = 2 * brief100 })
	for name, c := range map[string]*http.Client{"HTTP/1": client(t), "HTTP/2": h2c(t)} {
		for _, length := range []int64{-1, 10, 1 << 20} {
			r, w := io.Pipe()
			req := request(t, "POST", s.url("/"), r)
			req.ContentLength = length
			go func() { _, _ = io.WriteString(w, "abc") }()
			n := len(s.rec.all())
			res, err := c.Do(req)
			if err == nil {
				if res.StatusCode != http.StatusRequestTimeout {
					t.Errorf("%s, length %d: %d", name, length, res.StatusCode)
				}
				res.Body.Close()
			}
			w.Close()
			s.rec.wait(t, n+2)
			_, p := s.rec.last(t)
			wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_TIMEOUT)
		}
	}
}

// TestSlowReader: a client that takes nothing of its answer does not keep it.
func TestSlowReader(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 400 {
			if _, err := w.Write(make([]byte, 100_000)); err != nil {
				return
			}
		}
	})
	s := start(t, up, func(c *Config) { c.Timeouts.ClientStall = 2 * brief100 })
	// HTTP/2: a window for the stream that is never widened.
	c := dial(t, s.addr)
	c.send(preface + frame(4, 0, 0, "") + frame(1, 5, 1, "\x82\x86\x84\x41\x01x"))
	s.rec.wait(t, 2)
	_, p := s.rec.last(t)
	wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_TIMEOUT)
}

// frame is a frame of HTTP/2.
func frame(kind, flags byte, stream uint32, payload string) string {
	n := len(payload)
	return string([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags, byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)}) + payload
}

// TestConnectionLimits: connections beyond a limit are closed and counted, and
// there is room again once others have ended.
func TestConnectionLimits(t *testing.T) {
	settled(t)
	for limit, change := range map[string]func(*Config){
		"connections":            func(c *Config) { c.Limits.Connections = 5 },
		"connections_per_client": func(c *Config) { c.Limits.ConnectionsPerClient = 5 },
	} {
		reg := prometheus.NewRegistry()
		s := start(t, backend(t, func(http.ResponseWriter, *http.Request) {}), func(c *Config) {
			change(c)
			m, err := NewMetrics(reg)
			if err != nil {
				t.Fatal(err)
			}
			c.Metrics = m
		})
		var held []*raw
		for i := range 5 {
			c := dial(t, s.addr)
			if i%2 == 0 {
				c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				c.head()
			} else { // of HTTP/2 they count too, for as long as they last
				c.send(preface + frame(4, 0, 0, ""))
				b := make([]byte, 9)
				if _, err := io.ReadFull(c.r, b); err != nil || b[3] != 4 {
					t.Fatalf("%x, %v", b, err)
				}
			}
			held = append(held, c)
		}
		for range 20 {
			c := dial(t, s.addr)
			if text, err := c.rest(); text != "" || isTimeout(err) {
				t.Fatalf("%s: %q", limit, text)
			}
			c.Close()
		}
		if n := total(t, reg, "sealtap_proxy_refused_connections_total"); n != 20 {
			t.Errorf("%s: %v were counted", limit, n)
		}
		for _, c := range held {
			c.Close()
		}
		for end := time.Now().Add(8 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			b, _ := io.ReadAll(c)
			c.Close()
			if strings.HasPrefix(string(b), "HTTP/1.1 200 ") {
				break
			} else if time.Now().After(end) {
				t.Fatalf("%s: no room after the others had ended: %q", limit, b)
			}
		}
		for end := time.Now().Add(8 * time.Second); ; time.Sleep(time.Millisecond) {
			s.occupied.mu.Lock()
			n, clients := s.occupied.connections, len(s.occupied.clients)
			s.occupied.mu.Unlock()
			if n == 0 && clients == 0 {
				break
			} else if time.Now().After(end) {
				t.Fatalf("%s: %d connections of %d clients count, though they are gone", limit, n, clients)
			}
		}
	}
}

// total is the sum of a counter over its labels.
func total(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestExchangeLimit: what is too much is answered 503, recorded, and told when to
// come again.
func TestExchangeLimit(t *testing.T) {
	settled(t)
	begun, release := make(chan bool), make(chan bool)
	s := start(t, backend(t, func(http.ResponseWriter, *http.Request) {
		select {
		case begun <- true:
		case <-release:
		}
		<-release
	}), func(c *Config) { c.Limits.Exchanges = 2 })
	c := client(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			res, err := c.Get(s.url("/"))
			if err != nil || res.StatusCode != http.StatusOK {
				t.Errorf("%v, %v", res, err)
				return
			}
			res.Body.Close()
		})
		<-begun
	}
	res, _ := get(t, c, request(t, "GET", s.url("/"), nil))
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") != "1" {
		t.Errorf("%d, %v", res.StatusCode, res.Header)
	}
	wantRefused(t, s, http.StatusServiceUnavailable, "overloaded", res.Header)
	close(release)
	wg.Wait()
	for end := time.Now().Add(8 * time.Second); ; time.Sleep(time.Millisecond) {
		if res, _ := get(t, c, request(t, "GET", s.url("/"), nil)); res.StatusCode == http.StatusOK {
			return
		} else if time.Now().After(end) {
			t.Fatal("there is no room any more")
		}
	}
}

// TestRates: of the proxy, and of a route; by address, and by identity.
func TestRates(t *testing.T) {
	settled(t)
	up := backend(t, func(http.ResponseWriter, *http.Request) {})
	slow := &Rate{PerSecond: 0.01, Burst: 2}
	for name, test := range map[string]struct {
		change func(*Config)
		free   string // a path that is not limited
	}{
		"proxy": {func(c *Config) { c.Upstream, c.Rate = to(t, up), slow }, ""},
		"route": {func(c *Config) {
			c.Pools = []Pool{{Name: "up", Targets: []*url.URL{to(t, up)}}}
			c.Routes = []Route{{Service: "free", Upstream: "up", Rule: route.Rule{Prefix: "/free"}}, {Service: "slow", Upstream: "up", Rate: slow}}
		}, "/free"},
	} {
		s := start(t, "", test.change)
		c := client(t)
		for i, want := range []int{200, 200, 429, 429} {
			res, _ := get(t, c, request(t, "GET", s.url("/"), nil))
			if res.StatusCode != want {
				t.Errorf("%s: request %d: %d", name, i, res.StatusCode)
			}
			if want == 429 {
				wantRefused(t, s, 429, "rate-limited", res.Header)
				if after := res.Header.Get("Retry-After"); after != "100" && after != "99" {
					t.Errorf("%s: Retry-After: %s", name, after)
				}
			}
		}
		if test.free != "" {
			for range 5 {
				if res, _ := get(t, c, request(t, "GET", s.url(test.free), nil)); res.StatusCode != 200 {
					t.Errorf("%s: %d where there is no limit", name, res.StatusCode)
				}
			}
		}
	}
}

// TestRateByWho: those behind one address are told apart by who they are, if that
// is verified; who only says who it is gets no bucket of its own.
func TestRateByWho(t *testing.T) {
	settled(t)
	s := start(t, backend(t, func(http.ResponseWriter, *http.Request) {}), func(c *Config) {
		c.Rate = &Rate{PerSecond: 0.01, Burst: 1, ByWho: true}
		c.UserHeader, c.TrustedPeers = "X-User", []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	c := client(t)
	ask := func(header, value string) int {
		req := request(t, "GET", s.url("/"), nil)
		req.Header.Set(header, value)
		res, _ := get(t, c, req)
		return res.StatusCode
	}
	for _, step := range []struct {
		header, value string
		want          int
	}{
		{"X-User", "ann", 200}, {"X-User", "ann", 429}, {"X-User", "bob", 200},
		{"Authorization", "Basic YTpi", 200}, {"Authorization", "Basic YzpkCg==", 429},
	} {
		if got := ask(step.header, step.value); got != step.want {
			t.Errorf("%s: %s: %d, want %d", step.header, step.value, got, step.want)
		}
	}
}

// TestBodyLimit: 413, whether the length is declared or turns out, and the
// upstream never has a body that it can take for whole.
func TestBodyLimit(t *testing.T) {
	settled(t)
	whole := make(chan int, 100)
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil {
			whole <- len(b)
		}
	})
	s := start(t, up, func(c *Config) { c.Limits.BodyBytes = 200_000 })
	for name, c := range map[string]*http.Client{"HTTP/1": client(t), "HTTP/2": h2c(t)} {
		for _, test := range []struct {
			size     int
			declared bool
			want     int
		}{{200_000, true, 200}, {200_000, false, 200}, {200_001, true, 413}, {200_001, false, 413}, {5_000_000, false, 413}} {
			var body io.Reader = bytes.NewReader(make([]byte, test.size))
			if !test.declared {
				body = io.MultiReader(body) // of unknown length
			}
			n := len(s.rec.all())
			res, err := c.Do(request(t, "POST", s.url("/"), body))
			if err == nil {
				res.Body.Close()
				if res.StatusCode != test.want {
					t.Errorf("%s, %+v: %d", name, test, res.StatusCode)
				}
			} else if test.size < 1_000_000 || test.want == 200 {
				// The connection may end under a client that does not read while it sends.
				t.Errorf("%s, %+v: %v", name, test, err)
			}
			s.rec.wait(t, n+2)
			if _, p := s.rec.last(t); test.want == 413 {
				wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_REFUSED)
				if got := p.rec.GetResponse().GetStatus(); got != 413 {
					t.Errorf("%s, %+v: recorded %d", name, test, got)
				}
			} else if got := <-whole; got != test.size {
				t.Errorf("%s, %+v: %d arrived", name, test, got)
			}
		}
	}
	if len(whole) > 0 {
		t.Errorf("a body of %d bytes arrived", <-whole)
	}
}

// TestOversizedHTTP2: the limits of heads hold in HTTP/2, with records.
func TestOversizedHTTP2(t *testing.T) {
	settled(t)
	s := start(t, backend(t, func(http.ResponseWriter, *http.Request) {}), func(c *Config) {
		c.MaxHeaderBytes, c.Limits.Headers, c.Limits.URIBytes = 8192, 20, 1000
	})
	for name, test := range map[string]struct {
		path  string
		lines int
		size  int
		want  int
	}{
		"fits": {"/", 10, 5000, 200}, "long target": {"/" + strings.Repeat("a", 1000), 1, 1, 414},
		"many lines": {"/", 30, 1, 431}, "large": {"/", 5, 9000, 431},
	} {
		for proto, c := range map[string]*http.Client{"HTTP/1": client(t), "HTTP/2": h2c(t)} {
			req := request(t, "GET", s.url(test.path), nil)
			for i := range test.lines {
				req.Header.Set(fmt.Sprint("X-", i), strings.Repeat("v", test.size/test.lines))
			}
			n := len(s.rec.all())
			res, _ := get(t, c, req)
			if res.StatusCode != test.want {
				t.Errorf("%s, %s: %d", name, proto, res.StatusCode)
			}
			s.rec.wait(t, n+2)
			if test.want != 200 {
				wantRefused(t, s, test.want, "refused", res.Header)
			}
		}
	}
}

// TestReplaceBounds: a reload has other limits hold, for connections that are there
// too, and forgets nothing of what was counted.
func TestReplaceBounds(t *testing.T) {
	settled(t)
	up := backend(t, func(http.ResponseWriter, *http.Request) {})
	rated := func(c *Config) { c.Upstream, c.Rate = to(t, up), &Rate{PerSecond: 0.01, Burst: 3} }
	s, v := startLive(t, rated)
	c, two := client(t), h2c(t)
	ask := func(c *http.Client, path string) int {
		res, _ := get(t, c, request(t, "GET", s.url(path), nil))
		return res.StatusCode
	}
	long := "/" + strings.Repeat("a", 3000)
	if a, b := ask(c, long), ask(two, long); a != 200 || b != 200 {
		t.Fatalf("%d, %d", a, b)
	}
	v.Replace(s.follower(t, func(c *Config) { rated(c); c.MaxHeaderBytes = 4096 }))
	if a, b := ask(c, long), ask(two, long); a != 414 || b != 414 {
		t.Errorf("%d, %d under the new limit", a, b)
	}
	if a, b := ask(c, "/"), ask(c, "/"); a != 200 || b != 429 {
		t.Errorf("%d, %d: the rate was forgotten", a, b)
	}
	slow := dial(t, s.addr)
	slow.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if h := slow.head(); !strings.HasPrefix(h, "HTTP/1.1 429 ") {
		t.Error(h)
	}
	idle := dial(t, s.addr)
	v.Replace(s.follower(t, func(c *Config) { rated(c); c.Timeouts.RequestHeader = brief100 }))
	idle.send("GET / HTTP/1.1\r\n")
	if text, _ := idle.rest(); !strings.HasPrefix(text, "HTTP/1.1 408 ") {
		t.Errorf("%q", text)
	}
}

// TestReplaceRates: after a reload two routes of one service still count each for itself.
func TestReplaceRates(t *testing.T) {
	settled(t)
	up := backend(t, func(http.ResponseWriter, *http.Request) {})
	routed := func(c *Config) {
		c.Pools = []Pool{{Name: "up", Targets: []*url.URL{to(t, up)}}}
		for _, prefix := range []string{"/a", "/b"} {
			c.Routes = append(c.Routes, Route{Rule: route.Rule{Prefix: prefix}, Service: "shop", Upstream: "up", Rate: &Rate{PerSecond: 0.01, Burst: 2}})
		}
	}
	s, v := startLive(t, routed)
	ask := func(path string, want int) {
		t.Helper()
		if res, _ := get(t, client(t), request(t, "GET", s.url(path), nil)); res.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, res.StatusCode, want)
		}
	}
	ask("/a", 200)
	v.Replace(s.follower(t, routed))
	for _, path := range []string{"/a", "/b", "/b"} {
		ask(path, 200)
	}
	ask("/a", 429)
	ask("/b", 429)
}
