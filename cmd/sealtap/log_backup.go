package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/tlog/backup"
	"github.com/sealtap/sealtap/witness/policy"
)

// logSection reads the log's section of a configuration.
func logSection(cmd *cobra.Command, file string) (*config.Log, error) {
	if file == "" {
		return nil, usagef("say --config FILE: %s works on the log of a configuration", cmd.CommandPath())
	}
	f, err := config.Load(file)
	if err != nil {
		return nil, err
	}
	if f.Log == nil {
		return nil, usagef("%s has no log section", f.Path)
	}
	return f.Log, nil
}

// inFile refuses a log that is not kept in a file of its own.
func inFile(cmd *cobra.Command, c *config.Log) error {
	if c.Storage != nil {
		return usagef("%s works on a log in a SQLite file; this one is in PostgreSQL and Trillian: use the tools of PostgreSQL (docs/scaling.md)", cmd.CommandPath())
	}
	return nil
}

func newLogBackup() *cobra.Command {
	var file string
	var without, asJSON bool
	cmd := &cobra.Command{
		Use:   "backup DIR",
		Short: "Back the log up while it runs, and verify the backup",
		Long: `Copies the log's database, its openings, its last signed head and its newest cosigned
one into DIR, while the log runs or while it does not. What was copied is verified from
the entries up, with every hash, tile and seal, before it takes the place of an older
backup in DIR; a log that is damaged is not backed up (exit code 1), nor is one that
lacks entries which it has signed (exit code 3).

Keys, the configuration and the policy are not in a backup: keep copies of them
elsewhere. Whoever has the log's key can sign in its name. The search index is left
out, since the log makes it again.`,
		Args: exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := logSection(cmd, file)
			if err != nil {
				return err
			}
			if err := inFile(cmd, c); err != nil {
				return err
			}
			p, err := loadPolicy("log.policy", string(c.Policy))
			if err != nil {
				return err
			}
			m, err := backup.Write(cmd.Context(), backup.WriteConfig{
				Database: string(c.Database), Policy: p, WithoutOpenings: without, Progress: stages(cmd.ErrOrStderr()),
				Unsure: func(err error) { fmt.Fprintln(cmd.ErrOrStderr(), "sealtap: "+harmless(oneLine(err.Error()))) },
			}, args[0])
			if err != nil {
				return backupError(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), m)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), harmless(backupText(m, p, args[0])))
			return err
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration `FILE`")
	cmd.Flags().BoolVar(&without, "without-openings", false, "leave the values of sealed fields out")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the manifest, for programs")
	return cmd
}

func backupText(m *backup.Manifest, p *policy.Policy, dir string) string {
	published := "nothing yet"
	if m.Checkpoint != "" {
		published = fmt.Sprintf("%d entries", m.Published)
		if cp, err := p.VerifyLogOnly([]byte(m.Checkpoint)); err == nil {
			published += fmt.Sprintf(", cosigned by %d of %d witnesses", len(cp.Cosignatures), len(p.Witnesses))
		}
	}
	openings := "in it, encrypted; openings.key is not"
	if !m.Openings {
		openings = "not in it"
	}
	return fmt.Sprintf(`log        %s
backup     %s: %d entries with root %x, verified
signed     %d entries
published  %s
openings   %s
keys       not in it: keep copies of the keys, the configuration and the policy elsewhere
`, m.Origin, dir, m.Size, m.Root, m.Signed, published, openings)
}

// backupError gives the errors of backups their exit codes.
func backupError(err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, backup.ErrIncomplete), errors.Is(err, backup.ErrGone):
		return codeError{err, exitUnfinished}
	case errors.Is(err, backup.ErrDamaged), errors.Is(err, backup.ErrForked):
		return failure{err}
	case errors.Is(err, backup.ErrNotBackup), errors.Is(err, backup.ErrOther), errors.Is(err, backup.ErrExists), errors.Is(err, backup.ErrNone),
		errors.Is(err, backup.ErrInTheWay),
		errors.Is(err, fs.ErrNotExist):
		return usageError{err}
	}
	return err
}

// stages draws how far a work of several parts is, on terminals only.
func stages(w io.Writer) backup.Progress {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	last := time.Now()
	return func(what string, done, total uint64) {
		if done < total && time.Since(last) < 100*time.Millisecond {
			return
		}
		last = time.Now()
		fmt.Fprintf(w, "\r\x1b[K%s: %d%%", what, 100*done/max(total, 1))
		if done >= total {
			fmt.Fprint(w, "\r\x1b[K")
		}
	}
}
