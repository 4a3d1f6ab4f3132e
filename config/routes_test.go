package config

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

const routed = `
proxy:
  listen: unix:/run/sealtap/front.sock
  key: keys/proxy.key
  log: http://127.0.0.1:8081
  policy: policy.txt
  spool: spool
  digest_key: keys/digest.key
  openings_to: [age1x]
  upstreams:
    - name: orders
      targets: [https://10.0.0.1:9001, https://10.0.0.2:9001]
      balance: least_requests
      health: {path: /healthz, interval: 2s, timeout: 1s, healthy: 1, unhealthy: 2, status: 204}
      passive: {pause: 3s}
      tls: {ca: ca.pem, cert: us.pem, key: us.key, server_name: orders.internal}
      timeouts: {connect: 1s, response: 30s}
      retries: 2
    - name: users
      targets: ["unix:/run/users.sock", "h2c://127.0.0.1:9100"]
  routes:
    - service: orders
      host: shop.example, *.shop.example
      prefix: /api/
      methods: [GET, POST]
      upstream: orders
      templates: ["/api/orders/{id}"]
      strip_prefix: true
    - service: users
      path: /users/{id}
      upstream: users
      seal_path: true
    - service: rest
      upstream: http://127.0.0.1:9200
`

func TestRoutes(t *testing.T) {
	f, err := Parse("/etc/c.yaml", []byte(routed))
	if err != nil {
		t.Fatal(err)
	}
	p := f.Proxy
	u := p.Upstreams[0]
	if u.TLS.CA != "/etc/ca.pem" || u.TLS.Cert != "/etc/us.pem" || u.TLS.Key != "/etc/us.key" {
		t.Errorf("paths %+v", u.TLS)
	}
	if *u.Retries != 2 || p.Upstreams[1].Retries != nil || time.Duration(u.Timeouts.Response) != 30*time.Second || u.Health.Status != 204 || time.Duration(u.Passive.Pause) != 3*time.Second {
		t.Errorf("%+v", u)
	}
	if r := p.Routes[0]; len(r.Host) != 2 || r.Host[1] != "*.shop.example" || !r.StripPrefix || r.URL() != nil || len(r.Templates) != 1 {
		t.Errorf("%+v", r)
	}
	if r := p.Routes[2]; r.URL() == nil || r.URL().Host != "127.0.0.1:9200" {
		t.Errorf("%+v", r)
	}
}

// TestDocumented: the example of the documentation is good.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "```yaml\n")
	example, _, ok := strings.Cut(example, "  # key, log, policy")
	if !ok {
		t.Fatal("there is no example")
	}
	f, err := Parse("c.yaml", []byte(example+"  key: k\n  log: http://h\n  policy: p\n  spool: s\n  digest_key: d\n  openings_to: [age1x]\n"))
	if err != nil || len(f.Proxy.Routes) != 3 || len(f.Proxy.Upstreams) != 2 {
		t.Errorf("%v", err)
	}
}

