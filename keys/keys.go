// Package keys makes, stores and names the signing keys of Sealtap.
//
// Keys are in the encodings of C2SP signed-note (https://c2sp.org/signed-note): a
// private key is a PRIVATE+KEY+… line in a file of its own, a public key is a
// vkey. A key has one role for its whole life, and its signature type is part of
// the key: witnesses hold Ed25519 keys of type 0x04 (timestamped cosignatures),
// everybody else of type 0x01. A log may have a second, post-quantum key, of type
// 0x06 (ML-DSA-44).
//
// Start with [Generate] or [Load].
package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"filippo.io/mldsa"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// Type is a signature type identifier of C2SP signed-note.
type Type byte

// The signature types that Sealtap makes or verifies.
const (
	Ed25519     Type = 0x01 // plain note signatures: logs, producers, operators
	Cosignature Type = 0x04 // timestamped Ed25519 cosignatures: witnesses
	MLDSA44     Type = 0x06 // timestamped ML-DSA-44 cosignatures: logs, beside the other key
)

// maxMLDSAName is the longest name that an ML-DSA-44 signature can commit to
// (tlog-cosignature, "ML-DSA-44 signed message").
const maxMLDSAName = 255

// ErrMalformed is wrapped by every error about the encoding of a key.
var ErrMalformed = errors.New("malformed key")

// ID identifies a public key whatever name it goes by:
// SHA-256("sealtap/key/v1" || 0x00 || signature type || public key).
type ID [sha256.Size]byte

// String returns the lower-case hexadecimal form of the identifier.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Public is a named public key.
type Public struct {
	Name string
	Type Type
	Key  []byte // the public key as signed-note encodes it, without the type byte
}

// ParsePublic parses a vkey of a known type and checks its key ID.
func ParsePublic(vkey string) (Public, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	hash16, key64, ok := strings.Cut(rest, "+")
	if !ok || !ValidName(name) {
		return Public{}, fmt.Errorf("%w: a verifier key reads NAME+KEYID+BASE64", ErrMalformed)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(key64)
	if err != nil || len(raw) < 2 {
		return Public{}, fmt.Errorf("%w: the last part of verifier key %q is not base64 of a key", ErrMalformed, name)
	}
	p := Public{Name: name, Type: Type(raw[0]), Key: raw[1:]}
	switch p.Type {
	case Ed25519, Cosignature:
		if len(p.Key) != ed25519.PublicKeySize {
			return Public{}, fmt.Errorf("%w: verifier key %q has %d bytes, an Ed25519 key has %d", ErrMalformed, name, len(p.Key), ed25519.PublicKeySize)
		}
		if weak(p.Key) {
			return Public{}, fmt.Errorf("%w: verifier key %q is a weak point of the curve, under which signatures prove nothing, or is not canonical", ErrMalformed, name)
		}
	case MLDSA44:
		if _, err := fnote.NewMLDSAVerifier(vkey); err != nil {
			return Public{}, fmt.Errorf("%w: verifier key %q is not an ML-DSA-44 key", ErrMalformed, name)
		}
	default:
		return Public{}, fmt.Errorf("%w: verifier key %q has the unknown signature type 0x%02x", ErrMalformed, name, raw[0])
	}
	if hash, err := strconv.ParseUint(hash16, 16, 32); err != nil || len(hash16) != 8 || uint32(hash) != p.KeyID() {
		return Public{}, fmt.Errorf("%w: the key ID of verifier key %q does not match its key", ErrMalformed, name)
	}
	if p.String() != vkey { // the decoder skips line breaks, and hexadecimal digits have two cases
		return Public{}, fmt.Errorf("%w: verifier key %q is not in its one spelling", ErrMalformed, name)
	}
	return p, nil
}

// weak reports whether an Ed25519 public key is one for which anybody can make
// signatures (a point of small order), or is in an encoding that not every
// verifier takes (RFC 8032, section 5.1.3).
func weak(key []byte) bool {
	var y [ed25519.PublicKeySize]byte // big-endian, without the sign of x
	for i, b := range key {
		y[len(y)-1-i] = b
	}
	y[0] &= 0x7f
	switch hex.EncodeToString(y[:]) {
	case "0000000000000000000000000000000000000000000000000000000000000000",
		"0000000000000000000000000000000000000000000000000000000000000001",
		"05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826",
		"7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7":
		return true
	}
	// The prime is 2^255-19; the point with y = -1 is of order 2.
	return y[0] == 0x7f && bytes.Count(y[1:31], []byte{0xff}) == 30 && y[31] >= 0xec
}

// KeyID is the 32-bit key ID of signed-note: it depends on name, type and key.
func (p Public) KeyID() uint32 {
	h := sha256.New()
	h.Write([]byte(p.Name + "\n"))
	h.Write([]byte{byte(p.Type)})
	h.Write(p.Key)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// ID returns the identifier of the key.
func (p Public) ID() ID {
	h := sha256.New()
	h.Write([]byte("sealtap/key/v1\x00"))
	h.Write([]byte{byte(p.Type)})
	h.Write(p.Key)
	return ID(h.Sum(nil))
}

// String returns the vkey.
func (p Public) String() string {
	return fmt.Sprintf("%s+%08x+%s", p.Name, p.KeyID(),
		base64.StdEncoding.EncodeToString(append([]byte{byte(p.Type)}, p.Key...)))
}

// Verifier returns the verifier of notes signed by the key.
func (p Public) Verifier() (note.Verifier, error) {
	if p.Type == Ed25519 {
		return note.NewVerifier(p.String())
	}
	return fnote.NewVerifierForCosignatureV1(p.String())
}

// Private is a signing key.
type Private struct {
	Public
	seed []byte
}

// Generate makes a new key.
func Generate(name string, t Type) (*Private, error) {
	if !ValidName(name) {
		return nil, fmt.Errorf("%w: %q cannot name a key: a name is not empty and holds no space, plus or control character", ErrMalformed, name)
	}
	seed := make([]byte, seedSize)
	_, _ = rand.Read(seed)
	return newPrivate(name, t, seed)
}

// seedSize is the number of bytes in the secret of a key, whatever its type.
const seedSize = ed25519.SeedSize

// newPrivate derives a key from its seed.
func newPrivate(name string, t Type, seed []byte) (*Private, error) {
	p := &Private{Public: Public{Name: name, Type: t}, seed: seed}
	switch t {
	case Ed25519, Cosignature:
		p.Key = ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	case MLDSA44:
		if len(name) > maxMLDSAName {
			return nil, fmt.Errorf("%w: the name of an ML-DSA-44 key has at most %d bytes", ErrMalformed, maxMLDSAName)
		}
		k, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), seed)
		if err != nil {
			return nil, fmt.Errorf("%w: deriving ML-DSA-44 key: %w", ErrMalformed, err)
		}
		p.Key = k.PublicKey().Bytes()
	default:
		return nil, fmt.Errorf("%w: keys of type 0x%02x are not made here", ErrMalformed, byte(t))
	}
	return p, nil
}

