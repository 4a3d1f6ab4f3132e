package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// refuseHelp keeps the help of one command from being printed as the answer to a
// question about another one, which does not exist: whoever scripts against sealtap
// asks so whether it has a verb. The function returns the error, once the command
// has run.
func refuseHelp(root *cobra.Command) func() error {
	var refused error
	knowHelp(root)
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if rest := cmd.Flags().Args(); cmd.HasSubCommands() && len(rest) > 0 {
			refused = unknownCommand(cmd, rest[0])
			return
		}
		help(cmd, args)
	})
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil {
				return usagef("%w", err)
			}
			if len(rest) > 0 {
				return unknownCommand(cmd, rest[0])
			}
			return cmd.Help()
		},
	})
	return func() error { return refused }
}

// knowHelp makes --help a flag of every command at once. Before it is one, what
// stands behind it is taken for its value, and not for a command.
func knowHelp(cmd *cobra.Command) {
	cmd.InitDefaultHelpFlag()
	for _, c := range cmd.Commands() {
		knowHelp(c)
	}
}

// unknownCommand says that a command has no such command below it.
func unknownCommand(cmd *cobra.Command, name string) error {
	within, _ := strings.CutPrefix(cmd.CommandPath(), cmd.Root().Name())
	return usagef("unknown command %q; %s%s --help lists them", strings.TrimSpace(within+" "+name), cmd.Root().Name(), within)
}