func TestRouteErrors(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"upstream too", "  key: keys", "  upstream: http://h\n  key: keys", `c.yaml:4: proxy.upstream: there are routes`},
		{"service too", "  key: keys", "  service: x\n  key: keys", `c.yaml:4: proxy.service: there are routes`},
		{"same name", "name: users", "name: orders", `c.yaml:19: proxy.upstreams.[1].name: "orders" is taken`},
		{"name like a URL", "name: users", `name: "a:b"`, `c.yaml:19: proxy.upstreams.[1].name: "a:b" cannot have`},
		{"no name", "    - name: users\n      targets", "    - targets", `c.yaml:19: proxy.upstreams.[1].name is required`},
		{"no targets", `["unix:/run/users.sock", "h2c://127.0.0.1:9100"]`, "[]", `c.yaml:20: proxy.upstreams.[1].targets is required`},
		{"twice the same", "10.0.0.2", "10.0.0.1", `c.yaml:12: proxy.upstreams.[0].targets.[1]: https://10.0.0.1:9001 comes twice`},
		{"scheme", "h2c://", "ftp://", `c.yaml:20: proxy.upstreams.[1].targets.[1]: "ftp://127.0.0.1:9100" is not a target`},
		{"relative socket", "unix:/run/users.sock", "unix:users.sock", `c.yaml:20: proxy.upstreams.[1].targets.[0]: "unix:users.sock" is not a target`},
		{"password", "h2c://", "h2c://a:b@", `a user name or password does not belong`},
		{"query", "h2c://127.0.0.1:9100", "h2c://127.0.0.1:9100/?x", `only a path can stand`},
		{"balance", "least_requests", "random", `c.yaml:13: proxy.upstreams.[0].balance: "random" is not`},
		{"retries", "retries: 2", "retries: 9", `c.yaml:18: proxy.upstreams.[0].retries: it is at most 5`},
		{"health without path", "path: /healthz, ", "", `c.yaml:14: proxy.upstreams.[0].health.path is required`},
		{"health path", "path: /healthz", "path: healthz", `c.yaml:14: proxy.upstreams.[0].health.path: "healthz" is not a path`},
		{"restless", "interval: 2s", "interval: 1ms", `c.yaml:14: proxy.upstreams.[0].health.interval: it is at least`},
		{"status", "status: 204", "status: 99", `c.yaml:14: proxy.upstreams.[0].health.status: it is from`},
		{"half a certificate", "cert: us.pem, ", "", `c.yaml:16: proxy.upstreams.[0].tls: cert and key`},
		{"TLS for nothing", "https://10.0.0.1:9001, https://", "http://10.0.0.1:9001, http://", `c.yaml:16: proxy.upstreams.[0].tls: none of the targets`},
		{"no verification", "ca: ca.pem", "insecure: true", `unknown key "insecure"`},
		{"no service", "    - service: rest\n      upstream", "    - upstream", `c.yaml:33: proxy.routes.[2].service is required`},
		{"no upstream", "      upstream: http://127.0.0.1:9200\n", "", `c.yaml:33: proxy.routes.[2].upstream is required`},
		{"unknown upstream", "upstream: users", "upstream: nobody", `c.yaml:31: proxy.routes.[1].upstream: there is no upstream "nobody"`},
		{"unused upstream", "      upstream: users", "      upstream: orders", `c.yaml:19: proxy.upstreams.[1].name: no route leads to "users"`},
		{"bad URL", "upstream: http://127.0.0.1:9200", "upstream: ftp://x", `c.yaml:34: proxy.routes.[2].upstream: "ftp://x" is not a target`},
		{"host", "*.shop.example", "*shop.example", `c.yaml:23: proxy.routes.[0].host: "*shop.example" is not a host`},
		{"method", "[GET, POST]", "[GET, post]", `c.yaml:25: proxy.routes.[0].methods: "post" is not a method`},
		{"prefix", "prefix: /api/", "prefix: api", `c.yaml:24: proxy.routes.[0].prefix: "api" does not start`},
		{"pattern", "path: /users/{id}", "path: /users/{id", `c.yaml:30: proxy.routes.[1].path: "/users/{id": "{id" is not a segment`},
		{"template", "/api/orders/{id}", "/api/{id}/{id}", `c.yaml:27: proxy.routes.[0].templates.[0]: "/api/{id}/{id}": the name "id" comes twice`},
		{"strip", "      prefix: /api/\n", "", `c.yaml:27: proxy.routes.[0].strip_prefix: there is no prefix`},
		{"unreachable", "path: /users/{id}", "path: /{all...}", `c.yaml:33: proxy.routes.[2]: no request reaches it: route 2 takes all of them`},
		{"relative listener", "unix:/run/sealtap", "unix:run/sealtap", `c.yaml:3: proxy.listen: "unix:run/sealtap/front.sock" is not a socket`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(routed, c.old) {
				t.Fatalf("%q is not there", c.old)
			}
			_, err := Parse("c.yaml", []byte(strings.Replace(routed, c.old, c.new, 1)))
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line with %q", err, c.want)
			}
		})
	}
	onlyPools := routed[:strings.Index(routed, "  routes:")]
	if _, err := Parse("c.yaml", []byte(onlyPools)); err == nil || !strings.Contains(err.Error(), "c.yaml:10: proxy.upstreams: nothing leads there") {
		t.Errorf("error %v", err)
	}
}
