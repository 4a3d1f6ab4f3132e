package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// Tracing says who keeps traces of exchanges; the zero value means nobody.
type Tracing struct {
	// Exchange learns of each exchange that is sampled, once its response record is
	// durable, and must not block. What it is given is not used again.
	Exchange func(*Trace)
	// Ratio is how many of the traces that begin here are sampled, from 0 to 1. Of
	// those that begin elsewhere the traceparent says it.
	Ratio float64
}

// Trace is an exchange in the words of those who keep traces. It holds nothing that
// is sealed by default or may hold secrets: no path, query, header or source.
type Trace struct {
	ID       [16]byte
	Span     [8]byte // of the exchange; zero if that is for whoever keeps it to say
	Parent   [8]byte // span of who asks; zero if the trace begins here
	Start    time.Time
	Duration time.Duration
	Exchange string
	Service  string
	Method   string
	Template string // of the path; empty if there is none
	Scheme   string
	Host     string // with the port, if the request has it; of what could be read only
	Protocol string // such as HTTP/1.1
	Status   int    // 0 if there was no answer
	Outcome  string
	Attempts []TraceAttempt
}

// TraceAttempt is one attempt to reach an upstream.
type TraceAttempt struct {
	Upstream string // host:port, or unix:/path
	Start    time.Time
	Duration time.Duration
	Status   int // 0 if there was no answer
}

const sampledFlag = 1 // W3C Trace Context, section 3.2.2.5

// samples reports whether a trace that begins here is sampled: by its id alone, as
// OpenTelemetry's TraceIdRatioBased does, so that proxies agree.
func (p *Proxy) samples(trace [16]byte) bool {
	t := &p.cfg.Tracing
	return t.Exchange != nil && float64(binary.BigEndian.Uint64(trace[8:])>>1) < t.Ratio*(1<<63)
}

// traced tells of an exchange whose response record is durable.
func (x *exchange) traced(outcome sealtapv1.Outcome, took time.Duration) {
	parent := x.parent
	var flags [1]byte
	if _, err := hex.Decode(flags[:], []byte(parent[53:55])); err != nil || flags[0]&sampledFlag == 0 {
		return
	}
	q := &x.st.request
	t := &Trace{
		ID: x.trace, Start: x.start, Duration: took, Exchange: x.idText, Service: q.GetService(), Method: q.GetMethod(), Template: q.GetTemplate(),
		Scheme: q.GetScheme(), Host: q.GetAuthority(), Protocol: q.GetProtocol(), Status: x.answer.status, Outcome: record.OutcomeName(outcome),
	}
	to := &t.Parent
	if x.newTrace != "" {
		to = &t.Span // what the upstream takes for its parent
	}
	_, _ = hex.Decode(to[:], []byte(parent[36:52]))
	if x.tries != nil {
		x.tries.mu.Lock()
		for i := range x.tries.notes {
			n := &x.tries.notes[i]
			took := n.took
			if took == 0 {
				took = time.Since(n.start) // it is not over
			}
			t.Attempts = append(t.Attempts, TraceAttempt{Upstream: n.upstream, Start: n.start, Duration: took, Status: n.status})
		}
		x.tries.mu.Unlock()
	}
	x.p.cfg.Tracing.Exchange(t)
}
