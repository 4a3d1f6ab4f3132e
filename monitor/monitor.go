// Package monitor follows a log and raises an alert for everything that is wrong
// with it, or that its auditors should know, as it comes.
//
// It audits each new entry as an audit of the whole log does (package audit),
// compares the head that the log shows with those that its witnesses have seen, and
// remembers what it has alerted to, so that it says everything once.
//
// Start with [New], then call [Monitor.Run].
package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

// The codes of alerts that are no findings of an audit.
const (
	Unreachable  = "unreachable"   // the log could not be audited for a while
	Reachable    = "reachable"     // it can again
	SplitView    = "split-view"    // a witness has seen another history than the log shows
	WitnessAhead = "witness-ahead" // a witness has seen more than the log shows, for a while
	Rule         = "rule"          // a record meets a rule
)

// Alert is one thing to look at.
type Alert struct {
	Time     time.Time `json:"time"` // of the alert
	Origin   string    `json:"origin"`
	Source   string    `json:"source"`
	Code     string    `json:"code"`           // of a finding (docs/audit.md), or one of the above
	Rule     string    `json:"rule,omitempty"` // which one, with code "rule"
	Severity string    `json:"severity"`       // "finding" or "notice", as in an audit
	Index    *uint64   `json:"index,omitempty"`
	Producer string    `json:"producer,omitempty"`
	Sequence *uint64   `json:"sequence,omitempty"`
	Size     uint64    `json:"size"` // of the head under which it was found
	Detail   string    `json:"detail"`
	Heads    []string  `json:"heads,omitempty"` // signed checkpoints that prove it
}

// Config says what is followed and who is told.
type Config struct {
	Source audit.Source
	Policy *policy.Policy
	// State is the file that remembers the last head that passed. Beside it
	// STATE.alerts remembers what was alerted to, and STATE.known what is known of the
	// entries, so that a monitor that starts anew reads only what is new. It is needed.
	State string
	// Full reads everything at the first look, whatever is known.
	Full bool
	// Every is the time between two looks; 0 is 5 s.
	Every time.Duration
	// Patience is how long the log may be away, or behind a witness, before there
	// is an alert; 0 is a minute.
	Patience time.Duration
	// Sinks are told of every alert, each in its order.
	Sinks []Sink
	// Rules are asked about every new record; nil for none.
	Rules *Rules
	// HTTP asks witnesses; nil is a client of its own.
	HTTP *http.Client
	// Logger gets what the monitor itself has to say; nil means nobody does.
	Logger *slog.Logger
}

// Sink is told of alerts. Tell returns once the alert is delivered, or has failed: for
// now, if the error wraps [ErrLater], or else for good. An alert may come twice, after
// the monitor has died.
type Sink interface {
	Tell(ctx context.Context, a Alert) error
}

const (
	defaultEvery    = 5 * time.Second
	defaultPatience = time.Minute

	asking = 10 * time.Second // of witnesses
)

// Monitor follows one log.
type Monitor struct {
	cfg     Config
	log     *slog.Logger
	watch   *audit.Watch
	told    *told
	metrics *Metrics
	outlets []*outlet

	since  time.Time              // when the log was last audited
	now    atomic.Pointer[string] // why it is not audited now; nil before the first look
	away   bool                   // an alert says that it could not be
	ahead  map[string]time.Time
	events map[audit.Code]events
}

// New reads the state and prepares to follow the log.
func New(c Config) (*Monitor, error) {
	if c.Every == 0 {
		c.Every = defaultEvery
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.State == "" {
		return nil, fmt.Errorf("%w: a monitor needs a state file", audit.ErrConfig)
	}
	m := &Monitor{cfg: c, log: c.Logger, since: time.Now(), ahead: make(map[string]time.Time), events: make(map[audit.Code]events), metrics: newMetrics(), outlets: outlets(c.Sinks)}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if m.told, err = loadTold(c.State + ".alerts"); err != nil {
		return nil, err
	}
	m.takeUp()
	m.watch, err = audit.NewWatch(c.Source, audit.Options{Policy: c.Policy, State: c.State, Incremental: true, Full: c.Full})
	return m, err
}

// Metrics returns what the monitor counts.
func (m *Monitor) Metrics() *Metrics { return m.metrics }

// Ready says why the log has not been audited to its newest head, "" if it has.
// It can be called by any goroutine.
func (m *Monitor) Ready() string {
	if why := m.now.Load(); why != nil {
		return *why
	}
	return "the first audit has not come to its end"
}

// Run looks at the log again and again until the context ends, which is no error.
// It returns an error where it cannot keep its state.
func (m *Monitor) Run(ctx context.Context) error {
	for {
		if _, err := m.Look(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(m.cfg.Every):
		}
	}
}

// Look audits what is new, once, and alerts. Its errors are about the state file.
func (m *Monitor) Look(ctx context.Context) (*audit.Report, error) {
	// What a former life has left does not wait for an audit of everything.
	if err := m.deliver(ctx); err != nil {
		return nil, err
	}
	r, err := m.watch.Next(ctx)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return r, nil // it was told to stop, and concludes nothing
	}
	m.metrics.looked(r)
	why := strings.Join(r.Unfinished, "; ")
	m.now.Store(&why)
	if r.Verdict == audit.Incomplete {
		m.missed(r)
	} else {
		m.reached(r)
	}
	for _, f := range m.news(r) {
		m.alert(Alert{
			Origin: r.Origin, Code: string(f.Code), Severity: string(f.Severity), Index: f.Index, Producer: f.Producer, Sequence: f.Sequence,
			Size: r.Size, Detail: f.Detail, Heads: f.Heads,
		}, key(f))
	}
	if r.Verdict == audit.Pass {
		if err := m.match(ctx, r); err != nil {
			m.log.Warn("the rules could not be asked; they are later", "error", err)
		}
	}
	m.compareWitnesses(ctx, r)
	return r, m.deliver(ctx)
}

