package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/bundle"
	"github.com/sealtap/sealtap/witness/policy"
)

// auditMemory is from where on an audit's garbage is collected without waiting for more:
// what it needs is less, but bundles can be large.
const auditMemory = 192 << 20

// evidenceStart is how an evidence file begins; docs/formats.md.
const evidenceStart = "sealtap/evidence/"

func newAudit() *cobra.Command {
	var r reading
	var f auditFlags
	cmd := &cobra.Command{
		Use:   "audit [SOURCE]",
		Short: "Check everything: a log, a copy of its data, or an evidence file",
		Long: `Recomputes every hash from the entries up and checks the log's signature, the quorum of
witnesses, the history of keys, every seal and the completeness of every producer's
records. SOURCE is the URL of a log (default: the local one), a directory with tiles,
a data directory of sealtap up, an evidence file, or a bundle. It trusts the policy and the
operator's key and nothing else.

It remembers the last checkpoint that passed and the operator's newest statement (--state), so
that a log which shrinks, forks or hides one between two audits is caught. Without such a memory
a log that was pruned can hide the newest: say with --statements how many the operator made, as
the command printed that made the last. A log that goes on from another one is believed
about that one unless --predecessor says where it is.

With --state FILE it also keeps what it knows of all entries, in FILE.known, and the next audit
with that file reads only what is new; --full reads everything all the same. An audit that is
interrupted leaves FILE.started, and the next one goes on from there.

With --tree it looks at heads, signatures, quorum and hashes only, and not at what entries say: that is
faster, and the log can be any one that is served as C2SP tlog-tiles.

Exit codes: 0 all is well, 1 something is not what was signed or is missing, 3 something could
not be fetched and nothing is concluded.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one SOURCE at most", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := r.policy()
			if err != nil {
				return err
			}
			source := r.location(p)
			if len(args) == 1 {
				source = args[0]
			}
			if bundle.Is(source) {
				if f.statements > 0 || f.predecessor != "" || f.html != "" || f.state != "" {
					return usagef("%s is a bundle: --state, --statements, --predecessor and --html are for a log", source)
				}
				return r.verifyBundle(cmd, source, "", p)
			}
			if text, ok, err := evidenceFile(source); err != nil {
				return err
			} else if ok && (f.statements > 0 || f.predecessor != "" || f.html != "" || f.full || f.tree) {
				return usagef("%s is an evidence file: --statements, --predecessor, --html, --full and --tree are for a log", source)
			} else if ok {
				return r.verify(cmd, text, p)
			}
			if f.tree && (f.statements > 0 || f.predecessor != "") {
				return usagef("--tree does not look at what --statements and --predecessor are about")
			}
			return r.audit(cmd, source, f, p)
		},
	}
	r.flags(cmd)
	f.flags(cmd)
	cmd.Flags().Lookup("state").Usage = "`FILE` for the last verified checkpoint, or none (default for a URL: next to the policy); read only what is new since"
	cmd.Flags().BoolVar(&f.full, "full", false, "read everything, also with --state FILE")
	cmd.Flags().BoolVar(&f.tree, "tree", false, "check heads, signatures and hashes only, of any log of C2SP tlog-tiles")
	return cmd
}

// auditFlags are those of audit and report.
type auditFlags struct {
	state, predecessor, html string
	statements               uint64
	slack                    time.Duration
	full, tree               bool
	period                   *audit.Period // of report
}

// evidenceFile reads source if it is a file, which then has to hold evidence.
func evidenceFile(source string) ([]byte, bool, error) {
	st, err := os.Stat(source)
	if err != nil || st.IsDir() {
		return nil, false, nil
	}
	text, err := readBounded(source)
	if err != nil {
		return nil, false, usageError{err}
	}
	if !strings.HasPrefix(string(text), evidenceStart) {
		return nil, false, usagef("%s is a file, but not an evidence file", source)
	}
	return text, true, nil
}

func (r *reading) verify(cmd *cobra.Command, text []byte, p *policy.Policy) error {
	report, err := audit.VerifyEvidence(text, p, nil)
	if err != nil {
		return r.unproven(cmd.OutOrStdout(), err)
	}
	if r.json {
		return printJSON(cmd.OutOrStdout(), struct {
			*audit.EvidenceReport
			Findings []audit.Finding `json:"findings"` // as in the report of a log
		}{report, []audit.Finding{}})
	}
	return printProven(cmd.OutOrStdout(), text, report)
}

func (r *reading) audit(cmd *cobra.Command, source string, f auditFlags, p *policy.Policy) error {
	if f.slack <= 0 {
		return usagef("--slack %v: it is more than nothing, such as %v", f.slack, audit.DefaultHeartbeatSlack)
	}
	src, err := r.openSource(cmd.Context(), source)
	if err != nil {
		return err
	}
	defer src.close()
	state, explicit := f.state, f.state != ""
	switch {
	case state == "none":
		state = ""
	case !explicit && strings.Contains(source, "://"):
		// A copy may well be older than the log was at the last audit.
		state = r.defaultState(p)
	}
	o := audit.Options{Policy: p, State: state, Incremental: explicit && state != "", Full: f.full, Statements: f.statements, TreeOnly: f.tree, Progress: progress(cmd.ErrOrStderr()), Openings: src.openings,
		Coverage: f.html != "", Period: f.period, HeartbeatSlack: f.slack}
	if f.predecessor != "" {
		before, err := new(reading).openSource(cmd.Context(), f.predecessor) // a token is for one log
		if err != nil {
			return fmt.Errorf("--predecessor: %w", err)
		}
		defer before.close()
		o.Predecessor = before.Source
	}
	if debug.SetMemoryLimit(-1) == math.MaxInt64 { // unless GOMEMLIMIT says otherwise
		debug.SetMemoryLimit(auditMemory)
	}
	report, err := audit.Run(cmd.Context(), src.Source, o)
	if report == nil {
		return err
	}
	if err != nil && !explicit {
		fmt.Fprintf(cmd.ErrOrStderr(), "sealtap: what this audit knows is not remembered: %v\n", err)
	} else if err != nil {
		return err
	}
	if err := src.extra(report); err != nil {
		return err
	}
	if f.html != "" {
		if err := writeReport(f.html, cmd.OutOrStdout(), report); err != nil {
			return err
		}
	}
	switch {
	case f.html == "-": // the page is what was printed
	case r.json:
		err = printJSON(cmd.OutOrStdout(), report)
	default:
		_, err = io.WriteString(cmd.OutOrStdout(), harmless(report.Text()))
	}
	switch {
	case err != nil:
		return err
	case report.Verdict == audit.Fail:
		return failure{errReported}
	case report.Verdict == audit.Incomplete:
		return codeError{errReported, exitUnfinished}
	}
	return nil
}

// defaultState is a file next to the policy, one for each set of logs.
func (r *reading) defaultState(p *policy.Policy) string {
	var b bytes.Buffer
	for _, l := range p.Logs {
		b.WriteString(l.Key.Name + "\n")
	}
	return filepath.Join(filepath.Dir(r.policyFile), fmt.Sprintf(".audit-%.4x.state", sha256.Sum256(b.Bytes())))
}

// progress draws how far an audit is, on terminals only.
func progress(w io.Writer) func(done, total uint64) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	last := time.Now()
	return func(done, total uint64) {
		if done < total && time.Since(last) < 100*time.Millisecond {
			return
		}
		last = time.Now()
		const width = 40
		n := int(width * done / max(total, 1))
		fmt.Fprintf(w, "\r[%-*s] %d of %d entries", width, strings.Repeat("=", n), done, total)
		if done >= total {
			fmt.Fprint(w, "\r\x1b[K")
		}
	}
}
