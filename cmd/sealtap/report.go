package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/report"
)

func newReport() *cobra.Command {
	var r reading
	var f auditFlags
	var since, until string
	cmd := &cobra.Command{
		Use:   "report [SOURCE]",
		Short: "Audit a log and report on a period",
		Long: `Audits all of a log, as sealtap audit does, and reports on a period of it: which records fall
in it, when each producer's records stand, where they are interrupted, what the witnesses say of
its beginning and its end, and whether the data show that no record of it is missing. SOURCE is
the URL of a log (default: the local one), a mirror, a backup or a data directory.

--since and --until are times (RFC 3339), dates (midnight UTC), or say how long ago (720h). The
period begins with the one and ends before the other. A record belongs to it by the time that its
producer says, which the witnesses' cosignatures bound from both sides.

Of each producer that may write, a seal must cover the end of the period; else the verdict is
incomplete: what has not been sealed and handed over yet, nobody can miss. So report on a period
some minutes after its end, not at once, and revoke keys that are no longer used.

--html writes one page for reading and filing, which fetches nothing and runs no script.

Exit codes: 0 all is well and the period is complete, 1 something is not what was signed or is
missing, 3 nothing is wrong, but the data do not show all of it.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one SOURCE at most", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			period, err := parsePeriod(since, until, time.Now())
			if err != nil {
				return err
			}
			p, err := r.policy()
			if err != nil {
				return err
			}
			source := r.location(p)
			if len(args) == 1 {
				source = args[0]
			}
			if f.state == "" {
				f.state = "none" // what audits of this place remember is theirs
			}
			f.period = period
			return r.audit(cmd, source, f, p)
		},
	}
	r.flags(cmd)
	cmd.Flags().StringVar(&since, "since", "", "`TIME` at which the period begins")
	cmd.Flags().StringVar(&until, "until", "", "`TIME` before which it ends")
	f.flags(cmd)
	cmd.Flags().Lookup("state").Usage = "`FILE` with the last verified checkpoint of earlier audits, which the log must go on from (default none)"
	return cmd
}

// parsePeriod reads the two ends of a period.
func parsePeriod(since, until string, now time.Time) (*audit.Period, error) {
	var p audit.Period
	for _, e := range []struct {
		name, text string
		into       *time.Time
	}{{"since", since, &p.Since}, {"until", until, &p.Until}} {
		if e.text == "" {
			return nil, usagef("a report is about a period: say --since TIME and --until TIME")
		}
		d, err := time.ParseDuration(e.text)
		if err == nil && d >= 0 {
			*e.into = now.Add(-d)
			continue
		}
		if *e.into, err = time.Parse(time.DateOnly, e.text); err != nil {
			*e.into, err = time.Parse(time.RFC3339, e.text)
		}
		if err != nil {
			return nil, usagef("--%s %q is neither a time such as 2026-01-31T12:00:00Z, nor a date, nor a duration such as 720h", e.name, e.text)
		}
		if y := e.into.Year(); y < 1970 || y > 2200 {
			return nil, usagef("--%s %q is not a time of which a log could tell", e.name, e.text)
		}
	}
	if !p.Since.Before(p.Until) {
		return nil, usagef("the period begins at %s, and ends at %s, before that", p.Since.UTC().Format(time.RFC3339), p.Until.UTC().Format(time.RFC3339))
	}
	return &p, nil
}

// flags are those that audit and report have both.
func (f *auditFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.state, "state", "", "`FILE` for the last verified checkpoint, or none (default for a URL: next to the policy)")
	cmd.Flags().Uint64Var(&f.statements, "statements", 0, "`N` statements at least that the operator says to have made in the log")
	cmd.Flags().StringVar(&f.predecessor, "predecessor", "", "`SOURCE` of the log that this one goes on from: check that it ended there, and was closed for this one")
	cmd.Flags().DurationVar(&f.slack, "slack", audit.DefaultHeartbeatSlack, "how late a producer's heartbeat may be, before it counts as silent and what it has not sealed as overdue")
	cmd.Flags().StringVar(&f.html, "html", "", "write the report to `FILE` too, as one page of HTML that fetches nothing")
}

// writeReport writes a report as a page, whole or not at all.
func writeReport(path string, stdout io.Writer, r *audit.Report) error {
	out, err := createOutput(path, stdout)
	if err != nil {
		return fmt.Errorf("--html: %w", err)
	}
	if err := report.HTML(out, r); err != nil {
		return errors.Join(err, out.abandon())
	}
	return out.keep()
}
