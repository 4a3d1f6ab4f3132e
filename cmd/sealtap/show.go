package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/audit"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// patience is how long show and prove look for a record that the log may be
// about to publish.
const patience = 5 * time.Second

func newShow() *cobra.Command {
	var r reading
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one exchange: its records, openings and proof status",
		Long: `Shows the records of an exchange, each proven to lie in the log. ID is an exchange id,
as in the Sealtap-Exchange header of an answer, or the index of one of its records.`,
		Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, _, err := parseID(args[0]); err != nil {
				return err
			}
			rd, err := r.open(cmd.Context())
			if err != nil {
				return err
			}
			list, err := rd.exchangeRows(cmd.Context(), args[0], wait)
			if err != nil {
				return err
			}
			if r.json {
				return showJSON(cmd.OutOrStdout(), rd, list)
			}
			if err := showText(cmd.OutOrStdout(), rd, list); err != nil {
				return err
			}
			return rd.showSides(cmd.Context(), cmd.OutOrStdout(), list)
		},
	}
	r.flags(cmd)
	cmd.Flags().DurationVar(&wait, "wait", patience, "how long to look for a record that is on its way")
	return cmd
}

// exchangeRows returns all records of the exchange that ID names, or the one
// entry at an index that belongs to none.
func (rd *reader) exchangeRows(ctx context.Context, id string, wait time.Duration) ([]row, error) {
	indices, err := rd.find(ctx, id, wait)
	if err != nil {
		return nil, err
	}
	if len(indices) == 1 {
		e, err := rd.entry(ctx, indices[0])
		if err != nil {
			return nil, err
		}
		if e.Record != nil && len(e.Record.GetExchange()) > 0 {
			all, err := rd.places(ctx, record.FormatUUID(e.Record.GetExchange()))
			if err != nil {
				return nil, err
			}
			if slices.Contains(all, indices[0]) {
				indices = all
			}
		}
	}
	return rd.rows(ctx, indices, func(r row) ([]*sealtapv1.Opening, error) {
		return rd.Openings(ctx, r.index, *r.entry.Record)
	})
}

func showJSON(w io.Writer, rd *reader, list []row) error {
	out := struct {
		Exchange   string         `json:"exchange,omitempty"`
		Records    []*record.View `json:"records"`
		Checkpoint string         `json:"checkpoint"` // under which all of it is proven
		CosignedBy []string       `json:"cosigned_by"`
		Proven     bool           `json:"proven"`
	}{Checkpoint: string(rd.head.Note), CosignedBy: cosigners(rd), Proven: true}
	for _, r := range list {
		out.Exchange = r.view.Exchange
		out.Records = append(out.Records, r.view)
	}
	return printJSON(w, out)
}

func showText(w io.Writer, rd *reader, list []row) error {
	if x := list[0].view.Exchange; x != "" {
		fmt.Fprintf(w, "exchange %s\n", x)
	}
	for _, r := range list {
		fmt.Fprintf(w, "\n%s  (index %d", r.view.Stage, r.index)
		if r.entry.Record != nil {
			fmt.Fprintf(w, ", %s #%d, %s", printable(r.view.Producer), r.entry.Record.GetSequence(), r.view.Time)
		}
		fmt.Fprintln(w, ")")
		for _, l := range viewLines(r) {
			fmt.Fprintf(w, "  %-11s %s\n", l[0], l[1])
		}
	}
	fmt.Fprintf(w, "\nproven to lie in %s, under its checkpoint of %d entries,\ncosigned by %s\n", rd.head.Origin, rd.head.Size, strings.Join(cosigners(rd), ", "))
	return nil
}

// viewLines returns the facts of a row as label and text.
func viewLines(r row) [][2]string {
	var lines [][2]string
	add := func(label, text string) {
		if text != "" {
			lines = append(lines, [2]string{label, text})
		}
	}
	value := func(v *record.Value) string {
		switch {
		case v == nil:
			return ""
		case v.Sealed == nil:
			return plain(v.Open)
		case v.Shown != nil:
			return plain(*v.Shown) + "  (sealed; opened for you)"
		}
		return "(sealed)"
	}
	v := r.view
	if q := r.entry.Record; q != nil && q.GetRequest() != nil {
		add("who", plain(whoText(q)))
		if w := q.GetRequest().GetWho(); w != nil {
			verified := "not verified"
			if w.GetVerified() {
				verified = "verified"
			}
			add("", "by "+plain(w.GetHow())+", "+verified)
			for _, l := range v.WhoFacts() {
				text := value(&l.Value)
				if text != "" {
					add("", plain(l.Name)+" "+text)
				}
			}
		}
		add("asked", r.asked())
		if o := q.GetRequest().GetOperation(); o != nil {
			add("operation", strings.TrimSpace(plain(o.GetProtocol())+"  "+plain(r.operation())))
		}
		add("template", plain(v.Template))
		add("decision", decisionText(q.GetRequest().GetDecision()))
		add("query", value(v.Query))
		add("source", value(v.Source))
		add("service", plain(v.Service))
		add("trace", v.Trace)
		add("caller", v.Caller)
		if b := q.GetRequest().GetBody(); b != nil && b.GetSize() > 0 {
			add("body", bodyText(b))
		}
		lines = append(lines, changeLines(q.GetRequest().GetChanges())...)
		lines = append(lines, headerLines(v)...)
	}
	if r.entry.Record != nil && r.entry.Record.GetProgress() != nil {
		g := r.entry.Record.GetProgress()
		add("so far", time.Duration(g.GetDurationNs()).Round(time.Microsecond).String())
		add("  up", bodyText(g.GetUp()))
		add("  down", bodyText(g.GetDown()))
		add("messages", messagesText(g.GetMessagesUp(), g.GetMessagesDown()))
	}
	if r.entry.Record != nil && r.entry.Record.GetResponse() != nil {
		p := r.entry.Record.GetResponse()
		add("status", statusText(p))
		add("answer", answerText(p))
		add("detail", plain(p.GetDetail()))
		add("received", bodyText(p.GetReceived()))
		add("sent", bodyText(p.GetSent()))
		add("request", bodyText(p.GetRequestBody()))
		add("duration", time.Duration(p.GetDurationNs()).Round(time.Microsecond).String())
		if t := p.GetTunnel(); t != nil {
			add("tunnel", plain(t.GetSni()))
			add("  up", bodyText(t.GetUp()))
			add("  down", bodyText(t.GetDown()))
		}
		add("messages", messagesText(p.GetMessagesUp(), p.GetMessagesDown()))
		lines = append(lines, attemptLines(p.GetAttempts())...)
		lines = append(lines, changeLines(p.GetChanges())...)
		lines = append(lines, headerLines(v)...)
	}
	return lines
}

