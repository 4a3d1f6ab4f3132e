package config

import (
	"fmt"
	"time"
)

// ProxyTimeouts say how long a proxy waits for others.
type ProxyTimeouts struct {
	RequestHeader Period `yaml:"request_header"` // for a request's head from its first byte, and for a TLS handshake; 0 means 10s
	RequestBody   Period `yaml:"request_body"`   // without progress of a request's body; 0 means 1m
	KeepAlive     Period `yaml:"keep_alive"`     // between the requests of one connection; 0 means 2m
	Write         Period `yaml:"write"`          // for a client to make room for more of its answer; 0 means 1m
	Connect       Period `yaml:"connect"`        // to a target; 0 means 10s
	Response      Period `yaml:"response"`       // until an answer begins; 0 means 2m
	ResponseIdle  Period `yaml:"response_idle"`  // without a byte of an answer that has begun; 0 means 5m
	TunnelIdle    Period `yaml:"tunnel_idle"`    // without a byte in either direction of a tunnel; 0 means 1h
}

// RouteTimeouts take the place of those of the proxy.
type RouteTimeouts struct {
	RequestBody  Period `yaml:"request_body"`
	Write        Period `yaml:"write"`
	ResponseIdle Period `yaml:"response_idle"`
}

// ProxyLimits bound what clients can take of a proxy.
type ProxyLimits struct {
	HeaderBytes          Size  `yaml:"header_bytes"`           // of a request's head, and of an answer's; 0 means 64KiB
	Headers              Count `yaml:"headers"`                // lines of a request's head; 0 means one for each 64 bytes of header_bytes
	URIBytes             Size  `yaml:"uri_bytes"`              // of a request's target; 0 means half of header_bytes
	BodyBytes            Size  `yaml:"body_bytes"`             // of a request's body; 0 means any size
	BodyRate             *Size `yaml:"body_rate"`              // bytes a second of a body that lasts; absent means 100, 0 any
	Connections          Count `yaml:"connections"`            // of clients; 0 means 16384
	ConnectionsPerClient Count `yaml:"connections_per_client"` // of one address; 0 means 4096
	Exchanges            Count `yaml:"exchanges"`              // under way; 0 means 8192
}

// RouteLimits take the place of those of the proxy.
type RouteLimits struct {
	BodyBytes Size  `yaml:"body_bytes"`
	BodyRate  *Size `yaml:"body_rate"`
}

// Rate bounds how many requests a client makes.
type Rate struct {
	PerSecond float64 `yaml:"per_second"` // on average; required
	Burst     Count   `yaml:"burst"`      // at once; 0 means per_second, rounded up
	By        string  `yaml:"by"`         // address or who; empty means address
}

const (
	leastTimeout = Period(10 * time.Millisecond)
	mostTimeout  = Period(7 * 24 * time.Hour)

	leastHeaderBytes = 1 << 10
	mostHeaderBytes  = 1 << 20 // it is held in memory for every request
	mostConnections  = 1 << 20
	leastRate        = 0.001
	mostRate         = 1e6
)

// bounds checks timeouts, limits and rates.
func (c *checker) bounds(p *Proxy) {
	t := &p.Timeouts
	c.timeouts("proxy.timeouts", []timeout{
		{"request_header", t.RequestHeader}, {"request_body", t.RequestBody}, {"keep_alive", t.KeepAlive}, {"write", t.Write},
		{"connect", t.Connect}, {"response", t.Response}, {"response_idle", t.ResponseIdle}, {"tunnel_idle", t.TunnelIdle},
	})
	l := &p.Limits
	header := l.HeaderBytes
	switch {
	case header == 0:
		header = 64 << 10
	case header < leastHeaderBytes || header > mostHeaderBytes:
		c.fail("proxy.limits.header_bytes", ": it is from 1KiB to 1MiB")
	}
	if l.URIBytes > header {
		c.fail("proxy.limits.uri_bytes", ": it is at most header_bytes, of which the target is a part")
	}
	if Size(l.Headers) > header/4 {
		c.fail("proxy.limits.headers", ": there is no room for so many in header_bytes: at most %d", header/4)
	}
	if l.Connections > mostConnections {
		c.fail("proxy.limits.connections", ": it is at most %d", mostConnections)
	}
	if l.ConnectionsPerClient > mostConnections {
		c.fail("proxy.limits.connections_per_client", ": it is at most %d", mostConnections)
	}
	if l.Exchanges > mostConnections {
		c.fail("proxy.limits.exchanges", ": it is at most %d", mostConnections)
	}
	c.rate("proxy.rate", p.Rate)
	for i := range p.Routes {
		r, key := &p.Routes[i], fmt.Sprintf("proxy.routes.[%d]", i)
		c.timeouts(key+".timeouts", []timeout{
			{"request_body", r.Timeouts.RequestBody}, {"write", r.Timeouts.Write}, {"response_idle", r.Timeouts.ResponseIdle},
		})
		c.rate(key+".rate", r.Rate)
	}
	for i := range p.Upstreams {
		t := &p.Upstreams[i].Timeouts
		c.timeouts(fmt.Sprintf("proxy.upstreams.[%d].timeouts", i), []timeout{{"connect", t.Connect}, {"response", t.Response}})
	}
}

// timeout is a key of a section.
type timeout struct {
	key   string
	value Period
}

func (c *checker) timeouts(section string, list []timeout) {
	for _, t := range list {
		if t.value != 0 && (t.value < leastTimeout || t.value > mostTimeout) {
			c.fail(section+"."+t.key, ": it is from 10ms to 168h")
		}
	}
}

func (c *checker) rate(key string, r *Rate) {
	if r == nil {
		return
	}
	if !(r.PerSecond >= leastRate && r.PerSecond <= mostRate) {
		c.fail(key+".per_second", ": it is required, and from 0.001 to 1000000")
	}
	if r.Burst > mostRate {
		c.fail(key+".burst", ": it is at most 1000000")
	}
	if r.By != "" && r.By != "address" && r.By != "who" {
		c.fail(key+".by", ": %q is neither address nor who", r.By)
	}
}
