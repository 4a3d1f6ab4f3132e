package policy

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
)

// Checkpoint is a verified checkpoint.
type Checkpoint struct {
	Origin       string
	Size         uint64
	Root         [32]byte
	Note         []byte        // the signed note, verbatim
	Signatures   []string      // the log's own signature lines, without newlines
	Cosignatures []Cosignature // by witnesses of the policy, in the order of the note
}

// Cosignature is a verified cosignature by a witness of the policy.
type Cosignature struct {
	Witness string // its name in the policy
	Key     keys.Public
	Time    int64  // when it says it was made, in seconds since 1970; above 0
	Line    string // the signature line, without its newline
}

// signer is what tells keys apart in a note.
type signer struct {
	name string
	id   uint32
}

// cosigner is a witness with its verifier.
type cosigner struct {
	witness  Witness
	verifier note.Verifier
}

// verifiers are the keys of one log; the zero value has none.
type verifiers []note.Verifier

// Verifier implements [note.Verifiers].
func (vs verifiers) Verifier(name string, id uint32) (note.Verifier, error) {
	for _, v := range vs {
		if v.Name() == name && v.KeyHash() == id {
			return v, nil
		}
	}
	return nil, &note.UnknownVerifierError{Name: name, KeyHash: id}
}

// Verify checks a signed checkpoint: that the policy knows its origin, that the
// log signed it, that no signature in the name of a known key is invalid, and
// that the cosignatures satisfy the quorum. Its errors wrap [ErrUnknownLog],
// [ErrSignature], [ErrQuorum] or [ErrMalformed].
func (p *Policy) Verify(signed []byte) (*Checkpoint, error) {
	c, bad, err := p.open(signed)
	if err != nil {
		return nil, err
	}
	// signed-note, "Signatures": a bad one by a known key spoils the whole note.
	if bad != nil {
		return nil, bad
	}
	names := make(map[string]bool, len(c.Cosignatures))
	for _, s := range c.Cosignatures {
		names[s.Witness] = true
	}
	if !p.Satisfied(names) {
		return nil, fmt.Errorf("%w: checkpoint %d of %s is cosigned by %d of %d witnesses, which is not enough for %q",
			ErrQuorum, c.Size, c.Origin, len(names), len(p.Witnesses), p.Quorum)
	}
	return c, nil
}

// VerifyLogOnly checks a signed checkpoint as [Policy.Verify] does, but takes
// the cosignatures as they come: it returns the valid ones, passes over the
// others, and asks for no quorum.
func (p *Policy) VerifyLogOnly(signed []byte) (*Checkpoint, error) {
	c, _, err := p.open(signed)
	return c, err
}

// open verifies the log's signature and collects the cosignatures. The error
// bad is about a cosignature, err about the rest.
func (p *Policy) open(signed []byte) (c *Checkpoint, bad, err error) {
	text, err := checkpoint.Text(signed)
	if err != nil {
		return nil, nil, err
	}
	body, _, err := checkpoint.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	log, ok := p.logs[body.Origin]
	if !ok {
		return nil, nil, fmt.Errorf("%w: the policy has none with origin %.80q", ErrUnknownLog, body.Origin)
	}
	body, n, err := checkpoint.Open(signed, log)
	if err != nil {
		return nil, nil, err
	}
	c = &Checkpoint{Origin: body.Origin, Size: body.Size, Root: body.Root, Note: slices.Clone(signed)}
	for _, s := range n.Sigs {
		c.Signatures = append(c.Signatures, line(s))
	}
	seen := make(map[string]bool)
	for _, s := range slices.Concat(n.Sigs, n.UnverifiedSigs) {
		w, ok := p.known[signer{s.Name, s.Hash}]
		if !ok {
			continue
		}
		t, ok := w.verify(body.Origin, n.Text, s)
		if !ok {
			bad = fmt.Errorf("%w: the cosignature by witness %s does not verify", ErrSignature, w.witness.Name)
			continue
		}
		if seen[w.witness.Name] { // the first one counts, but none may be false
			continue
		}
		seen[w.witness.Name] = true
		// tlog-cosignature: time 0 makes no statement about the newest tree, so
		// it is valid but witnesses nothing.
		if t > 0 {
			c.Cosignatures = append(c.Cosignatures, Cosignature{
				Witness: w.witness.Name, Key: w.witness.Key, Time: t, Line: line(s),
			})
		}
	}
	return c, bad, nil
}

// verify checks one cosignature and returns its time.
func (w cosigner) verify(origin, text string, s note.Signature) (unix int64, ok bool) {
	raw, err := base64.StdEncoding.Strict().DecodeString(s.Base64)
	// Four bytes of key ID, then a timestamped_signature of tlog-cosignature.
	if err != nil || len(raw) < 12 || !w.verifier.Verify([]byte(text), raw[4:]) {
		return 0, false
	}
	// The library truncates the length of a longer origin, which would let two
	// origins share one signed message.
	if w.witness.Key.Type == keys.MLDSA44 && len(origin) > maxMLDSAName {
		return 0, false
	}
	t := binary.BigEndian.Uint64(raw[4:12])
	return int64(t), t <= math.MaxInt64
}

// Cosign returns the checkpoint as a signed note with the log's signatures, the
// cosignatures it has, those of more that are by other witnesses, and nothing
// else. Those of more must have been verified for this very checkpoint.
func (c *Checkpoint) Cosign(more ...Cosignature) []byte {
	text, err := checkpoint.Text(c.Note)
	if err != nil {
		panic("policy: Cosign of a checkpoint that was not verified")
	}
	var b bytes.Buffer
	b.Write(text)
	b.WriteString("\n")
	for _, line := range c.Signatures {
		b.WriteString(line + "\n")
	}
	seen := make(map[string]bool)
	for _, s := range slices.Concat(c.Cosignatures, more) {
		if !seen[s.Witness] {
			b.WriteString(s.Line + "\n")
		}
		seen[s.Witness] = true
	}
	return b.Bytes()
}

// line returns a signature as a line of a note, without its newline.
func line(s note.Signature) string { return "— " + s.Name + " " + s.Base64 }
