package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog/client"
)

// newRetention makes the command with which the operator says how long a log keeps
// its entries.
func newRetention() *cobra.Command {
	var r reading
	var keep, operatorKey string
	var entries uint64
	var forever bool
	cmd := &cobra.Command{
		Use:   "retention",
		Short: "Say how long the log keeps its entries",
		Long: `Has the operator sign how long the log keeps its entries at least, as an entry of the log,
from which auditors learn what may be missing. Without such a statement a log keeps
everything. With --keep and --keep-entries both must allow an entry to go, and it has
been published for the log's prune_interval in any case. The log server then prunes
by itself, from its oldest entries on, once the statement is published; what it has
let go does not come back. --forever ends the pruning.

Leave more than enough time for auditors, for proxies that are cut off from the log,
and for whoever needs evidence: evidence made before stays valid.
Without a flag it shows what the operator has said.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := retentionPolicy(keep, entries, forever)
			if err != nil {
				return err
			}
			if p == (record.Retention{}) {
				return r.showRetention(cmd)
			}
			operator, err := loadOperator(cmd, operatorKey)
			if err != nil {
				return err
			}
			rd, err := r.openAsOperator(cmd.Context(), operator)
			if err != nil {
				return err
			}
			number := rd.ring.Number + 1
			entry, err := record.NewRetention(rd.head.Origin, number, p, operator)
			if err != nil {
				return usageError{err}
			}
			index, err := rd.stateEntry(cmd.Context(), entry)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, by %s\n", p, rd.made(index, number))
			return nil
		},
	}
	r.flags(cmd)
	cmd.Flags().StringVar(&keep, "keep", "", "`TIME` that an entry stays after it was published, such as 400d or 9600h")
	cmd.Flags().Uint64Var(&entries, "keep-entries", 0, "`N` newest entries that stay, whatever their age")
	cmd.Flags().BoolVar(&forever, "forever", false, "keep everything from now on")
	cmd.Flags().StringVar(&operatorKey, "operator-key", "", "`FILE` with the operator's signing key")
	return cmd
}

func retentionPolicy(keep string, entries uint64, forever bool) (record.Retention, error) {
	p := record.Retention{Entries: entries, Forever: forever}
	if keep == "" {
		if forever && entries > 0 {
			return p, usagef("--forever stands alone")
		}
		return p, nil
	}
	var err error
	if days, ok := strings.CutSuffix(keep, "d"); ok {
		var n uint64
		if n, err = strconv.ParseUint(days, 10, 16); err == nil {
			p.Keep = time.Duration(n) * 24 * time.Hour
		}
	} else {
		p.Keep, err = time.ParseDuration(keep)
	}
	switch {
	case err != nil || p.Keep < time.Second || p.Keep%time.Second != 0:
		return p, usagef("--keep %q: it is a time in whole seconds or more, such as 400d or 9600h", keep)
	case forever:
		return p, usagef("--forever stands alone")
	}
	return p, nil
}

// showRetention prints the policy in force, and where the log begins.
func (r *reading) showRetention(cmd *cobra.Command) error {
	rd, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	kept, err := rd.Source().Retention(cmd.Context())
	if err != nil {
		return err
	}
	p, ok := rd.ring.Retention(rd.head.Size)
	if r.json {
		out := map[string]any{"minimum_index": kept.Minimum, "size": rd.head.Size, "statements": rd.ring.Number}
		if ok {
			out["policy"] = p.Policy.JSON()
			out["statement"] = p.Index
		}
		return printJSON(cmd.OutOrStdout(), out)
	}
	text := "the operator has said nothing about retention, so entries stay for ever"
	if ok {
		text = fmt.Sprintf("%s, by entry %d", p.Policy, p.Index)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s\nof %d entries of %s those from index %d on are there\nthe log shows %d statements of its operator\n",
		text, rd.head.Size, rd.head.Origin, kept.Minimum, rd.ring.Number)
	return nil
}

// loadOperator reads the key that a command needs.
func loadOperator(cmd *cobra.Command, file string) (*keys.Private, error) {
	if file == "" {
		return nil, usagef("say --operator-key FILE: only the log's operator can say %s", cmd.Name())
	}
	return loadKey("--operator-key", file, keys.Ed25519)
}

// openAsOperator opens the log for a statement of its operator.
func (r *reading) openAsOperator(ctx context.Context, operator *keys.Private) (*reader, error) {
	rd, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	if rd.ring.Genesis.Operator.ID() != operator.ID() {
		return nil, usagef("the key given is that of %s, but the operator of %s is %s", operator.Name, rd.head.Origin, rd.ring.Genesis.Operator.Name)
	}
	return rd, nil
}

// statementsListed returns the indices of all statements that the log names; none
// if it does not know the question.
func (rd *reader) statementsListed(ctx context.Context) ([]uint64, error) {
	var all []uint64
	cursor := make(url.Values)
	for {
		var page struct {
			Statements []struct{ Index uint64 }
			Next       string
		}
		if err := rd.Get(ctx, "statements", cursor, &page); errors.Is(err, client.ErrNotFound) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		for _, s := range page.Statements {
			if len(all) > 0 && s.Index <= all[len(all)-1] {
				return nil, failure{errors.New("the log lists statements without an order")}
			}
			all = append(all, s.Index)
		}
		if page.Next == "" || len(page.Statements) == 0 {
			return all, nil
		}
		cursor.Set("cursor", page.Next)
	}
}

// Retention says where the log begins, for an audit of its files. The log may be
// running, and be pruned while it is asked.
func (d dataSource) Retention(ctx context.Context) (*client.Retention, error) {
	for {
		r, err := d.retention(ctx)
		if err != nil {
			return nil, unfit(err)
		}
		now, _, err := d.Pruned(ctx)
		if err != nil {
			return nil, unfit(err)
		}
		if now.Minimum == r.Minimum {
			return r, nil
		}
	}
}

// gone makes an error about an entry bundle, or its tile of level 0, what it is
// where the log has let go of it.
func (d dataSource) gone(ctx context.Context, n uint64, err error) error {
	if err == nil {
		return nil
	}
	if p, _, perr := d.Pruned(ctx); perr == nil && n < p.Minimum/storage.BundleWidth {
		return fmt.Errorf("%w: %w: %w", client.ErrUnavailable, client.ErrPruned, err)
	}
	return unfit(err)
}

func (d dataSource) retention(ctx context.Context) (*client.Retention, error) {
	p, statements, err := d.Pruned(ctx)
	if err != nil {
		return nil, err
	}
	r := &client.Retention{Minimum: p.Minimum, At: p.At, Old: p.Old, Statements: statements}
	if p.Minimum == 0 {
		return r, nil
	}
	const atATime = 1000
	for place := uint64(0); ; {
		list, next, err := d.PrunedStreams(ctx, place, atATime)
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			r.Streams = append(r.Streams, client.StreamAt{Stream: s.Stream, Size: s.Size, Edge: s.Edge})
		}
		if next == 0 {
			return r, nil
		}
		place = next
	}
}
