package audit

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// edge is a Merkle tree as far as its right edge: the roots of its complete
// subtrees, largest first. The zero value is the empty tree. To append costs no
// memory but the edge's.
type edge struct {
	size   uint64
	hashes []record.Hash
}

// newEdge returns the tree of a size with the edge.
func newEdge(size uint64, hashes []record.Hash) (edge, error) {
	if bits.OnesCount64(size) != len(hashes) {
		return edge{}, fmt.Errorf("%w: an edge of %d hashes for %d leaves", client.ErrVerification, len(hashes), size)
	}
	return edge{size, append([]record.Hash(nil), hashes...)}, nil
}

func (e *edge) append(leaf record.Hash) {
	for s := e.size; s&1 == 1; s >>= 1 {
		last := len(e.hashes) - 1
		leaf = node(&e.hashes[last], &leaf)
		e.hashes = e.hashes[:last]
	}
	e.hashes = append(e.hashes, leaf)
	e.size++
}

// root is that of RFC 6962, section 2.1.
func (e *edge) root() record.Hash {
	if e.size == 0 {
		return sha256.Sum256(nil)
	}
	last := len(e.hashes) - 1
	h := e.hashes[last]
	for i := last - 1; i >= 0; i-- {
		h = node(&e.hashes[i], &h)
	}
	return h
}

// clone returns a tree that grows independently.
func (e *edge) clone() edge { return edge{e.size, append([]record.Hash(nil), e.hashes...)} }

// rootWith returns the root of the tree with more leaves.
func (e *edge) rootWith(leaves []record.Hash) record.Hash {
	if len(leaves) == 0 {
		return e.root()
	}
	grown := e.clone()
	for _, l := range leaves {
		grown.append(l)
	}
	return grown.root()
}
