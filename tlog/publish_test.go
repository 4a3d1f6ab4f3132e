package tlog

import (
	"sync/atomic"
	"testing"

	"github.com/sealtap/sealtap/record"
)

// TestHeadIsOfOneSnapshot changes the durable tree under the publisher. What it
// signs must be a size with the root of that size.
func TestHeadIsOfOneSnapshot(t *testing.T) {
	var l Log
	heads := []*snapshot{{size: 1, root: record.Hash{1}}, {size: 2, root: record.Hash{2}}}
	l.durable.Store(heads[0])
	var swaps atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				l.durable.Store(heads[i%2])
				swaps.Add(1)
			}
		}
	}()
	for swaps.Load() < 500_000 {
		if h := l.durableHead(); h.Size != uint64(h.Root[0]) {
			t.Errorf("size %d with the root of size %d would be signed", h.Size, h.Root[0])
			break
		}
	}
	close(stop)
	<-stopped
}
