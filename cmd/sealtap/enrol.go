package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// state makes a statement of the operator about keys, has the log take it, and
// returns once it lies under a published head: from then on everybody sees it.
func (rd *reader) state(ctx context.Context, operator *keys.Private, c *record.KeyChange) (index uint64, err error) {
	c.Origin = rd.head.Origin
	c.Number = rd.ring.Number + 1
	entry, err := record.NewKeyChange(*c, operator)
	if err != nil {
		return 0, err
	}
	return rd.stateEntry(ctx, entry)
}

// made says where a statement stands, and with its number what auditors can be told
// to look for.
func (rd *reader) made(index, number uint64) string {
	return fmt.Sprintf("entry %d of %s\nit is the operator's statement %d there: auditors can check with --statements %d that none is hidden", index, rd.head.Origin, number, number)
}

// stateEntry does so with a statement that is made.
func (rd *reader) stateEntry(ctx context.Context, entry []byte) (index uint64, err error) {
	resp, err := rd.Submit(ctx, &sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{{Entry: entry}}})
	if p := (*client.Problem)(nil); errors.As(err, &p) && p.Status >= 400 && p.Status < 500 {
		return 0, usagef("the log does not accept the statement: %s", p.Detail)
	} else if err != nil {
		return 0, err
	}
	if len(resp.GetRuns()) != 1 {
		return 0, failure{errors.New("the log does not say where it put the statement")}
	}
	index = resp.GetRuns()[0].GetFirstIndex()
	for end := time.Now().Add(publication); rd.head.Size <= index; {
		if time.Now().After(end) {
			return index, fmt.Errorf("the log has taken the statement as entry %d, but publishes no head with it: are its witnesses up?", index)
		}
		time.Sleep(20 * time.Millisecond)
		if err := rd.refresh(ctx); err != nil {
			return index, err
		}
	}
	got, err := rd.tree.Entry(ctx, index)
	if err == nil && !bytes.Equal(got, entry) {
		err = failure{fmt.Errorf("the log holds something else as entry %d than the statement it took", index)}
	}
	return index, err
}

// publication is how long a statement may take into a published head.
const publication = 10 * time.Second

// after checks the log once a statement stands at an index.
type after func(index uint64) error

// statement makes a command that submits a statement of the operator. Where the
// statement depends on what is in the log, complete finishes it, and returns what is
// to be checked once it is made; both may be nil.
func statement(use, short, long string, change func(args []string) (record.KeyChange, error),
	complete func(*cobra.Command, *reader, *record.KeyChange) (after, error), done string) (*cobra.Command, *reading) {
	var r reading
	var operatorKey string
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		RunE: func(cmd *cobra.Command, args []string) error {
			operator, err := loadOperator(cmd, operatorKey)
			if err != nil {
				return err
			}
			c, err := change(args)
			if err != nil {
				return err
			}
			rd, err := r.openAsOperator(cmd.Context(), operator)
			if err != nil {
				return err
			}
			var then after
			if complete != nil {
				if then, err = complete(cmd, rd, &c); err != nil {
					return err
				}
			}
			index, err := rd.state(cmd.Context(), operator, &c)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s by %s\n", done, rd.made(index, c.Number))
			if then != nil {
				return then(index)
			}
			return nil
		},
	}
	r.flags(cmd)
	cmd.Flags().Lookup("json").Hidden = true
	cmd.Flags().StringVar(&operatorKey, "operator-key", "", "`FILE` with the operator's signing key")
	return cmd, &r
}

