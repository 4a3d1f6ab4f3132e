package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// carrier is a proxy through which one long answer passes.
type carrier struct {
	name    string
	addr    string
	process *stack.Process
	rates   []float64 // MB/s
	cpu     []float64 // µs of processor time for each MB
	peak    []float64 // MiB resident at most
	start   []float64 // MiB resident before
}

// fetch downloads once.
func (c *carrier) fetch(s downloadSpec) error {
	s.Addr = c.addr
	pid := c.process.PID()
	// proc(5): from here on its most memory is counted anew.
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return fmt.Errorf("counting memory anew: %w", err)
	}
	first, err := memory(pid, "VmRSS:")
	if err != nil {
		return err
	}
	before, err := cpuTime(pid)
	if err != nil {
		return err
	}
	r, err := ask[downloadResult](roleDownload, s)
	if err != nil {
		return err
	}
	after, err := cpuTime(pid)
	if err != nil {
		return err
	}
	most, err := peakMemory(pid)
	if err != nil {
		return err
	}
	c.rates = append(c.rates, r.rate())
	c.cpu = append(c.cpu, float64((after-before).Microseconds())/(float64(r.Bytes)/1e6))
	c.peak = append(c.peak, float64(most)/(1<<20))
	c.start = append(c.start, float64(first)/(1<<20))
	return nil
}

// downloadRows compares what it takes to pass one long answer on, with records and
// without: its length known, and in chunks.
func (b *bench) downloadRows(ctx context.Context) (err error) {
	origin, addr, err := start(roleSource)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, origin.Stop()) }()
	f, err := newFleet(b.bin, filepath.Join(b.dir, "download"), "http://"+addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	if err := f.startProxy(); err != nil {
		return err
	}
	var list []*carrier
	for _, role := range []string{roleBare, roleTuned} {
		p, at, err := start(role, "http://"+addr)
		if err != nil {
			return err
		}
		defer p.Stop()
		list = append(list, &carrier{name: role, addr: at, process: p})
	}
	list = append(list, &carrier{name: "sealtap", addr: f.proxyAddr(), process: f.proxy})
	for _, chunked := range []bool{false, true} {
		how := ", length known"
		if chunked {
			how = ", in chunks"
		}
		for _, c := range list {
			c.rates, c.cpu, c.peak, c.start = nil, nil, nil, nil
		}
		for round := range b.verifier {
			disk, err := b.probe()
			if err != nil {
				return err
			}
			for i := range list {
				c := list[(i+round)%len(list)]
				if err := c.fetch(downloadSpec{Size: b.download, Chunked: chunked}); err != nil {
					return fmt.Errorf("through %s: %w", c.name, err)
				}
				if _, _, err := f.settle(ctx); err != nil {
					return err
				}
				b.say("download%s, round %d: %-8s %5.0f MB/s  CPU %3.0f µs a MB  resident %.0f, at most %.0f MiB  (disk %.0f/s)",
					how, round+1, c.name, c.rates[round], c.cpu[round], c.start[round], c.peak[round], disk.rate)
			}
		}
		b.downloadReport(how, list[0], list[1], list[2])
	}
	return nil
}

func (b *bench) downloadReport(how string, bare, tuned, ours *carrier) {
	rate := func(c *carrier) string { return number(median(c.rates), "MB/s") }
	size := fmt.Sprintf("%g GiB", float64(b.download)/(1<<30))
	for _, peer := range []*carrier{bare, tuned} {
		var ratios []float64
		for i := range ours.rates {
			ratios = append(ratios, ours.rates[i]/peer.rates[i])
		}
		b.add(row{what: "download of " + size + how + ", vs " + peer.name + " ReverseProxy", ours: rate(ours), peer: rate(peer), result: ratios, goal: 0.95})
	}
	b.add(row{what: "  most memory of the proxy meanwhile", ours: number(median(ours.peak), "MiB"), peer: number(median(bare.peak), "MiB"), result: ours.peak, unit: "MiB", goal: 64, most: true})
	b.remark("download%s: processor time a MB %.0f µs (bare %.0f, tuned %.0f); memory of the proxy before it %.0f MiB, at most %.0f MiB", how,
		median(ours.cpu), median(bare.cpu), median(tuned.cpu), median(ours.start), median(ours.peak))
}
