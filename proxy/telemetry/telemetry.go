// Package telemetry turns the exchanges of a proxy into spans of OpenTelemetry and
// sends them to a collector over OTLP/HTTP.
//
// A span of kind server stands for the exchange, and one of kind client for each
// attempt to reach an upstream, with the names of the HTTP semantic conventions
// (https://opentelemetry.io/docs/specs/semconv/http/http-spans/). Of a path only
// its template is said, of a query, headers and the source nothing.
//
// Forwarding never waits for a collector: what there is no room for, and what
// cannot be sent, is dropped and counted.
//
// Start with [New], give [Tracer.Exchange] to a proxy, and call [Tracer.Run].
package telemetry

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/sealtap/sealtap/proxy"
)

// Config says where spans go.
type Config struct {
	// URL of the collector's traces, http or https; required. Without a path it is
	// /v1/traces.
	URL string
	// Headers go with each request; nil means none.
	Headers map[string]string
	// TLS is used for https; nil means the system's roots.
	TLS *tls.Config
	// Queue is how many exchanges may wait to be sent; zero means 4096.
	Queue int
	// Timeout bounds one request; zero means 10 s.
	Timeout time.Duration
	// Version of the program, for the collector.
	Version string
	// Logger gets what goes wrong; nil means nobody does.
	Logger *slog.Logger
}

const (
	defaultQueue   = 4096
	defaultTimeout = 10 * time.Second
	batch          = 512         // exchanges
	pause          = time.Second // until a batch that is not full is sent
	complaint      = time.Minute // between two words about a collector that is down
)

// Tracer makes spans. Its methods can be called from many goroutines.
type Tracer struct {
	cfg      Config
	exporter sdk.SpanExporter
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	made     *collected
	queue    chan *proxy.Trace
	dropped  atomic.Uint64
	sent     atomic.Uint64
}

// New returns a tracer. The collector need not be there.
func New(ctx context.Context, cfg Config) (*Tracer, error) {
	if cfg.Queue <= 0 {
		cfg.Queue = defaultQueue
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	to, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("preparing traces: %w", err)
	}
	if to.Path == "" || to.Path == "/" {
		to.Path = "/v1/traces"
	}
	// Not through a proxy of the environment: that might be the one that is traced.
	transport := &http.Transport{TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute}
	exporter, err := otlptracehttp.New(ctx,
		otlptracehttp.WithEndpointURL(to.String()), otlptracehttp.WithHeaders(cfg.Headers),
		otlptracehttp.WithHTTPClient(&http.Client{Transport: transport, Timeout: cfg.Timeout}),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: cfg.Timeout / 10, MaxInterval: cfg.Timeout / 2, MaxElapsedTime: cfg.Timeout}),
	)
	if err != nil {
		return nil, fmt.Errorf("preparing traces: %w", err)
	}
	t := &Tracer{cfg: cfg, exporter: exporter, made: new(collected), queue: make(chan *proxy.Trace, cfg.Queue)}
	about := resource.NewSchemaless(attribute.String("service.name", "sealtap"), attribute.String("service.version", cfg.Version))
	t.provider = sdk.NewTracerProvider(sdk.WithSampler(sdk.AlwaysSample()), sdk.WithIDGenerator(ids{}), sdk.WithSpanProcessor(t.made), sdk.WithResource(about))
	t.tracer = t.provider.Tracer("github.com/sealtap/sealtap/proxy")
	return t, nil
}

// Exchange takes an exchange. It never blocks.
func (t *Tracer) Exchange(e *proxy.Trace) {
	select {
	case t.queue <- e:
	default:
		t.dropped.Add(spansOf(e))
	}
}

// spansOf is how many spans an exchange has.
func spansOf(e *proxy.Trace) uint64 { return 1 + uint64(len(e.Attempts)) }

// Dropped is how many spans were dropped so far.
func (t *Tracer) Dropped() uint64 { return t.dropped.Load() }

// Sent is how many spans the collector has taken so far.
func (t *Tracer) Sent() uint64 { return t.sent.Load() }

// Run sends spans until the context ends, and then those that wait, if they can be
// sent at once. It is called once.
func (t *Tracer) Run(ctx context.Context) error {
	later := context.WithoutCancel(ctx)
	defer func() { _ = t.exporter.Shutdown(later) }()
	var complained time.Time
	for {
		list, more := t.gather(ctx)
		if err := t.send(later, list); err != nil {
			if time.Since(complained) > complaint {
				complained = time.Now()
				t.cfg.Logger.Warn("traces could not be sent, and were dropped", "spans", t.Dropped(), "error", err)
			}
			if !more {
				t.forget()
			}
		}
		if !more {
			return nil
		}
	}
}

// gather returns exchanges once there are some, and reports whether more may come.
func (t *Tracer) gather(ctx context.Context) (list []*proxy.Trace, more bool) {
	var full <-chan time.Time
	for len(list) < batch {
		select {
		case e := <-t.queue:
			list = append(list, e)
			if full == nil {
				full = time.After(pause)
			}
		case <-full:
			return list, true
		case <-ctx.Done():
			for len(list) < batch {
				select {
				case e := <-t.queue:
					list = append(list, e)
				default:
					return list, false
				}
			}
			return list, true
		}
	}
	return list, true
}

// forget drops what waits.
func (t *Tracer) forget() {
	for {
		select {
		case e := <-t.queue:
			t.dropped.Add(spansOf(e))
		default:
			return
		}
	}
}

// send sends exchanges, or drops them.
func (t *Tracer) send(ctx context.Context, list []*proxy.Trace) error {
	if len(list) == 0 {
		return nil
	}
	for _, e := range list {
		t.spans(ctx, e)
	}
	spans := t.made.spans
	t.made.spans = nil
	limited, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	if err := t.exporter.ExportSpans(limited, spans); err != nil {
		t.dropped.Add(uint64(len(spans)))
		return err
	}
	t.sent.Add(uint64(len(spans)))
	return nil
}

// collected is a span processor that keeps what is given to it. Only Run's goroutine
// makes spans.
type collected struct{ spans []sdk.ReadOnlySpan }

// OnStart implements [sdk.SpanProcessor].
func (c *collected) OnStart(context.Context, sdk.ReadWriteSpan) {}

// OnEnd implements [sdk.SpanProcessor].
func (c *collected) OnEnd(s sdk.ReadOnlySpan) { c.spans = append(c.spans, s) }

// Shutdown implements [sdk.SpanProcessor].
func (c *collected) Shutdown(context.Context) error { return nil }

// ForceFlush implements [sdk.SpanProcessor].
func (c *collected) ForceFlush(context.Context) error { return nil }

// ids gives spans the ids that their context says, so that they are those of the
// traceparent that was sent on.
type ids struct{}

type idsKey struct{}

type wanted struct {
	trace [16]byte
	span  [8]byte
}

// NewIDs implements [sdk.IDGenerator].
func (g ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	w, ok := ctx.Value(idsKey{}).(wanted)
	if !ok {
		_, _ = rand.Read(w.trace[:]) // never fails
	}
	if w.span == [8]byte{} {
		w.span = g.NewSpanID(ctx, w.trace)
	}
	return w.trace, w.span
}

// NewSpanID implements [sdk.IDGenerator].
func (ids) NewSpanID(context.Context, trace.TraceID) (id trace.SpanID) {
	for !id.IsValid() {
		_, _ = rand.Read(id[:]) // never fails
	}
	return id
}
