package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sealtap/sealtap/audit"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/report"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// ErrTooMany is wrapped where a bundle would hold too much, or nothing.
var ErrTooMany = errors.New("nothing that can be bundled")

// Options say what to put into a bundle.
type Options struct {
	Policy *policy.Policy
	Head   *policy.Checkpoint // verified under the policy
	Tree   *client.Tree       // under the head
	Kept   *client.Retention
	// Select reports whether an entry is a record that is wanted. It is called with all
	// entries, in the order of the log.
	Select func(p client.Proven) (bool, error)
	// Unseen, called at the end, returns how many of the selected ones could not be
	// held against every filter. It may be nil.
	Unseen func() uint64
	Filter map[string]string // for the manifest
	Since  time.Time         // of the filter; zero where it has none
	Until  time.Time
	// Complete adds all leaves of the range of the log that holds the records from
	// Since up to Until, whether they match the rest of the filter or not.
	Complete bool
	// Older, if not nil, is a checkpoint of the log that the bundle is to go on from.
	Older *policy.Checkpoint
	// Disclose returns the openings to disclose of a record; nil discloses none.
	Disclose func(ctx context.Context, index uint64, e record.Entry) ([]*sealtapv1.Opening, error)
	Openings []string // fields that Disclose discloses, for the manifest
	// Report is that of an audit of the log under the head.
	Report   *audit.Report
	Progress func(done, total uint64)
}

// Made says what was put into a bundle.
type Made struct {
	Manifest
	Path string
}

// Make writes a bundle to a path at which there is nothing: an archive if its name
// ends in .tar, else a directory. Everything in it was verified before.
func Make(ctx context.Context, path string, o Options) (*Made, error) {
	if o.Kept == nil {
		o.Kept = new(client.Retention)
	}
	s, err := newStage(path)
	if err != nil {
		return nil, err
	}
	m := &maker{finder: finder{Options: o}, stage: s, growers: make(map[record.Stream]*grower)}
	made, err := m.make(ctx)
	if err != nil {
		return nil, errors.Join(err, s.drop())
	}
	return made, nil
}

// maker makes one bundle.
type maker struct {
	finder
	stage    *stage
	growers  map[record.Stream]*grower
	complete *completer // nil unless the bundle is to be complete
	proven   map[uint64]*record.Proven
}

func (m *maker) make(ctx context.Context) (*Made, error) {
	if err := m.find(ctx); err != nil {
		return nil, err
	}
	if m.ring == nil {
		return nil, fmt.Errorf("%w: the log has no genesis that says who may write to it", ErrTooMany)
	}
	if m.Complete {
		if m.Since.IsZero() {
			m.span.First = m.Kept.Minimum
		}
		if m.Until.IsZero() && (m.span.End > 0 || m.Since.IsZero()) {
			m.span.End = m.Tree.Size()
		}
		if m.span.End <= m.span.First {
			return nil, fmt.Errorf("%w: no record of the log says a time in what was asked for", ErrTooMany)
		}
		m.complete = &completer{m: m, Range: m.span}
		if err := m.complete.scan(ctx); err != nil {
			return nil, err
		}
	}
	if err := m.grow(ctx); err != nil {
		return nil, err
	}
	if err := m.write(ctx); err != nil {
		return nil, err
	}
	made := &Made{Path: m.stage.out, Manifest: Manifest{
		Origin: m.Head.Origin, Size: m.Head.Size, Root: b64(m.Head.Root), Filter: m.Filter, Records: uint64(len(m.records)), Gaps: uint64(len(m.gaps)),
		Unsealed: m.unsealed, Openings: m.Openings,
	}}
	if m.Unseen != nil {
		made.Unseen = m.Unseen()
	}
	if m.complete != nil {
		made.Range = &m.complete.Range
	}
	if err := m.stage.put(readme, readmeText(made.Manifest, m.Older)); err != nil {
		return nil, err
	}
	return made, m.stage.finish(made.Manifest)
}

