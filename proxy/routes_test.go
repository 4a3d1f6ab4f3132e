package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/route"
	"github.com/sealtap/sealtap/record"
)

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// poolOf makes a pool of targets.
func poolOf(t testing.TB, name string, targets ...string) Pool {
	t.Helper()
	p := Pool{Name: name}
	for _, s := range targets {
		p.Targets = append(p.Targets, mustURL(t, s))
	}
	return p
}

// routeTo makes routes out of a prefix and the pool it leads to.
func routeTo(prefix, pool string) Route {
	return Route{Rule: route.Rule{Prefix: prefix}, Service: pool, Upstream: pool}
}

// named starts an upstream that says its name and the target it was asked for.
func named(t testing.TB, name string) string {
	return backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Name", name)
		fmt.Fprint(w, name+" "+r.RequestURI)
	})
}

func TestRoutes(t *testing.T) {
	settled(t)
	a, b := named(t, "a"), named(t, "b")
	s := start(t, "", func(c *Config) {
		c.Service = ""
		c.Pools = []Pool{poolOf(t, "orders", a), poolOf(t, "users", b+"/base/")}
		c.Routes = []Route{
			{Rule: route.Rule{Hosts: []string{"*.example"}, Prefix: "/api/", Methods: []string{"GET"}}, Service: "orders", Upstream: "orders"},
			{Rule: route.Rule{Path: "/users/{id}"}, Service: "users", Upstream: "users", SealPath: true},
			{Rule: route.Rule{Prefix: "/strip/me"}, Service: "stripped", Upstream: "orders", StripPrefix: true, Templates: []string{"/strip/me/{x}", "/strip/{y...}"}},
		}
	})
	for _, c := range []struct {
		method, host, path     string
		status                 int
		body, service, errcode string
		template               string
		changed                bool
	}{
		{"GET", "shop.example:99", "/api/x%2Fy?q=1", 200, "a /api/x%2Fy?q=1", "orders", "", "", false},
		{"GET", "SHOP.EXAMPLE.", "/api/", 200, "a /api/", "orders", "", "", false},
		{"POST", "shop.example", "/api/", 404, "", "", "no-route", "", false},
		{"GET", "other", "/api/", 404, "", "", "no-route", "", false},
		{"GET", "other", "/users/7", 200, "b /base/users/7", "users", "", "/users/{id}", true},
		{"GET", "other", "/strip/me/now?a", 200, "a /now?a", "stripped", "", "/strip/me/{x}", true},
		{"GET", "other", "/strip/me", 200, "a /", "stripped", "", "/strip/{y...}", true},
		{"GET", "other", "/strip/me//x/y", 200, "a //x/y", "stripped", "", "/strip/{y...}", true},
		{"GET", "other", "/users/../strip/me", 400, "", "", "refused", "", false},
		{"GET", "other", "/users/%2e%2e/strip/me", 400, "", "", "refused", "", false},
		{"GET", "other", "/strip;/me", 400, "", "", "refused", "", false},
		{"GET", "other", "//users/7", 400, "", "", "refused", "", false},
	} {
		n := len(s.rec.all())
		conn := dial(t, s.addr)
		conn.send(c.method + " " + c.path + " HTTP/1.1\r\nHost: " + c.host + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		all, err := conn.rest()
		if err != nil {
			t.Fatal(err)
		}
		what := c.method + " " + c.host + c.path
		if !strings.HasPrefix(all, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || c.body != "" && !strings.HasSuffix(all, "\r\n\r\n"+c.body) {
			t.Errorf("%s: %q, want %d and %q", what, all, c.status, c.body)
		}
		if c.errcode != "" && !strings.Contains(all, "\r\nSealtap-Error: "+c.errcode+"\r\n") {
			t.Errorf("%s: %q, want the error %q", what, all, c.errcode)
		}
		s.rec.wait(t, n+2)
		q, p := s.rec.last(t)
		if got := q.rec.GetRequest(); got.GetService() != c.service || got.GetTemplate() != c.template || (len(got.GetChanges()) > 0) != c.changed {
			t.Errorf("%s: service %q, template %q, changes %v", what, got.GetService(), got.GetTemplate(), got.GetChanges())
		}
		switch c.status {
		case 404:
			wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_DENIED)
			if d := p.rec.GetResponse().GetDetail(); d != "no route matches" {
				t.Errorf("%s: detail %q", what, d)
			}
		case 400:
			wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_REFUSED)
		}
		// A route seals paths, so those of requests without a route are sealed too.
		path, _, _ := strings.Cut(c.path, "?")
		if sealed := c.service == "users" || c.service == ""; sealed {
			if got := q.opening(t, record.FieldPath); got != path || q.rec.GetRequest().GetPath() != "" {
				t.Errorf("%s: sealed path %q, open %q", what, got, q.rec.GetRequest().GetPath())
			}
		} else if q.rec.GetRequest().GetPath() != path {
			t.Errorf("%s: path %q", what, q.rec.GetRequest().GetPath())
		}
	}
}

