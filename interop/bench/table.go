package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// row is one line of the table: what was measured, against what, and the goal.
type row struct {
	what   string
	ours   string
	peer   string
	result []float64 // of each round: a ratio, or the figure itself
	unit   string    // of the result; empty for a ratio
	goal   float64
	most   bool // the goal is the most that it may be
}

func (r row) met() bool {
	m := median(r.result)
	return r.most && m <= r.goal || !r.most && m >= r.goal
}

// text is the median of the rounds and their range.
func (r row) text() string {
	return fmt.Sprintf("%s (%s–%s)", number(median(r.result), r.unit), number(slices.Min(r.result), ""), number(slices.Max(r.result), r.unit))
}

func (r row) goalText() string {
	sign := "≥"
	if r.most {
		sign = "≤"
	}
	return sign + " " + number(r.goal, r.unit)
}

func number(v float64, unit string) string {
	switch {
	case unit == "" && v < 100:
		return fmt.Sprintf("%.2f", v)
	case v >= 10000:
		return fmt.Sprintf("%.1f k%s", v/1000, unit)
	case unit == "":
		return fmt.Sprintf("%.0f", v)
	case v < 10:
		return fmt.Sprintf("%.2f %s", v, unit)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

// report gathers rows, and remarks that stand under the table.
type report struct {
	rows    []row
	remarks []string
	probes  []probe
}

func (r *report) add(x ...row) { r.rows = append(r.rows, x...) }

func (r *report) remark(format string, args ...any) {
	r.remarks = append(r.remarks, fmt.Sprintf(format, args...))
}

// print writes the table.
func (r *report) print(w io.Writer) {
	cells := [][]string{{"what", "sealtap", "peer", "median (range)", "goal", ""}}
	missed := 0
	for _, x := range r.rows {
		verdict := "met"
		if !x.met() {
			verdict = "MISSED"
			missed++
		}
		cells = append(cells, []string{x.what, x.ours, x.peer, x.text(), x.goalText(), verdict})
	}
	width := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, c := range line {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	fmt.Fprintln(w)
	for n, line := range cells {
		for i, c := range line {
			line[i] = c + strings.Repeat(" ", width[i]-len([]rune(c)))
		}
		fmt.Fprintln(w, strings.TrimRight(strings.Join(line, "  "), " "))
		if n == 0 {
			total := 2 * (len(width) - 1)
			for _, x := range width {
				total += x
			}
			fmt.Fprintln(w, strings.Repeat("─", total))
		}
	}
	fmt.Fprintf(w, "\n%d of %d goals met; %d missed.\n", len(r.rows)-missed, len(r.rows), missed)
	for _, s := range r.remarks {
		fmt.Fprintln(w, "- "+s)
	}
	if len(r.probes) > 0 {
		by := func(a, b probe) int { return int(a.rate - b.rate) }
		lo, hi := slices.MinFunc(r.probes, by), slices.MaxFunc(r.probes, by)
		fmt.Fprintf(w, "- disk, 4 KiB fdatasync into a preallocated file, %d probes between the rounds: %.0f to %.0f a second (p50 %v to %v)\n",
			len(r.probes), lo.rate, hi.rate, hi.p50.Round(time.Microsecond), lo.p50.Round(time.Microsecond))
	}
}

func perSecond(v float64) string { return number(v, "/s") }

func micros(d time.Duration) string {
	if d >= 10*time.Millisecond {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
