package config

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sealtap/sealtap/proxy/route"
)

// Upstream is a pool of targets that answer alike.
type Upstream struct {
	Name     string       `yaml:"name"`     // how routes call it; required
	Targets  []Target     `yaml:"targets"`  // from 1 to 64; required
	Balance  string       `yaml:"balance"`  // round_robin or least_requests; empty means the first
	Health   *Health      `yaml:"health"`   // active checks; without it none
	Passive  *Passive     `yaml:"passive"`  // what failing to connect means; without it nothing
	TLS      *UpstreamTLS `yaml:"tls"`      // of https targets; without it the system's roots
	Timeouts Timeouts     `yaml:"timeouts"` // of the upstream
	Retries  *Count       `yaml:"retries"`  // further attempts, where safe; without it 1 if there are several targets, or else 0
}

// Health says how targets are checked.
type Health struct {
	Path      string `yaml:"path"`      // asked for with GET; required
	Interval  Period `yaml:"interval"`  // 0 means 5s
	Timeout   Period `yaml:"timeout"`   // 0 means 2s
	Healthy   Count  `yaml:"healthy"`   // good checks in a row; 0 means 2
	Unhealthy Count  `yaml:"unhealthy"` // bad checks in a row; 0 means 3
	Status    Count  `yaml:"status"`    // of a good answer; 0 means 200
}

// Passive says what follows from a target that cannot be connected to.
type Passive struct {
	Pause Period `yaml:"pause"` // it is left alone for so long, while others are there; 0 means 5s
}

// UpstreamTLS says whom an upstream trusts and is trusted as.
type UpstreamTLS struct {
	CA         Path   `yaml:"ca"`          // roots; empty means the system's
	Cert       Path   `yaml:"cert"`        // shown to the upstream
	Key        Path   `yaml:"key"`         // of cert
	ServerName string `yaml:"server_name"` // that the certificate must have; empty means the target's host
}

// Timeouts of an upstream.
type Timeouts struct {
	Connect  Period `yaml:"connect"`  // 0 means what the proxy's is
	Response Period `yaml:"response"` // until an answer begins; 0 means what the proxy's is
}

// Route says which requests go where. The first that fits takes a request.
type Route struct {
	Service     string   `yaml:"service"`      // name in records; required
	Host        Hosts    `yaml:"host"`         // without it any
	Prefix      string   `yaml:"prefix"`       // of paths
	Path        string   `yaml:"path"`         // pattern for whole paths; not beside prefix
	Methods     []string `yaml:"methods"`      // without it all
	Upstream    string   `yaml:"upstream"`     // name of a pool, or a target; required
	Templates   []string `yaml:"templates"`    // patterns of which the first that fits stands in records
	SealPath    bool     `yaml:"seal_path"`    // paths are sealed
	StripPrefix bool     `yaml:"strip_prefix"` // prefix is cut from the paths that go on
	OnFailure   *Failure `yaml:"on_failure"`   // without it as for the proxy
	Receipts    Receipts `yaml:"receipts"`     // signed: answers carry receipts

	Timeouts RouteTimeouts `yaml:"timeouts"`
	Limits   RouteLimits   `yaml:"limits"`
	Rate     *Rate         `yaml:"rate"` // of each client, beside that of the proxy; without it any

	Rules        []Rule  `yaml:"rules"`
	RulesDefault Default `yaml:"rules_default"` // of what no rule decides; empty means allow
}

// Rule returns what decides whether the route takes a request.
func (r *Route) Rule() route.Rule {
	return route.Rule{Hosts: r.Host, Prefix: r.Prefix, Path: r.Path, Methods: r.Methods}
}

// URL returns the target that the route names instead of a pool, or nil.
func (r *Route) URL() *url.URL {
	if !strings.Contains(r.Upstream, ":") {
		return nil
	}
	u, err := parseTarget(r.Upstream)
	if err != nil {
		return nil
	}
	return u
}

// Target is the URL of an upstream: http, https, h2c, or unix:/path/to/socket.
type Target struct{ *url.URL }

// Hosts are names, with commas between them.
type Hosts []string

// UnmarshalYAML implements [yaml.Unmarshaler].
func (t *Target) UnmarshalYAML(n *yaml.Node) error {
	var err error
	t.URL, err = parseTarget(n.Value)
	return err
}

func parseTarget(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
	case u.User != nil:
		return nil, errors.New("a user name or password does not belong into the URL")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("only a path can stand behind the host")
	case u.Scheme == "unix" && u.Host == "" && filepath.IsAbs(u.Path), (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "h2c") && u.Host != "":
		return u, nil
	}
	return nil, fmt.Errorf("%q is not a target such as http://127.0.0.1:9000, https://…, h2c://… or unix:/run/shop.sock", s)
}

// UnmarshalYAML implements [yaml.Unmarshaler].
func (h *Hosts) UnmarshalYAML(n *yaml.Node) error {
	for _, name := range strings.Split(n.Value, ",") {
		*h = append(*h, strings.TrimSpace(name))
	}
	return nil
}

