package record

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
)

const (
	genesisHeader   = "sealtap/genesis/v1"
	keyChangeHeader = "sealtap/key-change/v1"
)

// Genesis is the first entry of a log. It names the log's key and the
// operator's, and is signed by the latter: the root of trust of everything that
// producers sign.
type Genesis struct {
	Log         keys.Public
	PostQuantum *keys.Public // the log's second key, of type 0x06; nil if it has none
	Operator    keys.Public
	Created     time.Time // whole seconds, the operator's claim
	// Predecessor is the last cosigned checkpoint of the log that this one goes on
	// from, verbatim; nil if it begins by itself.
	Predecessor []byte
	Note        []byte // the signed note, verbatim
}

// NewGenesis returns the genesis entry of a log. Its post-quantum key, if it has
// one, follows as more.
func NewGenesis(log keys.Public, operator *keys.Private, created time.Time, more ...keys.Public) ([]byte, error) {
	return signStatement(KindGenesis, operator, genesisLines(log, operator, created, more)...)
}

func genesisLines(log keys.Public, operator *keys.Private, created time.Time, more []keys.Public) []string {
	lines := []string{genesisHeader, "log " + log.String()}
	for _, k := range more {
		lines = append(lines, "log "+k.String())
	}
	return append(lines,
		"operator "+operator.Public.String(),
		"created "+created.UTC().Format(time.RFC3339))
}

// ParseGenesis parses the body of a genesis entry. It checks that the entry is
// signed by the operator whom it names; whether that is the right one only the
// auditor's pin can tell.
func ParseGenesis(body []byte) (Genesis, error) {
	lines, err := statementLines(body, genesisHeader)
	if err != nil {
		return Genesis{}, err
	}
	g := Genesis{Note: body}
	if len(lines) >= 4 && strings.HasPrefix(lines[1], "log ") {
		k, err := logLine(lines[1])
		if err != nil {
			return Genesis{}, err
		}
		g.PostQuantum = &k
		lines = append(lines[:1], lines[2:]...)
	}
	if len(lines) != 3 && len(lines) != 4 {
		return Genesis{}, fmt.Errorf("%w: a genesis has one or two lines for log, one each for operator and created, and perhaps predecessor", ErrMalformed)
	}
	if g.Log, err = keyLine(lines[0], "log "); err != nil {
		return Genesis{}, err
	}
	if k := g.PostQuantum; k != nil && (g.Log.Type != keys.Ed25519 || k.Name != g.Log.Name) {
		return Genesis{}, fmt.Errorf("%w: the log's keys are one of type 0x01 and one of type 0x06, of one name", ErrMalformed)
	}
	if g.Operator, err = keyLine(lines[1], "operator "); err != nil {
		return Genesis{}, err
	}
	if g.Log.Type != keys.Ed25519 || g.Operator.Type != keys.Ed25519 {
		return Genesis{}, fmt.Errorf("%w: the first key of the log and the operator's are of type 0x01", ErrMalformed)
	}
	created, ok := strings.CutPrefix(lines[2], "created ")
	if g.Created, err = time.Parse(time.RFC3339, created); err != nil || !ok || g.Created.UTC().Format(time.RFC3339) != created {
		return Genesis{}, fmt.Errorf("%w: %q is not a time of creation", ErrMalformed, lines[2])
	}
	if len(lines) == 4 {
		if g.Predecessor, err = parsePredecessor(g.Log, lines[3]); err != nil {
			return Genesis{}, err
		}
	}
	return g, verifyNote(body, g.Operator)
}

// KeyChange is a statement by the operator about the keys of producers, and of the
// log.
type KeyChange struct {
	Origin string // of the log that it is meant for
	Number uint64 // 1 for the operator's first statement in a log, then one more each
	// Log is post-quantum keys that sign the log's checkpoints from now on.
	Log    []keys.Public
	Enrol  []keys.Public
	Revoke []Revocation
	Note   []byte // the signed note, verbatim
}

// Revocation ends what a key can do.
type Revocation struct {
	Key keys.Public
	// Last is what of each incarnation is still admissible: the highest
	// sequence. Of incarnations not named, nothing is.
	Last []LastSequence
}

// LastSequence is the highest admissible sequence of an incarnation.
type LastSequence struct {
	Incarnation Incarnation
	Sequence    uint64
}

// NewKeyChange returns the entry of a statement about keys.
func NewKeyChange(c KeyChange, operator *keys.Private) ([]byte, error) {
	lines := []string{"log " + c.Origin, "number " + strconv.FormatUint(c.Number, 10)}
	for _, k := range c.Log {
		if k.Type != keys.MLDSA44 {
			return nil, fmt.Errorf("adding %q: a log's second key has signature type 0x06, not 0x%02x", k.Name, byte(k.Type))
		}
		lines = append(lines, "log "+k.String())
	}
	for _, k := range c.Enrol {
		if k.Type != keys.Ed25519 {
			return nil, fmt.Errorf("enrolling %q: a producer's key has signature type 0x01, not 0x%02x", k.Name, byte(k.Type))
		}
		lines = append(lines, "enrol "+k.String())
	}
	for _, r := range c.Revoke {
		lines = append(lines, "revoke "+r.Key.String())
		for _, l := range r.Last {
			lines = append(lines, fmt.Sprintf("last %s %d", l.Incarnation, l.Sequence))
		}
	}
	return signStatement(KindKeyChange, operator, append([]string{keyChangeHeader}, lines...)...)
}

