package audit

import "github.com/sealtap/sealtap/record"

// step is the least number of records of a stream back to which roots and
// leaves are known; up to twice as many are.
const step = 1024

// history is a producer's tree that knows its recent past: the roots and leaves
// of as many sizes as step says. The zero value is the empty tree.
type history struct {
	tree     edge
	old, mid edge
	leaves   []record.Hash // from old.size on
}

// append adds a leaf, and returns by how many more or fewer leaves it is known.
func (h *history) append(leaf record.Hash) (more int) {
	before := len(h.leaves)
	h.tree.append(leaf)
	h.leaves = append(h.leaves, leaf)
	if h.tree.size%step == 0 {
		h.leaves = append(h.leaves[:0], h.leaves[h.mid.size-h.old.size:]...)
		h.old, h.mid = h.mid, h.tree.clone()
	}
	return len(h.leaves) - before
}

// trim forgets all but the last few leaves, and returns how many.
func (h *history) trim(keep int) (less int) {
	if len(h.leaves) <= keep {
		return 0
	}
	size := h.tree.size - uint64(keep)
	h.old = h.at(size)
	h.mid = h.old.clone()
	less = len(h.leaves) - keep
	h.leaves = append([]record.Hash(nil), h.leaves[less:]...)
	return less
}

// at returns the tree as it was at a size that is known.
func (h *history) at(size uint64) edge {
	from := &h.old
	if size >= h.mid.size {
		from = &h.mid
	}
	tree := from.clone()
	for _, l := range h.leaves[from.size-h.old.size : size-h.old.size] {
		tree.append(l)
	}
	return tree
}

// rootAt returns the root of the first size records, if it is known.
func (h *history) rootAt(size uint64) (record.Hash, bool) {
	switch {
	case size == h.tree.size:
		return h.tree.root(), true
	case size < h.old.size || size-h.old.size > uint64(len(h.leaves)):
		return record.Hash{}, false
	}
	tree := h.at(size)
	return tree.root(), true
}

// leaf returns the leaf hash of the record with the sequence, if it is known.
func (h *history) leaf(sequence uint64) (record.Hash, bool) {
	if sequence < h.old.size || sequence-h.old.size >= uint64(len(h.leaves)) {
		return record.Hash{}, false
	}
	return h.leaves[sequence-h.old.size], true
}
