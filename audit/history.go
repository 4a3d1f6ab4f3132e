package audit

import "github.com/sealtap/sealtap/record"

// step is the least number of records of a stream back to which roots and
// leaves are known; up to twice as many are.
const step = 1024

// history is a producer's tree that knows its recent past: the roots and leaves
// of as many sizes as step says. The zero value is the empty tree.
type history struct {
	tree     *record.Tree
	old, mid edge
	leaves   []record.Hash // from old.size on
}

type edge struct {
	size   uint64
	hashes []record.Hash
}

func (h *history) append(leaf record.Hash) {
	if h.tree == nil {
		h.tree = record.NewTree()
	}
	h.tree.Append(leaf, nil)
	h.leaves = append(h.leaves, leaf)
	if size := h.tree.Size(); size%step == 0 {
		h.leaves = append([]record.Hash(nil), h.leaves[h.mid.size-h.old.size:]...)
		h.old, h.mid = h.mid, edge{size, h.tree.Edge()}
	}
}

// rootAt returns the root of the first size records, if it is known.
func (h *history) rootAt(size uint64) (record.Hash, bool) {
	from := h.old
	if size >= h.mid.size {
		from = h.mid
	}
	if size < h.old.size || size-h.old.size > uint64(len(h.leaves)) {
		return record.Hash{}, false
	}
	if h.tree != nil && size == h.tree.Size() {
		return h.tree.Root(), true
	}
	tree, err := record.RestoreTree(from.size, from.hashes)
	if err != nil {
		panic("audit: restoring a tree: " + err.Error()) // never: the edge is that of as many leaves
	}
	for _, l := range h.leaves[from.size-h.old.size : size-h.old.size] {
		tree.Append(l, nil)
	}
	return tree.Root(), true
}

// leaf returns the leaf hash of the record with the sequence, if it is known.
func (h *history) leaf(sequence uint64) (record.Hash, bool) {
	if sequence < h.old.size || sequence-h.old.size >= uint64(len(h.leaves)) {
		return record.Hash{}, false
	}
	return h.leaves[sequence-h.old.size], true
}
