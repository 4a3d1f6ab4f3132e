package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// follower returns a proxy that can follow another one.
func (s *server) follower(t *testing.T, change func(*Config)) *Proxy {
	t.Helper()
	cfg := Config{Recorder: s.rec, DigestKey: []byte("0123456789abcdef"), Service: "shop"}
	change(&cfg)
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// startLive runs a proxy that others can follow.
func startLive(t *testing.T, change func(*Config)) (*server, *Live) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{rec: newMemory(), addr: l.Addr().String()}
	s.Proxy = s.follower(t, change)
	v := NewLive(s.Proxy)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, v
}

func to(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestReplace: what is under way ends where it began, what comes then goes to
// the new upstream, over the connection that was there.
func TestReplace(t *testing.T) {
	settled(t)
	begun, release := make(chan bool), make(chan bool)
	old := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			begun <- true
			<-release
		}
		_, _ = io.WriteString(w, "old")
	})
	young := backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "young") })
	s, v := startLive(t, func(c *Config) { c.Upstream = to(t, old) })
	client := &http.Client{Transport: new(http.Transport)}
	defer client.CloseIdleConnections()
	reused := false
	get := func(path string) string {
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, s.url(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	if got := get("/"); got != "old" {
		t.Fatal(got)
	}
	slow := make(chan string, 1)
	go func() {
		res, err := http.Get(s.url("/slow"))
		if err != nil {
			slow <- err.Error()
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		slow <- string(body)
	}()
	<-begun
	v.Replace(s.follower(t, func(c *Config) { c.Upstream, c.Service = to(t, young), "new shop" }))
	if got := get("/"); got != "young" || !reused {
		t.Errorf("%q, over a connection that was there: %v", got, reused)
	}
	if n := v.InFlight(); n != 1 {
		t.Errorf("%d in flight", n)
	}
	close(release)
	if got := <-slow; got != "old" {
		t.Errorf("what was under way: %q", got)
	}
	services := ""
	for _, k := range s.rec.wait(t, 6) {
		if q := k.rec.GetRequest(); q != nil {
			services += q.GetService() + ","
		}
	}
	if services != "shop,shop,new shop," {
		t.Error(services)
	}
}

// TestReplaceHealth: checks go on with the new proxy and end with the last
// exchange of the old; what was known to be down stays so.
func TestReplaceHealth(t *testing.T) {
	settled(t)
	var checked atomic.Int64
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/old" {
			checked.Add(1)
		}
	})
	down := backend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	pools := func(path string) func(*Config) {
		return func(c *Config) {
			c.Pools = []Pool{{Name: "shop", Targets: []*url.URL{to(t, up), to(t, down)}, Health: &Health{Path: path, Interval: 20 * time.Millisecond}}}
			c.Routes = []Route{{Service: "shop", Upstream: "shop"}}
		}
	}
	s, v := startLive(t, pools("/old"))
	until := func(what string, f func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	until("it was not found to be down", func() bool { return s.pools[0].targets[1].down.Load() })
	next := s.follower(t, pools("/new"))
	v.Replace(next)
	if !next.pools[0].targets[1].down.Load() || next.pools[0].targets[0].down.Load() {
		t.Error("the new proxy does not know which target is down")
	}
	until("the old checks go on", func() bool {
		n := checked.Load()
		time.Sleep(100 * time.Millisecond)
		return checked.Load() == n
	})
}

// TestReplaceTLS: the certificate is the newest proxy's, by HTTP/1.1 and HTTP/2.
func TestReplaceTLS(t *testing.T) {
	settled(t)
	up := backend(t, func(http.ResponseWriter, *http.Request) {})
	certificate := func() *tls.Config {
		h := httptest.NewUnstartedServer(nil)
		h.StartTLS()
		defer h.Close()
		return &tls.Config{Certificates: h.TLS.Certificates, MinVersion: tls.VersionTLS12}
	}
	first, second := certificate(), certificate()
	second.MaxVersion = tls.VersionTLS12 // the certificates are the same
	s, v := startLive(t, func(c *Config) { c.Upstream, c.TLS = to(t, up), first })
	shake := func(proto string) (uint16, string) {
		t.Helper()
		c, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().Version, c.ConnectionState().NegotiatedProtocol
	}
	for _, proto := range []string{"h2", "http/1.1"} {
		if version, got := shake(proto); version != tls.VersionTLS13 || got != proto {
			t.Errorf("%x %s", version, got)
		}
	}
	v.Replace(s.follower(t, func(c *Config) { c.Upstream, c.TLS = to(t, up), second }))
	for _, proto := range []string{"h2", "http/1.1"} {
		if version, got := shake(proto); version != tls.VersionTLS12 || got != proto {
			t.Errorf("after it was replaced: %x %s", version, got)
		}
	}
}

// TestMetrics: exchanges are counted by service, class and outcome, whoever answers.
func TestMetrics(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/a/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	reg := prometheus.NewPedanticRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	var full atomic.Bool
	s := start(t, "", func(c *Config) {
		c.Metrics, c.Service = m, ""
		c.Recorder.(*memory).before = func(string) error {
			if full.Load() {
				return errDisk
			}
			return nil
		}
		c.Pools = []Pool{{Name: "a", Targets: []*url.URL{to(t, up)}}}
		c.Routes = []Route{{Service: "a", Upstream: "a"}}
		c.Routes[0].Prefix = "/a"
	})
	for _, path := range []string{"/a/1", "/a/2", "/a/missing", "/nowhere"} {
		res, err := http.Get(s.url(path))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	c := dial(t, s.addr)
	c.send("GET /a HTTP/1.1\r\nHost: x\r\nA : 1\r\n\r\n")
	c.head()
	full.Store(true)
	res, err := http.Get(s.url("/a/3"))
	if err != nil || res.StatusCode != http.StatusServiceUnavailable {
		t.Fatal(res, err)
	}
	res.Body.Close()
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	var got []string
	for line := range strings.Lines(answer.Body.String()) {
		if strings.HasPrefix(line, "sealtap_proxy_exchanges_total") || strings.HasPrefix(line, "sealtap_proxy_unrecorded_total") ||
			strings.HasPrefix(line, "sealtap_proxy_exchange_seconds_count") {
			got = append(got, strings.TrimPrefix(line, "sealtap_proxy_"))
		}
	}
	want := `exchange_seconds_count{service=""} 2
exchange_seconds_count{service="a"} 3
exchanges_total{class="2xx",outcome="complete",service="a"} 2
exchanges_total{class="4xx",outcome="complete",service="a"} 1
exchanges_total{class="4xx",outcome="denied",service=""} 1
exchanges_total{class="4xx",outcome="refused",service=""} 1
unrecorded_total 1
`
	if strings.Join(got, "") != want {
		t.Errorf("%s", strings.Join(got, ""))
	}
	if classNames()[0] != "none" || int(sealtapv1.Outcome_OUTCOME_UNKNOWN)+1 != len(sealtapv1.Outcome_name) {
		t.Error("there are outcomes that are not counted")
	}
}
