package durable

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestGuard: one at a time holds a lock whose file comes and goes.
func TestGuard(t *testing.T) {
	path := filepath.Join(t.TempDir(), "guarded.lock")
	var holders atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for held := 0; held < 200; {
				release, err := Guard(path)
				if errors.Is(err, ErrLocked) {
					runtime.Gosched()
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				time.Sleep(time.Microsecond)
				holders.Add(-1)
				release()
				held++
			}
		})
	}
	all.Wait()
	// The file of somebody else stays.
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	release, err := Guard(path)
	if err != nil {
		t.Fatal(err)
	}
	release()
	if b, err := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("the file that was there holds %q, %v", b, err)
	}
}