func newEnrol() *cobra.Command {
	var old string
	var last []string
	cmd, _ := statement("enrol VKEY", "Let a producer write to the log",
		`Has the operator sign that the producer with this verifier key (or FILE.pub) may write to the
log. The statement is an entry of the log, from which auditors learn the history of keys.

With --replaces the same statement ends the producer's old key: what the log has of it under a
seal stands, and nothing more is taken. To know what that is the log is audited first, and not
believed: it is refused if what it has of the key, or the log as a whole, does not verify. Stop
the proxy first, so that it hands over what is in its spool; then give it the new key, and a
spool of its own. Where the old key is no longer only the producer's, or the log cannot be
audited, say with --last what of it still stands: of incarnations not named, nothing does.

A key of signature type 0x06 is no producer's: the operator signs that it is the log's
post-quantum key, and signs the log's heads beside the other one.`,
		func(args []string) (record.KeyChange, error) {
			k, err := vkeyArg(args[0])
			if err != nil {
				return record.KeyChange{}, err
			}
			list, err := parseLasts(last)
			switch {
			case err != nil:
				return record.KeyChange{}, err
			case old == "" && len(list) > 0:
				return record.KeyChange{}, usagef("--last says what stands of the key that --replaces names, and there is none")
			case old != "" && k.Type == keys.MLDSA44:
				return record.KeyChange{}, usagef("--replaces is for the key of a producer; %q is a post-quantum key, which is the log's: leave it out", k.Name)
			case old == "" && k.Type == keys.MLDSA44:
				return record.KeyChange{Log: []keys.Public{k}}, nil
			case old == "":
				return record.KeyChange{Enrol: []keys.Public{k}}, nil
			}
			o, err := vkeyArg(old)
			if err != nil {
				return record.KeyChange{}, err
			}
			return replacement(k, o, list)
		}, func(cmd *cobra.Command, rd *reader, c *record.KeyChange) (after, error) {
			if len(c.Revoke) == 0 {
				return nil, nil
			}
			return rd.keepWritten(cmd, &c.Revoke[0])
		}, "enrolled")
	cmd.Args = exactArgs("VKEY")
	cmd.Flags().StringVar(&old, "replaces", "", "`VKEY` (or FILE.pub) of the same name that ends with this statement")
	cmd.Flags().StringArrayVar(&last, "last", nil, "with --replaces: `INCARNATION:SEQUENCE` up to which records stay admissible; may be repeated (default: what an audit finds in the log)")
	return cmd
}

func newRevoke() *cobra.Command {
	var last []string
	cmd, _ := statement("revoke VKEY", "End what a producer's key can write",
		`Has the operator sign that nothing by this key counts any more, except for what --last names:
of each incarnation, its records up to and including a sequence.`,
		func(args []string) (record.KeyChange, error) {
			k, err := vkeyArg(args[0])
			if err != nil {
				return record.KeyChange{}, err
			}
			list, err := parseLasts(last)
			return record.KeyChange{Revoke: []record.Revocation{{Key: k, Last: list}}}, err
		}, nil, "revoked")
	cmd.Args = exactArgs("VKEY")
	cmd.Flags().StringArrayVar(&last, "last", nil, "`INCARNATION:SEQUENCE` up to which records stay admissible; may be repeated")
	return cmd
}

func parseLasts(list []string) ([]record.LastSequence, error) {
	var last []record.LastSequence
	for _, s := range list {
		l, err := parseLast(s)
		if err != nil {
			return nil, err
		}
		last = append(last, l)
	}
	return last, nil
}

func parseLast(s string) (record.LastSequence, error) {
	var l record.LastSequence
	inc, seq, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(inc)
	n, err2 := strconv.ParseUint(seq, 10, 64)
	if !ok || err != nil || err2 != nil || len(b) != len(l.Incarnation) {
		return l, usagef("--last %q does not read INCARNATION:SEQUENCE, as in sealtap query --json", s)
	}
	copy(l.Incarnation[:], b)
	l.Sequence = n
	return l, nil
}

// vkeyArg takes a verifier key or a file that holds one.
func vkeyArg(s string) (keys.Public, error) {
	if b, err := readBounded(s); err == nil {
		s = strings.TrimSpace(string(b))
	}
	k, err := keys.ParsePublic(s)
	if err != nil {
		return keys.Public{}, usagef("%w", err)
	}
	return k, nil
}
