package witness

import (
	"context"
	"fmt"
	"sync"
)

// ServeBastions answers the requests that come through the bastions until ctx ends.
// They are those of the protocol: health and metrics are served by [Server.Serve]
// alone, which goes on whatever happens to the bastions.
func (s *Server) ServeBastions(ctx context.Context) {
	var wg sync.WaitGroup
	for _, b := range s.bastions {
		wg.Go(func() { b.Serve(ctx, s.protocol()) })
	}
	<-ctx.Done()
	wg.Wait()
}

// bastionMetrics appends how the witness stands with each bastion.
func (s *Server) bastionMetrics(b []byte) []byte {
	if len(s.bastions) == 0 {
		return b
	}
	b = append(b, "# TYPE sealtap_witness_bastion_linked gauge\n"...)
	for _, x := range s.bastions {
		linked := 0
		if x.Status().Linked {
			linked = 1
		}
		b = fmt.Appendf(b, "sealtap_witness_bastion_linked{bastion=%q} %d\n", x.Address(), linked)
	}
	b = append(b, "# TYPE sealtap_witness_bastion_failures_total counter\n"...)
	for _, x := range s.bastions {
		b = fmt.Appendf(b, "sealtap_witness_bastion_failures_total{bastion=%q} %d\n", x.Address(), x.Status().Failures)
	}
	return b
}
