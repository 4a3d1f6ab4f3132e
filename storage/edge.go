package storage

import (
	"fmt"

	"github.com/sealtap/sealtap/record"
)

// EdgeBytes is the right edge of a stream's tree as databases keep it: its hashes, one
// behind the other.
func EdgeBytes(edge []record.Hash) []byte {
	b := make([]byte, 0, len(edge)*len(record.Hash{}))
	for _, h := range edge {
		b = append(b, h[:]...)
	}
	return b
}

// ParseEdge returns the edge that EdgeBytes made, or an error that wraps [ErrCorrupt].
func ParseEdge(b []byte) ([]record.Hash, error) {
	const size = len(record.Hash{})
	if len(b)%size != 0 {
		return nil, fmt.Errorf("%w: the edge of a stream has %d bytes, which is no number of hashes", ErrCorrupt, len(b))
	}
	var edge []record.Hash
	for ; len(b) > 0; b = b[size:] {
		edge = append(edge, record.Hash(b[:size]))
	}
	return edge, nil
}
