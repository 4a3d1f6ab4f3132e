package audit

import (
	"errors"
	"fmt"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// Predecessor is the head of the log that the audited one goes on from, as its
// genesis holds it.
type Predecessor struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   string `json:"root"` // standard base64
	// Verified is set where the policy names that log, and the head satisfies it.
	Verified bool `json:"verified"`
	// Closed is set where that log was given, and its last entry closes it in favour
	// of this one.
	Closed bool `json:"closed"`

	how string // what there is for it
}

// openPredecessor verifies the head in the genesis if the policy names its log.
// That log has an audit of its own.
func (a *auditor) openPredecessor(g *record.Genesis) {
	head, ok := g.PredecessorHead()
	if !ok {
		return
	}
	p := &Predecessor{Origin: head.Origin, Size: head.Size, Root: b64(head.Root)}
	a.report.Predecessor = p
	p.how = "this policy does not name that log, so it is the operator's word"
	for _, l := range a.Policy.Logs {
		if l.Key.Name != head.Origin {
			continue
		}
		if _, err := a.Policy.Verify(g.Predecessor); err != nil {
			a.add(Finding{Code: checkpointCode(err), Severity: Finds, Heads: []string{string(g.Predecessor)},
				Detail: fmt.Sprintf("the log says that it goes on from %q, but the checkpoint of that log is not to be trusted: %v", head.Origin, err)}.at(0))
			return
		}
		p.Verified = true
		p.how = "its checkpoint satisfies this policy"
	}
	if a.Options.Predecessor == nil {
		a.add(notice(Continues, "the log goes on from %q, from its checkpoint of %d entries: %s. Not checked, since that log is not given (--predecessor): that it ended there, and was closed for this one. Audit that log too",
			head.Origin, head.Size, p.how).at(0))
	}
}

// originOf returns the origin of a checkpoint, "" if it is none.
func originOf(signed []byte) string {
	text, err := checkpoint.Text(signed)
	if err != nil {
		return ""
	}
	body, _, err := checkpoint.Parse(text)
	if err != nil {
		return ""
	}
	return body.Origin
}

// formerBeacon takes a beacon with a checkpoint of the log before, as in records that a
// spool still held when that one was closed. It bounds the time as well, if the
// policy can tell; whether it is of that log's history an audit of that log tells.
func (p *producers) formerBeacon(it *item, seen *sighting) bool {
	if pre := p.a.report.Predecessor; pre == nil || seen.origin != pre.Origin {
		return false
	}
	if seen.err != nil {
		return errors.Is(seen.err, policy.ErrUnknownLog)
	}
	if t, ok := p.a.Policy.QuorumTime(seen.cp.Cosignatures); ok && seen.quorum == nil {
		it.beacon = nanos(t)
	}
	return true
}

// finishClosed says that the log has ended.
func (p *producers) finishClosed() {
	if p.ring == nil {
		return
	}
	if c := p.ring.Closed(); c != nil {
		p.a.add(notice(Closed, "the operator has closed the log: %s goes on from it", c.Successor).at(c.Index))
	}
}

// beyondEnd reports whether an entry stands behind the one that closed the log,
// where nobody may write.
func (p *producers) beyondEnd(it *item) bool {
	if p.ring == nil || p.ring.Closed() == nil {
		return false
	}
	if !p.refused[it.stream] && len(p.refused) < maxRefused {
		p.refused[it.stream] = true
		p.a.add(finding(UnknownProducer, "a %s stands behind entry %d, which closed the log, perhaps with more of the kind", it.kind, p.ring.Closed().Index).
			at(it.index).of(p.a.nameOf(it.stream.Producer), it.stream, it.seq))
	}
	return true
}
