package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/transparency-dev/formats/proof"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// place is an entry of the log that matters to a receipt.
type place struct {
	index uint64
	entry []byte
	leaf  record.Hash
}

// promised is a receipt with what the log shows of it.
type promised struct {
	*record.Receipt
	enrolled, seal, right, other *place
}

// receiptScan reads a whole log under one cosigned head, for receipts.
type receiptScan struct {
	head            *policy.Checkpoint
	tree            *client.Tree
	ring            *record.Keyring
	genesis, logKey *place
	list            []*promised
}

// verifyReceipts looks for the records of receipts in the log. All of it is read,
// and proven under a cosigned head: so that a record is not there is certain too.
func (r *reading) verifyReceipts(cmd *cobra.Command, list []*record.Receipt, file string, p *policy.Policy) error {
	src, err := r.openSource(cmd.Context(), r.location(p))
	if err != nil {
		return err
	}
	defer src.close()
	signed, err := src.Checkpoint(cmd.Context())
	if err != nil {
		return err
	}
	s := new(receiptScan)
	if s.head, err = p.Verify(signed); err != nil {
		return failure{fmt.Errorf("the log's checkpoint is not to be trusted: %w", err)}
	}
	s.tree = client.NewTree(src, s.head.Size, s.head.Root)
	for _, receipt := range list {
		s.list = append(s.list, &promised{Receipt: receipt})
	}
	if err := s.scan(cmd.Context(), p); err != nil {
		return err
	}
	return r.judge(cmd, s, file, p)
}

func (s *receiptScan) scan(ctx context.Context, p *policy.Policy) error {
	for e, err := range s.tree.Scan(ctx, 0) {
		switch {
		case errors.Is(err, client.ErrPruned):
			return codeError{fmt.Errorf("the log no longer has all its entries, so it cannot be told whether a record was there: %w", err), exitUnfinished}
		case err != nil:
			return err
		}
		if err := s.take(p, e); err != nil {
			return err
		}
	}
	if s.ring == nil {
		return failure{errors.New("the log is empty")}
	}
	return nil
}

func (s *receiptScan) take(p *policy.Policy, e client.Proven) error {
	parsed, err := record.Parse(e.Entry)
	if err != nil {
		return failure{fmt.Errorf("entry %d: %w", e.Index, err)}
	}
	at := &place{e.Index, e.Entry, e.Leaf}
	switch {
	case e.Index == 0 && parsed.Genesis == nil:
		return failure{errors.New("entry 0 of the log is not a genesis: this is not a Sealtap log")}
	case e.Index == 0:
		s.genesis = at
		s.ring, err = record.NewKeyring(parsed.Genesis, p.Operator)
	case parsed.KeyChange != nil:
		err = s.keyChange(parsed.KeyChange, at)
	case parsed.Statement != nil:
		err = s.ring.ApplyStatement(parsed.Statement, e.Index)
	case parsed.Seal != nil:
		for _, x := range s.list {
			if key, ok := s.ring.Key(x.Stream.Producer); ok && parsed.Seal.Stream == x.Stream && parsed.Seal.Verify(key) == nil {
				x.seal = at
			}
		}
	case parsed.Record != nil:
		for _, x := range s.list {
			switch {
			case parsed.Record.Stream != x.Stream || parsed.Record.GetSequence() != x.Sequence:
			case parsed.Leaf == x.Leaf:
				x.right = at
			default:
				x.other = at
			}
		}
	}
	if err != nil {
		return failure{fmt.Errorf("statement at %d: %w", e.Index, err)}
	}
	return nil
}

func (s *receiptScan) keyChange(c *record.KeyChange, at *place) error {
	if len(c.Log) > 0 {
		s.logKey = at
	}
	for _, k := range c.Enrol {
		for _, x := range s.list {
			if k.ID() == x.Stream.Producer {
				x.enrolled = at
			}
		}
	}
	return s.ring.Apply(c, at.index)
}

// receiptResult is what is known of one receipt.
type receiptResult struct {
	Verdict     string  `json:"verdict"` // "proven", "pending", "omitted", "contradicted", "invalid"
	Producer    string  `json:"producer,omitempty"`
	Incarnation string  `json:"incarnation"`
	Sequence    uint64  `json:"sequence"`
	LeafHash    string  `json:"leaf_hash"`
	Time        string  `json:"time"`
	Due         string  `json:"due"`
	Index       *uint64 `json:"index,omitempty"`
	CosignedAt  string  `json:"cosigned_at,omitempty"`
	Evidence    string  `json:"evidence,omitempty"` // file that was written
	Detail      string  `json:"detail"`
}

