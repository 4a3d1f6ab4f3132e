package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// replacement is the statement that ends one key and lets in another under the
// same name. Of the old one there is only the key until the log was asked what it
// wrote.
func replacement(fresh, old keys.Public, last []record.LastSequence) (record.KeyChange, error) {
	switch {
	case fresh.ID() == old.ID():
		return record.KeyChange{}, usagef("--replaces names the key that is to be enrolled")
	case fresh.Name != old.Name:
		return record.KeyChange{}, usagef("the key %s cannot replace one of the name %s: make it with sealtap keygen %s --out FILE", fresh.Name, old.Name, old.Name)
	}
	return record.KeyChange{Enrol: []keys.Public{fresh}, Revoke: []record.Revocation{{Key: old, Last: last}}}, nil
}

// keepWritten lets everything stand that the log has, under a seal, of the key that
// is revoked, where the statement does not say itself what stands.
func (rd *reader) keepWritten(cmd *cobra.Command, r *record.Revocation) (after, error) {
	id := r.Key.ID()
	if _, ok := rd.ring.Key(id); !ok {
		return nil, usagef("the log knows no producer with the key that is to be replaced, of identifier %s", id)
	}
	if len(r.Last) > 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "not verified: what of the old key stands is what --last says\n")
		return nil, nil
	}
	if err := rd.settle(cmd.Context()); err != nil {
		return nil, err
	}
	report, err := rd.auditFor(cmd, id)
	if err != nil {
		return nil, err
	}
	r.Last = lastOf(report, id, cmd.OutOrStdout())
	return func(index uint64) error { return rd.missed(cmd.Context(), r, report.Size, index) }, nil
}

// missed looks for records of a revoked key that the log had when it took the
// statement, and had not shown to the audit: it may be busy, or have hidden them.
func (rd *reader) missed(ctx context.Context, r *record.Revocation, from, index uint64) error {
	const atATime = 2048
	stands := make(map[record.Incarnation]uint64)
	for _, l := range r.Last {
		stands[l.Incarnation] = l.Sequence
	}
	var n, first uint64
	for indices := make([]uint64, 0, atATime); from < index; indices = indices[:0] {
		for ; from < index && len(indices) < atATime; from++ {
			indices = append(indices, from)
		}
		entries, err := rd.tree.Entries(ctx, indices...)
		if err != nil {
			return fmt.Errorf("the statement is made; looking for what was written meanwhile: %w", err)
		}
		for i, raw := range entries {
			e, err := record.Parse(raw)
			if err != nil || e.Record == nil || e.Record.Stream.Producer != r.Key.ID() {
				continue
			}
			if last, ok := stands[e.Record.Stream.Incarnation]; ok && e.Record.GetSequence() <= last {
				continue
			}
			if n++; n == 1 {
				first = indices[i]
			}
		}
	}
	if n == 0 {
		return nil
	}
	return failure{fmt.Errorf("the statement is made, but %d records of the old key, from index %d on, do not stand: the proxy was not stopped, or the log did not show them before", n, first)}
}

// auditFor audits the log for what it has of a producer's key. Nothing less shows
// what that is: the log may list too few incarnations, or too little of one, or
// records in the producer's name that it never sealed. What is found about other
// producers does not matter here.
func (rd *reader) auditFor(cmd *cobra.Command, id keys.ID) (*audit.Report, error) {
	ctx, least := cmd.Context(), rd.head.Size
	report, err := audit.Run(ctx, rd.Source(), audit.Options{Policy: rd.policy, Operator: &rd.ring.Genesis.Operator, Progress: progress(cmd.ErrOrStderr())})
	if err != nil {
		return nil, err
	}
	const instead = "say with --last what of the old key stands, or see sealtap audit"
	for _, x := range report.Findings {
		if x.Severity == audit.Finds && (x.ProducerKey == "" || x.ProducerKey == id.String()) {
			return nil, failure{fmt.Errorf("what the log has of the old key does not verify (%s): %s; %s", x.Code, x.Detail, instead)}
		}
	}
	if len(report.Unfinished) > 0 {
		return nil, codeError{fmt.Errorf("what the log has of the old key cannot be verified: %s; %s", report.Unfinished[0], instead), exitUnfinished}
	}
	// The statement is made under a head of the same history.
	if err := rd.refresh(ctx); err != nil {
		return nil, err
	}
	root, err := base64.StdEncoding.DecodeString(report.Root)
	if err != nil || len(root) != len(record.Hash{}) {
		return nil, fmt.Errorf("the root hash %q of the audit is none", report.Root)
	}
	if report.Size < least || report.Size > rd.head.Size {
		return nil, failure{fmt.Errorf("the log shows %d entries to the audit, and %d before and %d after", report.Size, least, rd.head.Size)}
	}
	if err := rd.tree.Consistent(ctx, checkpoint.Body{Origin: report.Origin, Size: report.Size, Root: record.Hash(root)}); err != nil {
		return nil, err
	}
	if report.Statements.Count > rd.ring.Number {
		return nil, failure{fmt.Errorf("the log lists %d statements of its operator, but has %d", rd.ring.Number, report.Statements.Count)}
	}
	return report, nil
}

// lastOf returns the newest sealed record of each incarnation of a producer that an
// audit found, and says what there is to prove it.
func lastOf(report *audit.Report, id keys.ID, w io.Writer) []record.LastSequence {
	fmt.Fprintf(w, "verified %d entries of %s, cosigned by %s; of the old key stand\n", report.Size, report.Origin, strings.Join(report.CosignedBy, ", "))
	var list []record.LastSequence
	var gone int
	for _, l := range report.Lives {
		switch {
		case l.Stream.Producer != id:
		case l.Sealed == 0 && l.Records <= l.Pruned:
			gone++
		case l.Sealed == 0:
			fmt.Fprintf(w, "  %s: nothing, since its %d records are under no seal\n", l.Stream.Incarnation, l.Records)
		default:
			list = append(list, record.LastSequence{Incarnation: l.Stream.Incarnation, Sequence: l.Sealed - 1})
			fmt.Fprintf(w, "  %s: up to sequence %d, by its seal at index %d\n", l.Stream.Incarnation, l.Sealed-1, l.SealAt)
			if l.Records > l.Sealed {
				fmt.Fprintf(w, "    and not the %d records behind, which are under no seal\n", l.Records-l.Sealed)
			}
		}
	}
	if gone > 0 {
		fmt.Fprintf(w, "  not named: %d incarnations of which the log keeps nothing since it was pruned to index %d\n", gone, report.Checked.Pruned)
	}
	if len(list) == 0 {
		fmt.Fprintf(w, "  no records\n")
	}
	return list
}

// settle returns once all that the log had taken by now is published and can be
// searched.
func (rd *reader) settle(ctx context.Context) error {
	var now struct {
		Size      uint64 `json:"size"`
		Published uint64 `json:"published"`
	}
	if err := rd.Get(ctx, "witnesses", nil, &now); err != nil {
		return err
	}
	taken := now.Size
	for end := time.Now().Add(publication); ; time.Sleep(20 * time.Millisecond) {
		if err := rd.refresh(ctx); err != nil {
			return err
		}
		var search struct {
			Indexed uint64 `json:"indexed"`
		}
		if err := rd.Get(ctx, "records", url.Values{"limit": {"1"}}, &search); err != nil {
			return err
		}
		if rd.head.Size >= taken && search.Indexed >= taken {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the log has taken %d entries and published %d, of which %d can be searched: are its witnesses up?", taken, rd.head.Size, search.Indexed)
		}
	}
}