func (p *Proxy) resolveUpstreams(at func(...*Path)) {
	for i := range p.Upstreams {
		if t := p.Upstreams[i].TLS; t != nil {
			at(&t.CA, &t.Cert, &t.Key)
		}
	}
}

const (
	mostTargets   = 64
	mostRetries   = 5
	leastInterval = 100_000_000
)

// routes checks upstreams and routes.
func (c *checker) routes(p *Proxy) {
	if len(p.Routes) == 0 {
		if len(p.Upstreams) > 0 {
			c.fail("proxy.upstreams", ": nothing leads there: routes do")
		}
		return
	}
	if p.Upstream.URL != nil {
		c.fail("proxy.upstream", ": there are routes, and each names its upstream")
	}
	if p.Service != "" {
		c.fail("proxy.service", ": there are routes, and each names its service")
	}
	used := make(map[string]bool)
	for i := range p.Upstreams {
		key := fmt.Sprintf("proxy.upstreams.[%d]", i)
		u := &p.Upstreams[i]
		c.upstream(key, u)
		if _, taken := used[u.Name]; taken {
			c.fail(key+".name", ": %q is taken", u.Name)
		}
		used[u.Name] = false
	}
	rules := make([]route.Rule, len(p.Routes))
	for i := range p.Routes {
		c.route(fmt.Sprintf("proxy.routes.[%d]", i), &p.Routes[i], used)
		rules[i] = p.Routes[i].Rule()
	}
	var e *route.RuleError
	if _, err := route.NewTable(rules); errors.As(err, &e) {
		key := fmt.Sprintf("proxy.routes.[%d]", e.Index)
		if e.Key != "" {
			key += "." + e.Key
		}
		c.fail(key, ": %w", e.Err)
	}
	for i := range p.Upstreams {
		if !used[p.Upstreams[i].Name] {
			c.fail(fmt.Sprintf("proxy.upstreams.[%d].name", i), ": no route leads to %q", p.Upstreams[i].Name)
		}
	}
}

func (c *checker) route(key string, r *Route, used map[string]bool) {
	c.needed(key, need{"service", r.Service != ""}, need{"upstream", r.Upstream != ""})
	if strings.Contains(r.Upstream, ":") {
		if _, err := parseTarget(r.Upstream); err != nil {
			c.fail(key+".upstream", ": %w", err)
		}
	} else if _, ok := used[r.Upstream]; !ok {
		c.fail(key+".upstream", ": there is no upstream %q among proxy.upstreams", r.Upstream)
	} else {
		used[r.Upstream] = true
	}
	for i, text := range r.Templates {
		if _, err := route.ParsePattern(text); err != nil {
			c.fail(fmt.Sprintf("%s.templates.[%d]", key, i), ": %w", err)
		}
	}
	if r.StripPrefix && r.Prefix == "" {
		c.fail(key+".strip_prefix", ": there is no prefix")
	}
}

func (c *checker) upstream(key string, u *Upstream) {
	c.needed(key, need{"name", u.Name != ""}, need{"targets", len(u.Targets) > 0})
	if strings.ContainsAny(u.Name, ": /") {
		c.fail(key+".name", ": %q cannot have colons, slashes and spaces, or it could be a URL", u.Name)
	}
	if len(u.Targets) > mostTargets {
		c.fail(key+".targets", ": there are %d, and at most %d can be", len(u.Targets), mostTargets)
	}
	secure := false
	for i, t := range u.Targets {
		secure = secure || t.Scheme == "https"
		if slices.ContainsFunc(u.Targets[:i], func(o Target) bool { return o.String() == t.String() }) {
			c.fail(fmt.Sprintf("%s.targets.[%d]", key, i), ": %s comes twice", t)
		}
	}
	if u.Balance != "" && u.Balance != "round_robin" && u.Balance != "least_requests" {
		c.fail(key+".balance", ": %q is not round_robin or least_requests", u.Balance)
	}
	if u.Retries != nil && *u.Retries > mostRetries {
		c.fail(key+".retries", ": it is at most %d", mostRetries)
	}
	if h := u.Health; h != nil {
		c.health(key+".health", h)
	}
	if t := u.TLS; t != nil {
		if !secure {
			c.fail(key+".tls", ": none of the targets is https")
		}
		if (t.Cert == "") != (t.Key == "") {
			c.fail(key+".tls", ": cert and key belong together")
		}
	}
}

func (c *checker) health(key string, h *Health) {
	c.needed(key, need{"path", h.Path != ""})
	if h.Path != "" {
		if _, err := http.NewRequest(http.MethodGet, "http://x"+h.Path, nil); err != nil || h.Path[0] != '/' {
			c.fail(key+".path", ": %q is not a path such as /healthz", h.Path)
		}
	}
	if h.Interval != 0 && h.Interval < leastInterval {
		c.fail(key+".interval", ": it is at least 100ms")
	}
	if h.Status != 0 && (h.Status < 200 || h.Status > 599) {
		c.fail(key+".status", ": it is from 200 to 599")
	}
}
