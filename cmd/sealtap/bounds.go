package main

import (
	"time"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/proxy"
)

// setBounds gives a proxy the timeouts, limits and rate of its configuration.
func setBounds(p *proxy.Config, c *config.Proxy) {
	t := &c.Timeouts
	p.Timeouts = proxy.Timeouts{
		Dial: time.Duration(t.Connect), ResponseHeader: time.Duration(t.Response), AnswerIdle: time.Duration(t.ResponseIdle),
		RequestHeader: time.Duration(t.RequestHeader), ClientBody: time.Duration(t.RequestBody), ClientStall: time.Duration(t.Write),
		ClientIdle: time.Duration(t.KeepAlive), TunnelIdle: time.Duration(t.TunnelIdle), Drain: time.Duration(c.Drain),
	}
	if p.Timeouts.ClientBody == 0 {
		p.Timeouts.ClientBody = defaultRequestBody // whatever write is
	}
	l := &c.Limits
	p.MaxHeaderBytes = int(l.HeaderBytes)
	p.Limits = proxy.Limits{
		Headers: int(l.Headers), URIBytes: int(l.URIBytes), BodyBytes: int64(l.BodyBytes), BodyRate: bodyRate(l.BodyRate),
		Connections: int(l.Connections), ConnectionsPerClient: int(l.ConnectionsPerClient), Exchanges: int(l.Exchanges),
	}
	p.Rate = rateOf(c.Rate)
}

const defaultRequestBody = time.Minute

// bodyRate is a rate as package proxy has it.
func bodyRate(s *config.Size) int64 {
	switch {
	case s == nil:
		return 0
	case *s == 0:
		return -1
	}
	return int64(*s)
}

func rateOf(r *config.Rate) *proxy.Rate {
	if r == nil {
		return nil
	}
	return &proxy.Rate{PerSecond: r.PerSecond, Burst: int(r.Burst), ByWho: r.By == "who"}
}
