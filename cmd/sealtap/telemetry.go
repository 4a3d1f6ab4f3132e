package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/proxy"
	"github.com/sealtap/sealtap/proxy/telemetry"
)

// tracing is who keeps traces of a proxy.
type tracing struct {
	*telemetry.Tracer
	ratio float64
	said  said
	stop  context.CancelFunc // nil while it does not run
	users []<-chan struct{}  // closed when the proxies before the present one have ended that use it, too
}

// said is what the configuration says of traces, with the files that it names.
type said struct {
	config.Traces
	headers map[string]string
	pem     []byte
}

// newTracing prepares what the configuration says of traces: nil if it says nothing,
// and the one before if it says the same.
func newTracing(c *config.Traces, before *tracing, logger *slog.Logger) (*tracing, error) {
	if c == nil {
		return nil, nil
	}
	t := &tracing{ratio: 1, said: said{Traces: *c}}
	cfg, err := t.said.read()
	if err != nil {
		return nil, err
	}
	if before != nil && reflect.DeepEqual(before.said, t.said) {
		return before, nil
	}
	cfg.Logger = logger
	if c.SampleRatio != nil {
		t.ratio = *c.SampleRatio
	}
	t.Tracer, err = telemetry.New(context.Background(), cfg)
	return t, err
}

// read reads the files that the configuration names.
func (s *said) read() (telemetry.Config, error) {
	c := &s.Traces
	cfg := telemetry.Config{URL: c.OTLP.String(), Queue: int(c.Queue), Timeout: time.Duration(c.Timeout), Version: version}
	var err error
	if c.HeadersFile != "" {
		if s.headers, err = readHeaders("proxy.telemetry.traces.headers_file", string(c.HeadersFile)); err != nil {
			return cfg, err
		}
		cfg.Headers = s.headers
	}
	if c.CA == "" {
		return cfg, nil
	}
	if s.pem, err = os.ReadFile(string(c.CA)); err != nil {
		return cfg, usagef("proxy.telemetry.traces.ca: %w", err)
	}
	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	if !cfg.TLS.RootCAs.AppendCertsFromPEM(s.pem) {
		return cfg, usagef("proxy.telemetry.traces.ca: %s holds no certificate", c.CA)
	}
	return cfg, nil
}

// tracings are those of a proxy's life, one after the other.
type tracings struct {
	mu            sync.Mutex // guards what follows
	now           *tracing   // nil without traces
	ctx           context.Context
	running       []*tracing // now's, and those before that have not sent everything
	sent, dropped uint64     // spans of those that have ended
	runs          sync.WaitGroup
}

// current returns who keeps traces at present, or nil.
func (s *tracings) current() *tracing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// follow has next take the place of the one before, which ends once the exchanges of
// its proxy have.
func (s *tracings) follow(next *tracing, over <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.now
	if next == old {
		if old != nil {
			old.users = append(old.users, over)
		}
		return
	}
	s.now = next
	s.begin()
	if old != nil && old.stop != nil {
		users := append(old.users, over)
		s.runs.Go(func() {
			for _, over := range users {
				select {
				case <-over:
				case <-s.ctx.Done():
				}
			}
			old.stop()
		})
	}
}

// begin has the present one run, if it is time. It is called with mu held.
func (s *tracings) begin() {
	t := s.now
	if t == nil || s.ctx == nil {
		return
	}
	var ctx context.Context
	ctx, t.stop = context.WithCancel(s.ctx)
	s.running = append(s.running, t)
	s.runs.Go(func() {
		defer t.stop()
		_ = t.Run(ctx) // ends with ctx, and has no error to tell
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sent, s.dropped = s.sent+t.Sent(), s.dropped+t.Dropped()
		s.running = slices.DeleteFunc(s.running, func(o *tracing) bool { return o == t })
	})
}

// run sends spans until ctx ends.
func (s *tracings) run(ctx context.Context) error {
	s.mu.Lock()
	s.ctx = ctx
	s.begin()
	s.mu.Unlock()
	<-ctx.Done()
	s.runs.Wait()
	return nil
}

// count is how many spans were sent so far, and dropped.
func (s *tracings) count() (sent, dropped uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent, dropped = s.sent, s.dropped
	for _, t := range s.running {
		sent, dropped = sent+t.Sent(), dropped+t.Dropped()
	}
	return sent, dropped
}

// readHeaders reads a file of lines NAME: VALUE. What is wrong is said without the
// values, which are secret.
func readHeaders(key, path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("%s: %w", key, err)
	}
	headers := make(map[string]string)
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return nil, usagef("%s: %s:%d: a line reads NAME: VALUE", key, path, i+1)
		}
		headers[name] = value
	}
	return headers, nil
}

// of gives a proxy what it needs to have its exchanges traced.
func (t *tracing) of(c *proxy.Config) {
	if t != nil {
		c.Tracing = proxy.Tracing{Exchange: t.Exchange, Ratio: t.ratio}
	}
}
