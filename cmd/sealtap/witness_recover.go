package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/recovery"
)

// witnessRecovering is the flags of sealtap witness recover.
type witnessRecovering struct {
	file, name, policy string
	from, without      []string
	trustLog, json     bool
}

func newWitnessRecover() *cobra.Command {
	var r witnessRecovering
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Catch up with what a witness may have cosigned and forgotten",
		Long: `Brings a witness whose database may be older than what it has cosigned, such as one put
back from a backup, up to the newest heads that others have seen. The witness must not be
running. Until this has ended well for a log the witness does not sign for it.

The policy says who is asked: its other witnesses that have a URL, for the newest head that
they have cosigned, and the logs that have one. Of each log in the configuration the largest
head counts, once every other that is known, the one in the database among them, is proven
from the log's tiles (or those of a mirror, --from) to be its beginning. Where they are of two
histories the evidence is kept, and the witness never signs for that log again.

It cannot find out about a head that the log had this witness cosign and has shown to nobody
else. Where that matters, give the witness a new key instead.

Exit codes: 0 the witness signs again for every log, 1 a log has shown two histories, 2
something else stands in the way, 3 something could not be had, and the witness does not sign
for the logs that are named.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&r.file, "config", "", "configuration `FILE`")
	f.StringVar(&r.name, "name", "", "which witness of the file")
	f.StringVar(&r.policy, "policy", "", "policy `FILE` with the other witnesses and the logs, and where they are")
	f.StringArrayVar(&r.from, "from", nil, "`URL or DIR` of a mirror of a log; can be repeated")
	f.StringArrayVar(&r.without, "without", nil, "`NAME` of a witness of the policy that need not answer; can be repeated")
	f.BoolVar(&r.trustLog, "trust-log", false, "take a log's word for its newest head where no other witness has cosigned it")
	f.BoolVar(&r.json, "json", false, "print the outcome for programs")
	return cmd
}

func (r *witnessRecovering) run(cmd *cobra.Command) error {
	switch {
	case r.file == "":
		return usagef("say --config FILE: the one that the witness runs with")
	case r.policy == "":
		return usagef("say --policy FILE: it names the other witnesses, who are asked")
	}
	f, err := config.Load(r.file)
	if err != nil {
		return err
	}
	w, err := witnessSection(f, r.name)
	if err != nil {
		return err
	}
	key, err := readWitnessFiles(w)
	if err != nil {
		return err
	}
	c := recovery.Config{By: key.key.Name, Own: key.public(), Logs: witnessLogs(w), Without: r.without, TrustLog: r.trustLog}
	if err := r.sources(&c); err != nil {
		return err
	}
	outcomes, err := r.recover(cmd.Context(), string(w.Database), c)
	if err != nil {
		return err
	}
	if r.json {
		err = printJSON(cmd.OutOrStdout(), map[string]any{"logs": outcomes})
	} else {
		_, err = io.WriteString(cmd.OutOrStdout(), harmless(recoveryText(outcomes)))
	}
	if err != nil {
		return err
	}
	code := exitGood
	for _, o := range outcomes {
		switch {
		case o.State == recovery.Forked:
			code = exitFailed
		case o.State == recovery.Unfinished && code == exitGood:
			code = exitUnfinished
		}
	}
	if code == exitGood {
		return nil
	}
	return codeError{errReported, code}
}

// sources opens who is asked.
func (r *witnessRecovering) sources(c *recovery.Config) (err error) {
	if c.Policy, err = loadPolicy("--policy", r.policy); err != nil {
		return err
	}
	for _, name := range r.without {
		known := false
		for _, w := range c.Policy.Witnesses {
			known = known || w.Name == name
		}
		if !known {
			return usagef("--without %s: the policy has no witness of that name", name)
		}
	}
	for _, location := range r.from {
		s, err := client.Open(location)
		if err != nil {
			return usagef("--from: %w", err)
		}
		c.Copies = append(c.Copies, s)
	}
	return nil
}

// recover has the database to itself.
func (r *witnessRecovering) recover(ctx context.Context, database string, c recovery.Config) (list []recovery.Outcome, err error) {
	store, err := sqlite.OpenWitness(ctx, database)
	if err != nil {
		return nil, usageError{err}
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if _, err := store.BeginLife(ctx); err != nil {
		return nil, err
	}
	c.Store = store
	return recovery.Run(ctx, c)
}

func recoveryText(list []recovery.Outcome) string {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", label, oneLine(fmt.Sprintf(format, args...)))
	}
	good := 0
	for i, o := range list {
		if i > 0 {
			b.WriteString("\n")
		}
		line("log", "%s", o.Origin)
		line("stored", "%d entries", o.Before)
		for _, s := range o.Seen {
			switch {
			case s.Error != "":
				line("asked", "%s: %s", s.Where, s.Error)
			case s.Size == 0:
				line("asked", "%s: nothing", s.Where)
			default:
				line("asked", "%s: %d entries", s.Where, s.Size)
			}
		}
		switch o.State {
		case recovery.Recovered:
			good++
			line("recovered", "the witness signs again, from %d entries on", o.Size)
		case recovery.Forked:
			line("FORKED", "the witness does not sign for it: %s", o.Detail)
		default:
			line("not yet", "the witness does not sign for it: %s", o.Detail)
		}
	}
	fmt.Fprintf(&b, "\n%d of %d logs recovered\n", good, len(list))
	return b.String()
}
