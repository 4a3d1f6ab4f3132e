package main

import (
	"bytes"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/bundle"
	"github.com/sealtap/sealtap/record"
)

const verifyLong = `Checks an evidence file, or a bundle (see sealtap bundle), with nothing but the policy, and
says in words what it proves. With --since-checkpoint a bundle must be of the history that a
checkpoint of yours is of: exit 3 where the bundle does not show it.

FILE can also hold receipts, as answers carry them where a route says "receipts: signed": the
values of Sealtap-Receipt, or what curl -i printed. Then the log, or a mirror of it (--log), is
asked for their records: exit 0 where they are there, 3 where they are not yet due, 1 where the
log lacks a record that was promised, or has another one in its place. Evidence of that is
written to FILE.omission, which verify checks offline.

FILE can be evidence of a fork, as witnesses keep and serve it: exit 0 where it proves that the
log has shown two histories, 3 where it proves nothing yet, 1 where the heads fit or are not the
log's. It needs no policy but the log's verifier key (--log-key).

With --rows FILE it proves rows of sealtap export that come back from another tool, in any
of its forms and in any order, against the log, or a mirror of it (--log). Columns may be
missing and others may have come; what is left must say what the record says.

With --page FILE it writes a page that checks evidence in a browser: another program, in one file
that needs no server and no network, for those who would rather not trust this one.`

// verifying is a run of sealtap verify.
type verifying struct {
	reading
	rows, page, known string
	logKeys           []string
}

func newVerify() *cobra.Command {
	var v verifying
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check an evidence file or a bundle offline and say what it proves",
		Long:  verifyLong,
		Args: func(cmd *cobra.Command, args []string) error {
			if v.rows != "" && v.page != "" {
				return usagef("--rows and --page are for two runs")
			}
			if v.rows != "" || v.page != "" {
				return exactArgs()(cmd, args)
			}
			return exactArgs("FILE")(cmd, args)
		},
		RunE: v.run,
	}
	v.flags(cmd)
	cmd.Flags().StringArrayVar(&v.logKeys, "log-key", nil, "`VKEY` of the log, or a file with it, for evidence of a fork in the place of a policy; can be repeated")
	cmd.Flags().StringVar(&v.rows, "rows", "", "`FILE` with rows of an export (jsonl, csv, parquet or ocsf) to prove against the log")
	cmd.Flags().StringVar(&v.page, "page", "", "`FILE` to write the page to that checks evidence in a browser, - for standard output")
	cmd.Flags().StringVar(&v.known, "since-checkpoint", "", "`FILE` with a checkpoint of yours, or the state file of an audit, that a bundle must go on from")
	cmd.Flags().Lookup("log").Usage = "URL of the log, or a mirror of it, for --rows (default: the one in the policy, or http://" + defaultLogListen + ")"
	cmd.Flags().Lookup("token").Hidden = true
	return cmd
}

func (v *verifying) run(cmd *cobra.Command, args []string) error {
	if v.rows != "" && len(v.logKeys) > 0 {
		return usagef("--log-key is for evidence of a fork, and --rows needs the whole policy")
	}
	if v.page != "" {
		return writePage(cmd.OutOrStdout(), v.page)
	}
	if v.rows != "" {
		return v.verifyRows(cmd, v.rows)
	}
	return v.file(cmd, args[0])
}

// file verifies what a file holds, which it tells from the content.
func (v *verifying) file(cmd *cobra.Command, path string) error {
	if bundle.Is(path) {
		p, err := v.policy()
		if err != nil {
			return err
		}
		return v.verifyBundle(cmd, path, v.known, p)
	}
	if v.known != "" {
		return usagef("--since-checkpoint: %s is no bundle", path)
	}
	text, err := readBounded(path)
	if err != nil {
		return usagef("reading evidence: %w", err)
	}
	if bytes.HasPrefix(text, []byte(audit.ForkStart)) {
		return v.verifyFork(cmd, text, v.logKeys)
	} else if len(v.logKeys) > 0 {
		return usagef("--log-key is for evidence of a fork: what %s holds needs the whole policy", path)
	}
	p, err := v.policy()
	if err != nil {
		return err
	}
	switch {
	case bytes.HasPrefix(text, []byte(audit.OmissionStart)):
		return v.verifyOmission(cmd, text, p)
	case !bytes.HasPrefix(text, []byte(evidenceStart)):
		if list, err := record.FindReceipts(text); err == nil {
			return v.verifyReceipts(cmd, list, path, p)
		}
	}
	return v.verify(cmd, text, p)
}
