package report

import (
	"fmt"
	"time"

	"github.com/sealtap/sealtap/audit"
)

// timeline is what the drawing of the coverage is made of, in units of its view box.
type timeline struct {
	Height int
	Ticks  []tick
	Rows   []row
	Drawn  bool // there is something to draw
	Short  bool // there was more than a page can hold
}

const (
	left, right = 190.0, 985.0 // between which time runs
	top         = 26
	rowHeight   = 40
	least       = 2.5 // width of the shortest span, so that none is lost
	longestName = 26
	mostBars    = 10_000 // of a page
)

type tick struct {
	X      string
	Anchor string
	Label  string
}

type row struct {
	Name, Full string
	Note       string
	Y, Text    int
	Bars       []bar
	Marks      []mark
}

// bar is a stretch of time; Class says of what.
type bar struct {
	Class, X, Width, Title string
	Y, Height              int
}

// mark is a sign at one moment.
type mark struct {
	Class, X, Path, Title string
}

// scale maps times to places.
type scale struct{ from, to time.Time }

func (s scale) x(t time.Time) float64 {
	switch {
	case !t.After(s.from):
		return left
	case !t.Before(s.to):
		return right
	}
	return left + (right-left)*(t.Sub(s.from).Seconds()/s.to.Sub(s.from).Seconds())
}

// overlaps reports whether a stretch of time is in the drawing.
func (s scale) overlaps(from, to time.Time) bool { return !from.After(s.to) && !to.Before(s.from) }

func newTimeline(r *audit.Report) *timeline {
	t := new(timeline)
	s, ok := extent(r)
	if !ok {
		return t
	}
	for i := range 5 {
		at := s.from.Add(s.to.Sub(s.from) / 4 * time.Duration(i))
		k := tick{X: num(left + (right-left)/4*float64(i)), Anchor: "middle", Label: label(at, s)}
		switch i {
		case 0:
			k.Anchor = "start"
		case 4:
			k.Anchor = "end"
		}
		t.Ticks = append(t.Ticks, k)
	}
	y, room := top, mostBars
	for _, c := range r.Coverage {
		if len(c.Lives) > room {
			c.Lives, t.Short = c.Lives[len(c.Lives)-room:], true // the newest
		}
		x := newRow(c, s, y)
		room = max(room-len(x.Bars), 0)
		if len(x.Bars) == 0 && r.Period == nil && c.Revoked {
			continue
		}
		t.Rows = append(t.Rows, x)
		y += rowHeight
	}
	t.Height, t.Drawn = y+8, len(t.Rows) > 0
	return t
}

// extent returns which time is drawn: the period, or from the first record to the
// last, or to the time of the head.
func extent(r *audit.Report) (s scale, ok bool) {
	if r.Period != nil {
		return scale{r.Period.Since, r.Period.Until}, true
	}
	for _, c := range r.Coverage {
		for _, l := range c.Lives {
			if l.From.IsZero() {
				continue
			}
			if s.from.IsZero() || l.From.Before(s.from) {
				s.from = l.From
			}
			if l.To.After(s.to) {
				s.to = l.To
			}
		}
	}
	if at, err := time.Parse(time.RFC3339, r.CosignedAt); err == nil && !s.from.IsZero() && at.After(s.to) && at.Sub(s.to) < 366*24*time.Hour {
		s.to = at
	}
	if s.from.IsZero() {
		return s, false
	}
	if s.to.Sub(s.from) < time.Second {
		s.to = s.from.Add(time.Second)
	}
	return s, true
}

func newRow(c audit.Coverage, s scale, y int) row {
	r := row{Name: short(longestName, c.Name), Full: visible(c.Name) + ", key " + c.Key, Y: y, Text: y + 15}
	switch {
	case c.Revoked:
		r.Note = "key revoked"
	case len(c.Lives) == 0:
		r.Note = "has written nothing"
	case c.SealedUntil.IsZero():
		r.Note = "nothing sealed"
	default:
		r.Note = "sealed to " + c.SealedUntil.Format("01-02 15:04:05Z")
	}
	for i, l := range c.Lives {
		if l.From.IsZero() {
			continue
		}
		if s.overlaps(l.From, l.To) {
			r.bar("open", s, l.From, l.To, y+6, 16, fmt.Sprintf("incarnation %.8s: %d records, %s", l.Incarnation, l.Records, l.End.Text()))
		}
		if !l.SealedTo.IsZero() && s.overlaps(l.From, l.SealedTo) {
			r.bar("sealed", s, l.From, l.SealedTo, y+6, 16, fmt.Sprintf("incarnation %.8s: under seals to %s", l.Incarnation, clock(l.SealedTo)))
		}
		if i+1 < len(c.Lives) && !c.Lives[i+1].From.IsZero() && s.overlaps(l.To, c.Lives[i+1].From) {
			r.bar("down", s, l.To, c.Lives[i+1].From, y+12, 4, "not running: "+l.End.Text())
		}
		if i+1 == len(c.Lives) && s.overlaps(l.To, s.to) && (l.End == audit.Silent || l.End == audit.Stopped) {
			r.bar("down", s, l.To, s.to, y+12, 4, l.End.Text())
		}
		for _, x := range l.Spans {
			r.span(x, l, s, y)
		}
		if s.overlaps(l.To, l.To) {
			r.end(l, s, y)
		}
	}
	return r
}

func (r *row) span(x audit.Span, l audit.CoveredLife, s scale, y int) {
	to := x.To
	if to.IsZero() {
		to = l.To
	}
	if to.Before(x.From) {
		to = x.From // of a gap, whose times are what its producer says
	}
	if s.overlaps(x.From, to) {
		r.bar(string(x.Kind), s, x.From, to, y+3, 22, x.Text())
	}
}

// end draws how a life ended.
func (r *row) end(l audit.CoveredLife, s scale, y int) {
	at := s.x(l.To)
	switch l.End {
	case audit.Stopped:
		r.Marks = append(r.Marks, mark{"stop", num(at), fmt.Sprintf("M%s %dv22", num(at), y+3), "stop record at " + clock(l.To)})
	case audit.Unclean, audit.Silent:
		x0, x1 := num(at-5), num(at+5)
		r.Marks = append(r.Marks, mark{"unclean", num(at), fmt.Sprintf("M%s %dL%s %dM%s %dL%s %d", x0, y+9, x1, y+19, x0, y+19, x1, y+9), l.End.Text() + ", last record at " + clock(l.To)})
	}
}

func (r *row) bar(class string, s scale, from, to time.Time, y, height int, title string) {
	a, b := s.x(from), s.x(to)
	if b-a < least {
		if a = (a+b)/2 - least/2; a < left {
			a = left
		}
		a = min(a, right-least)
		b = a + least
	}
	r.Bars = append(r.Bars, bar{class, num(a), num(b - a), visible(title), y, height})
}

func num(f float64) string { return fmt.Sprintf("%.1f", f) }

// label writes a time as exactly as the drawing can show it.
func label(t time.Time, s scale) string {
	switch span := s.to.Sub(s.from); {
	case span < 2*time.Minute:
		return t.UTC().Format("15:04:05.0Z")
	case span < 48*time.Hour:
		return t.UTC().Format("01-02 15:04Z")
	}
	return t.UTC().Format("2006-01-02")
}
