package telemetry

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/sealtap/sealtap/proxy"
)

const complete = "complete" // the outcome of what went well

// spans makes the spans of an exchange.
func (t *Tracer) spans(ctx context.Context, e *proxy.Trace) {
	if e.Parent != [8]byte{} {
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: e.ID, SpanID: e.Parent, TraceFlags: trace.FlagsSampled, Remote: true,
		}))
	} else {
		ctx = context.WithValue(ctx, idsKey{}, wanted{e.ID, e.Span})
	}
	method := knownMethod(e.Method)
	name := method
	if method == otherMethod {
		name = "HTTP" // as the conventions have it
	}
	client := name
	if e.Template != "" {
		name += " " + e.Template
	}
	ctx, s := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(e.Start), trace.WithAttributes(serverAttributes(e, method)...))
	for i, a := range e.Attempts {
		_, c := t.tracer.Start(ctx, client, trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(a.Start), trace.WithAttributes(clientAttributes(e, &a, method, i)...))
		if a.Status == 0 || a.Status >= 400 {
			c.SetStatus(codes.Error, "")
		}
		c.End(trace.WithTimestamp(a.Start.Add(a.Duration)))
	}
	if e.Status >= 500 || e.Outcome != complete && e.Outcome != "denied" && e.Outcome != "refused" {
		s.SetStatus(codes.Error, "")
	}
	s.End(trace.WithTimestamp(e.Start.Add(max(e.Duration, time.Nanosecond))))
}

func serverAttributes(e *proxy.Trace, method string) []attribute.KeyValue {
	list := []attribute.KeyValue{
		attribute.String("http.request.method", method),
		attribute.String("sealtap.exchange", e.Exchange),
		attribute.String("sealtap.outcome", e.Outcome),
	}
	list = text(list, "sealtap.service", e.Service)
	list = text(list, "http.route", e.Template)
	list = text(list, "url.scheme", e.Scheme)
	if version, ok := strings.CutPrefix(e.Protocol, "HTTP/"); ok {
		if version == "2.0" {
			version = "2" // as the conventions have it
		}
		list = append(list, attribute.String("network.protocol.version", version))
	}
	list = address(list, e.Host)
	if e.Status != 0 {
		list = append(list, attribute.Int("http.response.status_code", e.Status))
	}
	switch {
	case e.Status >= 500:
		list = append(list, attribute.String("error.type", strconv.Itoa(e.Status)))
	case e.Outcome != complete:
		list = append(list, attribute.String("error.type", e.Outcome))
	}
	return list
}

func clientAttributes(e *proxy.Trace, a *proxy.TraceAttempt, method string, resent int) []attribute.KeyValue {
	list := []attribute.KeyValue{
		attribute.String("http.request.method", method),
		attribute.String("sealtap.exchange", e.Exchange),
	}
	list = address(list, a.Upstream)
	if resent > 0 {
		list = append(list, attribute.Int("http.request.resend_count", resent))
	}
	switch {
	case a.Status == 0:
		list = append(list, attribute.String("error.type", "no-answer"))
	case a.Status >= 400:
		list = append(list, attribute.String("error.type", strconv.Itoa(a.Status)))
	}
	if a.Status != 0 {
		list = append(list, attribute.Int("http.response.status_code", a.Status))
	}
	return list
}

func text(list []attribute.KeyValue, key, value string) []attribute.KeyValue {
	if value == "" {
		return list
	}
	return append(list, attribute.String(key, value))
}

// address adds the address of a server.
func address(list []attribute.KeyValue, host string) []attribute.KeyValue {
	if path, ok := strings.CutPrefix(host, "unix:"); ok {
		return append(list, attribute.String("server.address", path), attribute.String("network.transport", "unix"))
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return text(list, "server.address", host)
	}
	list = text(list, "server.address", name)
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		list = append(list, attribute.Int("server.port", int(n)))
	}
	return list
}

const otherMethod = "_OTHER"

// knownMethod is the method if it is one of those that the conventions know: any
// other is for a client to choose, and so are the values that a collector keeps.
func knownMethod(m string) string {
	switch m {
	case http.MethodConnect, http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPatch, http.MethodPost, http.MethodPut, http.MethodTrace, "QUERY":
		return m
	}
	return otherMethod
}
