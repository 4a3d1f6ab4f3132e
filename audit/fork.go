package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/witness/fork"
	"github.com/sealtap/sealtap/witness/policy"
)

// ForkStart is how a file with evidence of a fork begins.
const ForkStart = fork.Header

// ForkReport says what evidence of a fork proves. Its verdict is about the
// evidence: pass where it proves a fork, incomplete where it proves nothing yet.
type ForkReport struct {
	Verdict   Verdict   `json:"verdict"`
	Code      Code      `json:"code"`
	Kind      fork.Kind `json:"kind"`
	Origin    string    `json:"origin"`
	Older     *ForkHead `json:"older,omitempty"`
	Newer     ForkHead  `json:"newer"`
	Seen      string    `json:"seen"` // RFC 3339, as SeenBy says
	SeenBy    string    `json:"seen_by"`
	Proven    []string  `json:"proven"`
	NotProven []string  `json:"not_proven"`
}

// ForkHead is a head that the log has signed.
type ForkHead struct {
	Size     uint64   `json:"size"`
	Root     string   `json:"root"`
	SignedBy []string `json:"signed_by"` // NAME+KEYID of the log's keys
	Cosigned []string `json:"cosigned"`  // by witnesses of the policy, and when
}

// VerifyFork verifies evidence of a fork, offline, with nothing but the log's keys
// in the policy. Cosignatures are named where the policy has their witnesses. Any
// deviation is an [*EvidenceError].
func VerifyFork(text []byte, p *policy.Policy) (*ForkReport, error) {
	if p == nil {
		return nil, fmt.Errorf("%w: there is no policy", ErrConfig)
	}
	e, err := fork.Parse(text)
	if err != nil {
		return nil, refuse(EvidenceMalformed, "%v", err)
	}
	known, err := logKeys(p, e.Newer)
	if err != nil {
		return nil, err
	}
	j, err := e.Judge(known)
	switch {
	case errors.Is(err, fork.ErrRefuted):
		return nil, refuse(Fork, "%v", err)
	case errors.Is(err, checkpoint.ErrSignature):
		return nil, refuse(CheckpointSignature, "not every head is signed by the log: %v", err)
	case err != nil:
		return nil, refuse(EvidenceMalformed, "%v", err)
	}
	r := &ForkReport{
		Verdict: Pass, Code: Fork, Kind: j.Kind, Origin: j.Newer.Origin, Newer: forkHead(p, e.Newer, j.Newer, j.NewerBy),
		Seen: e.Seen.Format(time.RFC3339), SeenBy: e.By,
	}
	if e.Older != nil {
		h := forkHead(p, e.Older, j.Older, j.OlderBy)
		r.Older = &h
	}
	r.describe(e, j)
	return r, nil
}

// logKeys returns the keys of the log that a head is of.
func logKeys(p *policy.Policy, signed []byte) (note.Verifiers, error) {
	text, err := checkpoint.Text(signed)
	if err != nil {
		return nil, refuse(EvidenceMalformed, "%v", err)
	}
	b, _, err := checkpoint.Parse(text)
	if err != nil {
		return nil, refuse(EvidenceMalformed, "%v", err)
	}
	var list []note.Verifier
	for _, l := range p.Logs {
		if l.Key.Name != b.Origin {
			continue
		}
		v, err := l.Key.Verifier()
		if err != nil {
			return nil, fmt.Errorf("%w: key of log %s: %w", ErrConfig, l.Key.Name, err)
		}
		list = append(list, v)
	}
	if len(list) == 0 {
		return nil, refuse(CheckpointSignature, "it is about the log %.80q, of which you have given no key", b.Origin)
	}
	return note.VerifierList(list...), nil
}

func forkHead(p *policy.Policy, signed []byte, b checkpoint.Body, by []note.Signature) ForkHead {
	h := ForkHead{Size: b.Size, Root: base64.StdEncoding.EncodeToString(b.Root[:]), SignedBy: []string{}, Cosigned: []string{}}
	for _, s := range by {
		h.SignedBy = append(h.SignedBy, fmt.Sprintf("%s+%08x", s.Name, s.Hash))
	}
	if cp, err := p.VerifyLogOnly(signed); err == nil {
		for _, c := range cp.Cosignatures {
			h.Cosigned = append(h.Cosigned, fmt.Sprintf("%s at %s", c.Witness, seconds(c.Time)))
		}
	}
	return h
}

// describe says in words what the heads show.
func (r *ForkReport) describe(e *fork.Evidence, j *fork.Judgement) {
	say := func(format string, args ...any) { r.Proven = append(r.Proven, fmt.Sprintf(format, args...)) }
	not := func(format string, args ...any) { r.NotProven = append(r.NotProven, fmt.Sprintf(format, args...)) }
	for _, h := range []*ForkHead{r.Older, &r.Newer} {
		if h == nil {
			continue
		}
		say("The log %s signed a head of %d entries with the root %s, by %s.", r.Origin, h.Size, h.Root, strings.Join(h.SignedBy, " and "))
		if len(h.Cosigned) > 0 {
			say("That head was cosigned by %s.", strings.Join(h.Cosigned, ", "))
		}
	}
	switch j.Kind {
	case fork.Root:
		say("The two heads have one size and two roots: the log has shown two histories of the same length. Whoever holds its key did this, or lost the key to who did.")
	case fork.Empty:
		say("One of them is a root for no entries that no empty list has: the log signed what cannot be true.")
	case fork.Prefix:
		say("The tree under the head of %d entries has, at %d entries, the root %s, as the proof shows: it begins with other entries than the log had signed for. The log has shown two histories. Whoever holds its key did this, or lost the key to who did.",
			j.Newer.Size, j.Older.Size, base64.StdEncoding.EncodeToString(e.Beginning[:]))
	case fork.Unproven:
		r.Verdict = Incomplete
		not("That the log has shown two histories. The proof between the two heads fails, but the log does not sign proofs: a stranger could have sent a good head with a wrong proof. Ask the log, or who has a copy of it, for a consistency proof from %d to %d. One that holds refutes this file; a log that has none to give, and has signed both heads, has forked.",
			j.Older.Size, j.Newer.Size)
	}
	if j.Kind.Proven() {
		say("What follows: the log cannot be relied on as one history. A witness that saw one of the two will not cosign the other; compare what each reader was shown, beginning with mirrors and the state files of audits.")
		not("Which history is the true one, nor which entries differ: a copy of the log under each head shows it.")
	}
	not("When it was seen: %s says at %s.", r.SeenBy, r.Seen)
}

// Text returns the report for people.
func (r *ForkReport) Text() string {
	var b strings.Builder
	what := "FORKED"
	if r.Verdict != Pass {
		what = "NOT PROVEN TO FIT"
	}
	sizes := fmt.Sprintf("a head of %d entries", r.Newer.Size)
	if r.Older != nil {
		sizes = fmt.Sprintf("heads of %d and %d entries", r.Older.Size, r.Newer.Size)
	}
	b.WriteString(wrap("", fmt.Sprintf("%s: %s, %s", what, r.Origin, sizes), 2))
	for _, s := range r.Proven {
		b.WriteString(wrap("  + ", s, 4))
	}
	b.WriteString("Not proven by this evidence:\n")
	for _, s := range r.NotProven {
		b.WriteString(wrap("  - ", s, 4))
	}
	return b.String()
}
