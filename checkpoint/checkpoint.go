// Package checkpoint reads and writes the one statement that producers, logs
// and witnesses all make: "my append-only list has N entries and this root
// hash", as C2SP tlog-checkpoint (https://c2sp.org/tlog-checkpoint) in a C2SP
// signed note (https://c2sp.org/signed-note).
//
// It is stricter than the notes package underneath: what it accepts has one
// encoding only, so a checkpoint cannot be changed without being noticed.
//
// Start with [Open] to read a signed checkpoint, and with [Body.Marshal] to
// make the text of one.
package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

var (
	// ErrMalformed is wrapped by every error about the encoding of a checkpoint.
	ErrMalformed = errors.New("malformed checkpoint")
	// ErrSignature is wrapped where no known key signed a checkpoint, or where
	// a signature that claims to be by a known key does not verify.
	ErrSignature = errors.New("invalid checkpoint signature")
)

// Body is the part of a checkpoint that every signer signs.
type Body struct {
	Origin string   // identity of the list: not empty, no line break
	Size   uint64   // number of entries
	Root   [32]byte // RFC 6962 root hash (SHA-256) of the tree over them
}

// Marshal returns the note text: three lines, without extension lines.
func (b Body) Marshal() []byte {
	return fmt.Appendf(nil, "%s\n%d\n%s\n", b.Origin, b.Size, base64.StdEncoding.EncodeToString(b.Root[:]))
}

// EmptyRoot returns the root hash of a tree without entries (RFC 6962, section
// 2.1): the hash of the empty string.
func EmptyRoot() [32]byte { return sha256.Sum256(nil) }

// CheckEmpty returns an error if the body gives a tree without entries a root
// hash other than [EmptyRoot].
func (b Body) CheckEmpty() error {
	if b.Size == 0 && b.Root != EmptyRoot() {
		return fmt.Errorf("%w: a tree without entries has another root hash", ErrMalformed)
	}
	return nil
}

// Parse reads the text of a checkpoint: everything up to and with the newline
// before the empty line that precedes the signatures. It returns the extension
// lines verbatim; appended to [Body.Marshal] they give text again, byte for
// byte. It does not relate size and root: see [Body.CheckEmpty].
func Parse(text []byte) (b Body, extension []byte, err error) {
	if !validText(text) {
		return Body{}, nil, fmt.Errorf("%w: the text is not UTF-8, or holds a control character", ErrMalformed)
	}
	lines := bytes.SplitAfterN(text, []byte("\n"), 4)
	if len(lines) != 4 {
		return Body{}, nil, fmt.Errorf("%w: the text has fewer than three lines", ErrMalformed)
	}
	b.Origin = strings.TrimSuffix(string(lines[0]), "\n")
	if b.Origin == "" {
		return Body{}, nil, fmt.Errorf("%w: the origin line is empty", ErrMalformed)
	}
	if b.Size, err = ParseSize(strings.TrimSuffix(string(lines[1]), "\n")); err != nil {
		return Body{}, nil, fmt.Errorf("%w: line 2: %w", ErrMalformed, err)
	}
	if b.Root, err = ParseHash(strings.TrimSuffix(string(lines[2]), "\n")); err != nil {
		return Body{}, nil, fmt.Errorf("%w: line 3: %w", ErrMalformed, err)
	}
	extension = lines[3]
	// tlog-checkpoint, "Note text": extension lines are not empty.
	if len(extension) > 0 && (extension[len(extension)-1] != '\n' || extension[0] == '\n' || bytes.Contains(extension, []byte("\n\n"))) {
		return Body{}, nil, fmt.Errorf("%w: an extension line is empty or not terminated", ErrMalformed)
	}
	return b, extension, nil
}

// ParseSize reads a tree size: ASCII decimal without leading zeroes.
func ParseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || s != strconv.FormatUint(n, 10) {
		return 0, fmt.Errorf("%.40q is not a tree size in decimal without leading zeroes", s)
	}
	return n, nil
}

// ParseHash reads a SHA-256 hash in base64, in its one canonical form.
func ParseHash(s string) (h [32]byte, err error) {
	// The length keeps out line breaks, which the decoder would skip.
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) != len(h) || len(s) != base64.StdEncoding.EncodedLen(len(h)) {
		return h, fmt.Errorf("%.60q is not the base64 of a 32-byte hash", s)
	}
	return [32]byte(raw), nil
}

// Text returns the signed text of a note, unverified: for looking up, by the
// origin, the keys to verify it with.
func Text(signed []byte) ([]byte, error) {
	// signed-note, "Format": the last empty line separates text and signatures.
	i := bytes.LastIndex(signed, []byte("\n\n"))
	if i < 0 {
		return nil, fmt.Errorf("%w: no empty line before the signatures", ErrMalformed)
	}
	return signed[:i+1], nil
}

// Verify checks the signatures of a signed note, but not its text. At least one
// known key must have signed, and no signature that names a known key may be
// invalid; signatures by unknown keys are left unverified.
func Verify(signed []byte, known note.Verifiers) (*note.Note, error) {
	n, err := note.Open(signed, known)
	var invalid *note.InvalidSignatureError
	var unverified *note.UnverifiedNoteError
	switch {
	case errors.As(err, &invalid):
		return nil, fmt.Errorf("%w: the one by %s+%08x does not verify", ErrSignature, invalid.Name, invalid.Hash)
	case errors.As(err, &unverified):
		return nil, fmt.Errorf("%w: none is by a known key", ErrSignature)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	// Package note drops a second signature by a key without verifying it.
	lines := make(map[string]bool)
	for line := range bytes.Lines(signed[bytes.LastIndex(signed, []byte("\n\n"))+2:]) {
		lines[string(line)] = true
	}
	if len(lines) != len(n.Sigs)+len(n.UnverifiedSigs) {
		return nil, fmt.Errorf("%w: two signatures by one key", ErrMalformed)
	}
	for _, s := range n.Sigs {
		// A signature has one spelling, else bits of it could be changed unseen.
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return nil, fmt.Errorf("%w: the signature by %s is not canonical base64", ErrMalformed, s.Name)
		}
	}
	return n, nil
}

// Open verifies a signed checkpoint as [Verify] does, and reads its body. The
// note it returns holds the verified signatures apart from the others. It does
// not compare the origin with anything.
func Open(signed []byte, known note.Verifiers) (Body, *note.Note, error) {
	n, err := Verify(signed, known)
	if err != nil {
		return Body{}, nil, err
	}
	b, _, err := Parse([]byte(n.Text))
	if err == nil {
		err = b.CheckEmpty()
	}
	if err != nil {
		return Body{}, nil, err
	}
	return b, n, nil
}

// validText reports whether text can stand in a note (signed-note, "Format").
func validText(text []byte) bool {
	return utf8.Valid(text) && !bytes.ContainsFunc(text, func(r rune) bool { return r < 0x20 && r != '\n' })
}
