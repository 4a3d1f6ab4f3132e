package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/bundle"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// bundling holds the flags of the command.
type bundling struct {
	search
	out, older, openings string
	complete             bool
}

func newBundle() *cobra.Command {
	b := bundling{search: search{values: make(map[string]*string), limit: 1}}
	cmd := &cobra.Command{
		Use:   "bundle [SOURCE]",
		Short: "Pack records of a search with all their proofs, to hand them over",
		Long: `Audits a log, or a mirror, backup or data directory of it, and writes the records that match
the filters with all that proves them: evidence of each under one cosigned checkpoint, the history
of keys, declared gaps, the policy, the audit's report, and a text that says what it proves. Whoever
gets it checks it offline with sealtap verify BUNDLE and their own copy of the policy. --out names a
directory that does not exist yet, or, if it ends in .tar, an archive.

A bundle of a search proves that its records are in the log, not that nothing else matched. With
--complete it also has the hashes of all entries of the range of the log that holds the records from
--since up to --until: that proves that nothing was taken out of that range, added or changed, and
that no sequence of a producer is missing there; what the other records say stays untold.

--since-checkpoint FILE adds the proof that the log goes on from a checkpoint that the receiver has:
a signed checkpoint, or the state file of an audit. Sealed fields stay sealed: --openings discloses
those that are named.

Exit codes: 0 the bundle is written, 1 it is written and the audit found something, or the log
cannot be proven, 3 not all could be read and there is no bundle.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one SOURCE at most", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return b.run(cmd, args) },
	}
	b.flags(cmd)
	for _, f := range filters {
		if f.name != "cursor" {
			b.values[f.name] = cmd.Flags().String(f.name, "", f.usage)
		}
	}
	cmd.Flags().StringVar(&b.out, "out", "", "directory or archive (`NAME`.tar) to write")
	cmd.Flags().BoolVar(&b.complete, "complete", false, "add the hashes of all entries of the range, so that nothing can have been left out of it unseen")
	cmd.Flags().StringVar(&b.older, "since-checkpoint", "", "`FILE` with a checkpoint that the receiver has: prove that the log goes on from it")
	cmd.Flags().StringVar(&b.openings, "openings", "", "disclose these sealed `FIELDS`, such as path,query, or all")
	return cmd
}

func (b *bundling) run(cmd *cobra.Command, args []string) error {
	if b.out == "" {
		return usagef("say with --out where to write the bundle")
	}
	values, err := b.query(time.Now())
	if err != nil {
		return err
	}
	p, err := b.policy()
	if err != nil {
		return err
	}
	o := bundle.Options{Policy: p, Complete: b.complete, Filter: make(map[string]string), Openings: fieldList(b.openings)}
	if b.older != "" {
		if o.Older, err = readCheckpoint("--since-checkpoint", b.older, p); err != nil {
			return err
		}
	}
	for name := range values {
		if name != "limit" {
			o.Filter[name] = values.Get(name)
		}
	}
	o.Since, o.Until = instantOf(values, "since"), instantOf(values, "until")
	location := b.location(p)
	if len(args) == 1 {
		location = args[0]
	}
	src, err := b.openSource(cmd.Context(), location)
	if err != nil {
		return err
	}
	defer src.close()
	if _, err := os.Lstat(b.out); err == nil {
		return usagef("--out: %s is there already", b.out)
	}
	return b.make(cmd, src, location, values, o)
}

func (b *bundling) make(cmd *cobra.Command, src *source, location string, values url.Values, o bundle.Options) error {
	still, err := freeze(cmd.Context(), src.Source)
	if err != nil {
		return err
	}
	draw := progress(cmd.ErrOrStderr())
	o.Report, err = audit.Run(cmd.Context(), still, audit.Options{Policy: o.Policy, Openings: src.openings, Coverage: true, Progress: draw})
	if err != nil {
		return err
	}
	if o.Report.Verdict == audit.Incomplete {
		return codeError{fmt.Errorf("not all of the log could be read, so there is no bundle: %s", strings.Join(o.Report.Unfinished, "; ")), exitUnfinished}
	}
	s, err := openScan(cmd.Context(), still, o.Policy)
	if err != nil {
		return err
	}
	o.Head, o.Tree, o.Kept, o.Progress = s.head, s.tree, still.kept, draw
	if o.Older != nil && (o.Older.Origin != s.head.Origin || o.Older.Size > s.head.Size) {
		return usagef("--since-checkpoint: a checkpoint of %d entries of %s is none that this log of %d entries (%s) goes on from", o.Older.Size, o.Older.Origin, s.head.Size, s.head.Origin)
	}
	unseen := uint64(0)
	o.Select = func(p client.Proven) (bool, error) {
		it, err := s.take(p)
		if it == nil {
			return false, err
		}
		ok, sealed := s.match(*it, values)
		if ok && sealed {
			unseen++
		}
		return ok, nil
	}
	o.Unseen = func() uint64 { return unseen }
	if len(o.Openings) > 0 {
		if o.Disclose, err = b.discloser(src, location, o.Policy, o.Openings); err != nil {
			return err
		}
	}
	made, err := bundle.Make(cmd.Context(), b.out, o)
	if draw != nil {
		draw(1, 1)
	}
	switch {
	case errors.Is(err, bundle.ErrTooMany), errors.Is(err, bundle.ErrExists):
		return usageError{err}
	case errors.Is(err, client.ErrVerification):
		return fmt.Errorf("%w; so there is no bundle: sealtap audit tells what else is wrong", err)
	case err != nil:
		return err
	}
	return b.print(cmd, made, o.Report)
}

// print says what was made.
func (b *bundling) print(cmd *cobra.Command, made *bundle.Made, report *audit.Report) error {
	w := cmd.OutOrStdout()
	if b.json {
		if err := printJSON(w, map[string]any{"file": made.Path, "records": made.Records, "gaps": made.Gaps, "unsealed": made.Unsealed, "unseen": made.Unseen,
			"range": made.Range, "audit": report.Verdict}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(w, "wrote %s: %d records and %d declared gaps, proven under the checkpoint of %d entries\n", made.Path, made.Records, made.Gaps, made.Size)
		if g := made.Range; g != nil {
			fmt.Fprintf(w, "it is complete for entries %d to %d of the log\n", g.First, g.End-1)
		} else {
			fmt.Fprintln(w, "it proves that they are in the log, not that nothing else matched; --complete adds what shows that nothing was left out of a range")
		}
		if made.Unsealed > 0 {
			fmt.Fprintf(w, "%d records that match lie under no seal yet and are left out\n", made.Unsealed)
		}
		if made.Unseen > 0 {
			fmt.Fprintf(w, "%d of the records could not be held against every filter, since what it asks for is sealed in them, or their requests were not there to be read\n", made.Unseen)
		}
		fmt.Fprintf(w, "check it with\n  sealtap verify %s --policy %s\n", made.Path, b.policyFile)
	}
	if report.Verdict == audit.Fail {
		return failure{fmt.Errorf("the audit of the log found something: see report.html in %s", made.Path)}
	}
	return nil
}

// fieldList takes the fields of --openings.
func fieldList(s string) []string {
	list := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
	slices.Sort(list)
	return slices.Compact(list)
}

// discloser returns what finds the openings of the fields: in a data directory with
// its key, else from the log, which shows them to readers.
func (b *bundling) discloser(src *source, location string, p *policy.Policy, fields []string) (func(context.Context, uint64, record.Entry) ([]*sealtapv1.Opening, error), error) {
	all := func(_ context.Context, index uint64, e record.Entry) ([]*sealtapv1.Opening, error) {
		return src.openings(index, e.Leaf)
	}
	switch {
	case src.openings != nil:
	case strings.Contains(location, "://"):
		opts, err := b.options()
		if err != nil {
			return nil, err
		}
		c, err := client.New(location, p, opts...)
		if err != nil {
			return nil, err
		}
		all = func(ctx context.Context, index uint64, e record.Entry) ([]*sealtapv1.Opening, error) {
			return c.Openings(ctx, index, *e.Record)
		}
	default:
		return nil, usagef("--openings: %s holds none: they are in a data directory with its key, or shown by the log to readers", location)
	}
	return func(ctx context.Context, index uint64, e record.Entry) (list []*sealtapv1.Opening, err error) {
		found, err := all(ctx, index, e)
		for _, o := range found {
			if slices.Contains(fields, "all") || slices.Contains(fields, o.GetField()) {
				list = append(list, o)
			}
		}
		return list, err
	}, nil
}

// frozen is a source that stays at one head, however the log grows.
type frozen struct {
	audit.Source
	signed []byte
	kept   *client.Retention
}

func freeze(ctx context.Context, src audit.Source) (*frozen, error) {
	f := &frozen{Source: src, kept: new(client.Retention)}
	var err error
	if p, ok := src.(audit.PrunedSource); ok { // before the head, as an audit asks
		if f.kept, err = p.Retention(ctx); err != nil {
			return nil, err
		}
	}
	f.signed, err = src.Checkpoint(ctx)
	return f, err
}

// Checkpoint implements [client.Reader].
func (f *frozen) Checkpoint(context.Context) ([]byte, error) { return f.signed, nil }

// Retention implements [audit.PrunedSource].
func (f *frozen) Retention(context.Context) (*client.Retention, error) { return f.kept, nil }

// instantOf returns the time of a filter, zero if it is not asked for.
func instantOf(v url.Values, name string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, v.Get(name))
	if err != nil {
		return time.Time{}
	}
	return t
}

// readCheckpoint reads a checkpoint that somebody keeps: as it is served, or in the
// state file of an audit.
func readCheckpoint(flag, path string, p *policy.Policy) (*policy.Checkpoint, error) {
	b, err := readBounded(path)
	if err != nil {
		return nil, usagef("%s: %w", flag, err)
	}
	cp, err := p.VerifyLogOnly(audit.StateCheckpoint(b))
	if err != nil {
		return nil, usagef("%s: %s holds no checkpoint of a log of this policy: %w", flag, path, err)
	}
	return cp, nil
}

// verifyBundle checks a bundle offline.
func (r *reading) verifyBundle(cmd *cobra.Command, path, known string, p *policy.Policy) error {
	o := bundle.VerifyOptions{Policy: p}
	var err error
	if known != "" {
		if o.Known, err = readCheckpoint("--since-checkpoint", known, p); err != nil {
			return err
		}
	}
	report, err := bundle.Verify(path, o)
	if err != nil {
		return err
	}
	if r.json {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		_, err = io.WriteString(cmd.OutOrStdout(), harmless(report.Text()))
	}
	switch {
	case err != nil:
		return err
	case report.Verdict == audit.Fail:
		return failure{errReported}
	case report.Verdict == audit.Incomplete:
		return codeError{errReported, exitUnfinished}
	}
	return nil
}
