package audit

import (
	"fmt"
	"strings"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// EvidenceReport says what evidence proves. There is none for evidence that
// proves nothing.
type EvidenceReport struct {
	Verdict Verdict         `json:"verdict"`
	Pinned  bool            `json:"operator_pinned"`
	Entries []EvidenceEntry `json:"entries"`
}

// EvidenceEntry is what is proven about one entry.
type EvidenceEntry struct {
	Origin     string       `json:"origin"`
	Size       uint64       `json:"size"`
	Root       string       `json:"root"`
	CosignedBy []string     `json:"cosigned_by"`
	NotBefore  string       `json:"not_before,omitempty"` // RFC 3339: when the beacon's checkpoint was cosigned
	NotAfter   string       `json:"not_after,omitempty"`  // RFC 3339: when the log's was
	Operator   string       `json:"operator"`
	Openings   []string     `json:"openings,omitempty"` // fields disclosed
	Record     *record.View `json:"record"`
	Proven     []string     `json:"proven"`
	NotProven  []string     `json:"not_proven"`
}

// describe says in words what has been verified.
func (v *verifier) describe() EvidenceEntry {
	name := func(id keys.ID) string {
		if v.key.Name != "" && v.key.ID() == id {
			return v.key.Name
		}
		return id.String()
	}
	e := EvidenceEntry{
		Origin: v.head.Origin, Size: v.head.Size, Root: b64(v.head.Root), CosignedBy: []string{}, Operator: v.genesis.Operator.String(),
		Record: record.NewView(v.entry, v.evidence.Log.Index, name, v.evidence.Openings),
	}
	for _, c := range v.head.Cosignatures {
		e.CosignedBy = append(e.CosignedBy, c.Witness)
	}
	for _, o := range v.evidence.Openings {
		e.Openings = append(e.Openings, o.GetField())
	}
	if v.lower > 0 {
		e.NotBefore = seconds(v.lower)
	}
	if v.bounded {
		e.NotAfter = seconds(v.upper)
	}
	e.Proven, e.NotProven = v.proven(e), v.notProven(e)
	return e
}

func (v *verifier) proven(e EvidenceEntry) (list []string) {
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	say("By the log %s: this %s stands in it at index %d, unchanged, under its signed head of %d entries.", v.head.Origin, v.entry.Kind, v.evidence.Log.Index, v.head.Size)
	if len(e.CosignedBy) > 0 {
		say("By the witnesses %s: they cosigned that head, and are enough for the policy. Whoever trusts them is shown the same log.", v.cosigned())
	}
	operator := v.genesis.Operator.Name
	if v.key.Name != "" {
		say("By the operator %s: the producer %s was enrolled before that, at index %d.", operator, v.key.Name, v.evidence.KeyChange.Proof.Index)
	}
	switch {
	case v.entry.Record != nil:
		say("By the producer %s: it wrote this as record %d of its own tree, and sealed that tree of %d records with its key.", v.key.Name, v.entry.Record.GetSequence(), v.seal.Size)
	case v.entry.Seal != nil:
		say("By the producer %s: it signed this seal over its first %d records of incarnation %s.", v.key.Name, v.entry.Seal.Size, v.entry.Seal.Stream.Incarnation)
	case v.entry.Genesis != nil, v.entry.KeyChange != nil, v.entry.Statement != nil:
		say("By the operator %s: it signed this.", operator)
	}
	switch {
	case v.lower > 0 && v.bounded:
		say("By the witnesses' clocks: it was written after %s, when the checkpoint in the beacon before it was cosigned, and before %s, when the quorum had cosigned the head over it. The record's own time lies between (give or take %s).", e.NotBefore, e.NotAfter, DefaultSkew)
	case v.bounded:
		say("By the witnesses' clocks: it was written before %s, when the quorum had cosigned the head over it.", e.NotAfter)
	}
	for _, f := range e.Openings {
		say("By the producer's commitment: the value shown for the sealed field %q is the one that was recorded.", f)
	}
	return list
}

// cosigned names the witnesses that cosigned the head, with their times.
func (v *verifier) cosigned() string {
	var list []string
	for _, c := range v.head.Cosignatures {
		list = append(list, fmt.Sprintf("%s (at %s)", c.Witness, seconds(c.Time)))
	}
	return strings.Join(list, ", ")
}

func (v *verifier) notProven(e EvidenceEntry) (list []string) {
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if v.operator == nil {
		say("Who the operator is: none is pinned, so the key in the log's genesis was believed.")
	}
	if !v.bounded {
		say("By when it was written: the policy asks for no witness.")
	}
	if v.entry.Record != nil {
		switch {
		case v.weak:
			say("Since when it can have been written: the checkpoint in its beacon does not satisfy the policy.")
		case v.lower == 0:
			say("Since when it can have been written: the evidence holds no beacon from before it that the policy's quorum cosigned.")
		default:
			say("That the checkpoint in its beacon is of the same history as this head; an audit of the log shows it.")
		}
		say("That what the record says is true: it is what %s saw, or said.", v.key.Name)
		say("That nothing else happened: only an audit of the whole log shows that no record is missing.")
	}
	if v.key.Name != "" {
		say("That the operator has not revoked the key of %s since.", v.key.Name)
	}
	return list
}

// Text returns the report for people, at most 80 columns wide.
func (r *EvidenceReport) Text() string {
	var b strings.Builder
	for i, e := range r.Entries {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(e.Text())
	}
	return b.String()
}

// Text returns what is proven about the entry for people.
func (e *EvidenceEntry) Text() string {
	var b strings.Builder
	b.WriteString(wrap("", fmt.Sprintf("PROVEN: entry %d of %s", e.Record.Index, e.Origin), 2))
	for _, s := range e.Proven {
		b.WriteString(wrap("  + ", s, 4))
	}
	if len(e.NotProven) > 0 {
		b.WriteString("Not proven by this evidence:\n")
	}
	for _, s := range e.NotProven {
		b.WriteString(wrap("  - ", s, 4))
	}
	return b.String()
}
