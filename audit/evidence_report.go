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
	say("This %s stands at index %d of the log %s, unchanged, as its %d entries were signed by the log.", v.entry.Kind, v.evidence.Log.Index, v.head.Origin, v.head.Size)
	if len(e.CosignedBy) > 0 {
		say("The witnesses %s have cosigned that head, which satisfies the policy: everyone who trusts them is shown the same log.", strings.Join(e.CosignedBy, ", "))
	}
	if v.key.Name != "" {
		say("The operator enrolled the producer %s before that.", v.key.Name)
	}
	switch {
	case v.entry.Record != nil:
		say("%s wrote it as number %d of its own tree, and sealed that tree with its key.", v.key.Name, v.entry.Record.GetSequence())
	case v.entry.Seal != nil:
		say("%s signed it with its key.", v.key.Name)
	case v.entry.KeyChange != nil, v.entry.Statement != nil:
		say("The operator signed it.")
	}
	switch {
	case v.lower > 0 && v.bounded:
		say("It was written after %s and before %s by the witnesses' clocks, and what it says of its own time lies between (give or take %s).", e.NotBefore, e.NotAfter, DefaultSkew)
	case v.bounded:
		say("It was written before %s by the witnesses' clocks.", e.NotAfter)
	}
	for _, f := range e.Openings {
		say("The value shown for %q is the one that the record committed to.", f)
	}
	return list
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
			say("Since when it can have been written: the evidence holds no beacon from before it.")
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
	}
	return b.String()
}
