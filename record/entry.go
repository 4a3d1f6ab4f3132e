// Package record defines what Sealtap writes down: records, the seals that
// cover them, the operator's statements about keys, and the evidence files that
// prove a record offline.
//
// docs/formats.md describes every byte. The package knows nothing of servers,
// storage or the command line. To make records start with [Encode]; to read
// entries start with [Parse].
package record

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/sealtap/sealtap/keys"
)

// Kind says what an entry holds.
type Kind byte

// The kinds of entries. Others may come; they are kept, hashed and proven like
// these.
const (
	KindGenesis   Kind = 0x00 // the first entry of a log: names log and operator
	KindKeyChange Kind = 0x01 // the operator enrols or revokes a producer
	KindRecord    Kind = 0x02 // a producer's record
	KindSeal      Kind = 0x03 // a producer's checkpoint over its records
	KindStatement Kind = 0x05 // the operator says something about the log: how long entries stay
)

// String returns the name of the kind as it stands in output for programs.
func (k Kind) String() string {
	switch k {
	case KindGenesis:
		return "genesis"
	case KindKeyChange:
		return "key-change"
	case KindRecord:
		return "record"
	case KindSeal:
		return "seal"
	case KindStatement:
		return "statement"
	}
	return fmt.Sprintf("kind-%d", byte(k))
}

const (
	// Version is the first byte of every entry.
	Version = 0x01
	// MaxEntry is the most bytes an entry can have: entry bundles of C2SP
	// tlog-tiles prefix each entry with its length in 16 bits.
	MaxEntry = 1<<16 - 1

	headerSize = 2
)

// ErrMalformed is wrapped by every error about bytes that are not what
// docs/formats.md describes.
var ErrMalformed = errors.New("malformed entry")

// Hash is a SHA-256 hash: a leaf, a node, a root or a commitment.
type Hash [sha256.Size]byte

// String returns the lower-case hexadecimal form.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// LeafHash is the hash of an entry as a leaf of a Merkle tree (RFC 6962,
// section 2.1): SHA-256(0x00 || entry). A record has the same leaf hash in its
// producer's tree and in the log's.
func LeafHash(entry []byte) Hash {
	// One call on a stack buffer is twice as fast as a streaming hash.
	var buf [2048]byte
	if len(entry) < len(buf) {
		buf[0] = 0x00
		n := copy(buf[1:], entry)
		return sha256.Sum256(buf[:1+n])
	}
	h := sha256.New()
	h.Write([]byte{0x00})
	h.Write(entry)
	var out Hash
	h.Sum(out[:0])
	return out
}

// Split separates the body of an entry from its version and kind.
func Split(entry []byte) (Kind, []byte, error) {
	switch {
	case len(entry) < headerSize:
		return 0, nil, fmt.Errorf("%w: %d bytes are too few for a version and a kind", ErrMalformed, len(entry))
	case len(entry) > MaxEntry:
		return 0, nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrMalformed, len(entry), MaxEntry)
	case entry[0] != Version:
		return 0, nil, fmt.Errorf("%w: version %d, this program knows version %d", ErrMalformed, entry[0], Version)
	}
	return Kind(entry[1]), entry[headerSize:], nil
}

func join(k Kind, body []byte) ([]byte, error) {
	if headerSize+len(body) > MaxEntry {
		return nil, fmt.Errorf("%w: an entry of %d bytes, the limit is %d", ErrMalformed, headerSize+len(body), MaxEntry)
	}
	return append([]byte{Version, byte(k)}, body...), nil
}

// Incarnation tells apart the lives of a producer's spool: 128 random bits.
type Incarnation [16]byte

// String returns the lower-case hexadecimal form.
func (i Incarnation) String() string { return hex.EncodeToString(i[:]) }

// Stream names one producer tree: the records of one incarnation.
type Stream struct {
	Producer    keys.ID
	Incarnation Incarnation
}

// OriginPrefix starts the origin of every seal. No log may have an origin that
// starts like this, so that a seal is never a log's checkpoint, nor the reverse.
const OriginPrefix = "sealtap/producer/"

// Origin is the origin line of the seals of the stream.
func (s Stream) Origin() string {
	return OriginPrefix + s.Producer.String() + "/" + s.Incarnation.String()
}

// ParseOrigin is the inverse of [Stream.Origin].
func ParseOrigin(origin string) (Stream, error) {
	var s Stream
	want := len(OriginPrefix) + 2*len(s.Producer) + 1 + 2*len(s.Incarnation)
	if len(origin) != want || origin[:len(OriginPrefix)] != OriginPrefix {
		return Stream{}, fmt.Errorf("%w: %q is not the origin of a seal", ErrMalformed, origin)
	}
	rest := origin[len(OriginPrefix):]
	_, err1 := hex.Decode(s.Producer[:], []byte(rest[:64]))
	_, err2 := hex.Decode(s.Incarnation[:], []byte(rest[65:]))
	// Compare with the one spelling: hexadecimal digits have two.
	if err1 != nil || err2 != nil || s.Origin() != origin {
		return Stream{}, fmt.Errorf("%w: %q is not the origin of a seal", ErrMalformed, origin)
	}
	return s, nil
}
