package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"strings"
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
}

// newTracing prepares what the configuration says of traces: nil if it says nothing.
func newTracing(c *config.Traces, logger *slog.Logger) (*tracing, error) {
	if c == nil {
		return nil, nil
	}
	cfg, err := readTraces(c)
	if err != nil {
		return nil, err
	}
	cfg.Logger = logger
	t := &tracing{ratio: 1}
	if c.SampleRatio != nil {
		t.ratio = *c.SampleRatio
	}
	t.Tracer, err = telemetry.New(context.Background(), cfg)
	return t, err
}

// readTraces reads the files that the configuration names.
func readTraces(c *config.Traces) (telemetry.Config, error) {
	cfg := telemetry.Config{URL: c.OTLP.String(), Queue: int(c.Queue), Timeout: time.Duration(c.Timeout), Version: version}
	if c.HeadersFile != "" {
		var err error
		if cfg.Headers, err = readHeaders("proxy.telemetry.traces.headers_file", string(c.HeadersFile)); err != nil {
			return cfg, err
		}
	}
	if c.CA == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(string(c.CA))
	if err != nil {
		return cfg, usagef("proxy.telemetry.traces.ca: %w", err)
	}
	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	if !cfg.TLS.RootCAs.AppendCertsFromPEM(pem) {
		return cfg, usagef("proxy.telemetry.traces.ca: %s holds no certificate", c.CA)
	}
	return cfg, nil
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
