package config

// Telemetry says who else learns of exchanges.
type Telemetry struct {
	Traces *Traces `yaml:"traces"` // without it nobody
}

// Traces configures spans of OpenTelemetry.
type Traces struct {
	OTLP        URL      `yaml:"otlp"`         // of a collector, without a path /v1/traces there; required
	HeadersFile Path     `yaml:"headers_file"` // lines NAME: VALUE to send along
	CA          Path     `yaml:"ca"`           // roots of an https collector; empty means the system's
	SampleRatio *float64 `yaml:"sample_ratio"` // of traces that begin here; without it 1
	Queue       Count    `yaml:"queue"`        // exchanges that wait; 0 means 4096
	Timeout     Period   `yaml:"timeout"`      // of one request; 0 means 10s
}

const mostTraceQueue = 1 << 20

// telemetry checks where traces go.
func (c *checker) telemetry(p *Proxy) {
	t := p.Telemetry.Traces
	if t == nil {
		return
	}
	c.needed("proxy.telemetry.traces", need{"otlp", t.OTLP.URL != nil})
	c.url("proxy.telemetry.traces.otlp", t.OTLP)
	if r := t.SampleRatio; r != nil && !(*r >= 0 && *r <= 1) {
		c.fail("proxy.telemetry.traces.sample_ratio", ": it is from 0 to 1")
	}
	if t.Queue > mostTraceQueue {
		c.fail("proxy.telemetry.traces.queue", ": it is at most %d", mostTraceQueue)
	}
	if t.CA != "" && t.OTLP.URL != nil && t.OTLP.Scheme != "https" {
		c.fail("proxy.telemetry.traces.ca", ": the collector's URL is not https")
	}
	c.timeouts("proxy.telemetry.traces", []timeout{{"timeout", t.Timeout}})
}
