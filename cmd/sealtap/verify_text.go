package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
)

// printProven says what evidence proves, and then what the entries say that it proves.
// The text is that of the report.
func printProven(w io.Writer, text []byte, report *audit.EvidenceReport) error {
	list, err := record.ParseEvidence(text)
	if err != nil {
		return err
	}
	var b strings.Builder
	for i, e := range report.Entries {
		entry, err := record.Parse(list[i].Entry)
		if err != nil {
			return err
		}
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(e.Text())
		says(&b, row{index: e.Record.Index, entry: entry, view: e.Record})
	}
	_, err = io.WriteString(w, harmless(b.String()))
	return err
}

// says prints what an entry says.
func says(b *strings.Builder, r row) {
	if r.entry.Record == nil {
		if text := statementText(r.entry); text != "" {
			fmt.Fprintf(b, "What the %s says:\n  %s\n", r.entry.Kind, strings.ReplaceAll(text, "\n", "\n  "))
		}
		return
	}
	fmt.Fprintf(b, "What the record says (%s, %s", r.view.Stage, r.view.Time)
	if r.view.Exchange != "" {
		fmt.Fprintf(b, ",\nof exchange %s", r.view.Exchange)
	}
	fmt.Fprint(b, "):\n")
	for _, l := range viewLines(r) {
		fmt.Fprintf(b, "  %-11s %s\n", l[0], l[1])
	}
}

// statementText is the text of an entry that is a signed note, without its signature.
func statementText(e record.Entry) string {
	var note []byte
	switch {
	case e.Genesis != nil:
		note = e.Genesis.Note
	case e.KeyChange != nil:
		note = e.KeyChange.Note
	case e.Statement != nil:
		note = e.Statement.Note
	case e.Seal != nil:
		note = e.Seal.Note
	}
	text, err := checkpoint.Text(note)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}

// unproven reports evidence that does not hold.
func (r *reading) unproven(w io.Writer, err error) error {
	bad := (*audit.EvidenceError)(nil)
	switch {
	case !errors.As(err, &bad):
		return err
	case !r.json:
		return failure{fmt.Errorf("this evidence proves nothing: %w", err)}
	}
	out := map[string]any{"verdict": audit.Fail, "findings": []map[string]any{{"code": bad.Code, "detail": bad.Detail}}}
	if err := printJSON(w, out); err != nil {
		return err
	}
	return failure{errReported}
}
