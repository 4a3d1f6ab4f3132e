package monitor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrLater is wrapped by a [Sink] that could not be told of an alert now, and may be
// later. After any other error the alert is not offered to it again.
var ErrLater = errors.New("not delivered yet")

const (
	// mostAge is for how long an alert is offered to a sink that does not take it.
	mostAge = 24 * time.Hour
	// saveEvery is after how many deliveries it is remembered that they were made, and
	// so how many are repeated at most by a monitor that dies.
	saveEvery = 64
	// A sink that could not be told is left alone for that long, twice as long each
	// time.
	minAlone, maxAlone = time.Second, 5 * time.Minute
)

// undelivered is an alert that some sinks have not taken.
type undelivered struct {
	Alert Alert    `json:"alert"`
	Left  []string `json:"left"` // names of these sinks
}

// outlet is a sink and what is known of it.
type outlet struct {
	sink  Sink
	name  string    // in the state file
	alone time.Time // until then
	pause time.Duration
}

// outlets names sinks after their kind, and those of one kind by their order.
func outlets(sinks []Sink) []*outlet {
	var list []*outlet
	kinds := make(map[string]int)
	for _, s := range sinks {
		kind := fmt.Sprintf("%T", s)
		kinds[kind]++
		list = append(list, &outlet{sink: s, name: fmt.Sprintf("%s %d", kind, kinds[kind])})
	}
	return list
}

// tell has an alert delivered at the end of the look.
func (m *Monitor) tell(a Alert) {
	a.Time, a.Source = time.Now().UTC(), m.cfg.Source.String()
	m.metrics.alerted(a)
	u := undelivered{Alert: a}
	for _, o := range m.outlets {
		u.Left = append(u.Left, o.name)
	}
	m.told.Undelivered = append(m.told.Undelivered, u)
	if over := len(m.told.Undelivered) - mostTold; over > 0 {
		for _, u := range m.told.Undelivered[:over] {
			m.lost(u.Alert, fmt.Errorf("%d newer alerts wait", mostTold))
		}
		m.told.Undelivered = slices.Delete(m.told.Undelivered, 0, over)
	}
}

// lost says that an alert is given up.
func (m *Monitor) lost(a Alert, err error) {
	m.metrics.failed()
	m.log.Error("an alert could not be delivered", "code", a.Code, "detail", a.Detail, "error", err)
}

// deliver tells the sinks what they have not been told. Everything is in the state
// file before the first hears of it: a monitor that dies tells something twice, and
// forgets nothing. Errors are about that file.
func (m *Monitor) deliver(ctx context.Context) error {
	if err := m.told.save(); err != nil {
		return err
	}
	for _, o := range m.outlets {
		if time.Now().Before(o.alone) {
			continue
		}
		if err := m.deliverTo(ctx, o); err != nil {
			return err
		}
	}
	m.told.Undelivered = slices.DeleteFunc(m.told.Undelivered, func(u undelivered) bool { return len(u.Left) == 0 })
	m.metrics.waiting.Set(float64(len(m.told.Undelivered)))
	return m.told.save()
}

// deliverTo tells one sink, until it cannot be told.
func (m *Monitor) deliverTo(ctx context.Context, o *outlet) error {
	done := 0
	for i := range m.told.Undelivered {
		u := &m.told.Undelivered[i]
		at := slices.Index(u.Left, o.name)
		if at < 0 {
			continue
		}
		err := o.sink.Tell(ctx, u.Alert)
		switch later := errors.Is(err, ErrLater) || ctx.Err() != nil; {
		case err != nil && later && time.Since(u.Alert.Time) < mostAge:
			if ctx.Err() == nil {
				o.pause = min(max(2*o.pause, minAlone), maxAlone)
				o.alone = time.Now().Add(o.pause)
				m.log.Warn("an alert could not be delivered yet", "code", u.Alert.Code, "detail", u.Alert.Detail, "error", err, "again_in", o.pause.String())
			}
			return nil // those behind it wait too, and stay in order
		case err != nil:
			m.lost(u.Alert, err)
		default:
			o.pause = 0
		}
		u.Left = slices.Delete(u.Left, at, at+1)
		if done++; done%saveEvery == 0 {
			if err := m.told.save(); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeUp drops what waits for sinks that there are no more.
func (m *Monitor) takeUp() {
	for i := range m.told.Undelivered {
		u := &m.told.Undelivered[i]
		u.Left = slices.DeleteFunc(u.Left, func(name string) bool {
			return !slices.ContainsFunc(m.outlets, func(o *outlet) bool { return o.name == name })
		})
	}
}
