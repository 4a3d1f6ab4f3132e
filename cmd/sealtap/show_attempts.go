package main

import (
	"fmt"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// attemptLines returns a line for each attempt to have a request answered.
func attemptLines(list []*sealtapv1.Attempt) (lines [][2]string) {
	label := "attempts"
	for _, a := range list {
		text := plain(a.GetUpstream())
		if a.GetStatus() != 0 {
			text += fmt.Sprintf("  %d", a.GetStatus())
		}
		if a.GetDetail() != "" {
			text += "  " + plain(a.GetDetail())
		}
		text += "  " + time.Duration(a.GetDurationNs()).Round(time.Microsecond).String()
		if c := a.GetCertificate(); len(c) > 0 {
			text += fmt.Sprintf(", certificate sha256 %.16x…", c)
		}
		lines = append(lines, [2]string{label, text})
		label = ""
	}
	return lines
}

// changeLines returns a line for each change of a message.
func changeLines(list []*sealtapv1.Change) (lines [][2]string) {
	label := "changes"
	for _, c := range list {
		lines = append(lines, [2]string{label, record.ChangeName(c.GetKind()) + " " + plain(c.GetName())})
		label = ""
	}
	return lines
}

// decisionText is what the rules of a proxy said about a request.
func decisionText(d *sealtapv1.Decision) string {
	switch {
	case d == nil:
		return ""
	case d.GetAllowed():
		return "allowed by " + plain(d.GetRule())
	}
	return "denied by " + plain(d.GetRule())
}
