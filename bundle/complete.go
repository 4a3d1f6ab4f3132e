package bundle

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/transparency-dev/merkle/compact"
	merkle "github.com/transparency-dev/merkle/proof"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// completer makes what a complete bundle has beside the others: the leaves of a range
// of the log, and what proves them.
type completer struct {
	Range
	m     *maker
	order []*part
	parts map[record.Stream]*part
}

// part is the part of a stream in the range.
type part struct {
	*stream
	number     int
	first, end uint64 // sequences, without the end
	count      uint64
}

const (
	// widening is by how much a range grows where the records of a stream stand out
	// of order about its ends.
	widening = 8192
	tries    = 4
)

// scan writes the leaves. Where the records of a stream in the range are not all
// those between the first and the last of them, it tries a wider range.
func (c *completer) scan(ctx context.Context) error {
	for range tries {
		ragged, err := c.leaves(ctx)
		if err != nil || !ragged {
			return err
		}
		c.First = max(c.First, c.m.Kept.Minimum+widening) - widening
		c.End = min(c.End+widening, c.m.Tree.Size())
	}
	return fmt.Errorf("%w: records of one producer about the ends of the range stand too far apart in the log, or are missing; leave out --since and --until, or audit the log", ErrTooMany)
}

func (c *completer) leaves(ctx context.Context) (ragged bool, err error) {
	c.order, c.parts = nil, make(map[record.Stream]*part)
	w, err := c.m.stage.create(leavesFile)
	if err != nil {
		return false, err
	}
	for p, err := range c.m.Tree.Scan(ctx, c.First-c.First%client.TileWidth) {
		if err != nil {
			return false, errors.Join(err, w.keep())
		}
		if p.Index >= c.End {
			break
		}
		if p.Index < c.First {
			continue
		}
		if err := c.line(w, p); err != nil {
			return false, errors.Join(err, w.keep())
		}
	}
	for _, x := range c.order {
		ragged = ragged || x.count != x.end-x.first
	}
	return ragged, w.keep()
}

func (c *completer) line(w *member, p client.Proven) error {
	kind, body, err := record.Split(p.Entry)
	if err != nil || kind != record.KindRecord {
		_, err := fmt.Fprintf(w, "entry %s\n", base64.StdEncoding.EncodeToString(p.Entry))
		return err
	}
	h, err := record.Scan(body)
	if err != nil {
		return fmt.Errorf("%w: entry %d is no record, although it says so; audit the log", client.ErrVerification, p.Index)
	}
	x := c.parts[h.Stream]
	if x == nil {
		if len(c.order) >= maxStreams {
			return fmt.Errorf("%w: records of more than %d producer trees stand in the range", ErrTooMany, maxStreams)
		}
		x = &part{stream: c.m.stream(h.Stream), number: len(c.order), first: h.Sequence}
		c.parts[h.Stream] = x
		c.order = append(c.order, x)
	}
	x.first, x.end = min(x.first, h.Sequence), max(x.end, h.Sequence+1)
	x.count++
	_, err = fmt.Fprintf(w, "%d %d %s\n", x.number, h.Sequence, b64(p.Leaf))
	return err
}

// sealed returns the end of what of the part lies under the seal.
func (x *part) sealed() uint64 {
	if x.seal == nil {
		return x.first
	}
	return max(x.first, min(x.end, x.seal.Size))
}

// want notes which nodes of the producers' trees are needed.
func (c *completer) want(grower func(record.Stream) (*grower, error)) error {
	for _, x := range c.order {
		if x.sealed() == x.first {
			continue
		}
		g, err := grower(x.id)
		if err != nil {
			return err
		}
		if x.first < g.tree.Size() {
			return fmt.Errorf("%w: record %d of incarnation %s stands in the log twice; audit the log", client.ErrVerification, x.first, x.id.Incarnation)
		}
		g.want(compact.RangeNodes(0, x.first, nil))
		n, err := merkle.Consistency(x.sealed(), x.seal.Size)
		if err != nil {
			return err
		}
		g.want(n.IDs)
	}
	return nil
}

// write writes the members range and seals.evidence.
func (c *completer) write(ctx context.Context) error {
	var b strings.Builder
	fmt.Fprintf(&b, "range %d %d\n", c.First, c.End)
	edge, err := c.m.Tree.Edge(ctx, c.First)
	if err != nil {
		return err
	}
	for _, h := range edge {
		fmt.Fprintf(&b, "edge %s\n", b64(h))
	}
	hashes, err := consistency(ctx, c.m.Tree, c.End)
	if err != nil {
		return err
	}
	for _, h := range hashes {
		fmt.Fprintf(&b, "consistency %s\n", b64(h))
	}
	for _, x := range c.order {
		if err := c.stream(&b, x); err != nil {
			return err
		}
	}
	if err := c.m.stage.put(rangeFile, []byte(b.String())); err != nil {
		return err
	}
	return c.seals(ctx)
}

func (c *completer) stream(b *strings.Builder, x *part) error {
	end := x.sealed()
	fmt.Fprintf(b, "stream %d %s %s %d %d\n", x.number, x.id.Producer, x.id.Incarnation, x.first, end)
	if end == x.first {
		return nil
	}
	g := c.m.growers[x.id]
	for _, id := range compact.RangeNodes(0, x.first, nil) {
		h := g.need[id]
		if h == nil {
			return fmt.Errorf("%w: a node of the tree of incarnation %s is not there", client.ErrVerification, x.id.Incarnation)
		}
		fmt.Fprintf(b, "edge %s\n", b64(*h))
	}
	n, err := merkle.Consistency(end, x.seal.Size)
	if err != nil {
		return err
	}
	hashes, err := g.hashes(n)
	for _, h := range hashes {
		fmt.Fprintf(b, "consistency %s\n", b64(h))
	}
	return err
}

// seals writes evidence of the seals that the parts are held against.
func (c *completer) seals(ctx context.Context) error {
	list := slices.DeleteFunc(slices.Clone(c.order), func(x *part) bool { return x.sealed() == x.first })
	if len(list) == 0 {
		return nil
	}
	w, err := c.m.stage.create(sealsFile)
	if err != nil {
		return err
	}
	for _, x := range list {
		e, err := c.m.base(ctx, x.sealAt)
		if err == nil {
			enrolled, _ := c.m.ring.Enrolled(x.id.Producer)
			if e.KeyChange, err = c.m.statement(ctx, enrolled); err == nil {
				err = c.m.verified(w, e)
			}
		}
		if err != nil {
			return errors.Join(fmt.Errorf("seal at index %d: %w", x.sealAt, err), w.keep())
		}
	}
	return w.keep()
}

func b64[H ~[32]byte](h H) string { return base64.StdEncoding.EncodeToString(h[:]) }
