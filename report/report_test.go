package report_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/report"
)

// hostile is text that wants to be something else.
const hostile = "\"'></title></svg></style><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>{{.}}\u202egnp.exe\x1b[2J\x00"

func at(minute int) time.Time {
	return time.Date(2027, 1, 15, 8, 0, 0, 0, time.UTC).Add(time.Duration(minute) * time.Minute)
}

// everything is a report with something in every place, all of it hostile.
func everything() *audit.Report {
	n, seq := uint64(7), uint64(3)
	kinds := []audit.Span{
		{Kind: audit.SpanSilent, From: at(10), To: at(25)},
		{Kind: audit.SpanMissing, From: at(30), To: at(31), First: 100, Last: 110},
		{Kind: audit.SpanAltered, From: at(40), To: at(40), First: 200, Last: 200},
		{Kind: audit.SpanGap, From: at(45), To: at(44), Count: 12, Reason: hostile}, // times that its producer made up
		{Kind: audit.SpanUnsealed, From: at(50), First: 300, Last: 310},
	}
	return &audit.Report{
		Verdict: audit.Fail, Source: hostile, Origin: hostile, Size: 1234, Root: hostile, CosignedBy: []string{hostile}, CosignedAt: at(61).Format(time.RFC3339),
		Operator: hostile, Time: at(70), Checkpoint: hostile,
		Producers: []audit.Producer{{Name: hostile, Key: strings.Repeat("ab", 32), Records: 5, First: hostile, Last: hostile}},
		Coverage: []audit.Coverage{
			{Name: hostile, Key: strings.Repeat("ab", 32), SealedUntil: at(49), Lives: []audit.CoveredLife{
				{Incarnation: strings.Repeat("1", 32), From: at(0), To: at(28), SealedTo: at(28), End: audit.Unclean, Spans: kinds[:1]},
				{Incarnation: strings.Repeat("2", 32), From: at(29), To: at(55), SealedTo: at(49), End: audit.Silent, Spans: kinds[1:]},
			}},
			{Name: "shop", Key: strings.Repeat("cd", 32), SealedUntil: at(60), Lives: []audit.CoveredLife{{Incarnation: strings.Repeat("3", 32), From: at(5), To: at(60), SealedTo: at(60), End: audit.Stopped}}},
			{Name: "idle", Key: strings.Repeat("ef", 32)},
		},
		Witnesses: []audit.WitnessSeen{{Name: hostile, Key: strings.Repeat("12", 32), First: at(1), Last: at(61), Size: 1234, OnNow: true}, {Name: "w2", Key: strings.Repeat("34", 32)}},
		Period:    &audit.PeriodReport{Since: at(-10), Until: at(60), Records: 99, Lacking: []string{hostile}},
		Trust:     &audit.Trust{Policy: hostile, Quorum: hostile, Logs: []audit.KeyRef{{Name: hostile, ID: hostile}}},
		Findings: []audit.Finding{
			{Code: audit.EntryAltered, Severity: audit.Finds, Index: &n, Producer: hostile, Incarnation: hostile, Sequence: &seq, Detail: hostile, Heads: []string{hostile}},
			{Code: audit.GapDeclared, Severity: audit.Notes, Detail: hostile},
		},
		Omitted: map[audit.Code]int{audit.TimeOrder: 3}, Unfinished: []string{hostile}, NotProven: []string{hostile},
	}
}

func render(t *testing.T, r *audit.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := report.HTML(&b, r); err != nil {
		t.Fatal(err)
	}
	if path := os.Getenv("SEALTAP_PAGE"); path != "" { // to be looked at
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func TestHostileText(t *testing.T) {
	page := render(t, everything())
	for _, bad := range []string{"<script", "<img", "\u202e", "\x1b", "\x00", "ZgotmplZ", "<no value>"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	// Nothing but what the page itself is made of: no element beside these, no
	// attribute that runs or fetches.
	known := " !DOCTYPE html head meta title style body header h1 h2 h3 p div strong dl dt dd ul ol li svg defs pattern rect path text g table thead tbody tr th td code pre em span footer "
	for _, m := range regexp.MustCompile(`<(/?)([!A-Za-z][A-Za-z0-9]*)([^>]*)>`).FindAllStringSubmatch(page, -1) {
		if !strings.Contains(known, " "+m[2]+" ") {
			t.Errorf("the page has an element %q", m[0])
		}
		if regexp.MustCompile(`(?i)\s(on[a-z]+|src|href|style|action|xlink:href)\s*=`).MatchString(m[3]) {
			t.Errorf("the page has an element with an attribute that it should not have: %q", m[0])
		}
	}
	if !strings.Contains(page, `\u202egnp.exe\u001b[2J\u0000`) {
		t.Error("what turns or hides text is not shown")
	}
	for _, kind := range []string{"silent", "missing", "altered", "gap", "unsealed", "down", "unclean", "stop"} {
		if !regexp.MustCompile(`class="` + kind + `" [xd]="[M\d]`).MatchString(page) {
			t.Errorf("the timeline does not draw %q", kind)
		}
	}
	for _, m := range regexp.MustCompile(` (?:x|width)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if strings.ContainsAny(m[1], "-NI") {
			t.Errorf("a place in the drawing is %q", m[1])
		}
	}
}

// TestPolicyOfThePage: the page's own content security policy allows its style and
// nothing else, whatever it holds.
func TestPolicyOfThePage(t *testing.T) {
	page := render(t, everything())
	style := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindStringSubmatch(page)
	if style == nil {
		t.Fatal("the page has no style")
	}
	sum := sha256.Sum256([]byte(style[1]))
	want := `content="default-src &#39;none&#39;; style-src &#39;sha256-` + base64.StdEncoding.EncodeToString(sum[:]) + `&#39;; base-uri`
	if got := strings.ReplaceAll(page, "&#43;", "+"); !strings.Contains(got, want) {
		t.Fatalf("the policy of the page does not allow its own style: want %s", want)
	}
}

// TestBarren: a report of which next to nothing is known renders too.
func TestBarren(t *testing.T) {
	page := render(t, &audit.Report{Verdict: audit.Incomplete, Unfinished: []string{"no answer"}})
	for _, want := range []string{"INCOMPLETE", "no answer", "nothing is concluded"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(page, `class="chart"`) {
		t.Error("there is a drawing of nothing")
	}
}
