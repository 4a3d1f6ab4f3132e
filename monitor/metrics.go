package monitor

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealtap/sealtap/audit"
)

// Metrics is what a monitor counts.
type Metrics struct {
	Registry *prometheus.Registry

	size, lastAudit prometheus.Gauge
	audits, alerts  *prometheus.CounterVec
	undelivered     prometheus.Counter
	waiting         prometheus.Gauge
}

func newMetrics() *Metrics {
	m := &Metrics{
		Registry:  prometheus.NewRegistry(),
		size:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "sealtap_monitor_size_entries", Help: "Entries of the log under the newest head that was audited."}),
		lastAudit: prometheus.NewGauge(prometheus.GaugeOpts{Name: "sealtap_monitor_last_audit_timestamp_seconds", Help: "When the log was last audited to its newest head."}),
		audits:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sealtap_monitor_audits_total", Help: "Looks at the log, by verdict."}, []string{"verdict"}),
		alerts:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sealtap_monitor_alerts_total", Help: "Alerts, by code and severity."}, []string{"code", "severity"}),
		undelivered: prometheus.NewCounter(prometheus.CounterOpts{Name: "sealtap_monitor_alerts_undelivered_total",
			Help: "Alerts that a webhook or command has not taken, and that are given up."}),
	}
	m.waiting = prometheus.NewGauge(prometheus.GaugeOpts{Name: "sealtap_monitor_alerts_waiting", Help: "Alerts that a webhook has not taken yet."})
	m.Registry.MustRegister(m.size, m.lastAudit, m.audits, m.alerts, m.undelivered, m.waiting)
	return m
}

func (m *Metrics) looked(r *audit.Report) {
	m.audits.WithLabelValues(string(r.Verdict)).Inc()
	if r.Verdict != audit.Incomplete {
		m.size.Set(float64(r.Size))
		m.lastAudit.SetToCurrentTime()
	}
}

func (m *Metrics) alerted(a Alert) {
	code := a.Code
	if a.Rule != "" {
		code = Rule
	}
	m.alerts.WithLabelValues(code, a.Severity).Inc()
}

func (m *Metrics) failed() { m.undelivered.Inc() }
