package config

import (
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/sealtap/sealtap/proxy/rules"
)

// Rule is a rule in CEL about requests.
type Rule struct {
	Name  string `yaml:"name"`  // in records; required
	Deny  string `yaml:"deny"`  // when it denies; not beside allow
	Allow string `yaml:"allow"` // when it allows
}

// Default is what becomes of requests that no rule decides.
type Default string

// DefaultAllow lets them pass, and is the default; DefaultDeny does not.
const (
	DefaultAllow Default = "allow"
	DefaultDeny  Default = "deny"
)

// UnmarshalYAML implements [yaml.Unmarshaler].
func (d *Default) UnmarshalYAML(n *yaml.Node) error {
	switch *d = Default(n.Value); *d {
	case DefaultAllow, DefaultDeny:
		return nil
	}
	return fmt.Errorf("%q is neither allow nor deny", n.Value)
}

// RulesOf returns rules as package rules takes them.
func RulesOf(list []Rule) []rules.Rule {
	out := make([]rules.Rule, len(list))
	for i, r := range list {
		out[i] = rules.Rule(r)
	}
	return out
}

// policies checks the rules of all sections, and that they stand where they count.
func (c *checker) policies(p *Proxy) {
	forward, routes := p.Upstream.URL == nil && len(p.Routes) == 0, len(p.Routes) > 0
	own := p.Rules != nil || p.RulesDefault != ""
	switch {
	case own && routes:
		c.fail(present("proxy", p.Rules != nil), ": there are routes, and each names its rules")
	case own && forward:
		c.fail(present("proxy", p.Rules != nil), ": there is no upstream; the rules of a forward proxy are forward.rules")
	case (p.Forward.Rules != nil || p.Forward.RulesDefault != "") && !forward:
		c.fail(present("proxy.forward", p.Forward.Rules != nil), ": a proxy with an upstream is no forward proxy: its rules are proxy.rules, or those of its routes")
	}
	c.rules("proxy.rules", p.Rules)
	c.rules("proxy.forward.rules", p.Forward.Rules)
	for i := range p.Routes {
		c.rules(fmt.Sprintf("proxy.routes.[%d].rules", i), p.Routes[i].Rules)
	}
}

func present(section string, list bool) string {
	if list {
		return section + ".rules"
	}
	return section + ".rules_default"
}

func (c *checker) rules(key string, list []Rule) {
	var e *rules.Error
	if _, err := rules.Compile(RulesOf(list), false); errors.As(err, &e) {
		key = fmt.Sprintf("%s.[%d]", key, e.Index)
		if e.Key != "" {
			key += "." + e.Key
		}
		c.fail(key, ": %w", e.Err)
	}
}
