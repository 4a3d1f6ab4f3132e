package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/proxy/spool"
	"github.com/sealtap/sealtap/serve"
)

var errDraining = errors.New("the proxy is stopping: it finishes what is under way")

// ready returns why the proxy takes no exchanges, or nil.
func (f *proxyLife) ready() error {
	if f.draining.Load() {
		return errDraining
	}
	if err := f.spool.Ready(); err != nil {
		return err
	}
	if passesUnrecorded(f.running.Load().proxy) {
		return nil
	}
	return f.spool.Room()
}

// passesUnrecorded reports whether every exchange takes place though it cannot be
// recorded, so that a full spool keeps none away.
func passesUnrecorded(c *config.Proxy) bool {
	for i := range c.Routes {
		if !failsOpen(c, &c.Routes[i]) {
			return false
		}
	}
	return len(c.Routes) > 0 || c.OnFailure == config.FailOpen
}

// handler answers operators. Nothing that it says is about a client.
func (f *proxyLife) handler() *serve.Mux {
	mux := serve.NewMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeAdmin(w, http.StatusOK, "application/json", map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := f.ready(); err != nil {
			writeAdmin(w, http.StatusServiceUnavailable, "application/problem+json", map[string]any{
				"type": "about:blank", "title": "Not ready", "status": http.StatusServiceUnavailable, "detail": err.Error(),
			})
			return
		}
		writeAdmin(w, http.StatusOK, "application/json", map[string]string{"status": "ready"})
	})
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) {
		r := f.running.Load()
		writeAdmin(w, http.StatusOK, "application/json", map[string]string{
			"sha256": hex.EncodeToString(r.digest[:]), "since": r.since.UTC().Format(time.RFC3339Nano),
		})
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(f.registry, promhttp.HandlerOpts{}))
	return mux
}

func writeAdmin(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client is gone: nobody to tell
}

// watchSpool registers what is known of the spool and of the proxy as a whole.
func (f *proxyLife) watchSpool() error {
	var all []prometheus.Collector
	gauge := func(name, help string, v func() float64) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, v))
	}
	counter := func(name, help string, v func() float64) {
		all = append(all, prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, v))
	}
	status := func(v func(spool.Status) float64) func() float64 {
		return func() float64 { return v(f.spool.Status()) }
	}
	gauge("sealtap_proxy_in_flight", "Exchanges and tunnels under way.", func() float64 { return float64(f.live.InFlight()) })
	gauge("sealtap_proxy_ready", "1 if exchanges are taken.", func() float64 {
		if f.ready() != nil {
			return 0
		}
		return 1
	})
	gauge("sealtap_spool_bytes", "Bytes of the spool's files.", status(func(s spool.Status) float64 { return float64(s.Bytes) }))
	gauge("sealtap_spool_limit_bytes", "Bytes that the spool's files may have.", status(func(s spool.Status) float64 { return float64(s.Limit) }))
	gauge("sealtap_spool_unconfirmed_entries", "Entries that the log has taken and that are under no cosigned checkpoint yet.",
		status(func(s spool.Status) float64 { return float64(s.Waiting) }))
	counter("sealtap_spool_records_total", "Records made durable since the start.", status(func(s spool.Status) float64 { return float64(s.Records) }))
	counter("sealtap_spool_submitted_total", "Entries that the log took since the start.", status(func(s spool.Status) float64 { return float64(s.Submitted) }))
	counter("sealtap_spool_confirmed_total", "Entries found under a cosigned checkpoint since the start.", status(func(s spool.Status) float64 { return float64(s.Confirmed) }))
	counter("sealtap_spool_commits_total", "Group commits since the start.", status(func(s spool.Status) float64 { return float64(s.Commits) }))
	if f.access != nil {
		counter("sealtap_proxy_access_log_dropped_total", "Lines of the access log for which there was no room.",
			func() float64 { return float64(f.access.dropped.Load()) })
	}
	counter("sealtap_proxy_spans_total", "Spans that the collector of traces took.", func() float64 { n, _ := f.traces.count(); return float64(n) })
	counter("sealtap_proxy_spans_dropped_total", "Spans for which there was no room, or that could not be sent.",
		func() float64 { _, n := f.traces.count(); return float64(n) })
	for result, v := range map[string]func() float64{
		"good": func() float64 { return float64(f.good.Load()) },
		"bad":  func() float64 { return float64(f.bad.Load()) },
	} {
		all = append(all, prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "sealtap_proxy_reloads_total",
			Help: "Reloads of the configuration by result.", ConstLabels: prometheus.Labels{"result": result}}, v))
	}
	for _, c := range all {
		if err := f.registry.Register(c); err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}
