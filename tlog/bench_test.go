package tlog_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealtap/sealtap/tlog"
)

// BenchmarkSubmit stores records of about 1 KiB through Submit, with durable
// commits, real tiles and published checkpoints. An operation is one record; its
// seal comes on top.
func BenchmarkSubmit(b *testing.B) {
	for _, c := range []struct{ producers, batch int }{{1, 1}, {16, 31}, {8, 63}, {512, 1}} {
		b.Run(fmt.Sprintf("producers=%d/batch=%d", c.producers, c.batch), func(b *testing.B) {
			f := newFixture(b)
			f.config = func(c *tlog.Config) { c.CheckpointInterval = 100 * time.Millisecond }
			f.start()
			text := string(make([]byte, 900))
			var batches [][][][]byte
			n := max(1, b.N/c.producers/c.batch)
			for i := range c.producers {
				p := f.producer(fmt.Sprint("proxy-", i))
				var list [][][]byte
				for range n {
					var batch [][]byte
					for range c.batch {
						batch = append(batch, p.record(text))
					}
					list = append(list, append(batch, p.seal()))
				}
				batches = append(batches, list)
			}
			var total atomic.Int64
			b.ResetTimer()
			var wg sync.WaitGroup
			for _, list := range batches {
				wg.Go(func() {
					for _, batch := range list {
						if _, err := f.log.Submit(context.Background(), request(batch...)); err != nil {
							b.Error(err)
						}
						total.Add(int64(len(batch)))
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(total.Load())/b.Elapsed().Seconds(), "entries/s")
			b.ReportMetric(float64(total.Load()-int64(n*c.producers))/b.Elapsed().Seconds(), "records/s")
		})
	}
}
