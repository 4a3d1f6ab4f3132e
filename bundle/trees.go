package bundle

import (
	"context"
	"fmt"

	"github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/compact"
	merkle "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// grower rebuilds one producer's tree and keeps the nodes that proofs need.
type grower struct {
	id      record.Stream
	size    uint64 // of the tree that proofs are under
	tree    *record.Tree
	pending map[uint64]record.Hash
	need    map[compact.NodeID]*record.Hash
}

// newGrower begins with what lies below the minimum index of the log.
func newGrower(s *stream, kept *client.Retention) (*grower, error) {
	g := &grower{id: s.id, size: s.seal.Size, tree: record.NewTree(), pending: make(map[uint64]record.Hash), need: make(map[compact.NodeID]*record.Hash)}
	for _, at := range kept.Streams {
		if at.Stream != s.id {
			continue
		}
		var err error
		if g.tree, err = record.RestoreTree(at.Size, at.Edge); err != nil {
			return nil, fmt.Errorf("%w: %w", client.ErrVerification, err)
		}
	}
	return g, nil
}

// wantInclusion notes what the proof of a record needs.
func (g *grower) wantInclusion(sequence uint64) error {
	n, err := merkle.Inclusion(sequence, g.size)
	g.want(n.IDs)
	return err
}

// want notes that nodes are needed. Those of the edge that the tree began with are
// there already.
func (g *grower) want(ids []compact.NodeID) {
	edge := g.tree.Edge()
	for i, id := range compact.RangeNodes(0, g.tree.Size(), nil) {
		g.need[id] = &edge[i]
	}
	for _, id := range ids {
		if _, ok := g.need[id]; !ok {
			g.need[id] = nil
		}
	}
}

// append takes a record of the stream, in whatever order they come.
func (g *grower) append(sequence uint64, leaf record.Hash) error {
	if sequence < g.tree.Size() || sequence >= g.size {
		return nil // a second one is for audits to find
	}
	if g.pending[sequence] = leaf; len(g.pending) > maxPending {
		return fmt.Errorf("%w: record %d of incarnation %s is not in the log, so what follows cannot be proven; audit the log", client.ErrVerification, g.tree.Size(), g.id.Incarnation)
	}
	for {
		next, ok := g.pending[g.tree.Size()]
		if !ok {
			return nil
		}
		delete(g.pending, g.tree.Size())
		g.tree.Append(next, func(level uint, index uint64, h []byte) {
			if old, ok := g.need[compact.NewNodeID(level, index)]; ok && old == nil {
				x := record.Hash(h)
				g.need[compact.NewNodeID(level, index)] = &x
			}
		})
	}
}

// finish checks the tree against its seal.
func (g *grower) finish(seal *record.Seal) error {
	if g.tree.Size() != g.size {
		return fmt.Errorf("%w: record %d of incarnation %s is not in the log, although a seal covers it; audit the log", client.ErrVerification, g.tree.Size(), g.id.Incarnation)
	}
	if g.tree.Root() != seal.Root {
		return fmt.Errorf("%w: the records of incarnation %s are not those that its producer sealed; audit the log", client.ErrVerification, g.id.Incarnation)
	}
	return nil
}

// inclusion returns the proof of a record under the seal.
func (g *grower) inclusion(sequence uint64, seal *record.Seal) (proof.TLogProof, error) {
	n, err := merkle.Inclusion(sequence, g.size)
	if err != nil {
		return proof.TLogProof{}, err
	}
	hashes, err := g.hashes(n)
	return proof.TLogProof{Index: sequence, Hashes: hashes, Checkpoint: seal.Note}, err
}

func (g *grower) hashes(n merkle.Nodes) ([][32]byte, error) {
	return rehash(n, func(id compact.NodeID) (record.Hash, error) {
		h := g.need[id]
		if h == nil {
			return record.Hash{}, fmt.Errorf("%w: a node of the tree of incarnation %s is not there", client.ErrVerification, g.id.Incarnation)
		}
		return *h, nil
	})
}

func rehash(n merkle.Nodes, get func(compact.NodeID) (record.Hash, error)) ([][32]byte, error) {
	raw := make([][]byte, len(n.IDs))
	for i, id := range n.IDs {
		h, err := get(id)
		if err != nil {
			return nil, err
		}
		raw[i] = h[:]
	}
	raw, err := n.Rehash(raw, rfc6962.DefaultHasher.HashChildren)
	if err != nil {
		return nil, err
	}
	out := make([][32]byte, len(raw))
	for i := range raw {
		out[i] = [32]byte(raw[i])
	}
	return out, nil
}

// consistency returns the proof that the first size entries of the log are a
// beginning of it.
func consistency(ctx context.Context, t *client.Tree, size uint64) ([][32]byte, error) {
	n, err := merkle.Consistency(size, t.Size())
	if err != nil {
		return nil, err
	}
	return rehash(n, func(id compact.NodeID) (record.Hash, error) {
		list, err := t.Nodes(ctx, id.Level, id.Index, id.Index+1)
		if err != nil {
			return record.Hash{}, err
		}
		return list[0], nil
	})
}

// inLog returns an entry with its proof in the log.
func inLog(ctx context.Context, t *client.Tree, head []byte, index uint64) (*record.Proven, error) {
	entry, err := t.Entry(ctx, index)
	if err != nil {
		return nil, err
	}
	path, err := t.InclusionProof(ctx, index)
	if err != nil {
		return nil, err
	}
	p := &record.Proven{Entry: entry, Proof: proof.TLogProof{Index: index, Checkpoint: head}}
	for _, h := range path {
		p.Proof.Hashes = append(p.Proof.Hashes, h)
	}
	return p, nil
}
