package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/config"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy"
	"github.com/sealtap/sealtap/record"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Look at configuration files",
		Args:  exactArgs(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file and the files it names",
		Long: `Reads FILE as the daemons would: unknown keys and bad values are errors that name file,
line and key; keys and policies that it names are read too. Nothing is started.`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := config.Load(args[0])
			if err != nil {
				return err
			}
			if err := checkFiles(f); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is good: %s\n", args[0], sections(f))
			return nil
		},
	})
	return cmd
}

// checkFiles reads what a configuration names.
func checkFiles(f *config.File) error {
	if f.Proxy != nil {
		files, err := readProxyFiles(f.Proxy)
		if err != nil {
			return err
		}
		if _, err := proxy.New(proxyConfig(f.Proxy, files, recordsNothing{}, nil)); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	if f.Log != nil {
		if _, err := readLogFiles(f.Log); err != nil {
			return err
		}
		if err := checkStorage(f.Log); err != nil {
			return err
		}
	}
	for _, w := range f.Witnesses {
		if _, err := readWitnessFiles(w); err != nil {
			return err
		}
	}
	return nil
}

// recordsNothing stands where a proxy that only checks its configuration would
// have a spool.
type recordsNothing struct{}

// Record implements [proxy.Recorder].
func (recordsNothing) Record(context.Context, *sealtapv1.Record, []*sealtapv1.Opening) error {
	return errors.New("nothing is recorded")
}

// RecordReceipt implements [proxy.Promiser].
func (recordsNothing) RecordReceipt(context.Context, *sealtapv1.Record, []*sealtapv1.Opening) (*record.Receipt, error) {
	return nil, errors.New("nothing is recorded")
}

func sections(f *config.File) string {
	s, sep := "", ""
	add := func(text string) { s, sep = s+sep+text, ", " }
	if f.Proxy != nil {
		add("a proxy on " + f.Proxy.Listen)
	}
	if f.Log != nil {
		add("a log on " + f.Log.Listen)
	}
	for _, w := range f.Witnesses {
		add("witness " + w.Name + " on " + w.Listen)
	}
	return s
}
