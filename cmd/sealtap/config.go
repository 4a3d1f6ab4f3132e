package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/config"
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
		if _, err := readProxyFiles(f.Proxy); err != nil {
			return err
		}
	}
	if f.Log != nil {
		if _, err := readLogFiles(f.Log); err != nil {
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