// ParsePrivate parses a PRIVATE+KEY+NAME+KEYID+BASE64 line.
func ParsePrivate(skey string) (*Private, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(skey), "PRIVATE+KEY+")
	name, rest, _ := strings.Cut(rest, "+")
	hash16, key64, ok2 := strings.Cut(rest, "+")
	// No part of a private key is ever quoted in an error.
	if !ok || !ok2 || !ValidName(name) {
		return nil, fmt.Errorf("%w: a signing key reads PRIVATE+KEY+NAME+KEYID+BASE64", ErrMalformed)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(key64)
	if err != nil || len(raw) != 1+seedSize {
		return nil, fmt.Errorf("%w: signing key %q does not hold a seed of %d bytes", ErrMalformed, name, seedSize)
	}
	p, err := newPrivate(name, Type(raw[0]), raw[1:])
	if err != nil {
		return nil, fmt.Errorf("signing key %q: %w", name, err)
	}
	if hash, err := strconv.ParseUint(hash16, 16, 32); err != nil || len(hash16) != 8 || uint32(hash) != p.KeyID() {
		return nil, fmt.Errorf("%w: the key ID of signing key %q does not match its key", ErrMalformed, name)
	}
	return p, nil
}

// Encode returns the PRIVATE+KEY+… line of the key. It is a secret.
func (p *Private) Encode() string {
	return fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", p.Name, p.KeyID(),
		base64.StdEncoding.EncodeToString(append([]byte{byte(p.Type)}, p.seed...)))
}

// String hides the secret.
func (p *Private) String() string { return "signing key of " + p.Public.String() }

// GoString hides the secret.
func (p *Private) GoString() string { return p.String() }

// Signer returns a signer of notes. For a [Cosignature] or [MLDSA44] key each
// signature carries the time at which it is made; the latter signs checkpoints
// only.
func (p *Private) Signer() (note.Signer, error) {
	if p.Type == Ed25519 {
		return note.NewSigner(p.Encode())
	}
	return fnote.NewSignerForCosignatureV1(p.Encode())
}

// SubtreeSigner returns a signer of subtrees and checkpoints (tlog-cosignature). The
// key is of type [MLDSA44].
func (p *Private) SubtreeSigner() (*fnote.SubtreeSigner, error) {
	return fnote.NewMLDSASigner(p.Encode())
}

// ValidName reports whether name can be the name of a key in a signed note.
func ValidName(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || r == '+'
	})
}
