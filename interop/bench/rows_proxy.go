package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// contender is a proxy under load.
type contender struct {
	name    string
	addr    string
	process *stack.Process
	behind  []*stack.Process // what works for it meanwhile
	fleet   *fleet           // whose log has to come to rest afterwards

	results []loadResult
	cpu     []float64 // µs a request
	extra   []float64 // of what is behind it, µs a request
	lag     []time.Duration
}

// run loads the contender once.
func (c *contender) run(ctx context.Context, s loadSpec) error {
	s.Addr = c.addr
	before, behind, err := c.times()
	if err != nil {
		return err
	}
	r, err := ask[loadResult](roleLoad, s)
	if err != nil {
		return err
	}
	after, behindAfter, err := c.times()
	if err != nil {
		return err
	}
	// Processor time goes over the warm-up too: spread it evenly.
	n := float64(r.Requests) * float64(s.Warmup+s.Duration) / float64(s.Duration)
	c.cpu = append(c.cpu, float64((after-before).Microseconds())/n)
	c.extra = append(c.extra, float64((behindAfter-behind).Microseconds())/n)
	c.results = append(c.results, r)
	if c.fleet != nil {
		lag, _, err := c.fleet.settle(ctx)
		if err != nil {
			return err
		}
		c.lag = append(c.lag, lag)
	}
	return nil
}

func (c *contender) times() (own, behind time.Duration, err error) {
	if own, err = cpuTime(c.process.PID()); err != nil {
		return 0, 0, err
	}
	for _, p := range c.behind {
		t, err := cpuTime(p.PID())
		if err != nil {
			return 0, 0, err
		}
		behind += t
	}
	return own, behind, nil
}

func (c *contender) rate() float64 {
	var list []float64
	for _, r := range c.results {
		list = append(list, r.rate())
	}
	return median(list)
}

func (c *contender) latency(of func(loadResult) time.Duration) time.Duration {
	var list []time.Duration
	for _, r := range c.results {
		list = append(list, of(r))
	}
	return median(list)
}

func p50(r loadResult) time.Duration { return r.P50 }
func p99(r loadResult) time.Duration { return r.P99 }

// compare divides a figure of each round by that of the peer in the same round.
func compare(a, b *contender, of func(loadResult) float64) []float64 {
	var list []float64
	for i := range a.results {
		list = append(list, of(a.results[i])/of(b.results[i]))
	}
	return list
}

func (b *bench) proxyRows(ctx context.Context) (err error) {
	var list []*contender
	for _, role := range []string{roleBare, roleTuned} {
		p, addr, err := start(role, "http://"+b.upstream)
		if err != nil {
			return err
		}
		defer p.Stop()
		list = append(list, &contender{name: role, addr: addr, process: p})
	}
	l := b.ledger
	list = append(list, &contender{name: "sealtap", addr: l.proxyAddr(), process: l.proxy, behind: append([]*stack.Process{l.log}, l.witnesses...), fleet: l})
	// The same with a log that does not answer: the spool alone.
	alone, err := newFleet(b.bin, filepath.Join(b.dir, "alone"), "http://"+b.upstream)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, alone.stop()) }()
	if err = alone.startProxy(); err != nil {
		return err
	}
	if err = alone.log.Stop(); err != nil {
		return err
	}
	alone.log = nil
	list = append(list, &contender{name: "sealtap, log stopped", addr: alone.proxyAddr(), process: alone.proxy})
	_, before, err := l.settle(ctx)
	if err != nil {
		return err
	}
	spec := loadSpec{Conns: 64, Body: 1024, Warmup: b.warm, Duration: b.load}
	for round := range b.rounds {
		disk, err := b.probe()
		if err != nil {
			return err
		}
		for i := range list {
			c := list[(i+round)%len(list)] // nobody is always first
			if err := c.run(ctx, spec); err != nil {
				return err
			}
			r := c.results[len(c.results)-1]
			b.say("proxy, round %d: %-21s %8s  p50 %8s  p99 %8s  CPU %3.0f µs a request  (disk %.0f/s)", round+1, c.name, perSecond(r.rate()), micros(r.P50), micros(r.P99), c.cpu[len(c.cpu)-1], disk.rate)
		}
	}
	_, after, err := l.settle(ctx)
	if err != nil {
		return err
	}
	made := uint64(0)
	for _, r := range list[2].results {
		made += 2 * uint64(r.Requests)
	}
	if after-before < made {
		return fmt.Errorf("%d records were made under load, but the log took %d entries: nothing can be said", made, after-before)
	}
	b.proxyReport(list[0], list[1], list[2], list[3], after-before)
	return nil
}

