package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/export"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// rowsAtATime is how many rows are proven together.
const rowsAtATime = 512

// mostAltered is how many altered rows are described; all are counted.
const mostAltered = 100

// mostOthers is how many columns that are not an export's are named.
const mostOthers = 50

// rowsReport is what became of the rows of a file.
type rowsReport struct {
	Verdict string       `json:"verdict"`
	Rows    int          `json:"rows"`
	Proven  int          `json:"proven"`
	Altered int          `json:"altered"`
	Size    uint64       `json:"size"` // of the checkpoint
	Listed  []alteredRow `json:"findings"`
	// Others are names in the rows that an export does not have: what stands under
	// them was not compared. At most mostOthers are listed.
	Others []string `json:"not_compared,omitempty"`
}

type alteredRow struct {
	Code   string   `json:"code"`
	Row    int      `json:"row"`
	Index  uint64   `json:"index"`
	Detail []string `json:"detail"`
}

// verifyRows proves the rows of an export against the log.
func (r *reading) verifyRows(cmd *cobra.Command, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return usagef("--rows: %w", err)
	}
	defer file.Close()
	p, err := r.policy()
	if err != nil {
		return err
	}
	src, err := r.openSource(cmd.Context(), r.location(p))
	if err != nil {
		return err
	}
	defer src.close()
	s, err := openScan(cmd.Context(), src.Source, p)
	if err != nil {
		return err
	}
	if err := r.names(cmd.Context(), p, s); err != nil {
		return err
	}
	report, err := s.proveRows(cmd.Context(), file)
	if errors.Is(err, export.ErrRows) {
		return usagef("%s: %w", path, err)
	}
	if err != nil {
		return err
	}
	return r.printRows(cmd, report, s)
}

// proveRows proves the rows of a file.
func (s *scan) proveRows(ctx context.Context, file *os.File) (*rowsReport, error) {
	report := &rowsReport{Verdict: "pass", Size: s.head.Size, Listed: []alteredRow{}}
	var batch []*export.Line
	err := export.Read(file, func(l *export.Line) error {
		if batch = append(batch, l); len(batch) < rowsAtATime {
			return nil
		}
		defer func() { batch = batch[:0] }()
		return s.compare(ctx, batch, report)
	})
	if err == nil {
		err = s.compare(ctx, batch, report)
	}
	return report, err
}

// mention remembers names that an export does not have.
func (r *rowsReport) mention(names []string) {
	for _, name := range names {
		if !slices.Contains(r.Others, name) && len(r.Others) < mostOthers {
			r.Others = append(r.Others, name)
		}
	}
}

func (r *reading) printRows(cmd *cobra.Command, report *rowsReport, s *scan) error {
	var err error
	if report.Altered > 0 {
		report.Verdict, err = "fail", failure{errReported}
	}
	if r.json {
		return errors.Join(printJSON(cmd.OutOrStdout(), report), err)
	}
	w := cmd.OutOrStdout()
	for _, a := range report.Listed {
		fmt.Fprintf(w, "ALTERED row %d (index %d): %s\n", a.Row, a.Index, harmless(strings.Join(a.Detail, "; ")))
	}
	if more := report.Altered - len(report.Listed); more > 0 {
		fmt.Fprintf(w, "and %d more\n", more)
	}
	fmt.Fprintf(w, "%d of %d rows proven under the checkpoint of %d entries cosigned by %s; %d altered\n", report.Proven, report.Rows, report.Size,
		strings.Join(s.cosigners(), ", "), report.Altered)
	if len(report.Others) > 0 {
		fmt.Fprintf(w, "not compared, since an export has nothing of that name: %s\n", harmless(strings.Join(report.Others, ", ")))
	}
	if report.Altered == 0 {
		fmt.Fprintln(w, "Each row says what its record says. That none was left out is shown by an export or an audit, not by rows.")
	}
	return err
}

// names finds the operator's statements, without which no producer has a name. A
// log says where they are; in a directory they are looked for.
func (r *reading) names(ctx context.Context, p *policy.Policy, s *scan) error {
	if location := r.location(p); strings.Contains(location, "://") {
		rd, err := r.open(ctx)
		if err == nil {
			s.ring = rd.ring
		}
		return err
	}
	for e, err := range s.tree.Scan(ctx, s.begin) {
		if err != nil {
			return err
		}
		if k, _, err := record.Split(e.Entry); err != nil || k == record.KindRecord || k == record.KindSeal {
			continue
		}
		if err := s.statement(e.Index, e.Entry); err != nil {
			return err
		}
	}
	return nil
}

// compare proves the entries that rows name and holds the rows against them.
func (s *scan) compare(ctx context.Context, lines []*export.Line, report *rowsReport) error {
	var indices []uint64
	altered := func(l *export.Line, detail ...string) {
		if report.Altered++; len(report.Listed) < mostAltered {
			report.Listed = append(report.Listed, alteredRow{"row-altered", l.Number, l.Index, detail})
		}
	}
	var inside []*export.Line
	for _, l := range lines {
		report.Rows++
		if l.Index >= s.head.Size || l.RequestIndex != nil && *l.RequestIndex >= s.head.Size {
			altered(l, fmt.Sprintf("index: the log has %d entries", s.head.Size))
			continue
		}
		inside = append(inside, l)
		indices = append(indices, l.Index)
		if l.RequestIndex != nil {
			indices = append(indices, *l.RequestIndex)
		}
	}
	entries, err := s.tree.Entries(ctx, indices...)
	if errors.Is(err, client.ErrPruned) {
		return fmt.Errorf("%w; prove such rows against a mirror that has them", err)
	}
	if err != nil {
		return err
	}
	for _, l := range inside {
		it, why := rowItem(l, entries)
		if entries = entries[1:]; l.RequestIndex != nil {
			entries = entries[1:]
		}
		if why == "" {
			why = unpaired(it)
		}
		if why != "" {
			altered(l, why)
			continue
		}
		bad, err := l.Compare(it, s.name)
		if err != nil {
			return err
		}
		report.mention(l.Others())
		if len(bad) > 0 {
			altered(l, bad...)
			continue
		}
		report.Proven++
	}
	return nil
}

// rowItem reads what stands at the indices of a row. Of what stands there but is no
// entry it says so: nobody can have exported it.
func rowItem(l *export.Line, entries [][]byte) (it export.Item, why string) {
	it.Index = l.Index
	var err error
	if it.Entry, err = record.Parse(entries[0]); err != nil {
		return it, fmt.Sprintf("index: entry %d is no record: %v", l.Index, err)
	}
	if l.RequestIndex != nil {
		it.Request = &export.Item{Index: *l.RequestIndex}
		if it.Request.Entry, err = record.Parse(entries[1]); err != nil {
			return it, fmt.Sprintf("request_index: entry %d is no record: %v", *l.RequestIndex, err)
		}
	}
	return it, ""
}

// unpaired says why an item cannot be a row: it is no record, or what the row
// names as its request is none, or of another exchange.
func unpaired(it export.Item) string {
	if it.Entry.Record == nil {
		return fmt.Sprintf("index: entry %d is a %s, not a record", it.Index, it.Entry.Kind)
	}
	if q := it.Request; q != nil {
		same := q.Entry.Record != nil && q.Entry.Record.GetRequest() != nil && q.Entry.Record.Stream.Producer == it.Entry.Record.Stream.Producer &&
			string(q.Entry.Record.GetExchange()) == string(it.Entry.Record.GetExchange())
		if !same {
			return fmt.Sprintf("request_index: entry %d is not the request of this exchange", q.Index)
		}
	}
	return ""
}