// grow rebuilds the producers' trees that proofs are needed from.
func (m *maker) grow(ctx context.Context) error {
	want := func(id record.Stream) (*grower, error) {
		g := m.growers[id]
		if g == nil {
			var err error
			if g, err = newGrower(m.streams[id], m.Kept); err != nil {
				return nil, err
			}
			m.growers[id] = g
		}
		return g, nil
	}
	for _, list := range [][]shown{m.records, m.gaps} {
		for _, x := range list {
			g, err := want(x.stream)
			if err != nil {
				return err
			}
			if err := g.wantInclusion(x.seq); err != nil {
				return err
			}
			if x.beacon != nil {
				if err := g.wantInclusion(x.beacon.seq); err != nil {
					return err
				}
			}
		}
	}
	if m.complete != nil {
		if err := m.complete.want(want); err != nil {
			return err
		}
	}
	if len(m.growers) == 0 {
		return nil
	}
	for p, err := range m.Tree.Scan(ctx, m.Kept.Minimum) {
		if err != nil {
			return err
		}
		kind, body, err := record.Split(p.Entry)
		if err != nil || kind != record.KindRecord {
			continue
		}
		h, err := record.Scan(body)
		if err != nil {
			continue
		}
		if g := m.growers[h.Stream]; g != nil {
			if err := g.append(h.Sequence, p.Leaf); err != nil {
				return err
			}
		}
	}
	for id, g := range m.growers {
		if err := g.finish(m.streams[id].seal); err != nil {
			return err
		}
	}
	return nil
}

func (m *maker) write(ctx context.Context) error {
	if err := errors.Join(m.stage.put(policyFile, m.Policy.Marshal()), m.stage.put(headFile, m.Head.Note), m.writeReport()); err != nil {
		return err
	}
	if m.Older != nil {
		if err := m.writeConsistency(ctx); err != nil {
			return err
		}
	}
	if err := m.writeKeys(ctx); err != nil {
		return err
	}
	if err := m.writeShown(ctx, recordsFile, m.records, m.Disclose); err != nil {
		return err
	}
	if err := m.writeShown(ctx, gapsFile, m.gaps, nil); err != nil {
		return err
	}
	if m.complete != nil {
		return m.complete.write(ctx)
	}
	return nil
}

// writeReport writes the audit's report. What differs from one run to the next, and
// where the maker had the log from, are not told: they are nobody else's business.
func (m *maker) writeReport() error {
	r := *m.Report
	r.Source, r.Duration, r.Time = r.Origin, 0, time.Time{}
	b, err := encode(&r)
	if err != nil {
		return err
	}
	if err := m.stage.put(reportJSON, b); err != nil {
		return err
	}
	w, err := m.stage.create(reportHTML)
	if err != nil {
		return err
	}
	return errors.Join(report.HTML(w, &r), w.keep())
}

// writeConsistency writes the older checkpoint, and a request of tlog-witness that
// proves that the head goes on from it.
func (m *maker) writeConsistency(ctx context.Context) error {
	hashes, err := consistency(ctx, m.Tree, m.Older.Size)
	if err != nil {
		return err
	}
	text := fmt.Appendf(nil, "old %d\n", m.Older.Size)
	for _, h := range hashes {
		text = append(text, b64(h)+"\n"...)
	}
	text = append(append(text, '\n'), m.Head.Note...)
	if _, err := readConsistency(text, m.Older, m.Head); err != nil {
		return fmt.Errorf("%w: the log does not go on from the checkpoint of %d entries: %w", client.ErrVerification, m.Older.Size, err)
	}
	return errors.Join(m.stage.put(olderFile, m.Older.Note), m.stage.put(consistent, text))
}

