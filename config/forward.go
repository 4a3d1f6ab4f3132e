package config

import (
	"go.yaml.in/yaml/v3"

	"github.com/sealtap/sealtap/proxy/hosts"
)

// Forward says what a forward proxy reaches, for whom, and how much of it is
// seen.
type Forward struct {
	Allow []Prefix `yaml:"allow"` // beyond the default
	Deny  []Prefix `yaml:"deny"`  // beyond the default

	Ports       []Ports    `yaml:"ports"` // none given means 80, 443 and those from 1024
	Hosts       HostRules  `yaml:"hosts"`
	RequireUser bool       `yaml:"require_user"` // nobody passes without a user of users
	Users       Path       `yaml:"users"`        // file of lines NAME HEX-SHA-256 of passwords
	SOCKS       *SOCKS     `yaml:"socks"`        // a listener for SOCKS5 beside listen
	Intercept   *Intercept `yaml:"intercept"`    // TLS that the proxy ends itself

	Rules        []Rule  `yaml:"rules"`
	RulesDefault Default `yaml:"rules_default"` // of what no rule decides; empty means allow
}

// HostRules are patterns of the hosts that clients may ask for.
type HostRules struct {
	Allow []string `yaml:"allow"` // none given means every host
	Deny  []string `yaml:"deny"`  // wins
}

// SOCKS configures a listener for SOCKS5.
type SOCKS struct {
	Listen string `yaml:"listen"` // required
}

// Intercept configures which tunnels a forward proxy ends itself.
type Intercept struct {
	CACert Path     `yaml:"ca_cert"` // required
	CAKey  Path     `yaml:"ca_key"`  // required
	Hosts  []string `yaml:"hosts"`   // required
	Except []string `yaml:"except"`
	Roots  Path     `yaml:"roots"` // verify upstreams in the place of the system's
}

// Ports is a port or a range of them.
type Ports struct{ hosts.Ports }

// UnmarshalYAML implements [yaml.Unmarshaler].
func (p *Ports) UnmarshalYAML(n *yaml.Node) error {
	var err error
	p.Ports, err = hosts.ParsePorts(n.Value)
	return err
}

func (f *Forward) resolve(at func(...*Path)) {
	at(&f.Users)
	if f.Intercept != nil {
		at(&f.Intercept.CACert, &f.Intercept.CAKey, &f.Intercept.Roots)
	}
}

// forward checks what holds for forward proxies only.
func (c *checker) forward(p *Proxy) {
	f := &p.Forward
	patterns := func(key string, list []string) {
		if _, err := hosts.Parse(list); err != nil {
			c.fail("proxy.forward."+key, ": %w", err)
		}
	}
	if p.Upstream.URL != nil || len(p.Routes) > 0 {
		for key, set := range map[string]bool{
			"ports": f.Ports != nil, "hosts": f.Hosts.Allow != nil || f.Hosts.Deny != nil, "require_user": f.RequireUser, "users": f.Users != "",
			"socks": f.SOCKS != nil, "intercept": f.Intercept != nil,
		} {
			if set {
				c.fail("proxy.forward."+key, ": a proxy with an upstream is no forward proxy: remove it, or upstream and routes")
			}
		}
	}
	patterns("hosts.allow", f.Hosts.Allow)
	patterns("hosts.deny", f.Hosts.Deny)
	if f.RequireUser && f.Users == "" {
		c.fail("proxy.forward.users", " is required with require_user")
	}
	if f.SOCKS != nil {
		c.needed("proxy.forward.socks", need{"listen", f.SOCKS.Listen != ""})
		c.address("proxy.forward.socks.listen", f.SOCKS.Listen)
	}
	if i := f.Intercept; i != nil {
		c.needed("proxy.forward.intercept", need{"ca_cert", i.CACert != ""}, need{"ca_key", i.CAKey != ""}, need{"hosts", len(i.Hosts) > 0})
		patterns("intercept.hosts", i.Hosts)
		patterns("intercept.except", i.Except)
	}
}
