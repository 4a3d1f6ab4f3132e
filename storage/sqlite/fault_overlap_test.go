package sqlite

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealtap/sealtap/storage/sqlite/internal/faultvfs"
)

// A sync of the WAL fails in the copier while the writer waits for its own: the
// writer is told too, or what it keeps has reached the disk. Else what it wrote
// would be a hole, and everything behind it be lost with the power.
func TestSyncOfCopyFailsDuringCommit(t *testing.T) {
	runs := 100
	if testing.Short() {
		runs = 25
	}
	failed := 0
	for range runs {
		w := newWriter(t)
		faultvfs.Reset(filepath.Dir(w.path))
		if err := w.open(); err != nil {
			t.Fatal(err)
		}
		w.log.db.wal.every = 0 // a copy runs beside every commit
		faultvfs.Slow(200 * time.Microsecond)
		faultvfs.Arm(faultvfs.Ops()+1+rand.IntN(60), 1, faultvfs.Nothing)
		for range 8 {
			if w.commit(1) {
				w.publish()
			} else if err := w.load(); err != nil {
				t.Fatal(err)
			}
		}
		failed += faultvfs.Hits()
		faultvfs.Cut()
		w.drop()
		if err := faultvfs.Boot(0, 0); err != nil {
			t.Fatal(err)
		}
		if err := w.open(); err != nil {
			t.Fatalf("opening after the loss of power: %v", err)
		}
		w.drop()
	}
	if failed < runs/2 {
		t.Errorf("in %d of %d runs something failed", failed, runs)
	}
}
