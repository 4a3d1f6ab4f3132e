package main

import (
	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/proxy"
)

// setPolicy says what holds for requests where there are no routes.
func setPolicy(p *proxy.Config, c *config.Proxy) {
	list, def := c.Rules, c.RulesDefault
	if c.Upstream.URL == nil {
		list, def = c.Forward.Rules, c.Forward.RulesDefault
	}
	p.Policy = proxy.Policy{Rules: config.RulesOf(list), DenyByDefault: def == config.DefaultDeny}
}
