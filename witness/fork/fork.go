// Package fork reads, writes and judges evidence that a log has shown two
// histories: heads that it signed and that do not fit together. The format is that
// of docs/formats.md, "Evidence of a fork".
//
// What a log has signed it cannot deny, but a proof of consistency that fails may
// be anybody's: a stranger can send a good head with a wrong proof. So evidence
// says of itself nothing that its two heads and its proof do not show, and
// [Evidence.Judge] tells what proves a fork ([Root], [Empty], [Prefix]) from what
// only does not disprove one ([Unproven]).
//
// Start with [Parse] and [Evidence.Judge] to read evidence, and with [New] to make it.
package fork

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
)

// Header is the first line of evidence.
const Header = "sealtap/fork/v1"

// maxProof is the most hashes of a proof (tlog-witness, "add-checkpoint").
const maxProof = 63

var (
	// ErrMalformed is wrapped where a text is not evidence in its one spelling.
	ErrMalformed = errors.New("malformed evidence of a fork")
	// ErrRefuted is wrapped where the heads fit together after all.
	ErrRefuted = errors.New("the heads are no fork")
)

// Evidence is one or two signed heads that do not fit, as one party saw them.
type Evidence struct {
	// Seen is when, and By is who says so. Neither is proven by the evidence.
	Seen time.Time
	By   string
	// Older is the signed head that was known. Empty: the newer one contradicts
	// itself.
	Older []byte
	// Newer is the signed head that does not fit. Its size is not smaller.
	Newer []byte
	// Beginning is the root that the tree under Newer has at the size of Older, as
	// Proof shows. Nil where the proof does not show one.
	Beginning *[32]byte
	// Proof is an RFC 6962 consistency proof between the two sizes: of Beginning,
	// or the one that failed.
	Proof [][32]byte
}

// New makes evidence of two heads and the proof that was to show that they fit.
func New(by string, seen time.Time, older, newer []byte, proof [][32]byte) *Evidence {
	e := &Evidence{Seen: seen.UTC().Truncate(time.Second), By: by, Older: older, Newer: newer, Proof: proof}
	if o, n, err := e.bodies(); err == nil && older != nil && o.Size < n.Size {
		e.Beginning = beginning(o, n, proof)
	} else {
		e.Proof = nil // between equal sizes nothing is to be proven
	}
	return e
}

// Marshal returns the evidence as text, in its one spelling.
func (e *Evidence) Marshal() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nseen %s %s\n", Header, e.Seen.UTC().Format(time.RFC3339), e.By)
	if e.Beginning != nil {
		fmt.Fprintf(&b, "beginning %s\n", base64.StdEncoding.EncodeToString(e.Beginning[:]))
	}
	for _, h := range e.Proof {
		fmt.Fprintf(&b, "proof %s\n", base64.StdEncoding.EncodeToString(h[:]))
	}
	if e.Older != nil {
		fmt.Fprintf(&b, "older %d\n%s", len(e.Older), e.Older)
	}
	fmt.Fprintf(&b, "newer %d\n%s", len(e.Newer), e.Newer)
	return b.Bytes()
}

// Parse reads evidence. It verifies nothing.
func Parse(text []byte) (*Evidence, error) {
	rest, ok := bytes.CutPrefix(text, []byte(Header+"\n"))
	if !ok {
		return nil, fmt.Errorf("%w: the first line is not %q", ErrMalformed, Header)
	}
	e := new(Evidence)
	for n := 2; len(rest) > 0; n++ {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		word, value, _ := strings.Cut(string(line), " ")
		var err error
		if rest, err = e.read(word, value, after); err != nil {
			return nil, fmt.Errorf("%w: line %q: %w", ErrMalformed, printable(line), err)
		}
	}
	if e.Newer == nil || !keys.ValidName(e.By) || !bytes.Equal(e.Marshal(), text) {
		return nil, fmt.Errorf("%w: it lacks a part, or is not in its one spelling", ErrMalformed)
	}
	return e, nil
}

// read takes one line, with the note that may follow it.
func (e *Evidence) read(word, value string, after []byte) (rest []byte, err error) {
	switch word {
	case "seen":
		at, by, _ := strings.Cut(value, " ")
		e.By = by
		e.Seen, err = time.Parse(time.RFC3339, at)
	case "beginning":
		var h [32]byte
		h, err = checkpoint.ParseHash(value)
		e.Beginning = &h
	case "proof":
		var h [32]byte
		if h, err = checkpoint.ParseHash(value); err == nil && len(e.Proof) == maxProof {
			err = fmt.Errorf("the proof has more than %d hashes", maxProof)
		}
		e.Proof = append(e.Proof, h)
	case "older":
		e.Older, after, err = cut(value, after)
	case "newer":
		e.Newer, after, err = cut(value, after)
	default:
		err = errors.New("it has no meaning here")
	}
	return after, err
}

// cut takes as many bytes as the text says.
func cut(size string, from []byte) (part, rest []byte, err error) {
	n, err := strconv.ParseUint(size, 10, 31)
	if err != nil || n == 0 || n > uint64(len(from)) {
		return nil, nil, errors.New("there are not as many bytes")
	}
	return from[:n], from[n:], nil
}

func printable(line []byte) string { return fmt.Sprintf("%.40s", line) }

// bodies returns what the heads say, unverified. That of an absent older head is
// zero.
func (e *Evidence) bodies() (older, newer checkpoint.Body, err error) {
	if e.Older != nil {
		if older, err = body(e.Older); err != nil {
			return older, newer, err
		}
	}
	newer, err = body(e.Newer)
	return older, newer, err
}

func body(signed []byte) (checkpoint.Body, error) {
	text, err := checkpoint.Text(signed)
	if err != nil {
		return checkpoint.Body{}, err
	}
	b, _, err := checkpoint.Parse(text)
	return b, err
}
