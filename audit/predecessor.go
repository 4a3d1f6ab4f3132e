package audit

import (
	"bytes"
	"context"
	"fmt"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// former is a life of a producer that goes on from one in the log before.
type former struct {
	stream *stream // the later life
	id     record.Stream
	size   uint64
	root   []byte
	here   *stream // one that the producer had in this log already; nil if there is none
}

// before takes a life that goes on from one of which nothing stands in this log, and
// reports false if that is a hole. In a successor the life before can stand in the
// predecessor; but if the producer had already lived in this log, that is the life to
// name, and only the predecessor can say that it was a copy of an old spool instead.
// Where another life goes on from the same one, that says so.
func (p *producers) before(s *stream, prev *sealtapv1.Seal, other *stream, list []*stream) bool {
	pre := p.a.report.Predecessor
	var here *stream
	if other == nil {
		here = earlier(s, list)
	}
	if pre == nil || p.a.Options.Predecessor == nil && here != nil {
		return false
	}
	f := former{s, record.Stream{Producer: s.id.Producer, Incarnation: fixed16(prev.GetIncarnation())}, prev.GetSize(), prev.GetRoot(), here}
	if p.a.Options.Predecessor != nil {
		p.former = append(p.former, f)
		return true
	}
	s.add(notice(Continues, "incarnation %s of producer %s goes on from incarnation %s, of which nothing stands in this log: %q has to show its %d records, and was not asked (--predecessor)",
		s.id.Incarnation, s.name, f.id.Incarnation, pre.Origin, f.size), s.firstIndex, 0)
	return true
}

// finishPredecessor checks that the log before is the one that the genesis names,
// that it ended there, and that its operator closed it for this log.
func (a *auditor) finishPredecessor(ctx context.Context) {
	src, ring := a.Options.Predecessor, a.producers.ring
	if src == nil || ring == nil {
		return
	}
	mismatch := func(format string, args ...any) {
		a.add(finding(PredecessorMismatch, format, args...).at(0))
	}
	pre := a.report.Predecessor
	if pre == nil {
		mismatch("%s was given as the log that this one goes on from, but its genesis names none", src)
		return
	}
	signed, err := src.Checkpoint(ctx)
	if err != nil {
		a.failedRead(err, PredecessorMismatch, fmt.Sprintf("the checkpoint of %s, given as the log before, cannot be read", src))
		return
	}
	head, ok := a.formerHead(signed)
	if !ok {
		return
	}
	if head.Origin != pre.Origin || head.Size != pre.Size || b64(head.Root) != pre.Root {
		a.add(Finding{Code: PredecessorMismatch, Severity: Finds, Heads: []string{string(ring.Genesis.Predecessor), string(signed)}, Detail: fmt.Sprintf(
			"the log goes on from %q with %d entries and root %s, but the log before shows %q with %d entries and root %s: it did not end there, or it is another one",
			pre.Origin, pre.Size, pre.Root, head.Origin, head.Size, b64(head.Root))}.at(0))
		return
	}
	tree := client.NewTree(src, head.Size, head.Root)
	entries, err := tree.Entries(ctx, 0, head.Size-1)
	if err != nil {
		a.failedRead(err, PredecessorMismatch, fmt.Sprintf("the end of %q, given as the log before, cannot be read", pre.Origin))
		return
	}
	if err := closedFor(ring.Genesis, pre.Origin, entries[0], entries[1]); err != nil {
		mismatch("%v", err)
		return
	}
	pre.Closed = true
	a.add(notice(Continues, "the log goes on from %q, which ended with %d entries and was closed for this one: %s. Audit that log too", pre.Origin, pre.Size, pre.how).at(0))
	a.findFormer(ctx, src, tree)
}

// formerHead reads the checkpoint of the log before. Where the policy does not name
// that log, what it says must still be what the genesis says.
func (a *auditor) formerHead(signed []byte) (head checkpoint.Body, ok bool) {
	origin := originOf(signed)
	for _, l := range a.Policy.Logs {
		if l.Key.Name != origin {
			continue
		}
		cp, err := a.Policy.Verify(signed)
		if err != nil {
			a.add(Finding{Code: checkpointCode(err), Severity: Finds, Heads: []string{string(signed)},
				Detail: fmt.Sprintf("the checkpoint of the log before is not to be trusted: %v", err)}.at(0))
			return head, false
		}
		return checkpoint.Body{Origin: cp.Origin, Size: cp.Size, Root: cp.Root}, true
	}
	text, err := checkpoint.Text(signed)
	if err == nil {
		head, _, err = checkpoint.Parse(text)
	}
	if err != nil {
		a.add(finding(PredecessorMismatch, "what the log before shows for its checkpoint is none: %v", err).at(0))
		return head, false
	}
	return head, true
}

// closedFor checks the first and the last entry of a log whose successor has the
// genesis.
func closedFor(g *record.Genesis, origin string, first, last []byte) error {
	e, err := record.Parse(first)
	switch {
	case err != nil || e.Genesis == nil || e.Genesis.Log.Name != origin:
		return fmt.Errorf("entry 0 of the log before is not the genesis of %q", origin)
	case e.Genesis.Operator.ID() != g.Operator.ID():
		return fmt.Errorf("the log before, %q, has another operator, %s: it is not theirs to close who began this one", origin, e.Genesis.Operator.Name)
	}
	e, err = record.Parse(last)
	switch {
	case err != nil || e.Statement == nil || e.Statement.Close == nil:
		return fmt.Errorf("the log before, %q, was never closed: its last entry is no statement that ends it, so it may go on beside this one", origin)
	case e.Statement.Origin != origin:
		return fmt.Errorf("the statement at the end of the log before, %q, closes another log, %q", origin, e.Statement.Origin)
	case e.Statement.Close.Successor.String() != g.Log.String():
		return fmt.Errorf("the log before, %q, was closed for %s, and not for this log, %s", origin, e.Statement.Close.Successor, g.Log)
	}
	if err := e.Statement.Verify(g.Operator); err != nil {
		return fmt.Errorf("the statement at the end of the log before, %q, is not its operator's: %w", origin, err)
	}
	return nil
}

// sealedSize is what a seal is about.
type sealedSize struct {
	stream record.Stream
	size   uint64
}

// findFormer looks in the log before for the lives that others in this log go on
// from: for the seal that each names, proven and signed by the producer.
func (a *auditor) findFormer(ctx context.Context, src Source, tree *client.Tree) {
	if len(a.producers.former) == 0 {
		return
	}
	var begin uint64
	if p, ok := src.(PrunedSource); ok {
		kept, err := p.Retention(ctx)
		if err != nil {
			a.unavailable(fmt.Errorf("asking where the log before begins: %w", err))
			return
		}
		begin = min(kept.Minimum, tree.Size())
	}
	roots, most, err := a.formerSeals(ctx, tree, begin)
	if err != nil {
		a.failedRead(err, PredecessorMismatch, "the entries of the log before cannot be read")
		return
	}
	for _, f := range a.producers.former {
		a.judgeFormer(f, roots[sealedSize{f.id, f.size}], most[f.id], begin)
	}
}

// judgeFormer says what the seals of the log before tell about a life.
func (a *auditor) judgeFormer(f former, root record.Hash, most, begin uint64) {
	s, origin := f.stream, a.report.Predecessor.Origin
	switch {
	case root == (record.Hash{}) && begin > 0:
		s.add(notice(Continues, "incarnation %s of producer %s goes on from incarnation %s, of which nothing stands in this log, and in %q no seal over its %d records from its minimum index %d on: what was before is not there any more",
			s.id.Incarnation, s.name, f.id.Incarnation, origin, f.size, begin), s.firstIndex, 0)
	case root == (record.Hash{}):
		s.add(finding(RecordMissing, "all %d records of incarnation %s of producer %s are missing: its next incarnation names its seal, which stands neither in this log nor in the one before, %q",
			f.size, f.id.Incarnation, s.name, origin), s.firstIndex, 0)
	case !bytes.Equal(root[:], f.root):
		s.add(finding(SealMismatch, "the seal over %d records of incarnation %s that its next incarnation names is not the one in the log before, %q", f.size, f.id.Incarnation, origin), s.firstIndex, 0)
	case most > f.size || f.here != nil:
		s.add(notice(IncarnationBranched, "incarnation %s of producer %s goes on from a seal over %d records of incarnation %s in %q, although it has written more since, there or here: its spool was restored from an older copy, or two proxies run with its key",
			s.id.Incarnation, s.name, f.size, f.id.Incarnation, origin), s.firstIndex, 0)
	}
}

// formerSeals reads the log before from an index on. It returns the roots of the
// seals that were named, and how many records of each stream the last seal covers.
func (a *auditor) formerSeals(ctx context.Context, tree *client.Tree, begin uint64) (map[sealedSize]record.Hash, map[record.Stream]uint64, error) {
	roots, most := make(map[sealedSize]record.Hash), make(map[record.Stream]uint64)
	named, streams := make(map[sealedSize]bool), make(map[record.Stream]bool)
	for _, f := range a.producers.former {
		named[sealedSize{f.id, f.size}], streams[f.id] = true, true
	}
	const atATime = 8 * tileWidth
	for indices := make([]uint64, 0, atATime); begin < tree.Size(); indices = indices[:0] {
		for ; begin < tree.Size() && len(indices) < atATime; begin++ {
			indices = append(indices, begin)
		}
		entries, err := tree.Entries(ctx, indices...)
		if err != nil {
			return nil, nil, err
		}
		for _, entry := range entries {
			kind, _, err := record.Split(entry)
			if err != nil || kind != record.KindSeal {
				continue
			}
			e, err := record.Parse(entry)
			if err != nil || e.Seal == nil || !streams[e.Seal.Stream] {
				continue
			}
			key, ok := a.known.Load(e.Seal.Stream.Producer)
			if !ok || e.Seal.Verify(key.(keys.Public)) != nil {
				continue // an audit of that log tells of it
			}
			if at := (sealedSize{e.Seal.Stream, e.Seal.Size}); named[at] {
				roots[at] = e.Seal.Root
			}
			most[e.Seal.Stream] = max(most[e.Seal.Stream], e.Seal.Size)
		}
	}
	return roots, most, nil
}
