package tlog

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealtap/sealtap/record"
)

// metrics is what the log counts.
type metrics struct {
	submissions     *prometheus.CounterVec
	entries         prometheus.Counter
	groups          prometheus.Histogram
	commitTime      prometheus.Histogram
	publishTime     prometheus.Histogram
	publishFailures prometheus.Counter
	forks           prometheus.Counter
	pruneFailures   prometheus.Counter
}

func newMetrics(l *Log) (*metrics, error) {
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	seconds := prometheus.ExponentialBuckets(0.0005, 2, 14)
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	m := &metrics{
		submissions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sealtap_log_submissions_total",
			Help: "Submissions by result."}, []string{"result"}),
		entries:         counter("sealtap_log_entries_total", "Entries stored since the start."),
		groups:          histogram("sealtap_log_commit_entries", "Entries in one commit.", prometheus.ExponentialBuckets(1, 2, 14)),
		commitTime:      histogram("sealtap_log_commit_seconds", "Time of one commit.", seconds),
		publishTime:     histogram("sealtap_log_publish_seconds", "Time from signing a checkpoint to publishing it.", seconds),
		publishFailures: counter("sealtap_log_publish_failures_total", "Checkpoints that could not be published at once."),
		forks:           counter("sealtap_log_forks_total", "Forks of producers of which evidence was kept since the start."),
		pruneFailures:   counter("sealtap_log_prune_failures_total", "Attempts to prune that failed."),
	}
	for _, c := range []prometheus.Collector{
		m.submissions, m.entries, m.groups, m.commitTime, m.publishTime, m.publishFailures, m.forks, m.pruneFailures,
		gauge("sealtap_log_minimum_index", "Index from which on all entries are kept.", func() float64 { return float64(l.Minimum()) }),
		gauge("sealtap_log_size", "Entries stored.", func() float64 { return float64(l.Size()) }),
		gauge("sealtap_log_published_size", "Entries under the published checkpoint.", func() float64 { return float64(l.Published()) }),
		gauge("sealtap_log_reading_bytes", "Bytes of requests that are being read.", func() float64 { return float64(l.bodies.used.Load()) }),
		gauge("sealtap_log_writing", "1 on the server that writes the log, 0 on others.", func() float64 {
			if l.Writing() {
				return 1
			}
			return 0
		}),
		witnessMetrics{l},
		gauge("sealtap_log_queue", "Submissions that wait.", func() float64 { return float64(l.queued.Load()) }),
	} {
		if err := l.config.Metrics.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) committed(entries int, d time.Duration) {
	if entries == 0 {
		return
	}
	m.entries.Add(float64(entries))
	m.groups.Observe(float64(entries))
	m.commitTime.Observe(d.Seconds())
}

func (m *metrics) published(d time.Duration) { m.publishTime.Observe(d.Seconds()) }

func (m *metrics) submitted(err error) {
	result := "stored"
	var fork *ForkError
	var sequence *SequenceError
	switch {
	case err == nil:
	case errors.As(err, &fork):
		result = "fork"
	case errors.As(err, &sequence):
		result = "out-of-sequence"
	case errors.Is(err, ErrBusy):
		result = "busy"
	case errors.Is(err, ErrRate):
		result = "rate"
	case errors.Is(err, ErrUnpublished):
		result = "unpublished"
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrStopped), errors.Is(err, ErrFollows):
		result = "unavailable"
	case errors.As(err, new(*ClosedError)):
		result = "closed"
	case errors.Is(err, record.ErrUnknownProducer), errors.Is(err, record.ErrRevoked), errors.Is(err, ErrSignature):
		result = "forbidden"
	default:
		result = "refused"
	}
	m.submissions.WithLabelValues(result).Inc()
}
