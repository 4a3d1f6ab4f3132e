package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness/policy"
)

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Make and read policies: who must agree for a head to count",
		Args:  exactArgs(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicyInit(), newPolicyCheck(), newPolicyExplain())
	return cmd
}

func newPolicyCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check a policy file",
		Long: `Reads FILE as every command does (C2SP tlog-policy). Errors name the line. It exits 1 where
the policy is well-formed and lets the log show two histories although no witness lies.`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := loadPolicy("policy", args[0])
			if err != nil {
				return err
			}
			if a, ok := p.Analyse(); ok && a.Apart {
				return failure{fmt.Errorf("%s is well-formed, but two histories can count under it although no witness lies; sealtap policy explain %s says why", args[0], args[0])}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is good: %d logs, %d witnesses, quorum %s\n", args[0], len(p.Logs), len(p.Witnesses), p.Quorum)
			return nil
		},
	}
}

func newPolicyExplain() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain FILE",
		Short: "Say in words who must agree for a head to count",
		Args:  exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := loadPolicy("policy", args[0])
			if err != nil {
				return err
			}
			if !asJSON {
				_, err = fmt.Fprint(cmd.OutOrStdout(), harmless(p.Explain()))
				return err
			}
			a, _ := p.Analyse()
			return printJSON(cmd.OutOrStdout(), map[string]any{"quorum": p.Quorum, "least": a.Least, "spare": a.Spare, "apart": a.Apart, "idle": append([]string{}, a.Idle...)})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON for programs")
	return cmd
}

func newPolicyInit() *cobra.Command {
	var logKey, logURL, operator, quorum, out string
	var witnesses []string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a policy from keys",
		Long: `Makes a policy (C2SP tlog-policy) for one log and its witnesses, and explains it on standard
error. Keys are verifier keys, or files with one, as sealtap keygen writes them.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := makePolicy(logKey, logURL, operator, quorum, witnesses)
			if err != nil {
				return err
			}
			p, err := policy.Parse(text)
			if err != nil {
				return usageError{err}
			}
			explain := func() { fmt.Fprint(cmd.ErrOrStderr(), harmless(p.Explain())) }
			if out == "-" {
				explain()
				_, err = cmd.OutOrStdout().Write(text)
				return err
			}
			if err := durable.Create(out, text, 0o644); errors.Is(err, fs.ErrExist) {
				return usagef("%s is there already; move it away or name another with --out", out)
			} else if err != nil {
				return usageError{err}
			}
			explain()
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %s\n", out)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&logKey, "log-key", "", "`VKEY` of the log")
	f.StringVar(&logURL, "log-url", "", "`URL` where the log is read")
	f.StringVar(&operator, "operator", "", "`VKEY` of the log's operator, who says who may write")
	f.StringArrayVar(&witnesses, "witness", nil, "`NAME=VKEY[@URL]` of a witness; can be repeated")
	f.StringVar(&quorum, "quorum", "", "how many witnesses make a head count: `N`, all, or none (default: more than half)")
	f.StringVar(&out, "out", "policy.txt", "`FILE` to write, or - for standard output")
	return cmd
}

// makePolicy returns the text of a policy.
func makePolicy(logKey, logURL, operator, quorum string, witnesses []string) ([]byte, error) {
	if logKey == "" {
		return nil, usagef("say --log-key VKEY: the key of the log, such as GET /checkpoint of it bears")
	}
	l, err := vkeyOrFile("--log-key", logKey)
	if err != nil {
		return nil, err
	}
	var pin *keys.Public
	if operator != "" {
		k, err := vkeyOrFile("--operator", operator)
		if err != nil {
			return nil, err
		}
		pin = &k
	}
	var list []policy.Witness
	var names []string
	for _, text := range witnesses {
		name, rest, ok := strings.Cut(text, "=")
		vkey, url, _ := strings.Cut(rest, "@")
		if !ok || name == "" {
			return nil, usagef("--witness %q: it is NAME=VKEY[@URL]", text)
		}
		k, err := vkeyOrFile("--witness "+name, vkey)
		if err != nil {
			return nil, err
		}
		list, names = append(list, policy.Witness{Name: name, Key: k, URL: url}), append(names, name)
	}
	var groups []policy.Group
	q := policy.None
	if n, err := quorumOf(quorum, len(list)); err != nil {
		return nil, err
	} else if n > 0 {
		q = "quorum-of-witnesses"
		groups = append(groups, policy.Group{Name: q, K: n, Members: names})
	}
	p, err := policy.New([]policy.Log{{Key: l, URL: logURL}}, list, groups, q, pin)
	if err != nil {
		return nil, usageError{err}
	}
	return p.Marshal(), nil
}

func quorumOf(text string, witnesses int) (int, error) {
	switch text {
	case "":
		if witnesses == 0 {
			return 0, usagef("say --witness NAME=VKEY for each witness, or --quorum none, under which nobody keeps the log from showing two histories")
		}
		return witnesses/2 + 1, nil
	case "none":
		return 0, nil
	case "all":
		return witnesses, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > witnesses {
		return 0, usagef("--quorum %q: it is a number from 1 to %d, all, or none", text, witnesses)
	}
	return n, nil
}

func vkeyOrFile(what, text string) (keys.Public, error) {
	if b, err := readBounded(text); err == nil {
		text = strings.TrimSpace(string(b))
	}
	k, err := keys.ParsePublic(text)
	if err != nil {
		return keys.Public{}, usagef("%s: %w", what, err)
	}
	return k, nil
}