// ParseKeyChange parses the body of a key change without verifying its
// signature: see [Keyring.Apply].
func ParseKeyChange(body []byte) (KeyChange, error) {
	lines, err := statementLines(body, keyChangeHeader)
	if err != nil {
		return KeyChange{}, err
	}
	if len(lines) < 3 {
		return KeyChange{}, fmt.Errorf("%w: a key change has lines for log, number and at least one key", ErrMalformed)
	}
	c := KeyChange{Note: body}
	if c.Origin, c.Number, err = numbered(lines); err != nil {
		return KeyChange{}, err
	}
	for _, line := range lines[2:] {
		if err := c.parseLine(line); err != nil {
			return KeyChange{}, err
		}
	}
	return c, nil
}

// Verify checks that the operator, and nobody else, signed the statement.
func (c KeyChange) Verify(operator keys.Public) error { return verifyNote(c.Note, operator) }

func (c *KeyChange) parseLine(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "log":
		k, err := logLine(line)
		if err == nil && k.Name != c.Origin {
			err = fmt.Errorf("%w: the name %q of a log's key is not its origin %q", ErrMalformed, k.Name, c.Origin)
		}
		c.Log = append(c.Log, k)
		return err
	case "enrol":
		k, err := keyLine(line, "enrol ")
		if err == nil && k.Type != keys.Ed25519 {
			err = fmt.Errorf("%w: producer key %q has signature type 0x%02x", ErrMalformed, k.Name, byte(k.Type))
		}
		c.Enrol = append(c.Enrol, k)
		return err
	case "revoke":
		k, err := keyLine(line, "revoke ")
		c.Revoke = append(c.Revoke, Revocation{Key: k})
		return err
	case "last":
		var l LastSequence
		inc, seq, _ := strings.Cut(rest, " ")
		n, err1 := hex.Decode(l.Incarnation[:], []byte(inc[:min(len(inc), 32)]))
		s, err2 := strconv.ParseUint(seq, 10, 64)
		l.Sequence = s
		if err1 != nil || err2 != nil || n != 16 || len(c.Revoke) == 0 || line != fmt.Sprintf("last %s %d", l.Incarnation, s) {
			return fmt.Errorf("%w: %q is not the last sequence of a revoked key", ErrMalformed, line)
		}
		r := &c.Revoke[len(c.Revoke)-1]
		r.Last = append(r.Last, l)
		return nil
	}
	return fmt.Errorf("%w: a key change cannot say %q", ErrMalformed, line)
}

func signStatement(kind Kind, operator *keys.Private, lines ...string) ([]byte, error) {
	signer, err := operator.Signer()
	if err != nil {
		return nil, err
	}
	signed, err := note.Sign(&note.Note{Text: strings.Join(lines, "\n") + "\n"}, signer)
	if err != nil {
		return nil, fmt.Errorf("signing statement: %w", err)
	}
	return join(kind, signed)
}

// statementLines returns the lines of a note's text after its header.
func statementLines(body []byte, header string) ([]string, error) {
	text, err := noteText(body)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if lines[0] != header {
		return nil, fmt.Errorf("%w: the statement starts with %q, not %q", ErrMalformed, lines[0], header)
	}
	return lines[1:], nil
}

// logLine reads the line of a log's second key.
func logLine(line string) (keys.Public, error) {
	k, err := keyLine(line, "log ")
	if err == nil && k.Type != keys.MLDSA44 {
		err = fmt.Errorf("%w: the second key of log %q has signature type 0x%02x, 0x%02x is wanted", ErrMalformed, k.Name, byte(k.Type), byte(keys.MLDSA44))
	}
	return k, err
}

func keyLine(line, prefix string) (keys.Public, error) {
	vkey, ok := strings.CutPrefix(line, prefix)
	if !ok {
		return keys.Public{}, fmt.Errorf("%w: %q should start with %q", ErrMalformed, line, prefix)
	}
	k, err := keys.ParsePublic(vkey)
	if err != nil {
		return keys.Public{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	// Two names that no one can tell apart on a screen would be one to an auditor.
	if strings.ContainsFunc(k.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return keys.Public{}, fmt.Errorf("%w: the name %q holds characters that cannot be seen", ErrMalformed, k.Name)
	}
	return k, nil
}

var sigSplit = []byte("\n\n")

// noteText returns the text of a signed note without verifying it.
func noteText(n []byte) ([]byte, error) {
	i := bytes.LastIndex(n, sigSplit)
	if i < 0 {
		return nil, fmt.Errorf("%w: not a signed note", ErrMalformed)
	}
	return n[:i+1], nil
}

// verifyNote checks that the note is signed by the key, and by no one else: an
// entry has no room for bytes that nobody vouches for.
func verifyNote(n []byte, key keys.Public) error {
	v, err := key.Verifier()
	if err != nil {
		return err
	}
	opened, err := note.Open(n, note.VerifierList(v))
	if err != nil {
		return fmt.Errorf("verifying signature of %q: %w", key.Name, err)
	}
	if len(opened.Sigs) != 1 || len(opened.UnverifiedSigs) != 0 {
		return fmt.Errorf("verifying signature of %q: %w: signatures by others beside it", key.Name, ErrMalformed)
	}
	// One spelling only, or else two entries could hold the same statement.
	if again, err := rejoin(opened); err != nil || !bytes.Equal(again, n) {
		return fmt.Errorf("verifying signature of %q: %w: not the one spelling of a note", key.Name, ErrMalformed)
	}
	return nil
}

func rejoin(n *note.Note) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(n.Text)
	b.WriteByte('\n')
	for _, s := range n.Sigs {
		// The lenient decoder of package note ignores spare bits at the end.
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "— %s %s\n", s.Name, s.Base64)
	}
	return b.Bytes(), nil
}
