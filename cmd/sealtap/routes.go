package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/proxy"
)

// defaultPause is for how long a target that cannot be connected to is left
// alone, where the configuration says that it is.
const defaultPause = 5 * time.Second

// readUpstreamTLS reads what the upstreams name: nil for one that names nothing.
func readUpstreamTLS(c *config.Proxy) ([]*tls.Config, error) {
	list := make([]*tls.Config, len(c.Upstreams))
	for i := range c.Upstreams {
		if t := c.Upstreams[i].TLS; t != nil {
			var err error
			if list[i], err = loadUpstreamTLS(fmt.Sprintf("proxy.upstreams.[%d].tls", i), t); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

func loadUpstreamTLS(key string, c *config.UpstreamTLS) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.Cert != "" {
		cert, err := tls.LoadX509KeyPair(string(c.Cert), string(c.Key))
		if err != nil {
			return nil, usagef("%s: %w", key, err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	if c.CA != "" {
		pem, err := os.ReadFile(string(c.CA))
		if err != nil {
			return nil, usagef("%s.ca: %w", key, err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usagef("%s.ca: %s holds no certificate", key, c.CA)
		}
	}
	return t, nil
}

// addRoutes gives a proxy the upstreams and routes of its configuration.
func addRoutes(p *proxy.Config, c *config.Proxy, f *proxyFiles) {
	for i := range c.Upstreams {
		p.Pools = append(p.Pools, poolConfig(&c.Upstreams[i], f.upstreamTLS[i]))
	}
	own := make(map[string]bool) // targets that routes name themselves
	for i := range c.Routes {
		r := &c.Routes[i]
		if u := r.URL(); u != nil && !own[r.Upstream] {
			own[r.Upstream] = true
			p.Pools = append(p.Pools, proxy.Pool{Name: r.Upstream, Targets: []*url.URL{u}})
		}
		p.Routes = append(p.Routes, proxy.Route{
			Rule: r.Rule(), Service: r.Service, Upstream: r.Upstream, Templates: r.Templates, SealPath: r.SealPath, StripPrefix: r.StripPrefix,
			FailOpen:  failsOpen(c, r),
			Receipts:  r.Receipts.Signed(),
			Policy:    proxy.Policy{Rules: config.RulesOf(r.Rules), DenyByDefault: r.RulesDefault == config.DefaultDeny},
			BodyBytes: int64(r.Limits.BodyBytes), BodyRate: bodyRate(r.Limits.BodyRate), Rate: rateOf(r.Rate),
			ClientBody: time.Duration(r.Timeouts.RequestBody), ClientStall: time.Duration(r.Timeouts.Write), AnswerIdle: time.Duration(r.Timeouts.ResponseIdle),
		})
	}
}

func poolConfig(u *config.Upstream, t *tls.Config) proxy.Pool {
	p := proxy.Pool{
		Name: u.Name, Balance: proxy.Balance(u.Balance), TLS: t,
		Dial: time.Duration(u.Timeouts.Connect), ResponseHeader: time.Duration(u.Timeouts.Response),
	}
	for _, t := range u.Targets {
		p.Targets = append(p.Targets, t.URL)
	}
	if h := u.Health; h != nil {
		p.Health = &proxy.Health{
			Path: h.Path, Interval: time.Duration(h.Interval), Timeout: time.Duration(h.Timeout),
			Healthy: int(h.Healthy), Unhealthy: int(h.Unhealthy), Status: int(h.Status),
		}
	}
	if u.Passive != nil {
		if p.Pause = time.Duration(u.Passive.Pause); p.Pause == 0 {
			p.Pause = defaultPause
		}
	}
	switch {
	case u.Retries != nil:
		p.Retries = int(*u.Retries)
	case len(u.Targets) > 1:
		p.Retries = 1
	}
	return p
}

// proxyAddress says where a proxy is, and how curl gets there.
func proxyAddress(c *config.Proxy) (at, url, curl string) {
	scheme := "http://"
	if c.TLS != nil {
		scheme = "https://"
	}
	if path, ok := strings.CutPrefix(c.Listen, "unix:"); ok {
		return c.Listen, scheme + "localhost", "curl --unix-socket " + path
	}
	if strings.HasPrefix(c.Listen, "fd:") {
		return c.Listen, scheme + "localhost", "curl"
	}
	at = scheme + reachable(c.Listen)
	return at, at, "curl"
}

func failsOpen(c *config.Proxy, r *config.Route) bool {
	if r.OnFailure != nil {
		return *r.OnFailure == config.FailOpen
	}
	return c.OnFailure == config.FailOpen
}
