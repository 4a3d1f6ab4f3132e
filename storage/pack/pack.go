// Package pack puts entries into the form in which databases keep them: complete
// bundles as zstd frames, and what is behind the last one as it is.
//
// Start with [New].
package pack

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// MaxBundle is the size of a bundle of the largest entries.
const MaxBundle = storage.BundleWidth * (2 + record.MaxEntry)

// Packed is the entries of a batch.
type Packed struct {
	First   uint64   // number of the first complete bundle
	Bundles [][]byte // zstd frames of the bundles that the batch completes

	RowFirst uint64 // index of the first entry of the new row of the head
	Row      []byte // the row, in the form of a bundle; empty if there is none
	Leaves   []byte // leaf hashes of its entries

	Head []byte // all entries behind the last complete bundle
}

// Bytes is how large it is.
func (p *Packed) Bytes() int {
	n := len(p.Row) + len(p.Leaves)
	for _, frame := range p.Bundles {
		n += len(frame)
	}
	return n
}

// Packer packs bundles and unpacks them. Many goroutines can use it.
type Packer struct {
	encoder *zstd.Encoder // nil: it only unpacks
	decoder *zstd.Decoder
	buffers sync.Pool // of *[]byte
}

// New returns a packer.
func New() (*Packer, error) {
	// What is left of records once repetitions are taken out is hashes, salts and
	// ids: coding them by frequency takes three quarters of the time and gains
	// nothing. A dictionary gains nothing either, behind 256 records of one log.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithNoEntropyCompression(true),
		zstd.WithEncoderConcurrency(packers()))
	if err != nil {
		return nil, err
	}
	p, err := NewUnpacker()
	if err != nil {
		return nil, err
	}
	p.encoder = encoder
	return p, nil
}

// NewUnpacker returns a packer that only unpacks.
func NewUnpacker() (*Packer, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxBundle))
	if err != nil {
		return nil, err
	}
	return &Packer{decoder: decoder}, nil
}

// Close frees what the packer holds.
func (p *Packer) Close() { p.decoder.Close() }

// packers is how many bundles are packed at a time.
func packers() int { return min(runtime.GOMAXPROCS(0), 4) }

// Pack makes bundles of the entries of a batch, which come behind those in
// before. Large batches complete several bundles, which are compressed side by
// side. Call [Packer.Done] once the frames are written.
func (p *Packer) Pack(before []byte, b *storage.Batch) Packed {
	const width = storage.BundleWidth
	k := Packed{First: b.First / width}
	end := b.First + uint64(len(b.Entries))
	rest := b.Entries
	if n := int(end/width - k.First); n > 0 {
		k.Bundles = make([][]byte, n)
		slots := make(chan struct{}, packers())
		var wg sync.WaitGroup
		for i := range k.Bundles {
			room := width - int((end-uint64(len(rest)))%width)
			bundle := appendEntries(append(p.buffer(), before...), rest[:room])
			before, rest = nil, rest[room:]
			slots <- struct{}{}
			wg.Go(func() {
				k.Bundles[i] = p.encoder.EncodeAll(bundle, p.buffer())
				p.reuse(bundle)
				<-slots
			})
		}
		wg.Wait()
	}
	k.Head = before
	if len(rest) > 0 {
		k.RowFirst = end - uint64(len(rest))
		// The head grows in place; nobody else holds what is behind its end.
		k.Head = appendEntries(before, rest)
		k.Row = k.Head[len(before):]
		k.Leaves = newLeaves(b, len(rest))
	}
	return k
}

// Done says that the frames are needed no more.
func (p *Packer) Done(k Packed) {
	for _, frame := range k.Bundles {
		p.reuse(frame)
	}
}

// Unpack returns the bundle of a frame.
func (p *Packer) Unpack(frame []byte) ([]byte, error) {
	bundle, err := p.decoder.DecodeAll(frame, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", storage.ErrCorrupt, err)
	}
	return bundle, nil
}

// buffer returns an empty piece of memory, which may have been used before: a
// bundle can be large, and is needed for the time of one commit.
func (p *Packer) buffer() []byte {
	if b, ok := p.buffers.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return nil
}

func (p *Packer) reuse(b []byte) { p.buffers.Put(&b) }

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
		if PartialLeaves(t) && len(t.Hashes) >= n*len(record.Hash{}) {
			return t.Hashes[len(t.Hashes)-n*len(record.Hash{}):]
		}
	}
	return []byte{}
}

// PartialLeaves reports whether a tile is the partial one of level 0, whose hashes
// stand with the entries of the head.
func PartialLeaves(t storage.Tile) bool {
	return t.Level == 0 && len(t.Hashes) < storage.BundleWidth*len(record.Hash{})
}