func (b *bench) proxyReport(bare, tuned, ours, alone *contender, entries uint64) {
	throughput := func(r loadResult) float64 { return r.rate() }
	tail := func(r loadResult) float64 { return r.P99.Seconds() }
	b.add(
		row{what: "proxy, 64 connections, vs bare ReverseProxy", ours: perSecond(ours.rate()), peer: perSecond(bare.rate()), result: compare(ours, bare, throughput), goal: 1},
		row{what: "proxy, 64 connections, vs tuned ReverseProxy", ours: perSecond(ours.rate()), peer: perSecond(tuned.rate()), result: compare(ours, tuned, throughput), goal: 1},
		row{what: "  p99 vs bare", ours: micros(ours.latency(p99)), peer: micros(bare.latency(p99)), result: compare(ours, bare, tail), goal: 1, most: true},
		row{what: "  p99 vs tuned", ours: micros(ours.latency(p99)), peer: micros(tuned.latency(p99)), result: compare(ours, tuned, tail), goal: 1, most: true},
		row{what: "  with the log stopped, vs bare", ours: perSecond(alone.rate()), peer: perSecond(bare.rate()), result: compare(alone, bare, throughput), goal: 1},
		row{what: "  with the log stopped, vs tuned", ours: perSecond(alone.rate()), peer: perSecond(tuned.rate()), result: compare(alone, tuned, throughput), goal: 1},
	)
	b.remark("proxy p50: sealtap %s, bare %s, tuned %s, log stopped %s", micros(ours.latency(p50)), micros(bare.latency(p50)), micros(tuned.latency(p50)), micros(alone.latency(p50)))
	b.remark("processor time a request: sealtap's proxy %.0f µs (log and witnesses beside it %.0f µs, on the same cores), log stopped %.0f µs; bare %.0f µs, tuned %.0f µs",
		median(ours.cpu), median(ours.extra), median(alone.cpu), median(bare.cpu), median(tuned.cpu))
	b.remark("the log and three witnesses ran and took %d entries of these rounds; after the load they needed %v (median) to catch up", entries, median(ours.lag).Round(10*time.Millisecond))
}

// latencyRow is what a single client notices.
func (b *bench) latencyRow(ctx context.Context) error {
	p, addr, err := start(roleBare, "http://"+b.upstream)
	if err != nil {
		return err
	}
	defer p.Stop()
	bare := &contender{addr: addr, process: p}
	ours := &contender{addr: b.ledger.proxyAddr(), process: b.ledger.proxy, fleet: b.ledger}
	var added, share []float64
	var syncs []time.Duration
	spec := loadSpec{Conns: 1, Body: 1024, Warmup: b.warm / 2, Duration: b.slow}
	for round := range b.rounds {
		before, err := b.probe()
		if err != nil {
			return err
		}
		for _, c := range []*contender{bare, ours} {
			if err := c.run(ctx, spec); err != nil {
				return err
			}
		}
		disk, err := b.probe()
		if err != nil {
			return err
		}
		// A disk that was slow only for the probe must not widen the budget.
		disk.p50 = min(disk.p50, before.p50)
		more := ours.results[round].P50 - bare.results[round].P50
		budget := 2*disk.p50 + 100*time.Microsecond
		added, share, syncs = append(added, float64(more.Microseconds())), append(share, float64(more)/float64(budget)), append(syncs, disk.p50)
		b.say("latency, round %d: %s with sealtap, %s bare; an fdatasync takes %s", round+1, micros(ours.results[round].P50), micros(bare.results[round].P50), micros(disk.p50))
	}
	b.add(row{what: "added latency, 1 connection, p50, of 2 fdatasyncs + 100 µs", ours: micros(ours.latency(p50)), peer: micros(bare.latency(p50)), result: share, goal: 1, most: true})
	b.remark("added latency at one connection: %.0f µs (p50); one fdatasync took %s beside it", median(added), micros(median(syncs)))
	return nil
}
