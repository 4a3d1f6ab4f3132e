package tlog

import "github.com/prometheus/client_golang/prometheus"

// witnessMetrics shows how far each witness of the policy is.
type witnessMetrics struct{ log *Log }

func witnessDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("sealtap_log_witness_"+name, help, []string{"witness"}, nil)
}

// Describe implements [prometheus.Collector].
func (m witnessMetrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements [prometheus.Collector].
func (m witnessMetrics) Collect(ch chan<- prometheus.Metric) {
	size := witnessDesc("size", "Entries of the latest checkpoint that the witness has cosigned.")
	lag := witnessDesc("lag", "Entries of the published checkpoint that the witness has not cosigned.")
	latency := witnessDesc("latency_seconds", "Time that the witness took for its latest cosignature.")
	failures := witnessDesc("failures_total", "Requests that the witness did not cosign.")
	back := witnessDesc("went_back_total", "How often the witness had forgotten what it had cosigned.")
	for _, w := range m.log.witnesses() {
		for _, x := range []struct {
			desc  *prometheus.Desc
			kind  prometheus.ValueType
			value float64
		}{
			{size, prometheus.GaugeValue, float64(w.Size)},
			{lag, prometheus.GaugeValue, float64(w.Lag)},
			{latency, prometheus.GaugeValue, float64(w.LatencyNS) / 1e9},
			{failures, prometheus.CounterValue, float64(w.Failures)},
			{back, prometheus.CounterValue, float64(w.WentBack)},
		} {
			ch <- prometheus.MustNewConstMetric(x.desc, x.kind, x.value, w.Name)
		}
	}
}
