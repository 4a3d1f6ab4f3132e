package proxy

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// TestTraceparentOfTheConnection: a client that declares its traceparent to be about the
// connection gets its answer, and the upstream a trace that begins here.
func TestTraceparentOfTheConnection(t *testing.T) {
	settled(t)
	const theirs = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
	var got atomic.Value
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) { got.Store(r.Header.Get("Traceparent")) })
	var traces atomic.Int64
	s := start(t, up, func(c *Config) {
		c.Tracing = Tracing{Ratio: 1, Exchange: func(*Trace) { traces.Add(1) }}
	})
	c := dial(t, s.addr)
	c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: traceparent\r\nTraceparent: " + theirs + "\r\n\r\n")
	if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 200 ") {
		t.Errorf("%q", h)
	}
	if p, _ := got.Load().(string); p == "" || p == theirs || traces.Load() != 1 {
		t.Errorf("the upstream got %q, %d traces are kept", p, traces.Load())
	}
	q, _ := s.rec.last(t)
	if !hasChange(q, replaced, "traceparent") || hasChange(q, removed, "traceparent") {
		t.Errorf("changes %v", q.rec.GetRequest().GetChanges())
	}
}
