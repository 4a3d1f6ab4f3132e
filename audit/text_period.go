package audit

import (
	"fmt"
	"time"
)

// PeriodMeaning says by which clock a record belongs to a period, in the report as
// in docs/audit.md.
const PeriodMeaning = "A record belongs to the period by the time that its producer says. Witnesses bound that time from both sides: an entry under a checkpoint " +
	"was made before that was cosigned, a record behind a beacon was made after the checkpoint in it was."

// maxLines is how many interruptions of a producer a person gets to read.
const maxLines = 10

// periodText writes what the report says about its period.
func (r *Report) periodText(line func(label, format string, args ...any)) {
	p := r.Period
	if p == nil {
		return
	}
	line("period", "%s up to before %s", minute(p.Since), minute(p.Until))
	line("", "%d records in it (%d requests, %d responses) by the clocks of their producers, at least %d of them by the witnesses' on both sides",
		p.Records, p.Requests, p.Responses, p.Within)
	for _, e := range p.Edges() {
		line("", "%s", e)
	}
	if p.Complete {
		line("complete", "yes: of every producer a seal covers the end of the period, or the operator ended its key")
	}
	for i, why := range p.Lacking {
		label := ""
		if i == 0 {
			label = "complete"
			why = "not shown: " + why
		}
		line(label, "%s", why)
	}
	for _, c := range r.Coverage {
		list := c.Interruptions(*p)
		for _, text := range list[:min(len(list), maxLines)] {
			line("coverage", "%s: %s", c.Name, text)
		}
		if more := len(list) - maxLines; more > 0 {
			line("", "and %d more of %s: see the JSON report", more, c.Name)
		}
	}
	if r.SpansOmitted > 0 {
		line("", "and %d further intervals that are not listed", r.SpansOmitted)
	}
}

// Edges says in words what witnesses say of the ends of the period.
func (p *PeriodReport) Edges() (list []string) {
	for _, e := range []struct {
		what string
		Edge
	}{{"began", p.Opens}, {"ended", p.Closes}} {
		switch {
		case e.Before != nil && e.After != nil:
			list = append(list, fmt.Sprintf("before it %s the witnesses had cosigned %d entries, at %s, and after that %d, at %s",
				e.what, e.Before.Size, minute(e.Before.CosignedAt), e.After.Size, minute(e.After.CosignedAt)))
		case e.Before != nil:
			list = append(list, fmt.Sprintf("before it %s the witnesses had cosigned %d entries, at %s", e.what, e.Before.Size, minute(e.Before.CosignedAt)))
		case e.After != nil:
			list = append(list, fmt.Sprintf("no cosigned checkpoint from before it %s is known; the first after that has %d entries, at %s", e.what, e.After.Size, minute(e.After.CosignedAt)))
		default:
			list = append(list, fmt.Sprintf("no witness says what was there when it %s: only the producers' clocks do", e.what))
		}
	}
	return list
}

// Interruptions says in words where the coverage of a producer is interrupted
// within a period.
func (c Coverage) Interruptions(p PeriodReport) (list []string) {
	scan := periodScan{Period: Period{p.Since, p.Until}}
	for i, l := range c.Lives {
		for _, x := range l.Spans {
			if scan.touches(x.From, x.To) {
				list = append(list, x.Text())
			}
		}
		if i+1 < len(c.Lives) && !l.To.IsZero() {
			if next := c.Lives[i+1].From; !next.IsZero() && scan.touches(l.To, next) {
				list = append(list, fmt.Sprintf("not running from %s to %s (%s)", moment(l.To), moment(next), l.End.Text()))
			}
		}
	}
	return list
}

// Text says what a span is.
func (x Span) Text() string {
	when := "from " + moment(x.From)
	switch {
	case x.To.IsZero():
		when += " to the end"
	case x.To.Equal(x.From):
		when = "at " + moment(x.From)
	default:
		when += " to " + moment(x.To)
	}
	switch x.Kind {
	case SpanMissing:
		return fmt.Sprintf("records %d to %d are missing, %s", x.First, x.Last, when)
	case SpanAltered:
		return fmt.Sprintf("record %d is altered, %s", x.First, when)
	case SpanGap:
		return fmt.Sprintf("%d exchanges without records, as it declares, %s: %s", x.Count, when, x.Reason)
	case SpanDown:
		return "not running " + when + " (" + Stopped.Text() + ")"
	case SpanUnsealed:
		return fmt.Sprintf("records %d to %d are under no seal, %s", x.First, x.Last, when)
	}
	return fmt.Sprintf("silent %s, for longer than its heartbeat; no record is missing there", when)
}

// Text says how a life ended.
func (e End) Text() string {
	switch e {
	case Stopped:
		return "stopped, by a stop record"
	case Unclean:
		return "ended without a stop record"
	case Silent:
		return "silent since, without a stop record"
	case Gone:
		return "no longer kept"
	}
	return "goes on"
}

func minute(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func moment(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