// news returns the findings that are to be told, unless they were. Forks and rollbacks
// stay in the reports of a life of the monitor, and each head that such a log shows
// adds one: the first is told, and the next one once there was none for a while.
func (m *Monitor) news(r *audit.Report) []audit.Finding {
	var list []audit.Finding
	count := make(map[audit.Code]int)
	for _, f := range r.Findings {
		switch {
		case f.Code == audit.UnsealedTail && f.Severity == audit.Notes:
			continue // the newest records of a log that is alive
		case f.Code == audit.Fork || f.Code == audit.Rollback:
			if count[f.Code]++; count[f.Code] <= m.events[f.Code].count {
				continue
			}
		}
		list = append(list, f)
	}
	if r.Verdict == audit.Incomplete {
		return list
	}
	for _, code := range []audit.Code{audit.Fork, audit.Rollback} {
		e := m.events[code]
		if count[code] > e.count || e.since.IsZero() {
			e.since = time.Now()
		} else if time.Since(e.since) > m.cfg.Patience {
			m.told.drop(key(audit.Finding{Code: code, Severity: audit.Finds}))
		}
		e.count = count[code]
		m.events[code] = e
	}
	return list
}

// events are the forks or rollbacks that were found.
type events struct {
	count int
	since time.Time // of the newest one, or when nobody had looked before
}

// missed notes that the log could not be audited.
func (m *Monitor) missed(r *audit.Report) {
	why := strings.Join(r.Unfinished, "; ")
	m.log.Warn("the log cannot be audited", "error", why)
	if time.Since(m.since) < m.cfg.Patience || m.away {
		return
	}
	m.away = true
	m.tell(Alert{Origin: r.Origin, Code: Unreachable, Severity: string(audit.Notes), Size: r.Size,
		Detail: fmt.Sprintf("the log could not be audited since %s: %s", m.since.UTC().Format(time.RFC3339), why)})
}

func (m *Monitor) reached(r *audit.Report) {
	if m.away {
		m.tell(Alert{Origin: r.Origin, Code: Reachable, Severity: string(audit.Notes), Size: r.Size,
			Detail: fmt.Sprintf("the log can be audited again; it could not since %s", m.since.UTC().Format(time.RFC3339))})
	}
	m.since, m.away = time.Now(), false
}

// alert tells of something once.
func (m *Monitor) alert(a Alert, key string) {
	if m.told.add(key) {
		m.tell(a)
	}
}

// compareWitnesses holds the heads that witnesses have seen against the log's.
func (m *Monitor) compareWitnesses(ctx context.Context, r *audit.Report) {
	if r.Origin == "" || r.Verdict == audit.Incomplete {
		return
	}
	for _, v := range witness.Latest(ctx, m.cfg.Policy, r.Origin, m.cfg.HTTP, asking) {
		name := v.Witness.Name
		if v.Err != nil && !errors.Is(v.Err, witness.ErrNoURL) {
			m.log.Warn("what a witness has seen is not known for certain", "witness", name, "error", v.Err)
		}
		if v.Checkpoint == nil {
			continue // the log has signed what is there, cosigned or not
		}
		same, ahead, err := m.watch.Holds(ctx, v.Checkpoint)
		switch {
		case err != nil:
			m.log.Warn("the head of a witness cannot be compared", "witness", name, "error", err)
		case ahead:
			if m.ahead[name].IsZero() {
				m.ahead[name] = time.Now()
			}
			if time.Since(m.ahead[name]) > m.cfg.Patience {
				m.alert(Alert{Origin: r.Origin, Code: WitnessAhead, Severity: string(audit.Notes), Size: r.Size, Heads: []string{string(v.Checkpoint.Note)},
					Detail: fmt.Sprintf("witness %s has seen %d entries, and the log shows %d for longer than %s: it shows us an old head, or has lost entries", name, v.Checkpoint.Size, r.Size, m.cfg.Patience)},
					WitnessAhead+" "+name)
			}
			continue
		case !same:
			m.alert(Alert{Origin: r.Origin, Code: SplitView, Severity: string(audit.Finds), Size: r.Size, Heads: []string{string(v.Checkpoint.Note), m.watch.Head()},
				Detail: fmt.Sprintf("witness %s was shown another history: its %d entries have another root than the first %d that the log shows us", name, v.Checkpoint.Size, v.Checkpoint.Size)},
				SplitView+" "+name+" "+fmt.Sprintf("%d %x", v.Checkpoint.Size, v.Checkpoint.Root))
		}
		delete(m.ahead, name)
		m.told.drop(WitnessAhead + " " + name)
	}
}