// TestSealedOperation: what a request asks for is not told by a path that its
// route seals.
func TestSealedOperation(t *testing.T) {
	settled(t)
	s := start(t, "", func(c *Config) {
		c.Pools = []Pool{poolOf(t, "a", named(t, "a"))}
		c.Routes = []Route{
			{Rule: route.Rule{Path: "/users/{id}"}, Service: "users", Upstream: "a", SealPath: true},
			{Rule: route.Rule{Path: "/open/{id}"}, Service: "open", Upstream: "a"},
		}
	})
	for path, want := range map[string]string{"/users/alice": "", "/open/alice": "open/alice"} {
		req := request(t, "POST", s.url(path), strings.NewReader("x"))
		req.Header.Set("Content-Type", "application/grpc-web")
		get(t, client(t), req)
		q, _ := s.rec.last(t)
		if op := q.rec.GetRequest().GetOperation(); op.GetProtocol() != "grpc" || op.GetName() != want {
			t.Errorf("%s: %v", path, op)
		}
	}
}

// TestNoRouteBody: a request that no route takes is answered before its body is
// read, which then is not taken for the next request.
func TestNoRouteBody(t *testing.T) {
	settled(t)
	s := start(t, "", func(c *Config) {
		c.Pools = []Pool{poolOf(t, "a", named(t, "a"))}
		c.Routes = []Route{routeTo("/a", "a")}
	})
	c := dial(t, s.addr)
	c.send("POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 404 ") || !strings.Contains(h, "Connection: close") {
		t.Errorf("%q", h)
	}
	s.rec.last(t)
	if n := len(s.rec.all()); n != 2 {
		t.Errorf("%d records", n)
	}
}

func TestTemplates(t *testing.T) {
	r := Route{Rule: route.Rule{Path: "/u/{id}"}, Service: "s", Upstream: "p"}
	pools := map[string]*pool{"p": {}}
	for _, c := range []struct {
		templates []string
		path      string
		want      string
	}{
		{nil, "/u/7", "/u/{id}"},
		{[]string{"/users/{id}", "/users/{id}/orders/{order}", "/users/{rest...}"}, "/users/7", "/users/{id}"},
		{[]string{"/users/{id}", "/users/{id}/orders/{order}", "/users/{rest...}"}, "/users/7/orders/8", "/users/{id}/orders/{order}"},
		{[]string{"/users/{id}", "/users/{id}/orders/{order}", "/users/{rest...}"}, "/users/7/orders", "/users/{rest...}"},
		{[]string{"/users/{id}"}, "/users/", ""},
		{[]string{"/users/{id}"}, "/users/a/b", ""},
		{[]string{"/users/{id}"}, "/users/a%2Fb", "/users/{id}"},
	} {
		r.Templates = c.templates
		done, err := r.compile(pools)
		if err != nil {
			t.Fatal(err)
		}
		x := &exchange{p: &Proxy{}, route: &done, r: &http.Request{RequestURI: c.path, URL: &url.URL{}}}
		var q sealtapv1.Request
		if x.captureRoute(&q); q.GetTemplate() != c.want {
			t.Errorf("%v: %s has the template %q, want %q", c.templates, c.path, q.GetTemplate(), c.want)
		}
	}
}

