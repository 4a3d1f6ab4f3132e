package witness_test

import (
	"fmt"
	"testing"

	"github.com/sealtap/sealtap/keys"
)

// BenchmarkAddCheckpoint is durable and over HTTP: one log, whose checkpoints
// come one after the other, and 64 logs at once.
func BenchmarkAddCheckpoint(b *testing.B) {
	for _, logs := range []int{1, 64} {
		b.Run(fmt.Sprintf("logs=%d", logs), func(b *testing.B) {
			per := b.N/logs + 1
			var ls []*testLog
			bodies := make([][]string, logs)
			for i := range logs {
				l := newLog(b, newKey(b, fmt.Sprint("log.example/", i), keys.Ed25519), "a", per)
				ls = append(ls, l)
				for size := range uint64(per) {
					bodies[i] = append(bodies[i], l.request(b, size, size+1))
				}
			}
			s := newServer(b, ls...)
			b.ResetTimer()
			done := make(chan struct{})
			for i := range logs {
				go func() {
					defer func() { done <- struct{}{} }()
					for _, body := range bodies[i] {
						if a := s.add(b, body); a.status != 200 {
							b.Errorf("answer is %+v", a)
							return
						}
					}
				}()
			}
			for range logs {
				<-done
			}
			b.ReportMetric(float64(per*logs)/b.Elapsed().Seconds(), "checkpoints/s")
		})
	}
}
