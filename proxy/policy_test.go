package proxy

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/route"
	"github.com/sealtap/sealtap/proxy/rules"
)

// counting starts an upstream that counts what reaches it.
func counting(t *testing.T) (string, *atomic.Int64) {
	n := new(atomic.Int64)
	return backend(t, func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "ok")
	}), n
}

// rpc is a body of JSON-RPC.
const rpc = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"shell"}}`

func TestRules(t *testing.T) {
	settled(t)
	up, reached := counting(t)
	s := start(t, up, func(c *Config) {
		c.Policy.Rules = []rules.Rule{
			{Name: "no deletes by guests", Deny: `request.method == "DELETE" && who.id == "guest"`},
			{Name: "not from there", Deny: `cidr("192.0.2.0/24").containsIP(source.ip)`},
			{Name: "admin", Deny: `request.path.startsWith("/admin/")`},
			{Name: "needs a header", Deny: `request.path == "/strict" && request.headers["x-mode"] == "off"`},
			{Name: "parameters", Deny: `request.path == "/q" && "1" in request.query["a"]`},
			{Name: "trusted", Allow: `request.path == "/open" && route == "shop"`},
		}
	})
	for _, c := range []struct {
		line, headers string
		status        int
		rule          string
		detail        string
	}{
		{"GET /x", "", 200, "default", ""},
		{"GET /open", "", 200, "trusted", ""},
		{"DELETE /x", "", 200, "default", ""},
		{"DELETE /x", "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("guest:secret")) + "\r\n", 403, "no deletes by guests", "the rule no deletes by guests denies it"},
		{"GET /admin/x", "", 403, "admin", ""},
		{"GET /%61dmin/x", "", 403, "admin", ""},
		// Not to be got around by what upstreams read in other ways.
		{"GET /x/../admin/x", "", 403, "admin", "the path can be read in several ways"},
		{"GET //admin/x", "", 403, "admin", "the path can be read in several ways"},
		{"GET /x%2f..%2fadmin/x", "", 403, "admin", "the path can be read in several ways"},
		{"GET /strict", "", 403, "needs a header", "it asks for a header, parameter or claim that is not there"},
		{"GET /strict", "X-Mode: on\r\n", 200, "default", ""},
		{"GET /q?a=2&a=1", "", 403, "parameters", ""},
		{"GET /q?a=2", "", 200, "default", ""},
		{"GET /q?a=%zz", "", 403, "parameters", "the query is not escaped"},
		{"POST /admin/x", "Content-Length: 5\r\n", 403, "admin", ""}, // without its body
	} {
		before, n := reached.Load(), len(s.rec.all())
		cc := dial(t, s.addr)
		cc.send(c.line + " HTTP/1.1\r\nHost: shop.example\r\n" + c.headers + "\r\n")
		head := cc.head()
		if !strings.HasPrefix(head, "HTTP/1.1 "+strconv.Itoa(c.status)+" ") || (c.status == 403) != strings.Contains(head, "Sealtap-Error: denied\r\n") {
			t.Errorf("%s: %q", c.line, head)
		}
		s.rec.wait(t, n+2)
		q, p := s.rec.last(t)
		if d := q.rec.GetRequest().GetDecision(); d.GetRule() != c.rule || d.GetAllowed() != (c.status == 200) {
			t.Errorf("%s: decision %v", c.line, d)
		}
		if c.status == 403 {
			wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_DENIED)
			if reached.Load() != before {
				t.Errorf("%s reached the upstream", c.line)
			}
		}
		if !strings.Contains(p.rec.GetResponse().GetDetail(), c.detail) {
			t.Errorf("%s: detail %q, want %q", c.line, p.rec.GetResponse().GetDetail(), c.detail)
		}
		cc.Close()
	}
}

// TestRulesOfOperations: what is asked for cannot be hidden from a rule.
func TestRulesOfOperations(t *testing.T) {
	settled(t)
	up, reached := counting(t)
	s := start(t, up, func(c *Config) {
		c.Operations = []string{} // of which none is recorded
		c.BufferLimit = 4 << 10
		c.Policy.Rules = []rules.Rule{
			{Name: "no shell", Deny: `operation.target == "shell"`},
			{Name: "no deletes", Deny: `operation.name.contains("delete")`},
			{Name: "small", Deny: `request.size > 1000`},
		}
	})
	path := "/api/mcp"
	post := func(body io.Reader, headers ...string) (int, *kept, *kept) {
		t.Helper()
		n := len(s.rec.all())
		req := request(t, "POST", s.url(path), body)
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		res, _ := get(t, client(t), req)
		s.rec.wait(t, n+2)
		q, p := s.rec.last(t)
		return res.StatusCode, q, p
	}
	other := strings.Replace(rpc, "shell", "clock", 1)
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	wide, others, methods := "", "", ""
	for _, c := range rpc {
		wide += string(c) + "\x00"
	}
	for i := range 20 {
		others += strings.Replace(other, "clock", "c"+strconv.Itoa(i), 1) + ","
		methods += `{"jsonrpc":"2.0","id":1,"method":"m` + strconv.Itoa(i) + `"},`
	}
	for _, c := range []struct {
		name   string
		body   io.Reader
		header []string
		status int
		rule   string
	}{
		{"another tool", strings.NewReader(other), nil, 200, "default"},
		{"the tool", strings.NewReader(rpc), nil, 403, "no shell"},
		{"in chunks", struct{ io.Reader }{strings.NewReader(rpc)}, nil, 403, "no shell"},
		{"behind blanks, so that it is streamed", strings.NewReader(strings.Repeat(" ", 5<<10) + rpc), nil, 403, "no shell"},
		{"compressed", strings.NewReader(rpc), []string{"Content-Encoding", "gzip"}, 403, "no shell"},
		{"named twice", strings.NewReader(strings.Replace(rpc, `"name"`, `"name":"clock","name"`, 1)), nil, 403, "no shell"},
		{"too large", strings.NewReader(strings.Replace(other, "1,", "1,"+strings.Repeat(" ", 2000), 1)), nil, 403, "small"},
		{"no body", http.NoBody, nil, 200, "default"},
		{"behind what is too deep", strings.NewReader(`{"x":` + deep + `,` + rpc[1:]), nil, 403, "no shell"},
		{"behind a comment, which some parsers skip", strings.NewReader(`{/* */` + rpc[1:]), nil, 403, "no shell"},
		{"in UTF-16, which some parsers take for JSON", strings.NewReader(wide), nil, 403, "no shell"},
		{"beside a header of Connect", strings.NewReader(rpc), []string{"Connect-Protocol-Version", "1"}, 403, "no shell"},
		{"beside a signature for S3", strings.NewReader(rpc), []string{"Authorization", "AWS4-HMAC-SHA256 Credential=A/1/eu/s3/aws4_request, Signature=x"}, 403, "no shell"},
		{"behind many others", strings.NewReader("[" + others + rpc + "]"), nil, 403, "no shell"},
		{"behind many other methods", strings.NewReader("[" + methods + strings.Replace(other, "tools/call", "delete", 1) + "]"), nil, 403, "no shell"},
		{"JSON that is none", strings.NewReader("{"), nil, 403, "no shell"},
		{"other JSON", strings.NewReader(`{"a":[1,2,{"b":null}]}`), nil, 200, "default"},
	} {
		before := reached.Load()
		status, q, p := post(c.body, c.header...)
		d := q.rec.GetRequest().GetDecision()
		if status != c.status || d.GetRule() != c.rule || d.GetAllowed() != (c.status == 200) || q.rec.GetRequest().GetOperation() != nil {
			t.Errorf("%s: %d, %v, %v", c.name, status, d, p.rec.GetResponse())
		}
		if c.status == 403 && reached.Load() != before {
			t.Errorf("%s: it reached the upstream", c.name)
		}
	}
	for _, path = range []string{"/api/m%63p", "/api//mcp"} {
		if status, _, _ := post(strings.NewReader("x"), "Content-Type", "application/grpc"); status != 403 {
			t.Errorf("gRPC with a method that servers read differently, at %s: %d", path, status)
		}
	}
	// What was read of the body of a request that is denied stands in its record.
	_, q, _ := post(strings.NewReader(rpc))
	wantBody(t, "request", q.rec.GetRequest().GetBody(), []byte(rpc))
}

// TestRulesOfRoutes: each route has its own, and none leaves no decision.
func TestRulesOfRoutes(t *testing.T) {
	settled(t)
	up, _ := counting(t)
	s := start(t, "", func(c *Config) {
		u, _ := url.Parse(up)
		c.Service = ""
		c.Pools = []Pool{{Name: "a", Targets: []*url.URL{u}}}
		c.Routes = []Route{
			{Rule: route.Rule{Prefix: "/a"}, Service: "a", Upstream: "a", Policy: Policy{DenyByDefault: true, Rules: []rules.Rule{{Name: "reads", Allow: `request.method == "GET" && route == "a"`}}}},
			{Rule: route.Rule{Prefix: "/b"}, Service: "b", Upstream: "a"},
		}
	})
	for _, c := range []struct {
		method, path string
		status       int
		rule         string
	}{{"GET", "/a", 200, "reads"}, {"PUT", "/a", 403, "default"}, {"PUT", "/b", 200, ""}} {
		n := len(s.rec.all())
		res, _ := get(t, client(t), request(t, c.method, s.url(c.path), nil))
		s.rec.wait(t, n+2)
		q, _ := s.rec.last(t)
		if d := q.rec.GetRequest().GetDecision(); res.StatusCode != c.status || d.GetRule() != c.rule {
			t.Errorf("%s %s: %d, %v", c.method, c.path, res.StatusCode, d)
		}
	}
	_, err := New(Config{Recorder: newMemory(), DigestKey: make([]byte, 16), Policy: Policy{Rules: []rules.Rule{{Name: "x", Deny: "1"}}}})
	if !errors.Is(err, ErrConfig) || !errors.Is(err, rules.ErrInvalid) {
		t.Errorf("a rule that is none: %v", err)
	}
}

// TestRulesOfForwardProxy: rules hold for tunnels too, beside those of hosts.
func TestRulesOfForwardProxy(t *testing.T) {
	settled(t)
	up, reached := counting(t)
	s := start(t, "", func(c *Config) {
		c.Forward.DenyHosts = []string{"bad.example"}
		c.Policy.Rules = []rules.Rule{
			{Name: "no tunnels by name", Deny: `request.method == "CONNECT" && request.host == "localhost" && operation.name == ""`},
			{Name: "no deletes", Deny: `request.method == "DELETE"`},
		}
	})
	host := strings.TrimPrefix(up, "http://")
	_, port, _ := net.SplitHostPort(host)
	for _, c := range []struct{ line, host, status, rule string }{
		{"GET " + up + "/", host, "200", "default"},
		{"DELETE " + up + "/", host, "403", "no deletes"},
		{"CONNECT LOCALHOST.:" + port, "LOCALHOST.:" + port, "403", "no tunnels by name"},
		{"GET http://bad.example/", "bad.example", "403", "forward.hosts.deny"},
	} {
		n, before := len(s.rec.all()), reached.Load()
		cc := dial(t, s.addr)
		cc.send(c.line + " HTTP/1.1\r\nHost: " + c.host + "\r\n\r\n")
		if head := cc.head(); !strings.HasPrefix(head, "HTTP/1.1 "+c.status) {
			t.Errorf("%s: %q", c.line, head)
		}
		s.rec.wait(t, n+2)
		q, _ := s.rec.last(t)
		if d := q.rec.GetRequest().GetDecision(); d.GetRule() != c.rule || c.status == "403" && reached.Load() != before {
			t.Errorf("%s: %v", c.line, d)
		}
		cc.Close()
	}
}

// TestRuleErrorsShowNothing: the detail of a rule that fails quotes nothing of the
// request, which can hold secrets.
func TestRuleErrorsShowNothing(t *testing.T) {
	settled(t)
	up, _ := counting(t)
	s := start(t, up, func(c *Config) {
		c.Policy.Rules = []rules.Rule{{Name: "numbers", Deny: `int(request.headers["x-api-key"]) > 5`}}
	})
	req := request(t, "GET", s.url("/"), nil)
	req.Header.Set("X-Api-Key", "hunter2hunter2")
	res, body := get(t, client(t), req)
	q, p := s.rec.last(t)
	if res.StatusCode != 403 || !strings.Contains(p.rec.GetResponse().GetDetail(), "cannot be evaluated") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	for _, k := range []*kept{q, p} {
		if bytes.Contains(k.entry, []byte("hunter2")) || bytes.Contains(k.openings, []byte("hunter2")) {
			t.Error("the record holds the key")
		}
	}
}
