package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/storage/trillian"
)

func newLogInit() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the tree and the tables of a log that is kept in Trillian",
		Long: `Makes what a log needs that log.storage keeps in Trillian and PostgreSQL: the tables,
and an empty tree of the kind PREORDERED_LOG, whose id it prints. Set
log.storage.trillian.tree_id to it on every server of the log.

A log in a SQLite file needs no such step.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := logSection(cmd, file)
			if err != nil {
				return err
			}
			if c.Storage == nil {
				return usagef("%s keeps its log in the SQLite file %s, which sealtap log makes by itself: there is nothing to do", file, c.Database)
			}
			id, made, err := initTree(cmd.Context(), c)
			if err != nil {
				return err
			}
			if !made {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "tree %d and the tables are there\n", id)
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "made tree %d and the tables; now set log.storage.trillian.tree_id: %d\n", id, id)
			return err
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration `FILE`")
	return cmd
}

// initTree makes tables and a tree, unless the configuration names a tree: that one is
// checked.
func initTree(ctx context.Context, c *config.Log) (id int64, made bool, err error) {
	t := c.Storage.Trillian
	key, err := loadKey("log.key", string(c.Key), keys.Ed25519)
	if err != nil {
		return 0, false, err
	}
	tc, err := trillianConfig(t, slog.New(slog.DiscardHandler))
	if err != nil {
		return 0, false, err
	}
	db, err := openDB(ctx, t)
	if err != nil {
		return 0, false, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if t.TreeID == 0 {
		id, err = trillian.CreateTree(ctx, tc, key.Name)
		return id, true, err
	}
	inner, err := db.Log(string(c.Database) + ".signed")
	if err != nil {
		return 0, false, err
	}
	l, err := trillian.Open(ctx, tc, inner)
	if err != nil {
		return 0, false, errors.Join(err, inner.Close())
	}
	return int64(t.TreeID), false, l.Close()
}
