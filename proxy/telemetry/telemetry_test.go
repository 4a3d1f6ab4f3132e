package telemetry_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy"
	"github.com/sealtap/sealtap/proxy/route"
	"github.com/sealtap/sealtap/proxy/telemetry"
)

// collector takes spans as a collector does, and decodes them.
type collector struct {
	*httptest.Server
	mu      sync.Mutex
	raw     bytes.Buffer
	headers http.Header
	path    string
	spans   []*tracepb.Span
}

func newCollector(t *testing.T) *collector {
	c := new(collector)
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var req coltracepb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &req)
		}
		if err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%v, %v", err, r.Header)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw.Write(body)
		c.headers, c.path = r.Header, r.URL.Path
		for _, rs := range req.GetResourceSpans() {
			for _, ss := range rs.GetScopeSpans() {
				c.spans = append(c.spans, ss.GetSpans()...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

// wait returns the spans once there are n.
func (c *collector) wait(t *testing.T, n int) []*tracepb.Span {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		spans := c.spans
		c.mu.Unlock()
		if len(spans) >= n {
			return spans
		} else if time.Now().After(end) {
			t.Fatalf("there are %d spans, want %d", len(spans), n)
		}
	}
}

func attributes(s *tracepb.Span) map[string]string {
	m := make(map[string]string)
	for _, kv := range s.GetAttributes() {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			m[kv.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			m[kv.GetKey()] = fmt.Sprint(v.IntValue)
		default:
			m[kv.GetKey()] = fmt.Sprint(v)
		}
	}
	return m
}

// discards is a recorder that keeps nothing.
type discards struct{}

func (discards) Record(context.Context, *sealtapv1.Record, []*sealtapv1.Opening) error { return nil }

// start runs a tracer, and a proxy that it traces, until the test ends.
func start(t *testing.T, cfg telemetry.Config, upstream string, ratio float64) (*telemetry.Tracer, string) {
	t.Helper()
	tracer, err := telemetry.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	p, err := proxy.New(proxy.Config{
		Recorder: discards{}, DigestKey: []byte("0123456789abcdef"), Tracing: proxy.Tracing{Exchange: tracer.Exchange, Ratio: ratio},
		Pools:  []proxy.Pool{{Name: "up", Targets: []*url.URL{target}}},
		Routes: []proxy.Route{{Service: "users", Upstream: "up", Templates: []string{"/users/{id}"}, Rule: route.Rule{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, run := range []func() error{func() error { return p.Run(ctx, l) }, func() error { return tracer.Run(ctx) }} {
		wg.Go(func() {
			if err := run(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return tracer, "http://" + l.Addr().String()
}

func ask(t *testing.T, method, address, traceparent string) *http.Response {
	t.Helper()
	req, err := http.NewRequest(method, address, strings.NewReader("body-secret"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer header-secret")
	req.Header.Set("Cookie", "a=cookie-secret")
	if traceparent != "" {
		req.Header.Set("Traceparent", traceparent)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	res.Body.Close()
	return res
}

// TestSpans: what a collector gets of an exchange, and what it does not.
func TestSpans(t *testing.T) {
	var mu sync.Mutex
	seen := ""
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = r.Header.Get("Traceparent")
		mu.Unlock()
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer up.Close()
	c := newCollector(t)
	tracer, at := start(t, telemetry.Config{URL: c.URL, Headers: map[string]string{"X-Tenant": "t1"}, Version: "v9"}, up.URL, 1)
	_, port, _ := net.SplitHostPort(up.Listener.Addr().String())

	// One trace begins here: the upstream's parent is the span of the exchange.
	res := ask(t, "GET", at+"/users/path-secret?q=query-secret", "")
	spans := c.wait(t, 2)
	client, server := spans[0], spans[1]
	a, b := attributes(server), attributes(client)
	mu.Lock()
	if want := "00-" + hex.EncodeToString(server.GetTraceId()) + "-" + hex.EncodeToString(server.GetSpanId()) + "-01"; seen != want {
		t.Errorf("the upstream got %s, want %s", seen, want)
	}
	mu.Unlock()
	if server.GetName() != "GET /users/{id}" || server.GetKind() != tracepb.Span_SPAN_KIND_SERVER || len(server.GetParentSpanId()) != 0 || server.GetEndTimeUnixNano() <= server.GetStartTimeUnixNano() {
		t.Errorf("server: %v", server)
	}
	if client.GetName() != "GET" || client.GetKind() != tracepb.Span_SPAN_KIND_CLIENT || !bytes.Equal(client.GetParentSpanId(), server.GetSpanId()) || !bytes.Equal(client.GetTraceId(), server.GetTraceId()) ||
		client.GetStartTimeUnixNano() < server.GetStartTimeUnixNano() || client.GetEndTimeUnixNano() > server.GetEndTimeUnixNano() {
		t.Errorf("client: %v, of %v", client, server)
	}
	for key, want := range map[string]string{
		"http.request.method": "GET", "http.route": "/users/{id}", "http.response.status_code": "200", "url.scheme": "http", "network.protocol.version": "1.1",
		"server.address": "127.0.0.1", "sealtap.exchange": res.Header.Get("Sealtap-Exchange"), "sealtap.outcome": "complete", "sealtap.service": "users", "error.type": "",
	} {
		if a[key] != want {
			t.Errorf("server: %s is %q, want %q", key, a[key], want)
		}
	}
	if b["server.port"] != port || b["http.response.status_code"] != "200" || b["sealtap.exchange"] != a["sealtap.exchange"] {
		t.Errorf("client: %v", b)
	}

	// Another one is kept, and an error is one.
	ask(t, "PUT", at+"/users/path-secret?q=query-secret", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	spans = c.wait(t, 4)
	if s := spans[3]; hex.EncodeToString(s.GetTraceId()) != "0af7651916cd43dd8448eb211c80319c" || hex.EncodeToString(s.GetParentSpanId()) != "b7ad6b7169203331" ||
		s.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR || attributes(s)["error.type"] != "500" {
		t.Errorf("%v", s)
	}
	mu.Lock()
	if seen != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" {
		t.Errorf("the upstream got %s", seen)
	}
	mu.Unlock()

	// What is not sampled leaves nothing; methods that nobody knows are one.
	ask(t, "GET", at+"/", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
	ask(t, "METHODSECRET", at+"/", "")
	spans = c.wait(t, 6)
	if s := spans[5]; s.GetName() != "HTTP" || attributes(s)["http.request.method"] != "_OTHER" {
		t.Errorf("%v", s)
	}
	for end := time.Now().Add(10 * time.Second); tracer.Sent() < 6 && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // the collector has them before the tracer knows
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, secret := range []string{"secret", "METHODSECRET", "127.0.0.1:", "Bearer"} {
		if bytes.Contains(c.raw.Bytes(), []byte(secret)) {
			t.Errorf("the collector was told of %q", secret)
		}
	}
	if len(c.spans) != 6 || c.path != "/v1/traces" || c.headers.Get("X-Tenant") != "t1" || tracer.Dropped() != 0 || tracer.Sent() != 6 {
		t.Errorf("%d spans to %s, %d sent, %d dropped, %v", len(c.spans), c.path, tracer.Sent(), tracer.Dropped(), c.headers)
	}
}

// TestUnsampled: a ratio of none keeps no trace, and marks none.
func TestUnsampled(t *testing.T) {
	seen := make(chan string, 1)
	up := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("Traceparent") }))
	defer up.Close()
	_, at := start(t, telemetry.Config{URL: "http://127.0.0.1:1"}, up.URL, 0)
	ask(t, "GET", at+"/", "")
	if got := <-seen; !strings.HasSuffix(got, "-00") {
		t.Error(got)
	}
}

// TestCollectorDown: a collector that is not there, or that never answers, costs
// spans and nothing else.
func TestCollectorDown(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer up.Close()
	hung, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never reads
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, address := range map[string]string{"hung": hung.Addr().String(), "closed": closed.Addr().String()} {
		tracer, at := start(t, telemetry.Config{URL: "http://" + address, Queue: 10, Timeout: 3 * time.Second}, up.URL, 1)
		begun := time.Now()
		for range 700 { // a batch, the queue, and more
			ask(t, "GET", at+"/", "")
		}
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("%s: 700 requests took %v", name, took)
		}
		for end := time.Now().Add(20 * time.Second); tracer.Dropped() == 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: nothing was counted as dropped", name)
			}
		}
	}
}
