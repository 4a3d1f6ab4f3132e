package record

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// SaltSize is the number of random bytes in each commitment. They keep a value
// that could be guessed from being confirmed by trying.
const SaltSize = 32

// The types of sealed values.
const (
	TypeString = "string" // the value is the text itself
	TypeList   = "list"   // big-endian uint32 lengths, each before its element
)

// The names of the fields that can be sealed.
const (
	FieldSource = "source"
	FieldQuery  = "query"
	FieldPath   = "path"
	FieldWho    = "who"

	// These are sealed together with who.
	FieldCertificate = "certificate" // its SHA-256, in base64
	FieldIssuer      = "issuer"
	FieldClaims      = "claims" // one list: the values of the claims, in order

	FieldHeaders = "headers" // one list: the values of the headers marked sealed, in order
)

const commitmentLabel = "sealtap/field/v1\x00"

// Commitment is the value that stands in an entry for a sealed field:
// SHA-256(label || salt || producer || incarnation || sequence || field || type || value),
// each part after the salt behind its length as a big-endian uint32. It binds
// the value to one field of one record, so that openings cannot be exchanged.
func Commitment(s Stream, sequence uint64, o *sealtapv1.Opening) Hash {
	h := sha256.New()
	h.Write([]byte(commitmentLabel))
	h.Write(o.GetSalt())
	var scratch [4]byte
	part := func(b []byte) {
		binary.BigEndian.PutUint32(scratch[:], uint32(len(b)))
		h.Write(scratch[:])
		h.Write(b)
	}
	part(s.Producer[:])
	part(s.Incarnation[:])
	part(binary.BigEndian.AppendUint64(nil, sequence))
	part([]byte(o.GetField()))
	part([]byte(o.GetType()))
	part(o.GetValue())
	var out Hash
	h.Sum(out[:0])
	return out
}

// NewOpening returns the opening of a field with a fresh salt.
func NewOpening(field, typ string, value []byte) *sealtapv1.Opening {
	salt := make([]byte, SaltSize)
	randRead(salt)
	return &sealtapv1.Opening{Field: field, Type: typ, Salt: salt, Value: value}
}

// CheckOpening reports whether the opening is the one that the record commits to.
func CheckOpening(r Record, o *sealtapv1.Opening) error {
	if len(o.GetSalt()) != SaltSize {
		return fmt.Errorf("%w: the salt of %q has %d bytes, want %d", ErrMalformed, o.GetField(), len(o.GetSalt()), SaltSize)
	}
	for _, s := range r.GetSealed() {
		if s.GetField() == o.GetField() {
			if c := Commitment(r.Stream, r.GetSequence(), o); Hash(s.GetCommitment()) != c {
				return fmt.Errorf("the opening of %q does not match its commitment", o.GetField())
			}
			return nil
		}
	}
	return fmt.Errorf("the record has no sealed field %q", o.GetField())
}

// AppendList appends an element to the value of a sealed list.
func AppendList(value []byte, element string) []byte {
	value = binary.BigEndian.AppendUint32(value, uint32(len(element)))
	return append(value, element...)
}

// SplitList is the inverse of [AppendList].
func SplitList(value []byte) ([]string, error) {
	var list []string
	for len(value) > 0 {
		if len(value) < 4 {
			return nil, fmt.Errorf("%w: a sealed list ends within a length", ErrMalformed)
		}
		n := binary.BigEndian.Uint32(value)
		value = value[4:]
		if uint64(n) > uint64(len(value)) {
			return nil, fmt.Errorf("%w: a sealed list ends within an element", ErrMalformed)
		}
		list = append(list, string(value[:n]))
		value = value[n:]
	}
	return list, nil
}

// randRead fills b with random bytes; crypto/rand never fails on the systems
// that Go supports: it ends the program instead.
func randRead(b []byte) { _, _ = rand.Read(b) }
