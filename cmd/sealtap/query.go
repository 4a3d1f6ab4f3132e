package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// search holds the filters of GET /v1/records.
type search struct {
	reading
	values map[string]*string
	limit  int
}

var filters = []struct{ name, usage string }{
	{"who", "identity, as the proxy derived it"},
	{"service", "name of the service"},
	{"method", "HTTP method"},
	{"path", "path, or a prefix that ends in *"},
	{"operation", "name of the operation, such as tools/call or shop.v1.Orders/Create"},
	{"status", "status, such as 404, or a class from 1xx to 5xx"},
	{"producer", "name or key identifier of the producer"},
	{"exchange", "exchange id"},
	{"trace", "W3C trace id"},
	{"since", "not before: a time (RFC 3339), or how long ago (15m, 24h)"},
	{"until", "before: a time (RFC 3339), or how long ago"},
	{"stage", "request, response, progress, start, stop, beacon, gap or config"},
	{"cursor", "go on where an earlier page said \"next\""},
}

func newQuery() *cobra.Command {
	s := search{values: make(map[string]*string)}
	cmd := &cobra.Command{
		Use:   "query",
		Short: "Search the log; every printed row has been proven",
		Long: `Searches the log, newest first. The log's search index is only a hint: every row is
decoded from an entry whose inclusion under a cosigned checkpoint was proven just
before, and is checked against the filters again. What must be complete has to be audited.

A person gets a row for each exchange; --stage and --json show single records. A question
mark behind WHO says that nobody verified that identity. A search that finds nothing looks
again for a second: records take some tenths of a second into a published head.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	s.flags(cmd)
	for _, f := range filters {
		s.values[f.name] = cmd.Flags().String(f.name, "", f.usage)
	}
	cmd.Flags().IntVar(&s.limit, "limit", 100, "rows at most, up to 1000")
	return cmd
}

// query returns the parameters for the log.
func (s *search) query(now time.Time) (url.Values, error) {
	if s.limit < 1 || s.limit > 1000 {
		return nil, usagef("--limit %d: it is from 1 to 1000", s.limit)
	}
	v := url.Values{"limit": {strconv.Itoa(s.limit)}}
	for name, value := range s.values {
		if *value != "" {
			v.Set(name, *value)
		}
	}
	for _, name := range []string{"since", "until"} {
		text := v.Get(name)
		if text == "" {
			continue
		}
		if d, err := time.ParseDuration(text); err == nil && d >= 0 {
			v.Set(name, now.Add(-d).UTC().Format(time.RFC3339Nano))
		} else if _, err := time.Parse(time.RFC3339, text); err != nil {
			return nil, usagef("--%s %q is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 15m", name, text)
		}
	}
	if status := v.Get("status"); status != "" && !isStatus(status) {
		return nil, usagef("--status %q is neither a status such as 404 nor a class from 1xx to 5xx", status)
	}
	if e := v.Get("exchange"); e != "" {
		if _, err := record.ParseUUID(e); err != nil {
			return nil, usagef("--exchange: %w", err)
		}
		v.Set("exchange", strings.ToLower(e))
	}
	return v, nil
}

// isStatus reports whether a filter can match a status: those of classes that HTTP
// does not have (RFC 9110, section 15) are records of what an upstream sent.
func isStatus(s string) bool {
	if class, ok := strings.CutSuffix(s, "xx"); ok {
		return len(class) == 1 && "1" <= class && class <= "5"
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && len(s) == 3 && n >= 100
}

func (s *search) run(ctx context.Context, stdout, stderr io.Writer) error {
	values, err := s.query(time.Now())
	if err != nil {
		return err
	}
	rd, err := s.open(ctx)
	if err != nil {
		return err
	}
	byExchange := !s.json && values.Get("stage") == ""
	if byExchange {
		// People look for exchanges; a quiet proxy's heartbeats would bury them.
		values.Set("stage", "response")
	}
	list, next, err := s.await(ctx, rd, values)
	if err != nil {
		return err
	}
	if s.json {
		out := struct {
			Records []*record.View `json:"records"`
			Next    string         `json:"next,omitempty"`
		}{Records: []*record.View{}, Next: next}
		for _, r := range list {
			out.Records = append(out.Records, r.view)
		}
		return printJSON(stdout, out)
	}
	if byExchange {
		err = printExchanges(ctx, stdout, rd, list, narrow(stdout))
	} else {
		err = printRecords(stdout, list)
	}
	if err == nil {
		rows := "1 row,"
		if len(list) != 1 {
			rows = fmt.Sprintf("%d rows, each", len(list))
		}
		fmt.Fprintf(stderr, "%s proven under the checkpoint of %d entries cosigned by %s\n", rows, rd.head.Size, strings.Join(cosigners(rd), ", "))
	}
	if next != "" {
		fmt.Fprintf(stderr, "there may be more: --cursor %s\n", printable(next))
	}
	return err
}

// settling is how long a search that finds nothing looks again: a record takes
// some tenths of a second from the proxy into a published head.
const settling = time.Second

// await fetches a page, and again for a moment while it is empty.
func (s *search) await(ctx context.Context, rd *reader, values url.Values) ([]row, string, error) {
	for end := time.Now().Add(settling); ; {
		list, next, err := s.fetch(ctx, rd, values)
		if err != nil || len(list) > 0 || values.Has("cursor") || time.Now().After(end) {
			return list, next, err
		}
		time.Sleep(50 * time.Millisecond)
		if err := rd.refresh(ctx); err != nil {
			return nil, "", err
		}
	}
}

func cosigners(rd *reader) []string {
	var names []string
	for _, c := range rd.head.Cosignatures {
		names = append(names, c.Witness)
	}
	if len(names) == 0 {
		return []string{"nobody"}
	}
	slices.Sort(names)
	return names
}

// fetch asks for a page and proves every row of it.
func (s *search) fetch(ctx context.Context, rd *reader, values url.Values) ([]row, string, error) {
	page, err := rd.Search(ctx, values)
	if err != nil {
		return nil, "", err
	}
	var indices []uint64
	for _, h := range page.Records {
		indices = append(indices, h.Index)
	}
	limit := cmp.Or(s.limit, 1000)
	if err := descending(indices, limit); err != nil {
		return nil, "", err
	}
	if len(indices) > 0 && indices[0] >= rd.head.Size {
		if err := rd.refresh(ctx); err != nil {
			return nil, "", err
		}
	}
	list, err := rd.rows(ctx, indices, nil)
	if err != nil {
		return nil, "", err
	}
	for _, r := range list {
		if err := matches(r, values); err != nil {
			return nil, "", failure{fmt.Errorf("entry %d, which the log's search returned: %w", r.index, err)}
		}
	}
	return list, page.Next, rd.matchExchanges(ctx, list, values)
}

// printExchanges prints a line for each response, beside its request, which is
// looked up and proven too. On a narrow terminal an index stands for the exchange.
func printExchanges(ctx context.Context, w io.Writer, rd *reader, responses []row, narrow bool) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	head, format := "TIME (UTC)\tWHO\tMETHOD\tSTATUS\tANSWER\tEXCHANGE\tPATH", "2006-01-02 15:04:05.000"
	if narrow {
		head, format = "TIME (UTC)\tWHO\tMETHOD\tSTATUS\tANSWER\tID\tPATH", "15:04:05.000"
	}
	fmt.Fprintln(tw, head)
	for _, p := range responses {
		all, err := rd.exchange(ctx, p.view.Exchange)
		if err != nil {
			return err
		}
		q := requestAmong(all)
		a, id := p.entry.Record.GetResponse(), p.view.Exchange
		if narrow {
			id = strconv.FormatUint(p.index, 10)
		}
		at, who, method, path := p.entry.Record.GetTime(), "-", "-", "-"
		if q != nil {
			at, who, method, path = q.entry.Record.GetTime(), whoText(q.entry.Record), cmp.Or(q.view.Method, "-"), cmp.Or(q.asks(narrow), "-")
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", time.Unix(0, at).UTC().Format(format), printable(who), printable(method),
			statusText(a), answerText(a), id, path)
	}
	return tw.Flush()
}

func printRecords(w io.Writer, list []row) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "INDEX\tTIME (UTC)\tPRODUCER\tSEQUENCE\tSTAGE\tEXCHANGE\tWHAT")
	for _, r := range list {
		what := ""
		if a := r.entry.Record.GetResponse(); a != nil {
			what = statusText(a) + " " + answerText(a)
		} else if r.entry.Record.GetRequest() != nil {
			what = printable(r.view.Method) + " " + r.asks(false)
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%d\t%s\t%s\t%s\n", r.index, time.Unix(0, r.entry.Record.GetTime()).UTC().Format("2006-01-02 15:04:05.000"),
			printable(r.view.Producer), r.entry.Record.GetSequence(), r.view.Stage, r.view.Exchange, what)
	}
	return tw.Flush()
}

func (r row) target() string {
	if r.view.Path == nil {
		return r.view.Authority
	}
	if r.view.Path.Sealed != nil && r.view.Path.Shown == nil {
		return "(sealed)"
	}
	return r.view.Path.String()
}

func whoText(r *record.Record) string {
	w := r.GetRequest().GetWho()
	switch {
	case w == nil:
		return "-"
	case w.GetId() == "":
		return "(sealed)"
	case !w.GetVerified():
		return w.GetId() + "?"
	}
	return w.GetId()
}

func statusText(p *sealtapv1.Response) string {
	if p.GetStatus() == 0 {
		return "-"
	}
	return strconv.Itoa(int(p.GetStatus()))
}

// answerText says whether the client got what the upstream answered.
func answerText(p *sealtapv1.Response) string {
	if p.GetOutcome() != sealtapv1.Outcome_OUTCOME_COMPLETE {
		return record.OutcomeName(p.GetOutcome())
	}
	switch in, out := p.GetReceived(), p.GetSent(); {
	case in == nil:
		return "by the proxy"
	case string(in.GetSha256()) == string(out.GetSha256()) && in.GetSize() == out.GetSize():
		return "unchanged"
	}
	return "CHANGED"
}

// narrow reports whether w is a terminal without room for exchange ids.
func narrow(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	return err == nil && width < 120
}

// printable is plain, and short enough for a column.
func printable(s string) string {
	const most = 60
	if s = plain(s); len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// plain keeps what clients chose from playing with the terminal.
func plain(s string) string {
	if q := strconv.QuoteToGraphic(s); q != `"`+s+`"` {
		return q
	}
	return s
}
