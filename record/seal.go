package record

import (
	"crypto/sha256"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
)

// Seal is a producer's checkpoint over its own records: a C2SP tlog-checkpoint
// whose origin names producer and incarnation. Seals are not leaves of the
// producer's tree.
type Seal struct {
	Stream Stream
	Size   uint64
	Root   Hash
	Note   []byte // the signed note, verbatim
}

// NewSeal signs the head of a producer's tree and returns the entry that holds
// the seal. The records under it must be durable by then.
func NewSeal(s Stream, size uint64, root Hash, signer note.Signer) ([]byte, error) {
	body := checkpoint.Body{Origin: s.Origin(), Size: size, Root: root}
	signed, err := note.Sign(&note.Note{Text: string(body.Marshal())}, signer)
	if err != nil {
		return nil, fmt.Errorf("signing seal: %w", err)
	}
	return join(KindSeal, signed)
}

// ParseSeal parses the body of a seal entry without verifying its signature.
func ParseSeal(body []byte) (Seal, error) {
	text, err := noteText(body)
	if err != nil {
		return Seal{}, err
	}
	b, extension, err := checkpoint.Parse(text)
	if err != nil {
		return Seal{}, fmt.Errorf("%w: not a seal: %w", ErrMalformed, err)
	}
	if len(extension) > 0 {
		return Seal{}, fmt.Errorf("%w: a seal has no extension lines", ErrMalformed)
	}
	s, err := ParseOrigin(b.Origin)
	if err != nil {
		return Seal{}, err
	}
	return Seal{Stream: s, Size: b.Size, Root: b.Root, Note: body}, nil
}

// Verify checks the signature of the seal and that it is by the producer whose
// stream it names.
func (s Seal) Verify(key keys.Public) error {
	if key.ID() != s.Stream.Producer {
		return fmt.Errorf("the seal names producer %s, the key is %s", s.Stream.Producer, key.ID())
	}
	return verifyNote(s.Note, key)
}

// Tree is the Merkle tree of a producer or of a log as far as its right edge:
// enough to append and to know the root, whatever its size. It is not safe for
// concurrent use.
type Tree struct {
	r *compact.Range
}

var ranges = compact.RangeFactory{Hash: hashChildren}

// hashChildren is the interior node of RFC 6962, section 2.1, in one call on
// the stack.
func hashChildren(left, right []byte) []byte {
	var buf [1 + 2*sha256.Size]byte
	buf[0] = 0x01
	copy(buf[1:], left)
	copy(buf[1+sha256.Size:], right)
	h := sha256.Sum256(buf[:])
	return h[:]
}

// NewTree returns an empty tree.
func NewTree() *Tree { return &Tree{ranges.NewEmptyRange(0)} }

// RestoreTree returns the tree of the given size with the given right edge, as
// [Tree.Edge] returned it.
func RestoreTree(size uint64, edge []Hash) (*Tree, error) {
	hashes := make([][]byte, len(edge))
	for i := range edge {
		hashes[i] = edge[i][:]
	}
	r, err := ranges.NewRange(0, size, hashes)
	if err != nil {
		return nil, fmt.Errorf("restoring tree: %w", err)
	}
	return &Tree{r}, nil
}

// Append adds a leaf. visit, if not nil, is told every complete node that comes
// to be, the leaf included.
func (t *Tree) Append(leaf Hash, visit func(level uint, index uint64, h []byte)) {
	var v compact.VisitFn
	if visit != nil {
		v = func(id compact.NodeID, h []byte) { visit(id.Level, id.Index, h) }
	}
	if err := t.r.Append(leaf[:], v); err != nil {
		panic("record: appending to a compact range: " + err.Error()) // never: the hash has the right size
	}
}

// Size is the number of leaves.
func (t *Tree) Size() uint64 { return t.r.End() }

// Root is the root hash; that of an empty tree is SHA-256 of nothing.
func (t *Tree) Root() Hash {
	if t.r.End() == 0 {
		return sha256.Sum256(nil)
	}
	h, err := t.r.GetRootHash(nil)
	if err != nil {
		panic("record: root of a compact range: " + err.Error()) // never: the range begins at 0
	}
	return Hash(h)
}

// Edge returns the hashes of the complete subtrees on the right edge, largest
// first.
func (t *Tree) Edge() []Hash {
	hs := t.r.Hashes()
	edge := make([]Hash, len(hs))
	for i := range hs {
		edge[i] = Hash(hs[i])
	}
	return edge
}

// Clone returns a tree that grows independently.
func (t *Tree) Clone() *Tree {
	c, err := RestoreTree(t.Size(), t.Edge())
	if err != nil {
		panic("record: cloning a tree: " + err.Error()) // never: the edge fits the size
	}
	return c
}