func TestRouteErrors(t *testing.T) {
	good := func() Config {
		return Config{
			Recorder: newMemory(), DigestKey: []byte("0123456789abcdef"),
			Pools: []Pool{poolOf(t, "a", "http://h")}, Routes: []Route{routeTo("/", "a")},
		}
	}
	for _, c := range []struct {
		want   string
		change func(*Config)
	}{
		{"one upstream, or there are pools", func(c *Config) { c.Upstream = mustURL(t, "http://h") }},
		{"no route leads", func(c *Config) { c.Routes = nil }},
		{`two pools have the name "a"`, func(c *Config) { c.Pools = append(c.Pools, c.Pools[0]) }},
		{`no upstream "b"`, func(c *Config) { c.Routes[0].Upstream = "b" }},
		{"no service", func(c *Config) { c.Routes[0].Service = "" }},
		{"template", func(c *Config) { c.Routes[0].Templates = []string{"x"} }},
		{"no prefix to strip", func(c *Config) { c.Routes[0].Rule, c.Routes[0].StripPrefix = route.Rule{}, true }},
		{"route 1 takes all", func(c *Config) { c.Routes = append(c.Routes, routeTo("/x", "a")) }},
		{"0 targets", func(c *Config) { c.Pools[0].Targets = nil }},
		{`balance "x"`, func(c *Config) { c.Pools[0].Balance = "x" }},
		{"health checks", func(c *Config) { c.Pools[0].Health = &Health{Path: "x"} }},
		{"scheme must be", func(c *Config) { c.Pools[0].Targets[0] = mustURL(t, "ftp://h") }},
		{"names no host", func(c *Config) { c.Pools[0].Targets[0] = mustURL(t, "http:///x") }},
		{"user name", func(c *Config) { c.Pools[0].Targets[0] = mustURL(t, "http://u@h") }},
		{"only a path", func(c *Config) { c.Pools[0].Targets[0] = mustURL(t, "http://h/?x") }},
		{"a socket reads", func(c *Config) { c.Pools[0].Targets[0] = mustURL(t, "unix:x") }},
	} {
		cfg := good()
		c.change(&cfg)
		if _, err := New(cfg); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	if _, err := New(good()); err != nil {
		t.Error(err)
	}
}

// TestUnixSockets: the proxy listens on one and forwards to one.
func TestUnixSockets(t *testing.T) {
	settled(t)
	dir := t.TempDir()
	up, err := net.Listen("unix", filepath.Join(dir, "up.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: up, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Host+r.RequestURI+" "+r.Header.Get("X-Forwarded-For"))
	})}}
	srv.Start()
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	l, err := net.Listen("unix", filepath.Join(dir, "front.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := startOn(t, l, func(c *Config) {
		c.Pools = []Pool{poolOf(t, "a", "unix:"+up.Addr().String(), "unix:"+up.Addr().String())}
		c.Routes = []Route{routeTo("/", "a")}
	})
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
	if b, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(b), "\r\n\r\nshop/x unknown") {
		t.Errorf("%q, %v", b, err)
	}
	q, p := s.rec.last(t)
	if src := q.opening(t, record.FieldSource); src != "unix" {
		t.Errorf("source %q", src)
	}
	if a := p.rec.GetResponse().GetAttempts(); len(a) != 1 || a[0].GetUpstream() != "unix:"+up.Addr().String() || a[0].GetStatus() != 200 {
		t.Errorf("attempts %v", a)
	}
}
