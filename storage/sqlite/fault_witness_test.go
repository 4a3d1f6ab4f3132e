package sqlite

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/sealtap/sealtap/storage/sqlite/internal/faultvfs"
	"github.com/sealtap/sealtap/witness"
)

// A witness whose disk fails, and whose power goes then, remembers the head that it
// last said was kept, or a later one: else it could cosign a second history.
func TestWitnessDiskFailsAtEveryStep(t *testing.T) {
	head := func(n int) witness.Head {
		return witness.Head{Origin: "log.example", Size: uint64(n), Root: [32]byte{byte(n), byte(n >> 8)}, Note: make([]byte, 200)}
	}
	stride := 2
	if testing.Short() {
		stride = 11
	}
	total := 1
	for at := 1; at <= total; at += 1 + rand.IntN(2*stride-1) {
		path := filepath.Join(memoryDir(t), "w.db")
		faultvfs.Reset(filepath.Dir(path))
		faultvfs.Arm(at, []int{1, 3, 40}[rand.IntN(3)], faultvfs.Mode(rand.IntN(2)))
		var w *Witness
		kept, last := -1, -1 // said to be kept; maybe kept
		for n := 0; n < 25; n++ {
			if w == nil {
				var err error
				if w, err = OpenWitness(t.Context(), path); err != nil {
					w = nil
					continue
				}
				w.db.wal.every = 4 * commitBytes
			}
			from, found, err := w.Head(t.Context(), "log.example")
			if err != nil || found && int(from.Size) < kept {
				t.Fatalf("with a failure of change %d: the head is %+v (%v), %d was kept", at, from, err, kept)
			}
			latest := &from
			if !found {
				latest = nil
			}
			if last = n; w.Advance(t.Context(), latest, head(n)) == nil {
				kept = n
			}
			w.db.wal.wg.Wait()
			if n%8 == 7 {
				closeWitness(w, n%16 == 7)
				w = nil
			}
		}
		if at == 1 {
			total = faultvfs.Ops()
		}
		faultvfs.Cut()
		if w != nil {
			closeWitness(w, true)
		}
		if err := faultvfs.Boot([]int{0, 0, 50}[rand.IntN(3)], rand.Uint32()); err != nil {
			t.Fatal(err)
		}
		w, err := OpenWitness(t.Context(), path)
		if err != nil {
			t.Fatalf("with a failure of change %d: opening after the loss of power: %v", at, err)
		}
		got, found, err := w.Head(t.Context(), "log.example")
		if err != nil || kept >= 0 && !found || found && (int(got.Size) < kept || int(got.Size) > last || got.Root != head(int(got.Size)).Root) {
			t.Fatalf("with a failure of change %d: %+v, %v, %v; %d was kept, %d the last", at, got, found, err, kept, last)
		}
		w.Close()
	}
	if total < 60 {
		t.Errorf("%d changes are too few for a test", total)
	}
}

// closeWitness ends a life of the witness, by kill -9 or in good order as far as
// that goes.
func closeWitness(w *Witness, kill bool) {
	w.db.wal.wg.Wait()
	if !kill && w.db.Health() == nil && w.Close() == nil {
		return
	}
	faultvfs.Kill(func() {
		w.db.wal.wg.Wait()
		w.db.wal.lost.Store(false)
		_ = w.db.Close()
	})
}
