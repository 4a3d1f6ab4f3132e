package query

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

const bundleWidth = storage.BundleWidth

// errBundle is wrapped where the log gives a bundle that is none.
var errBundle = errors.New("malformed entry bundle")

// bundles reads entries of the log and remembers the bundles used last.
type bundles struct {
	src Source
	max int // bytes remembered, but for the newest bundle

	mu    sync.Mutex
	bytes int
	byN   map[uint64]*list.Element // of *bundle
	order *list.List               // the one used last in front
}

type bundle struct {
	n       uint64
	bytes   int
	entries [][]byte
}

func newBundles(src Source, max int) *bundles {
	return &bundles{src: src, max: max, byN: make(map[uint64]*list.Element), order: list.New()}
}

// get returns the entries of bundle n, at least need of them.
func (b *bundles) get(ctx context.Context, n uint64, need int) ([][]byte, error) {
	b.mu.Lock()
	var entries [][]byte
	if e := b.byN[n]; e != nil {
		b.order.MoveToFront(e)
		entries = e.Value.(*bundle).entries
	}
	b.mu.Unlock()
	// A bundle that is not complete only ever grows.
	if len(entries) >= need {
		return entries, nil
	}
	raw, err := b.src.Bundle(ctx, n)
	if err == nil {
		entries, err = splitBundle(raw)
	}
	if err == nil && len(entries) < need {
		err = fmt.Errorf("%w: it has %d entries, the log has %d", errBundle, len(entries), need)
	}
	if err != nil {
		return nil, fmt.Errorf("reading entry bundle %d: %w", n, err)
	}
	b.put(&bundle{n, len(raw), entries})
	return entries, nil
}

func (b *bundles) put(x *bundle) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.byN[x.n]; e != nil {
		if len(e.Value.(*bundle).entries) >= len(x.entries) {
			return
		}
		b.remove(e)
	}
	b.byN[x.n] = b.order.PushFront(x)
	b.bytes += x.bytes
	for b.bytes > b.max && b.order.Len() > 1 {
		b.remove(b.order.Back())
	}
}

func (b *bundles) remove(e *list.Element) {
	x := b.order.Remove(e).(*bundle)
	b.bytes -= x.bytes
	delete(b.byN, x.n)
}

// forget drops everything: the log may be another one.
func (b *bundles) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.byN = make(map[uint64]*list.Element)
	b.order.Init()
	b.bytes = 0
}

// entry returns the entry at an index of the log.
func (b *bundles) entry(ctx context.Context, index uint64) ([]byte, error) {
	i := int(index % bundleWidth)
	entries, err := b.get(ctx, index/bundleWidth, i+1)
	if err != nil {
		return nil, err
	}
	return entries[i], nil
}

// leaf returns the leaf hash of the entry at an index.
func (b *bundles) leaf(ctx context.Context, index uint64) (record.Hash, error) {
	entry, err := b.entry(ctx, index)
	if err != nil {
		return record.Hash{}, err
	}
	return record.LeafHash(entry), nil
}

// splitBundle cuts a bundle into its entries.
func splitBundle(raw []byte) ([][]byte, error) {
	entries := make([][]byte, 0, bundleWidth)
	for entry, err := range storage.Entries(raw) {
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBundle, err)
		}
		if len(entries) == bundleWidth {
			return nil, fmt.Errorf("%w: it has more than %d entries", errBundle, bundleWidth)
		}
		entries = append(entries, entry)
	}
	return entries, nil
}