// headerLines returns the headers and credentials of a row, in order of names.
func headerLines(v *record.View) (lines [][2]string) {
	label := "headers"
	add := func(name string, value any) {
		text := "(sealed)"
		switch x := value.(type) {
		case string:
			text = plain(x)
		case record.Value:
			if x.Shown != nil {
				text = plain(*x.Shown) + "  (sealed)"
			}
		}
		lines = append(lines, [2]string{label, plain(name) + ": " + text})
		label = ""
	}
	headers, _ := v.Headers.(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		if several, ok := headers[name].([]any); ok {
			for _, value := range several {
				add(name, value)
			}
			continue
		}
		add(name, headers[name])
	}
	label = "secrets"
	credentials, _ := v.Credentials.(map[string]string)
	for _, place := range slices.Sorted(maps.Keys(credentials)) {
		add(place, "digest "+credentials[place])
	}
	return lines
}

// asked is the first line of the request. A tunnel has neither scheme nor path.
func (r row) asked() string {
	if r.view.Method == "" {
		return "a request line that cannot be read"
	}
	v, at := r.view, plain(r.view.Authority)
	if v.Scheme != "" {
		at = plain(v.Scheme) + "://" + at
	}
	if v.Path != nil {
		at += plain(r.target())
	}
	return plain(v.Method) + " " + at + "  " + plain(v.Protocol)
}

func messagesText(up, down uint64) string {
	if up+down == 0 {
		return ""
	}
	return fmt.Sprintf("%d up, %d down", up, down)
}

func bodyText(b *sealtapv1.Body) string {
	if b == nil {
		return ""
	}
	return fmt.Sprintf("%d bytes, sha256 %.16x…", b.GetSize(), b.GetSha256())
}

func newProve() *cobra.Command {
	var r reading
	var out string
	var wait time.Duration
	var openings bool
	cmd := &cobra.Command{
		Use:   "prove ID",
		Short: "Write an evidence file that proves an exchange offline",
		Long: `Writes a file with which anyone who has the policy can check, without us and without a
network, that the records of an exchange (or the entry at an index) are in the log, who
recorded them, and between which two times. It is verified before it is written.`,
		Args: exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, _, err := parseID(args[0]); err != nil {
				return err
			}
			text, indices, err := r.evidence(cmd.Context(), args[0], wait, openings)
			if err != nil {
				return err
			}
			if out == "" {
				out = args[0] + ".evidence"
			}
			if out == "-" {
				_, err = cmd.OutOrStdout().Write(text)
				return err
			}
			if err := os.WriteFile(out, text, 0o644); err != nil {
				return usageError{err}
			}
			if r.json {
				return printJSON(cmd.OutOrStdout(), map[string]any{"file": out, "indices": indices})
			}
			what := "1 entry"
			if len(indices) != 1 {
				what = fmt.Sprintf("%d entries", len(indices))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %s: evidence of %s; check it with\n  sealtap verify %s --policy %s\n", out, what, out, r.policyFile)
			return nil
		},
	}
	r.flags(cmd)
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to write, - for standard output (default ID.evidence)")
	cmd.Flags().BoolVar(&openings, "openings", false, "disclose the sealed fields that you may see")
	cmd.Flags().DurationVar(&wait, "wait", patience, "how long to look for a record that is on its way")
	return cmd
}

// evidence fetches and verifies the evidence of what ID names.
func (r *reading) evidence(ctx context.Context, id string, wait time.Duration, openings bool) (text []byte, indices []uint64, err error) {
	rd, err := r.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	if indices, err = rd.find(ctx, id, wait); err != nil {
		return nil, nil, err
	}
	for _, index := range indices {
		fetch := rd.Evidence
		if openings {
			fetch = rd.Disclosure
		}
		part, err := fetch(ctx, index)
		if err != nil {
			return nil, nil, err
		}
		text = append(text, part...)
	}
	report, err := audit.VerifyEvidence(text, rd.policy, nil)
	if err != nil {
		return nil, nil, failure{fmt.Errorf("the log's evidence does not verify: %w", err)}
	}
	if len(report.Entries) != len(indices) {
		return nil, nil, failure{fmt.Errorf("the log gave evidence of %d entries for %d", len(report.Entries), len(indices))}
	}
	for i, e := range report.Entries {
		if e.Record.Index != indices[i] {
			return nil, nil, failure{fmt.Errorf("the log gave evidence of entry %d for entry %d", e.Record.Index, indices[i])}
		}
	}
	return text, indices, nil
}
