package audit

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

const columns = 80

// textLimit is how many findings of a kind a person gets to read: one cause can
// have many effects, and the other causes must not drown in them.
const textLimit = 5

// Text returns the report for people, at most 80 columns wide.
func (r *Report) Text() string {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		b.WriteString(wrap(fmt.Sprintf("%-10s ", label), fmt.Sprintf(format, args...), 11))
	}
	line("verdict", "%s", strings.ToUpper(string(r.Verdict)))
	line("log", "%s (%s)", r.Origin, r.Source)
	line("head", "%d entries, root %s", r.Size, r.Root)
	if len(r.CosignedBy) > 0 {
		at := ""
		if r.CosignedAt != "" {
			at = ", the quorum by " + r.CosignedAt
		}
		line("cosigned", "by %s%s", strings.Join(r.CosignedBy, ", "), at)
	}
	if name, _, ok := strings.Cut(r.Operator, "+"); ok {
		line("operator", "%s: %s", name, r.Statements.text())
	}
	if k := r.Known; k != nil && k.Ended {
		line("known", "entries below %d were verified on %s and not read again (--full reads everything)", k.Entries, k.At)
	} else if k != nil {
		line("known", "entries below %d were read up to %s by an audit that was interrupted, which this one goes on from", k.Entries, k.At)
	} else if r.ReadAnew != "" {
		line("known", "nothing: everything was read anew, since %s", r.ReadAnew)
	}
	called := r.names()
	r.periodText(line)
	for _, p := range r.Producers {
		line("producer", "%s: %d records, %d sealed, %s to %s", called(p.Name, p.Key), p.Records, p.Sealed, p.First, p.Last)
	}
	shown := make(map[string]int)
	more := make(map[Code]int)
	for c, n := range r.Omitted {
		more[c] = n
	}
	for _, x := range r.Findings {
		kind := string(x.Severity) + string(x.Code)
		if shown[kind]++; shown[kind] > textLimit {
			more[x.Code]++
			continue
		}
		mark := "FOUND "
		if x.Severity == Notes {
			mark = "notice "
		}
		place := ""
		if x.Index != nil {
			place = fmt.Sprintf(" at index %d", *x.Index)
		}
		if x.Producer != "" && x.Sequence != nil {
			place += fmt.Sprintf(" (%s, sequence %d)", called(x.Producer, x.ProducerKey), *x.Sequence)
		}
		b.WriteString("\n" + wrap("", mark+string(x.Code)+place, 2) + wrap("  ", x.Detail, 2))
	}
	for _, c := range slices.Sorted(maps.Keys(more)) {
		b.WriteString("\n" + wrap("", fmt.Sprintf("and %d more of %s: see the JSON report", more[c], c), 2))
	}
	for _, u := range r.Unfinished {
		b.WriteString("\n" + wrap("", "could not be checked", 2) + wrap("  ", u, 2))
	}
	b.WriteString("\n")
	c := r.Checked
	if r.TreeOnly {
		line("checked", "%d entries, %d tiles, in %s", c.Entries, c.Tiles, r.Duration.Round(time.Millisecond))
		line("", "%s", r.conclusion())
		return b.String()
	}
	line("checked", "%d entries (%d records, %d seals, %d key changes), %d tiles, %d beacons, %d records bounded in time on both sides, in %s",
		c.Entries, c.Records, c.Seals, c.KeyChanges, c.Tiles, c.Beacons, c.Bracketed, r.Duration.Round(time.Millisecond))
	if c.Sides+c.SidesUnpaired > 0 {
		line("", "%d exchanges compared at two proxies on one path, %d could not be", c.Sides, c.SidesUnpaired)
	}
	line("", "%s", r.conclusion())
	return b.String()
}

// names returns what a producer is called: by its name, and where a name has had two
// keys, as after a rotation, by the beginning of the key's identifier too.
func (r *Report) names() func(name, key string) string {
	first, several := make(map[string]string), make(map[string]bool)
	see := func(name, key string) {
		if k, ok := first[name]; ok && k != key {
			several[name] = true
		}
		first[name] = key
	}
	for _, p := range r.Producers {
		see(p.Name, p.Key)
	}
	for _, x := range r.Findings {
		if x.ProducerKey != "" {
			see(x.Producer, x.ProducerKey)
		}
	}
	return func(name, key string) string {
		if several[name] {
			return fmt.Sprintf("%s, key %.8s", name, key)
		}
		return name
	}
}

func (r *Report) conclusion() string {
	switch r.Verdict {
	case Pass:
		if r.TreeOnly {
			return "Every entry stands as it was cosigned. What entries say, and whether any are missing, was not looked at."
		}
		if r.Period != nil {
			return "Every entry stands as it was cosigned, and the data show that no record of the period is missing."
		}
		if n := r.Checked.Pruned; n > 0 {
			return fmt.Sprintf("Every entry from index %d on stands as it was cosigned, and no sealed record is missing from there on. What stood before is not there any more.", n)
		}
		return "Every entry stands as it was cosigned, and no sealed record is missing."
	case Fail:
		return "The log is not what it should be: see above for the places."
	}
	if r.GoesOnFrom > 0 {
		return fmt.Sprintf("Not everything could be fetched, so nothing is concluded. Try again: the next audit goes on from entry %d.", r.GoesOnFrom)
	}
	if len(r.Unfinished) == 0 && r.Period != nil {
		return "Nothing that is there is wrong, but the data do not show that the period is complete."
	}
	return "Not everything could be fetched, so nothing is concluded. Try again."
}

// Wrap breaks text into lines as the reports of this package have them, with marks
// that could steer a terminal left out.
func Wrap(head, text string, indent int) string { return wrap(head, text, indent) }

// wrap breaks text into lines of at most 80 columns, the first after the head
// and the others indented. Longer words stay whole, so that they can be copied.
func wrap(head, text string, indent int) string {
	var b strings.Builder
	b.WriteString(head)
	col, start := len(head), true
	for _, w := range strings.Fields(clean(text)) {
		n := len([]rune(w))
		switch {
		case start:
		case col+1+n > columns:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			col = indent
		default:
			b.WriteByte(' ')
			col++
		}
		b.WriteString(w)
		col, start = col+n, false
	}
	return strings.TrimRight(b.String(), " ") + "\n"
}

// clean keeps what others wrote from steering a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) { // neither controls nor what turns or joins text unseen
			return r
		}
		return ' '
	}, s)
}
