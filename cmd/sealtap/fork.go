package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/witness/policy"
)

// verifyFork checks evidence of a fork with the log's keys: those that are given,
// or those of the policy. Evidence that proves a fork is good evidence of something
// bad.
func (r *reading) verifyFork(cmd *cobra.Command, text []byte, vkeys []string) error {
	p, err := r.forkPolicy(vkeys)
	if err != nil {
		return err
	}
	report, err := audit.VerifyFork(text, p)
	if err != nil {
		return failure{fmt.Errorf("this evidence proves nothing: %w", err)}
	}
	if r.json {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		_, err = io.WriteString(cmd.OutOrStdout(), harmless(report.Text()))
	}
	if err == nil && report.Verdict == audit.Incomplete {
		err = codeError{errReported, exitUnfinished}
	}
	return err
}

// forkPolicy returns a policy that has the keys of a log, and needs nothing else.
func (r *reading) forkPolicy(vkeys []string) (*policy.Policy, error) {
	if len(vkeys) == 0 {
		return r.policy()
	}
	var logs []policy.Log
	for _, text := range vkeys {
		k, err := vkeyOrFile("--log-key", text)
		if err != nil {
			return nil, err
		}
		logs = append(logs, policy.Log{Key: k})
	}
	p, err := policy.New(logs, nil, nil, policy.None, nil)
	if err != nil {
		return nil, usagef("--log-key: %w", err)
	}
	return p, nil
}
