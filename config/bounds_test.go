package config

import (
	"strings"
	"testing"
	"time"
)

const boundsHead = `proxy:
  listen: 127.0.0.1:0
  key: k
  log: http://127.0.0.1:1
  policy: p
  spool: s
  digest_key: d
  openings_to: [age1]
`

func TestBounds(t *testing.T) {
	f, err := Parse("c.yaml", []byte(boundsHead+`  timeouts: {request_header: 5s, response_idle: 24h}
  limits: {header_bytes: 32KiB, headers: 50, connections: 10, body_bytes: 1GiB, body_rate: 1KiB}
  rate: {per_second: 0.5, burst: 3, by: who}
  routes:
    - {service: a, upstream: "http://x", limits: {body_bytes: 5, body_rate: 0}, rate: {per_second: 10}, timeouts: {write: 3s}}
`))
	if err != nil {
		t.Fatal(err)
	}
	p := f.Proxy
	if time.Duration(p.Timeouts.RequestHeader) != 5*time.Second || p.Limits.Headers != 50 || p.Rate.PerSecond != 0.5 || p.Rate.By != "who" {
		t.Errorf("%+v, %+v, %+v", p.Timeouts, p.Limits, p.Rate)
	}
	if p.Limits.BodyRate == nil || *p.Limits.BodyRate != 1024 || p.Routes[0].Limits.BodyRate == nil || *p.Routes[0].Limits.BodyRate != 0 {
		t.Errorf("body rates %v, %v", p.Limits.BodyRate, p.Routes[0].Limits.BodyRate)
	}
	if r := p.Routes[0]; r.Limits.BodyBytes != 5 || r.Rate.PerSecond != 10 || time.Duration(r.Timeouts.Write) != 3*time.Second {
		t.Errorf("%+v", r)
	}
}

func TestBadBounds(t *testing.T) {
	for text, want := range map[string]string{
		"  timeouts: {write: 1ms}\n":                                                        "c.yaml:9: proxy.timeouts.write: it is from 10ms",
		"  timeouts: {body: 1s}\n":                                                          "c.yaml:9: proxy.timeouts: unknown key \"body\"",
		"  limits:\n    header_bytes: 100\n":                                                "c.yaml:10: proxy.limits.header_bytes: it is from 1KiB",
		"  limits:\n    header_bytes: 2KiB\n    uri_bytes: 4KiB\n":                          "c.yaml:11: proxy.limits.uri_bytes: ",
		"  limits: {header_bytes: 1KiB, headers: 1000}\n":                                   "proxy.limits.headers: there is no room",
		"  limits: {connections: -1}\n":                                                     "proxy.limits.connections: \"-1\" is not a number",
		"  limits: {connections: 2000000}\n":                                                "proxy.limits.connections: it is at most",
		"  rate: {burst: 5}\n":                                                              "c.yaml:9: proxy.rate.per_second: it is required",
		"  rate: {per_second: many}\n":                                                      "c.yaml:9: proxy.rate.per_second: \"many\" is not a number",
		"  rate: {per_second: .nan}\n":                                                      "proxy.rate.per_second: it is required, and from",
		"  rate: {per_second: 1, burst: 2000000}\n":                                         "proxy.rate.burst: it is at most",
		"  telemetry:\n    traces: {sample_ratio: 0.5}\n":                                   "proxy.telemetry.traces.otlp is required",
		"  telemetry:\n    traces: {otlp: \"http://a:b@x\"}\n":                              "c.yaml:10: proxy.telemetry.traces.otlp: a user name or password",
		"  telemetry:\n    traces: {otlp: \"http://x\", sample_ratio: 1.5}\n":               "proxy.telemetry.traces.sample_ratio: it is from 0 to 1",
		"  telemetry:\n    traces: {otlp: \"http://x\", ca: ca.pem}\n":                      "proxy.telemetry.traces.ca: the collector's URL is not https",
		"  rate: {per_second: 1, by: cookie}\n":                                             "proxy.rate.by: \"cookie\" is neither",
		"  routes:\n    - {service: a, upstream: \"http://x\", timeouts: {write: 1ms}}\n":   "proxy.routes.[0].timeouts.write: it is",
		"  routes:\n    - {service: a, upstream: \"http://x\", rate: {per_second: 0}}\n":    "proxy.routes.[0].rate.per_second: it is",
		"  routes:\n    - {service: a, upstream: \"http://x\", limits: {connections: 1}}\n": "unknown key \"connections\"",
		"  upstreams: [{name: u, targets: [\"http://x\"], timeouts: {connect: 1ms}}]\n  routes:\n    - {service: a, upstream: u}\n": "proxy.upstreams.[0].timeouts.connect: it is",
	} {
		_, err := Parse("c.yaml", []byte(boundsHead+text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
