package tiles_test

import (
	"context"
	"crypto/sha256"
	"testing"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// stored is a storage whose tiles all have the same bytes.
type stored []byte

func (s stored) Tile(context.Context, uint, uint64) ([]byte, error) { return s, nil }

// FuzzRestoreWriter restores the right edge of a tree of any size out of tiles of
// any length, as a damaged storage gives them. What is restored can be gone on
// with.
func FuzzRestoreWriter(f *testing.F) {
	f.Add([]byte{}, uint64(0))
	f.Add(make([]byte, sha256.Size), uint64(1))
	f.Add(make([]byte, 3*sha256.Size+1), uint64(300))
	f.Add(make([]byte, tiles.Size), uint64(1<<40+77))
	f.Add(make([]byte, tiles.Size), uint64(1<<63))
	f.Fuzz(func(t *testing.T, tile []byte, size uint64) {
		if size == 1<<64-1 {
			return // there is no next leaf
		}
		w, err := tiles.RestoreWriter(t.Context(), stored(tile), size)
		if err != nil {
			return
		}
		w.Root()
		if w.Size() != size {
			t.Fatalf("size %d was restored as %d", size, w.Size())
		}
		w.Append(record.LeafHash([]byte("next")))
		for _, p := range append(w.Complete(), w.Partial()...) {
			if len(p.Hashes) == 0 || len(p.Hashes)%sha256.Size != 0 || len(p.Hashes) > tiles.Size {
				t.Errorf("a tile of %d bytes", len(p.Hashes))
			}
		}
		if w.Size() != size+1 {
			t.Errorf("size %d after one more", w.Size())
		}
	})
}
