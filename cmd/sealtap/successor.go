package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// newSuccessor makes the command that ends a log and begins another one.
func newSuccessor() *cobra.Command {
	var r reading
	var operatorKey, out string
	var force bool
	cmd := &cobra.Command{
		Use:   "successor VKEY",
		Short: "Close the log, and make the beginning of the one that goes on from it",
		Long: `Has the operator close the log by a statement in it: it takes no more entries, and serves
what it has for ever. Then makes the first entries of the log with the verifier key VKEY
(or FILE.pub): a genesis that holds the last cosigned checkpoint of the closed log, and
the enrolment of its producers. They go into a file, which the new log server names as
log.genesis; it needs no operator's key.

Stop the proxies first: each one's last record must be a stop record, so that nothing is
left in its spool. Start them again with the new log, its policy and a spool directory
of their own. If the log is closed already the file is made again.`,
		Args: exactArgs("VKEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			operator, err := loadOperator(cmd, operatorKey)
			if err != nil {
				return err
			}
			next, err := vkeyArg(args[0])
			if err != nil {
				return err
			}
			if _, err := os.Lstat(out); err == nil {
				return usagef("%s is there already: say --out FILE", out)
			}
			rd, err := r.openAsOperator(cmd.Context(), operator)
			if err != nil {
				return err
			}
			if err := rd.closeFor(cmd.Context(), operator, next, force); err != nil {
				return err
			}
			text, err := rd.beginning(operator, next)
			if err != nil {
				return err
			}
			if err := os.WriteFile(out, text, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is closed with %d entries; %s goes on from it.\n"+
				"The statement that says so is the operator's %d there, and the last.\n"+
				"Name %s as log.genesis in the configuration of its server, and its key in the policy and to the witnesses.\n",
				rd.head.Origin, rd.head.Size, next.Name, rd.ring.Number, out)
			return nil
		},
	}
	r.flags(cmd)
	cmd.Flags().Lookup("json").Hidden = true
	cmd.Flags().StringVar(&operatorKey, "operator-key", "", "`FILE` with the operator's signing key")
	cmd.Flags().StringVar(&out, "out", "successor.genesis", "`FILE` to write")
	cmd.Flags().BoolVar(&force, "force", false, "close the log although proxies have not stopped: what is in their spools will not be in a log")
	return cmd
}

// closeFor closes the log, unless it was closed for the same successor before, and
// goes on to its last head.
func (rd *reader) closeFor(ctx context.Context, operator *keys.Private, next keys.Public, force bool) error {
	if rd.ring.Closed() == nil {
		if !force {
			if err := rd.drained(ctx); err != nil {
				return err
			}
		}
		entry, err := record.NewClose(rd.head.Origin, rd.ring.Number+1, next, operator)
		if err != nil {
			return usageError{err}
		}
		if _, err := rd.stateEntry(ctx, entry); err != nil {
			return err
		}
	}
	switch c := rd.ring.Closed(); {
	case c == nil:
		return failure{fmt.Errorf("the log does not show the statement that closes it")}
	case c.Successor.String() != next.String():
		return usagef("%s is closed already, and %s goes on from it", rd.head.Origin, c.Successor)
	case rd.head.Size != c.Index+1:
		return failure{fmt.Errorf("the log has entries behind the one that closes it, at %d", c.Index)}
	}
	return nil
}

// drained returns an error if a producer may have records that are not in the log:
// if its last record is not a stop record under a seal, or cannot be read any more.
func (rd *reader) drained(ctx context.Context) error {
	cursor := make(url.Values)
	active := make(map[string]bool)
	for _, k := range rd.ring.Active() {
		active[k.ID().String()] = true
	}
	for seen := make(map[string]bool); ; {
		var page struct {
			Producers []struct {
				Name         string
				KeyID        string `json:"key_id"`
				NewestPruned bool   `json:"newest_pruned"`
				Incarnations []struct {
					Records, Sealed uint64
					Last            struct{ Index uint64 }
				}
			}
			Next string
		}
		if err := rd.Get(ctx, "producers", cursor, &page); err != nil {
			return err
		}
		before := len(seen)
		for _, p := range page.Producers {
			seen[p.KeyID] = true
			if active[p.KeyID] && p.NewestPruned {
				return usagef("whether %s has stopped cannot be told: its last records lie below the log's minimum index. If it is no more, revoke its key; or say --force", p.Name)
			}
			if n := len(p.Incarnations); n > 0 && active[p.KeyID] {
				last := p.Incarnations[n-1]
				e, err := rd.entry(ctx, last.Last.Index)
				if err != nil {
					return err
				}
				if e.Record == nil || e.Record.Stage() != "stop" || last.Sealed != last.Records {
					return usagef("%s has not stopped, so its spool may hold records that are not in the log: stop it first, or say --force", p.Name)
				}
			}
			delete(active, p.KeyID)
		}
		if page.Next == "" || len(seen) == before {
			break
		}
		cursor.Set("cursor", page.Next)
	}
	for id := range active {
		return failure{fmt.Errorf("the log does not list producer %s, which its entries enrol, so whether it has stopped cannot be told", id)}
	}
	return nil
}

// enrolAtOnce is how many producers one key change takes over: it has to fit into
// an entry.
const enrolAtOnce = 200

// beginning makes the first entries of the successor, one in base64 a line.
func (rd *reader) beginning(operator *keys.Private, next keys.Public) ([]byte, error) {
	genesis, err := record.NewSuccessor(next, operator, time.Now(), rd.head.Note)
	if err != nil {
		return nil, err
	}
	entries := [][]byte{genesis}
	for active := rd.ring.Active(); len(active) > 0; {
		n := min(len(active), enrolAtOnce)
		entry, err := record.NewKeyChange(record.KeyChange{Origin: next.Name, Number: uint64(len(entries)), Enrol: active[:n]}, operator)
		if err != nil {
			return nil, err
		}
		entries, active = append(entries, entry), active[n:]
	}
	var b bytes.Buffer
	for _, e := range entries {
		b.WriteString(base64.StdEncoding.EncodeToString(e) + "\n")
	}
	return b.Bytes(), nil
}

// loadBeginning reads what sealtap log successor wrote.
func loadBeginning(path string) ([][]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("log.genesis: %w", err)
	}
	var entries [][]byte
	for line := range bytes.Lines(text) {
		entry, err := base64.StdEncoding.Strict().DecodeString(string(bytes.TrimSuffix(line, []byte("\n"))))
		if err == nil {
			_, err = record.Parse(entry)
		}
		if err != nil {
			return nil, usagef("log.genesis: %s is not what sealtap log successor writes: %w", path, err)
		}
		entries = append(entries, entry)
	}
	if len(entries) == 0 {
		return nil, usagef("log.genesis: %s is empty", path)
	}
	return entries, nil
}
