package sqlite

import (
	"runtime"
	"sync"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// packed is the entries of a batch in the form in which they are stored.
type packed struct {
	first   uint64   // number of the first complete bundle
	bundles [][]byte // zstd frames of the bundles that the batch completes

	rowFirst uint64 // index of the first entry of the new row of the head
	row      []byte // the row, in the form of a bundle; empty if there is none
	leaves   []byte // leaf hashes of its entries

	head []byte // all entries behind the last complete bundle
}

func (p *packed) bytes() int {
	n := len(p.row) + len(p.leaves)
	for _, frame := range p.bundles {
		n += len(frame)
	}
	return n
}

// packers is how many bundles are packed at a time.
func packers() int { return min(runtime.GOMAXPROCS(0), 4) }

// pack makes bundles of the entries of a batch, which come behind those in
// before. Large batches complete several bundles, which are compressed side by
// side.
func (l *Log) pack(before []byte, b *storage.Batch) packed {
	const width = storage.BundleWidth
	p := packed{first: b.First / width}
	end := b.First + uint64(len(b.Entries))
	rest := b.Entries
	if n := int(end/width - p.first); n > 0 {
		p.bundles = make([][]byte, n)
		slots := make(chan struct{}, packers())
		var wg sync.WaitGroup
		for i := range p.bundles {
			room := width - int((end-uint64(len(rest)))%width)
			bundle := appendEntries(append(l.buffer(), before...), rest[:room])
			before, rest = nil, rest[room:]
			slots <- struct{}{}
			wg.Go(func() {
				p.bundles[i] = l.encoder.EncodeAll(bundle, l.buffer())
				l.reuse(bundle)
				<-slots
			})
		}
		wg.Wait()
	}
	p.head = before
	if len(rest) > 0 {
		p.rowFirst = end - uint64(len(rest))
		// The head grows in place; nobody else holds what is behind its end.
		p.head = appendEntries(before, rest)
		p.row = p.head[len(before):]
		p.leaves = newLeaves(b, len(rest))
	}
	return p
}

// buffer returns an empty piece of memory, which may have been used before: a
// bundle can be large, and is needed for the time of one commit.
func (l *Log) buffer() []byte {
	if b, ok := l.buffers.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return nil
}

func (l *Log) reuse(b []byte) { l.buffers.Put(&b) }

func appendEntries(bundle []byte, entries [][]byte) []byte {
	for _, e := range entries {
		bundle = storage.AppendEntry(bundle, e)
	}
	return bundle
}

// newLeaves returns the leaf hashes of the last n entries of the batch, from the
// partial tile of level 0, which ends with them. A batch without that tile has
// none: then the tile cannot be read, as if it had never been stored.
func newLeaves(b *storage.Batch, n int) []byte {
	for _, t := range b.Tiles {
		if partialLeaves(t) && len(t.Hashes) >= n*len(record.Hash{}) {
			return t.Hashes[len(t.Hashes)-n*len(record.Hash{}):]
		}
	}
	return []byte{}
}
