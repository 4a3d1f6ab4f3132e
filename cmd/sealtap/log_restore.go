package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/backup"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness"
)

// askTime is how long witnesses have to say what they have seen.
const askTime = 10 * time.Second

// restoring is the flags of sealtap log restore.
type restoring struct {
	file        string
	from        []string
	checkpoints []string
	without     bool
	json        bool
}

func newLogRestore() *cobra.Command {
	var r restoring
	cmd := &cobra.Command{
		Use:   "restore [DIR]",
		Short: "Put a log back from a backup, so that it cannot fork",
		Long: `Verifies the backup in DIR with the configured key and policy, and puts it where the
configuration has the log's database. Nothing may be there. Without DIR the database
that is there is verified instead, and goes on. The log must not be running.

A log must never have fewer entries than the largest head it has signed: going on from
there would fork it. So every witness of the policy is asked for the newest head that it
has cosigned, and the largest one, of those in --checkpoint files and --from copies too,
is put beside the database. If it has more entries than the backup the log does not
start until they are brought in, with --from: the URL of a mirror or another reader of
the log, a directory with its tiles, or another data directory or backup of it. Each
entry is proven under the signed head before it is stored.

Exit codes: 0 the log can start, 1 the backup or a copy is not what was signed, 2 something
else stands in the way, 3 entries are missing or not every witness could be asked.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one DIR at most", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := logSection(cmd, r.file)
			if err != nil {
				return err
			}
			if err := inFile(cmd, c); err != nil {
				return err
			}
			return r.run(cmd, c, args)
		},
	}
	cmd.Flags().StringVar(&r.file, "config", "", "configuration `FILE`")
	cmd.Flags().StringArrayVar(&r.from, "from", nil, "`URL or DIR` of a copy of the log that has newer entries; can be repeated")
	cmd.Flags().StringArrayVar(&r.checkpoints, "checkpoint", nil, "`FILE` with a head that the log has signed; can be repeated")
	cmd.Flags().BoolVar(&r.without, "without-witnesses", false, "go on although not every witness can be asked")
	cmd.Flags().BoolVar(&r.json, "json", false, "print the outcome for programs")
	return cmd
}

func (r *restoring) run(cmd *cobra.Command, c *config.Log, args []string) error {
	ctx := cmd.Context()
	f, err := readLogFiles(c)
	if err != nil {
		return err
	}
	rc := backup.RestoreConfig{
		Database: string(c.Database), Key: f.key, Policy: f.policy, WithoutWitnesses: r.without, Progress: stages(cmd.ErrOrStderr()),
	}
	for _, path := range r.checkpoints {
		note, err := os.ReadFile(path)
		if err != nil {
			return usagef("--checkpoint: %w", err)
		}
		rc.Checkpoints = append(rc.Checkpoints, backup.Seen{Where: path, Note: note})
	}
	closeAll, err := r.copies(ctx, &rc)
	defer closeAll()
	if err != nil {
		return err
	}
	rc.Witnesses = witness.Latest(ctx, f.policy, f.key.Name, nil, askTime)
	var o *backup.Outcome
	if len(args) == 1 {
		o, err = backup.Restore(ctx, rc, args[0])
	} else {
		o, err = backup.CatchUp(ctx, rc)
	}
	if errors.Is(err, backup.ErrUnseen) {
		return fmt.Errorf("%w; start the witnesses and say it again, or say --without-witnesses: "+
			"should the log then have signed more, they will not cosign what it goes on with", err)
	}
	if err != nil {
		return backupError(err)
	}
	return r.report(cmd, o, rc.Witnesses)
}

// copies opens the copies of the log.
func (r *restoring) copies(ctx context.Context, rc *backup.RestoreConfig) (closeAll func(), err error) {
	var closers closers
	closeAll = func() { _ = closers.close() }
	for _, location := range r.from {
		if _, err := os.Stat(filepath.Join(location, "log.db")); err == nil && !strings.Contains(location, "://") {
			db, err := sqlite.OpenLogFile(ctx, filepath.Join(location, "log.db"))
			if err != nil {
				return closeAll, fmt.Errorf("--from: %w", corrupt(err))
			}
			closers = append(closers, db.Close)
			rc.From = append(rc.From, backup.Copy{Where: location, Reader: dataSource{db}})
			// It may have signed more than it has published.
			signed := filepath.Join(location, "log.db.signed")
			if st, err := os.Stat(signed); err == nil && st.Mode().IsRegular() {
				if note, err := os.ReadFile(signed); err == nil {
					rc.Checkpoints = append(rc.Checkpoints, backup.Seen{Where: signed, Note: note})
				}
			}
			continue
		}
		s, err := client.Open(location, client.WithOrigin(rc.Key.Name))
		if err != nil {
			return closeAll, usagef("--from: %w", err)
		}
		rc.From = append(rc.From, backup.Copy{Where: s.String(), Reader: s})
	}
	return closeAll, nil
}

// report says what has become of the log, and what to do next.
func (r *restoring) report(cmd *cobra.Command, o *backup.Outcome, views []witness.View) error {
	var err error
	if r.json {
		err = printJSON(cmd.OutOrStdout(), outcomeJSON(o, views))
	} else {
		_, err = io.WriteString(cmd.OutOrStdout(), harmless(r.text(o, views)))
	}
	if err != nil || o.Complete() {
		return err
	}
	for _, c := range o.Copies {
		if errors.Is(c.Err, client.ErrVerification) {
			return failure{errReported}
		}
	}
	return codeError{errReported, exitUnfinished}
}

func (r *restoring) text(o *backup.Outcome, views []witness.View) string {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", label, fmt.Sprintf(format, args...))
	}
	line("log", "%s", o.Origin)
	line("entries", "%d, of which %d were brought in", o.Size, o.Size-o.Stored)
	for _, v := range views {
		switch {
		case v.Err != nil:
			line("witness", "%s: %s", v.Witness.Name, oneLine(v.Err.Error()))
		case v.Checkpoint == nil:
			line("witness", "%s has cosigned nothing of this log", v.Witness.Name)
		default:
			line("witness", "%s has cosigned %d entries", v.Witness.Name, v.Checkpoint.Size)
		}
	}
	if slices.ContainsFunc(views, func(v witness.View) bool { return v.Err != nil }) {
		line("unseen", "not every witness could be asked: if one has cosigned more, it will not cosign what the log goes on with")
	}
	if o.Newest > 0 {
		line("newest", "the largest head that was seen has %d entries (%s)", o.Newest, o.Seen)
	}
	for _, c := range o.Copies {
		switch {
		case c.Err != nil:
			line("copy", "%s: %d entries brought in, and no more: %s", c.Where, c.Brought, oneLine(c.Err.Error()))
		case c.Brought > 0:
			line("copy", "%s: %d entries brought in", c.Where, c.Brought)
		default:
			line("copy", "%s: not needed", c.Where)
		}
	}
	switch {
	case o.Before > o.Minimum:
		line("pruned", "entries begin at %d again, and not at %d: the log prunes by itself once it has published", o.Minimum, o.Before)
	case o.Minimum > 0:
		line("pruned", "entries begin at %d", o.Minimum)
	}
	line("openings", "%s", openingsText(o))
	if o.Complete() {
		line("missing", "nothing; entries that no head covered yet come again from the spools of the proxies")
		line("next", "sealtap log --config %s", r.file)
		return b.String()
	}
	line("missing", "%d entries, %d to %d: the log does not start without them", o.Newest-o.Size, o.Size, o.Newest-1)
	line("next", "sealtap log restore --config %s --from URL, of a mirror or another copy that has them", r.file)
	return b.String()
}

func openingsText(o *backup.Outcome) string {
	text := map[backup.OpeningsOutcome]string{
		backup.OpeningsRestored: "those of the backup; what was erased since must be erased again",
		backup.OpeningsKept:     "those that were there already",
	}[o.Openings]
	if o.Openings == backup.OpeningsEmpty {
		return fmt.Sprintf("none; %d records have sealed fields, which stay sealed for good", o.Lost)
	}
	if o.Lost > 0 {
		text += fmt.Sprintf("; those of %d records are lost, whose sealed fields stay sealed for good", o.Lost)
	}
	return text
}

// outcomeJSON is an outcome for programs.
func outcomeJSON(o *backup.Outcome, views []witness.View) any {
	type seen struct {
		Name  string `json:"name"`
		Size  uint64 `json:"size"`
		Error string `json:"error,omitempty"`
	}
	type copied struct {
		Where   string `json:"where"`
		Brought uint64 `json:"brought"`
		Error   string `json:"error,omitempty"`
	}
	out := struct {
		Origin    string   `json:"origin"`
		Size      uint64   `json:"size"`
		Restored  uint64   `json:"restored"`
		Newest    uint64   `json:"newest"`
		Seen      string   `json:"seen,omitempty"`
		Missing   uint64   `json:"missing"`
		Minimum   uint64   `json:"minimum_index"`
		Openings  string   `json:"openings"`
		Lost      uint64   `json:"openings_lost"`
		Witnesses []seen   `json:"witnesses"`
		Copies    []copied `json:"copies"`
	}{
		Origin: o.Origin, Size: o.Size, Restored: o.Stored, Newest: o.Newest, Seen: o.Seen, Minimum: o.Minimum, Openings: string(o.Openings), Lost: o.Lost,
		Witnesses: []seen{}, Copies: []copied{},
	}
	if !o.Complete() {
		out.Missing = o.Newest - o.Size
	}
	for _, v := range views {
		s := seen{Name: v.Witness.Name}
		if v.Checkpoint != nil {
			s.Size = v.Checkpoint.Size
		}
		if v.Err != nil {
			s.Error = oneLine(v.Err.Error())
		}
		out.Witnesses = append(out.Witnesses, s)
	}
	for _, c := range o.Copies {
		x := copied{Where: c.Where, Brought: c.Brought}
		if c.Err != nil {
			x.Error = oneLine(c.Err.Error())
		}
		out.Copies = append(out.Copies, x)
	}
	return out
}
