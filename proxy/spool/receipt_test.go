package spool

import (
	"context"
	"sync"
	"testing"

	"github.com/sealtap/sealtap/record"
)

// TestReceipts: each writer gets the receipt of its own record, and those of one
// commit share a signature.
func TestReceipts(t *testing.T) {
	key := testKey(t)
	cfg := testConfig(t, t.TempDir(), key)
	s := openSpool(t, cfg)
	const writers, each = 32, 20
	var mu sync.Mutex
	var all []*record.Receipt
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				r, err := s.RecordReceipt(context.Background(), request(byte(w)), query())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				all = append(all, r)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	closeSpool(t, s)
	life := readBack(t, cfg.Dir, key)[0]
	signatures, seen := make(map[[64]byte]bool), make(map[uint64]bool)
	for _, r := range all {
		if err := r.Verify(key.Public); err != nil {
			t.Fatal(err)
		}
		if r.Stream != s.Stream() || seen[r.Sequence] || r.Time != life.records[r.Sequence].GetTime() || r.Delay != 3600 {
			t.Fatalf("receipt %v of %v", r.Promise, s.Stream())
		}
		seen[r.Sequence], signatures[r.Signature] = true, true
	}
	if len(signatures) >= len(all) {
		t.Errorf("%d signatures for %d receipts: commits do not share them", len(signatures), len(all))
	}
}