// judge says of each receipt what the log shows, and writes evidence where it is
// not what was promised.
func (r *reading) judge(cmd *cobra.Command, s *receiptScan, file string, p *policy.Policy) error {
	code, written := exitGood, 0
	var results []receiptResult
	for _, x := range s.list {
		res, omission, err := s.result(cmd.Context(), x, p)
		if err != nil {
			return err
		}
		if omission != nil {
			written++
			name := file + ".omission"
			if written > 1 {
				name = fmt.Sprintf("%s.%d.omission", file, written)
			}
			if err := os.WriteFile(name, omission, 0o644); err != nil {
				return usageError{err}
			}
			res.Evidence = name
		}
		switch {
		case res.Verdict == "pending" && code == exitGood:
			code = exitUnfinished
		case res.Verdict != "pending" && res.Verdict != "proven":
			code = exitFailed
		}
		results = append(results, res)
	}
	if err := r.printReceipts(cmd.OutOrStdout(), results); err != nil {
		return err
	}
	if code != exitGood {
		return codeError{errReported, code}
	}
	return nil
}

func (r *reading) printReceipts(w io.Writer, results []receiptResult) error {
	if r.json {
		return printJSON(w, map[string]any{"receipts": results})
	}
	for _, res := range results {
		word := map[string]string{"proven": "PROVEN", "pending": "PENDING", "omitted": "OMITTED", "contradicted": "CONTRADICTED", "invalid": "INVALID"}[res.Verdict]
		fmt.Fprintf(w, "%s: %s\n", word, harmless(res.Detail))
		if res.Evidence != "" {
			fmt.Fprintf(w, "  evidence of it is in %s; check it with sealtap verify\n", res.Evidence)
		}
	}
	return nil
}

func (s *receiptScan) result(ctx context.Context, x *promised, p *policy.Policy) (res receiptResult, omission []byte, err error) {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	res = receiptResult{Verdict: "invalid", Incarnation: x.Stream.Incarnation.String(), Sequence: x.Sequence, LeafHash: x.Leaf.String(), Time: stamp(time.Unix(0, x.Time)), Due: stamp(x.Due())}
	key, ok := s.ring.Key(x.Stream.Producer)
	if !ok {
		res.Detail = fmt.Sprintf("the receipt is by key %s, which nobody enrolled in %s: it proves nothing", x.Stream.Producer, s.head.Origin)
		return res, nil, nil
	}
	if err := x.Verify(key); err != nil {
		res.Detail = fmt.Sprintf("the receipt proves nothing: %v", err)
		return res, nil, nil
	}
	res.Producer = key.Name
	quorum, bounded := p.QuorumTime(s.head.Cosignatures)
	if bounded {
		res.CosignedAt = stamp(time.Unix(quorum, 0))
	}
	what := fmt.Sprintf("record %d of %s, made at %s", x.Sequence, key.Name, res.Time)
	switch {
	case x.other != nil:
		res.Verdict, res.Index = "contradicted", &x.other.index
		res.Detail = fmt.Sprintf("%s, has leaf hash %s by its receipt, and another record stands in its place at index %d of %s", what, x.Leaf, x.other.index, s.head.Origin)
		omission, err = s.omission(ctx, x)
	case x.right != nil:
		res.Verdict, res.Index = "proven", &x.right.index
		res.Detail = fmt.Sprintf("%s, stands at index %d of %s, as promised, under its head of %d entries", what, x.right.index, s.head.Origin, s.head.Size)
		if bounded {
			res.Detail += ", cosigned at " + res.CosignedAt
		}
	case bounded && audit.Late(x.Receipt, quorum):
		res.Verdict = "omitted"
		res.Detail = fmt.Sprintf("%s, was promised to be in %s by %s; it is not among the %d entries of the head that was cosigned at %s", what, s.head.Origin, res.Due, s.head.Size, res.CosignedAt)
		omission, err = s.omission(ctx, x)
	default:
		res.Verdict = "pending"
		res.Detail = fmt.Sprintf("%s, is not in %s yet, and was promised to be there by %s: nothing is concluded before a head cosigned after that", what, s.head.Origin, res.Due)
	}
	return res, omission, err
}

// omission makes evidence of what the log shows, and verifies it.
func (s *receiptScan) omission(ctx context.Context, x *promised) ([]byte, error) {
	o := &record.Omission{Receipt: x.Receipt}
	for _, part := range []struct {
		at   *place
		into **record.Proven
	}{{x.other, &o.Other}, {x.seal, &o.Seal}, {x.enrolled, &o.KeyChange}, {s.logKey, &o.LogKey}, {s.genesis, &o.Genesis}} {
		if part.at == nil {
			continue
		}
		path, err := s.tree.InclusionProof(ctx, part.at.index)
		if err != nil {
			return nil, err
		}
		t := proof.TLogProof{Index: part.at.index, Checkpoint: s.head.Note}
		for _, h := range path {
			t.Hashes = append(t.Hashes, h)
		}
		*part.into = &record.Proven{Entry: part.at.entry, Proof: t}
	}
	return o.Marshal(), nil
}

// verifyOmission checks evidence of an omission: good evidence of something bad.
func (r *reading) verifyOmission(cmd *cobra.Command, text []byte, p *policy.Policy) error {
	report, err := audit.VerifyOmission(text, p, nil)
	if err != nil {
		return r.unproven(cmd.OutOrStdout(), err)
	}
	if r.json {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		_, err = io.WriteString(cmd.OutOrStdout(), harmless(report.Text()))
	}
	return err
}
