// Package storage says what the log needs kept. Package sqlite is the embedded
// default; every implementation passes the contract of package storagetest.
//
// Start with [Log.Load].
package storage

import (
	"context"
	"errors"
	"time"

	"github.com/sealtap/sealtap/record"
)

// BundleWidth is the number of entries in a complete entry bundle of C2SP
// tlog-tiles, and of hashes in a complete tile.
const BundleWidth = 256

var (
	// ErrNotFound is wrapped where there is no such bundle or tile.
	ErrNotFound = errors.New("not stored")
	// ErrMoved is wrapped where a change does not fit what is stored: somebody
	// else has written, or the caller is behind. Nothing has changed then.
	ErrMoved = errors.New("storage has moved on")
	// ErrConflict is wrapped where a second root for one size, or a smaller
	// size, was to be signed. Nothing has changed then.
	ErrConflict = errors.New("another checkpoint was signed")
	// ErrCorrupt is wrapped where what is stored contradicts itself.
	ErrCorrupt = errors.New("storage is damaged")
)

// Log keeps the entries, the tree and the state of one log. There is one writer
// at a time: Commit, SetSigned, SetPublished and AddFork are called by one
// process, which may call them concurrently with each other and with any number
// of reads.
type Log interface {
	// Load returns everything that a writer needs to go on. Its cost grows with
	// the logarithm of the log's size and with the number of streams.
	Load(ctx context.Context) (*State, error)

	// Commit adds a batch: all of it or nothing, and durably. It returns an error
	// that wraps ErrMoved if the batch does not start at the size of the log.
	// After any other error the batch may or may not have been stored: the caller
	// loads the state again before it goes on.
	Commit(ctx context.Context, b *Batch) error

	// Bundle returns entry bundle n in the form of C2SP tlog-tiles: each entry
	// behind its length in 16 bits. The last bundle goes as far as the entries do.
	// It fails with ErrNotFound if there is no entry of the bundle.
	Bundle(ctx context.Context, n uint64) ([]byte, error)

	// Tile returns the hashes of tile n of a level as far as it was stored.
	Tile(ctx context.Context, level uint, n uint64) ([]byte, error)

	// Run returns the stored run that holds the record, and reports whether there
	// is one.
	Run(ctx context.Context, s record.Stream, sequence uint64) (Run, bool, error)

	// SetSigned keeps a checkpoint that is signed and has been shown to nobody
	// yet. It is durable on return, in a place of its own as well, so that a copy
	// of the entries that is older than the checkpoint is noticed. It fails with
	// ErrConflict if a larger one, or one of the same size with another root, was
	// kept before, and with ErrMoved if there are fewer entries. The same size
	// and root again changes nothing.
	SetSigned(ctx context.Context, h Head) error

	// SetPublished keeps the newest checkpoint that satisfies the policy, with its
	// cosignatures. It must have been signed, and not be smaller than the last.
	SetPublished(ctx context.Context, h Head) error

	// AddFork keeps what proves a fork of a stream and reports whether it did: not
	// if it is known, or as many are kept as the storage cares to keep.
	AddFork(ctx context.Context, f Fork) (bool, error)
	// Forks returns what AddFork kept, oldest first.
	Forks(ctx context.Context) ([]Fork, error)
}

// State is what a log looks like at one moment.
type State struct {
	Size       uint64
	Root       record.Hash // as the last Commit gave it; meaningless if Size is 0
	Head       []byte      // the last Size%256 entries in the form of a bundle
	Streams    []Stream
	KeyChanges []uint64 // indices of the genesis and of the operator's statements, in order
	Signed     *Head    // nil if none
	Published  *Head    // nil if none
}

// Batch is what one Commit adds.
type Batch struct {
	First      uint64   // index of the first entry
	Entries    [][]byte // each at most record.MaxEntry bytes
	Tiles      []Tile   // tiles completed, and the partial ones that changed
	Root       record.Hash
	Runs       []Run
	Streams    []Stream // the new state of those that changed
	KeyChanges []uint64
}

// Tile is a tile, complete or as far as it goes.
type Tile struct {
	Level  uint
	N      uint64
	Hashes []byte
}

// Stream is how far a stream is: its last seal covers all of its records.
type Stream struct {
	Stream record.Stream
	Size   uint64        // the next sequence
	Edge   []record.Hash // right edge of its tree, see record.Tree
}

// Run is a number of consecutive records of a stream at consecutive indices,
// right before the seal that covers them: the seal of size Sequence+Count stands
// at Index+Count.
type Run struct {
	Stream   record.Stream
	Sequence uint64 // of the first record
	Index    uint64 // of the first record
	Count    uint64
}

// Head is a signed checkpoint.
type Head struct {
	Size uint64
	Root record.Hash
	Note []byte
}

// Fork is what contradicts a stored record: an entry for the same sequence, and
// the producer's signed seal that came with it.
type Fork struct {
	Stream   record.Stream
	Sequence uint64
	Index    uint64 // of the stored record
	Entry    []byte
	Seal     []byte // entry that holds the seal
	Seen     time.Time
}

// Openings keeps the encrypted openings of records apart from the entries, so
// that they can be erased. It can be used by many goroutines.
type Openings interface {
	// Put keeps openings and wrapped keys durably. Openings of another record
	// at the same index, left from a batch that was never stored, are replaced.
	// Those of the same record are kept only where there are none and none were
	// erased, and so are keys, if openings under them were kept by the same call.
	Put(ctx context.Context, openings []Opening, keys []WrappedKey) error
	// Discard forgets the openings of all entries from the index on: they were put
	// for a batch that was never stored, and the indices are about to become those
	// of other entries.
	Discard(ctx context.Context, from uint64) error
	// Opening returns the openings of the entry at the index, and reports whether
	// there are any.
	Opening(ctx context.Context, index uint64) ([]byte, bool, error)
	// WrappedKey returns a wrapped data key, and reports whether it is there.
	WrappedKey(ctx context.Context, id record.KeyID) ([]byte, bool, error)
}

// Opening is the encrypted openings of one record.
type Opening struct {
	Index uint64
	Leaf  record.Hash // of the record
	Box   []byte
}

// WrappedKey is a data key, encrypted to those who may read openings.
type WrappedKey struct {
	ID      record.KeyID
	Wrapped []byte
}

// OpeningRow is what an [Openings] keeps for one record.
type OpeningRow struct {
	Index uint64
	Leaf  []byte // first 8 bytes of the record's leaf hash
	Box   []byte // nil if the openings were erased
}

// KeyRow is what is kept of one data key.
type KeyRow struct {
	ID      record.KeyID
	Wrapped []byte // nil if the key was erased
	Last    uint64 // no opening under it is of a later entry
}