// statement returns a statement of the operator with its proof.
func (m *maker) statement(ctx context.Context, index uint64) (*record.Proven, error) {
	if p := m.proven[index]; p != nil {
		return p, nil
	}
	p, err := inLog(ctx, m.Tree, m.Head.Note, index)
	if err == nil {
		if m.proven == nil {
			m.proven = make(map[uint64]*record.Proven)
		}
		m.proven[index] = p
	}
	return p, err
}

// base returns evidence of an entry as far as it is the same for all kinds.
func (m *maker) base(ctx context.Context, index uint64) (*record.Evidence, error) {
	own, err := inLog(ctx, m.Tree, m.Head.Note, index)
	if err != nil {
		return nil, err
	}
	e := &record.Evidence{Entry: own.Entry, Log: own.Proof}
	if e.Genesis, err = m.statement(ctx, 0); err != nil {
		return nil, err
	}
	if m.logKey != nil {
		e.LogKey, err = m.statement(ctx, *m.logKey)
	}
	return e, err
}

// writeKeys writes evidence of all that the operator said.
func (m *maker) writeKeys(ctx context.Context) error {
	w, err := m.stage.create(keysFile)
	if err != nil {
		return err
	}
	for _, index := range m.statements {
		e, err := m.base(ctx, index)
		if err == nil {
			err = m.verified(w, e)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("statement at index %d: %w", index, err), w.keep())
		}
	}
	return w.keep()
}

// verified writes evidence that verifies.
func (m *maker) verified(w io.Writer, e *record.Evidence) error {
	text := e.Marshal()
	if len(text) > maxDocument {
		return fmt.Errorf("%w: evidence of %d bytes", ErrTooMany, len(text))
	}
	if _, err := audit.VerifyEvidence(text, m.Policy, nil); err != nil {
		return fmt.Errorf("%w: %w", client.ErrVerification, err)
	}
	_, err := w.Write(text)
	return err
}

// writeShown writes evidence of records.
func (m *maker) writeShown(ctx context.Context, name string, list []shown, disclose func(context.Context, uint64, record.Entry) ([]*sealtapv1.Opening, error)) error {
	if len(list) == 0 {
		return nil
	}
	w, err := m.stage.create(name)
	if err != nil {
		return err
	}
	for _, x := range byIndex(list) {
		e, err := m.evidence(ctx, x)
		if err == nil && disclose != nil {
			e.Openings, err = m.disclosed(ctx, x, e, disclose)
		}
		if err == nil {
			err = m.verified(w, e)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("record at index %d: %w", x.index, err), w.keep())
		}
	}
	return w.keep()
}

func (m *maker) disclosed(ctx context.Context, x shown, e *record.Evidence, disclose func(context.Context, uint64, record.Entry) ([]*sealtapv1.Opening, error)) ([]*sealtapv1.Opening, error) {
	parsed, err := record.Parse(e.Entry)
	if err != nil || parsed.Record == nil || len(parsed.Record.GetSealed()) == 0 {
		return nil, err
	}
	return disclose(ctx, x.index, parsed)
}

// evidence returns the evidence of a record.
func (m *maker) evidence(ctx context.Context, x shown) (*record.Evidence, error) {
	e, err := m.base(ctx, x.index)
	if err != nil {
		return nil, err
	}
	g, seal := m.growers[x.stream], m.streams[x.stream].seal
	under, err := g.inclusion(x.seq, seal)
	if err != nil {
		return nil, err
	}
	e.Producer = &under
	enrolled, ok := m.ring.Enrolled(x.stream.Producer)
	if !ok {
		return nil, fmt.Errorf("%w: nobody enrolled its producer", client.ErrVerification)
	}
	if e.KeyChange, err = m.statement(ctx, enrolled); err != nil || x.beacon == nil {
		return e, err
	}
	entry, err := m.Tree.Entry(ctx, x.beacon.index)
	if err != nil {
		return nil, err
	}
	p, err := g.inclusion(x.beacon.seq, seal)
	e.Beacon = &record.Proven{Entry: entry, Proof: p}
	return e, err
}
