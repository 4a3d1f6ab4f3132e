// Package report renders the report of an audit as one HTML page for people who
// have to read, sign and file it: it fetches nothing, runs no script, and carries a
// content security policy that would not let it. What records say is others' text,
// and stands in it escaped, with everything visible that steers a reader's eye.
//
// Start with [HTML].
package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // page and style
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/sealtap/sealtap/audit"
)

//go:embed page.html
var pageText string

//go:embed style.css
var styleText string

// HTML writes the report as a page. It needs a report that was made with
// [audit.Options.Coverage] or a period.
func HTML(w io.Writer, r *audit.Report) error {
	t, err := template.New("report").Funcs(template.FuncMap{"t": visible, "time": clock, "upper": strings.ToUpper, "short": short, "meaning": func() string { return audit.PeriodMeaning }}).Parse(pageText)
	if err != nil {
		return fmt.Errorf("parsing page: %w", err)
	}
	sum := sha256.Sum256([]byte(styleText))
	var b bytes.Buffer // so that an error leaves no half of a page
	err = t.Execute(&b, page{
		Report:   r,
		Style:    template.CSS(styleText), // ours, and nothing of the report is in it
		CSP:      "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'",
		Timeline: newTimeline(r),
		Verdict:  verdict(r),
	})
	if err != nil {
		return fmt.Errorf("rendering page: %w", err)
	}
	_, err = w.Write(b.Bytes())
	return err
}

// page is what the template sees.
type page struct {
	*audit.Report
	Style    template.CSS
	CSP      string
	Timeline *timeline
	Verdict  string
}

// Found returns the findings that speak against the log, most serious first.
func (p page) Found() []audit.Finding { return p.only(audit.Finds) }

// Notices returns the others.
func (p page) Notices() []audit.Finding { return p.only(audit.Notes) }

func (p page) only(s audit.Severity) (list []audit.Finding) {
	for _, x := range p.Findings {
		if x.Severity == s {
			list = append(list, x)
		}
	}
	return list
}

// Interrupted returns the producers with interruptions to list in words.
func (p page) Interrupted() (list []interrupted) {
	of := audit.PeriodReport{Until: time.Unix(1<<40, 0)} // all of it
	if p.Period != nil {
		of = *p.Period
	}
	for _, c := range p.Coverage {
		x := interrupted{Name: c.Name, Lines: c.Interruptions(of)}
		if x.More = len(x.Lines) - mostLines; x.More > 0 {
			x.Lines = x.Lines[:mostLines]
		}
		if len(x.Lines) > 0 {
			list = append(list, x)
		}
	}
	return list
}

// mostLines is how many interruptions of a producer are written out; the timeline
// and the JSON report have the others.
const mostLines = 100

type interrupted struct {
	Name  string
	Lines []string
	More  int
}

// verdict says what the verdict means.
func verdict(r *audit.Report) string {
	switch {
	case r.Verdict == audit.Pass && r.Period != nil:
		return "Every entry stands as it was cosigned, and the data show that no record of the period is missing."
	case r.Verdict == audit.Pass && r.Checked.Pruned > 0:
		return fmt.Sprintf("Every entry from index %d on stands as it was cosigned, and no sealed record is missing from there on.", r.Checked.Pruned)
	case r.Verdict == audit.Pass:
		return "Every entry stands as it was cosigned, and no sealed record is missing."
	case r.Verdict == audit.Fail:
		return "The log is not what it should be. The findings name the places and what follows."
	case len(r.Unfinished) > 0:
		return "Not everything could be read, so nothing is concluded."
	}
	return "Nothing that is there is wrong, but the data do not show that the period is complete."
}

// visible shows what could hide or turn text.
func visible(v any) string { return audit.Visible(fmt.Sprint(v)) }

func clock(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// short cuts a text to a number of runes.
func short(n int, s string) string {
	list := []rune(visible(s))
	if len(list) <= n {
		return string(list)
	}
	return string(list[:n-1]) + "…"
}
