package proxy

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// Metrics is what a proxy counts. It outlives a [Proxy] that another one follows.
// Its labels are bounded by the configuration: services, and words of ours.
type Metrics struct {
	exchanges  *prometheus.Desc
	duration   *prometheus.HistogramVec
	recording  prometheus.Histogram
	unrecorded prometheus.Counter
	turned     *prometheus.CounterVec

	mu       sync.Mutex
	services map[string]*tally
}

const (
	classes  = 6 // of statuses: none, and 1xx to 5xx
	outcomes = int(sealtapv1.Outcome_OUTCOME_UNKNOWN) + 1
)

// tally counts the exchanges of one service. It is found once for a route, so
// that an exchange costs an addition and no search for labels.
type tally struct {
	counts   [classes][outcomes]atomic.Uint64
	duration prometheus.Observer
}

// NewMetrics returns metrics that are registered.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		exchanges: prometheus.NewDesc("sealtap_proxy_exchanges_total", "Exchanges that ended and are recorded.", []string{"service", "class", "outcome"}, nil),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sealtap_proxy_exchange_seconds",
			Help: "Time from a request to the end of its answer.", Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 14)}, []string{"service"}),
		recording: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sealtap_proxy_recording_seconds",
			Help: "Time that an exchange waits for a record to be durable.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 15)}),
		unrecorded: prometheus.NewCounter(prometheus.CounterOpts{Name: "sealtap_proxy_unrecorded_total",
			Help: "Records that could not be made durable: the exchange did not take place, or was cut."}),
		turned: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sealtap_proxy_refused_connections_total",
			Help: "Connections of clients that were closed at once, by the limit that they were beyond."}, []string{"limit"}),
		services: make(map[string]*tally),
	}
	for _, limit := range []string{"connections", "connections_per_client"} {
		m.turned.WithLabelValues(limit) // so that it is there from the start
	}
	for _, c := range []prometheus.Collector{m, m.duration, m.recording, m.unrecorded, m.turned} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.exchanges }

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for service, t := range m.services {
		for class := range t.counts {
			for outcome := range t.counts[class] {
				if n := t.counts[class][outcome].Load(); n > 0 {
					ch <- prometheus.MustNewConstMetric(m.exchanges, prometheus.CounterValue, float64(n),
						service, classNames()[class], record.OutcomeName(sealtapv1.Outcome(outcome)))
				}
			}
		}
	}
}

func classNames() [classes]string { return [classes]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"} }

// refuseConnection counts a connection that was not admitted.
func (m *Metrics) refuseConnection(limit string) {
	if m != nil {
		m.turned.WithLabelValues(limit).Inc()
	}
}

// service returns the tally of a service.
func (m *Metrics) service(name string) *tally {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.services[name]
	if t == nil {
		t = &tally{duration: m.duration.WithLabelValues(name)}
		m.services[name] = t
	}
	return t
}

// measure has the exchanges of a proxy counted.
func (p *Proxy) measure() {
	m := p.cfg.Metrics
	if m == nil {
		return
	}
	p.tally = m.service(p.cfg.Service)
	for i := range p.routing.routes {
		r := &p.routing.routes[i]
		r.tally = m.service(r.service)
	}
	t := timed{p.cfg.Recorder, m}
	p.cfg.Recorder = t
	if _, ok := t.Recorder.(Promiser); ok {
		p.cfg.Recorder = timedPromiser{t}
	}
}

// timed is a recorder whose time is taken.
type timed struct {
	Recorder
	m *Metrics
}

// timedPromiser is a timed recorder that makes receipts too.
type timedPromiser struct{ timed }

// RecordReceipt implements [Promiser].
func (t timedPromiser) RecordReceipt(ctx context.Context, r *sealtapv1.Record, openings []*sealtapv1.Opening) (*record.Receipt, error) {
	start := time.Now()
	receipt, err := t.Recorder.(Promiser).RecordReceipt(ctx, r, openings)
	t.took(start, err)
	return receipt, err
}

// Record implements [Recorder].
func (t timed) Record(ctx context.Context, r *sealtapv1.Record, openings []*sealtapv1.Opening) error {
	start := time.Now()
	err := t.Recorder.Record(ctx, r, openings)
	t.took(start, err)
	return err
}

func (t timed) took(start time.Time, err error) {
	t.m.recording.Observe(time.Since(start).Seconds())
	if err != nil {
		t.m.unrecorded.Inc()
	}
}

// count counts an exchange whose response record is durable.
func (x *exchange) count(outcome sealtapv1.Outcome, took time.Duration) {
	t := x.p.tally
	if x.route != nil {
		t = x.route.tally
	}
	if t == nil {
		return
	}
	class := x.answer.status / 100
	if class < 0 || class >= classes {
		class = classes - 1 // what an upstream may say beyond 599 is no success
	}
	if n := int(outcome); n >= 0 && n < outcomes {
		t.counts[class][n].Add(1)
	}
	t.duration.Observe(took.Seconds())
}
