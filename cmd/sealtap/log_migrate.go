package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/storage/postgres"
	"github.com/sealtap/sealtap/storage/trillian"
	"github.com/sealtap/sealtap/tlog/migrate"
)

func newLogMigrate() *cobra.Command {
	var file, from string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "migrate --from FILE",
		Short: "Take a log from its SQLite file to Trillian and PostgreSQL",
		Long: `Takes the log in the SQLite FILE to where log.storage of the configuration says:
PostgreSQL and Trillian. Origin, key, order, indices and proofs stay as they are. The
log is stopped meanwhile; proxies keep their records in their spools.

Entries are verified as they were the first time, and at the end everything that
readers can ask for is compared. After a failure say the same again: it goes on where it
was. Once all is there FILE is renamed to FILE` + migrate.Moved + `, so that nobody starts the log from it
by mistake: it would be a second history.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := logSection(cmd, file)
			if err != nil {
				return err
			}
			if c.Storage == nil {
				return usagef("%s has no section log.storage, which says where the log is to go", file)
			}
			if from == "" {
				return usagef("say --from FILE, the SQLite file of the log")
			}
			o, err := migrateLog(cmd, c, from)
			switch {
			case errors.Is(err, trillian.ErrTree), errors.Is(err, migrate.ErrSource), errors.Is(err, migrate.ErrTarget):
				return usagef("%w", err)
			case err != nil:
				return err
			case asJSON:
				return printJSON(cmd.OutOrStdout(), map[string]any{"origin": o.Origin, "size": o.Size, "root": o.Root[:], "before": o.Before, "openings": o.Openings})
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), harmless(migrated(o, from)))
			return err
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration `FILE`")
	cmd.Flags().StringVar(&from, "from", "", "SQLite `FILE` of the log")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the outcome for programs")
	return cmd
}

func migrated(o *migrate.Outcome, from string) string {
	text := fmt.Sprintf("migrated %s: %d entries, root %s\n", o.Origin, o.Size, base64.StdEncoding.EncodeToString(o.Root[:]))
	if o.Before > 0 {
		text += fmt.Sprintf("  %d entries were there from an earlier attempt\n", o.Before)
	}
	return text + fmt.Sprintf("  openings of %d records copied; every bundle, tile and stream compared\n  the file is %s now; start the log with sealtap log --config\n",
		o.Openings, from+migrate.Moved)
}

func migrateLog(cmd *cobra.Command, c *config.Log, from string) (_ *migrate.Outcome, err error) {
	ctx := cmd.Context()
	f, err := readLogFiles(c)
	if err != nil {
		return nil, err
	}
	k, err := openCluster(ctx, c, "", slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	short, cancel := context.WithTimeout(ctx, 2*clusterRetry)
	k.lease, err = k.db.Acquire(short, "")
	cancel()
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("%w: stop the log servers that use this storage", postgres.ErrNotWriter)
	}
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- k.trillian.HandOver(ctx) }()
	defer func() {
		stop()
		err = errors.Join(err, <-done)
	}()
	return migrate.Run(ctx, migrate.Config{Database: from, Key: f.key, Policy: f.policy,
		Log: k.trillian, Openings: k.db.Openings(), Progress: stages(cmd.ErrOrStderr())})
}
