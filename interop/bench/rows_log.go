package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/record"
	logclient "github.com/sealtap/sealtap/tlog/client"
)

// appendRows compares the log with Tessera.
func (b *bench) appendRows(ctx context.Context) (err error) {
	f, err := newFleet(b.bin, filepath.Join(b.dir, "appendlog"), "http://"+b.upstream)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	ours := appendSpec{Entries: b.entries, InFlight: 512, Batch: 64, URL: f.logURL(), Dir: f.dir, Policy: f.policy.String()}
	var rates [3][]float64
	var toDefault, toTuned, cost []float64
	for round := range b.rounds {
		disk, err := b.probe()
		if err != nil {
			return err
		}
		var got [3]float64
		for i := range 3 {
			i = (i + round) % 3
			var r appendResult
			if i == 0 {
				r, err = b.appendOnce(f, ours, &cost)
			} else {
				r, err = b.tesseraAppend(i == 2, b.entries)
			}
			if err != nil {
				return err
			}
			got[i] = r.rate()
			rates[i] = append(rates[i], r.rate())
			if i == 0 {
				if _, _, err := f.settle(ctx); err != nil {
					return err
				}
			}
		}
		toDefault, toTuned = append(toDefault, got[0]/got[1]), append(toTuned, got[0]/got[2])
		b.say("append, round %d: sealtap %s, tessera %s, tuned %s  (disk %.0f/s)", round+1, perSecond(got[0]), perSecond(got[1]), perSecond(got[2]), disk.rate)
	}
	b.add(
		row{what: "log append over HTTP, 512 in flight, vs Tessera in process", ours: perSecond(median(rates[0])), peer: perSecond(median(rates[1])), result: toDefault, goal: 3},
		row{what: "  vs Tessera tuned (4096, 100 ms), 8192 in flight", ours: perSecond(median(rates[0])), peer: perSecond(median(rates[2])), result: toTuned, goal: 1.5},
	)
	b.remark("processor time of the log for a record of 1 KiB, its index included: %.1f µs", median(cost))
	return b.singleAppends(ours)
}

// appendOnce also notes what the log needs for a record, in µs.
func (b *bench) appendOnce(f *fleet, s appendSpec, cost *[]float64) (appendResult, error) {
	before, err := cpuTime(f.log.PID())
	if err != nil {
		return appendResult{}, err
	}
	r, err := ask[appendResult](roleAppend, s)
	if err != nil {
		return r, err
	}
	after, err := cpuTime(f.log.PID())
	*cost = append(*cost, float64((after-before).Microseconds())/float64(r.Entries))
	return r, err
}

// singleAppends has one submission in flight: a record with its seal.
func (b *bench) singleAppends(s appendSpec) error {
	var took []float64
	var theirs []time.Duration
	s.Entries, s.InFlight, s.Batch = b.singles, 1, 1
	for range b.rounds {
		r, err := ask[appendResult](roleAppend, s)
		if err != nil {
			return err
		}
		t, err := b.tessera1()
		if err != nil {
			return err
		}
		took, theirs = append(took, float64(r.P50)/float64(time.Millisecond)), append(theirs, t.P50)
	}
	b.add(row{what: "log append, one in flight, p50", ours: number(median(took), "ms"), peer: micros(median(theirs)), result: took, unit: "ms", goal: 1, most: true})
	return nil
}

// tesseraAppend runs Tessera with its defaults and 512 entries in flight, or
// tuned to batches of 4096, which need more than 4096 in flight to be of use.
func (b *bench) tesseraAppend(tuned bool, entries int) (appendResult, error) {
	s := appendSpec{Entries: entries, InFlight: 512}
	if tuned {
		s.InFlight, s.BatchSize, s.BatchAge = 8192, 4096, 100*time.Millisecond
	}
	return b.tesseraLog(s)
}

// tessera1 runs it with one entry in flight.
func (b *bench) tessera1() (appendResult, error) {
	return b.tesseraLog(appendSpec{Entries: b.tessera, InFlight: 1})
}

// tesseraLog runs it on a new directory, which is deleted at the very end: for some
// seconds after many files were deleted a file system takes longer to make new ones,
// which Tessera does all the time.
func (b *bench) tesseraLog(s appendSpec) (appendResult, error) {
	var err error
	if s.Dir, err = os.MkdirTemp(b.dir, "tessera"); err != nil {
		return appendResult{}, err
	}
	return ask[appendResult](roleTessera, s)
}

// publishRow follows records from the proxy into checkpoints that three witnesses
// have cosigned.
func (b *bench) publishRow(ctx context.Context) error {
	var medians, tails []float64
	for round := range b.rounds {
		took, err := b.publish(ctx)
		if err != nil {
			return err
		}
		slices.Sort(took)
		medians = append(medians, float64(took[len(took)/2])/float64(time.Millisecond))
		tails = append(tails, float64(took[len(took)*99/100])/float64(time.Millisecond))
		b.say("publish, round %d: p50 %.0f ms, p99 %.0f ms over %d records", round+1, medians[round], tails[round], len(took))
	}
	b.add(row{what: "record to cosigned checkpoint, 1 k records/s, p50", ours: number(median(medians), "ms"), peer: "–", result: medians, unit: "ms", goal: 250, most: true})
	b.remark("record to cosigned checkpoint, p99: %s", number(median(tails), "ms"))
	return nil
}

// publish returns, for each record made during a steady load, the time between its
// own time and the moment at which a poller saw it in the published log.
func (b *bench) publish(ctx context.Context) ([]time.Duration, error) {
	l := b.ledger
	_, first, err := l.settle(ctx)
	if err != nil {
		return nil, err
	}
	type sight struct {
		size uint64
		at   time.Time
	}
	var seen []sight
	stop, polled := make(chan struct{}), make(chan error, 1)
	go func() {
		for last := first; ; time.Sleep(2 * time.Millisecond) {
			select {
			case <-stop:
				polled <- nil
				return
			default:
			}
			size, err := l.published(ctx)
			if err != nil {
				polled <- err
				return
			}
			if size > last {
				seen, last = append(seen, sight{size, time.Now()}), size
			}
		}
	}()
	_, err = ask[loadResult](roleLoad, loadSpec{Addr: l.proxyAddr(), Conns: 16, Body: 1024, Duration: b.plan.publish, Rate: 500})
	if err == nil {
		_, _, err = l.settle(ctx)
	}
	close(stop)
	if err = errors.Join(err, <-polled); err != nil {
		return nil, err
	}
	var took []time.Duration
	i := 0
	err = l.records(ctx, first, func(index uint64, made time.Time) error {
		for i < len(seen) && seen[i].size <= index {
			i++
		}
		if i == len(seen) {
			return fmt.Errorf("record %d was never seen published", index)
		}
		took = append(took, seen[i].at.Sub(made))
		return nil
	})
	if err == nil && len(took) == 0 {
		err = errors.New("no records were made")
	}
	return took, err
}

// records goes through the proxy's records of exchanges from an index to the
// published end.
func (f *fleet) records(ctx context.Context, from uint64, do func(index uint64, made time.Time) error) error {
	src, err := logclient.Open(f.logURL())
	if err != nil {
		return err
	}
	signed, err := stack.Fetch(ctx, f.logURL()+"/checkpoint")
	if err != nil {
		return err
	}
	text, err := checkpoint.Text(signed)
	if err != nil {
		return err
	}
	body, _, err := checkpoint.Parse(text)
	if err != nil {
		return err
	}
	const width = logclient.TileWidth
	for n := from / width; n*width < body.Size; n++ {
		w := int(min(width, body.Size-n*width))
		raw, err := src.Bundle(ctx, n, w)
		if err != nil {
			return err
		}
		entries, err := logclient.SplitBundle(raw, w)
		if err != nil {
			return err
		}
		for i, e := range entries {
			index := n*width + uint64(i)
			x, err := record.Parse(e)
			if err != nil {
				return err
			}
			if index < from || x.Record == nil || len(x.Record.GetExchange()) == 0 {
				continue
			}
			if err := do(index, time.Unix(0, x.Record.GetTime())); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill brings the ledger to a size, with exchanges.
func (b *bench) fill(ctx context.Context) (uint64, error) {
	for {
		_, size, err := b.ledger.settle(ctx)
		if err != nil || size >= b.plan.log {
			return size, err
		}
		b.say("filling the log: %d of %d entries", size, b.plan.log)
		if _, err := ask[loadResult](roleLoad, loadSpec{Addr: b.ledger.proxyAddr(), Conns: 64, Body: 1024, Duration: min(8*time.Second, 5*b.load)}); err != nil {
			return 0, err
		}
	}
}

func (b *bench) proofsRow(ctx context.Context) error {
	size, err := b.fill(ctx)
	if err != nil {
		return err
	}
	var rates, theirs []float64
	for round := range b.rounds {
		r, err := ask[loadResult](roleLoad, loadSpec{Addr: b.ledger.conf.Log.Listen, Conns: 64, Tree: size, Warmup: b.warm, Duration: b.load / 2})
		if err != nil {
			return err
		}
		t, err := ask[verifyResult](roleBuilder, verifySpec{URL: b.ledger.logURL(), Size: size, Duration: b.load / 2})
		if err != nil {
			return err
		}
		rates, theirs = append(rates, r.rate()), append(theirs, t.rate())
		b.say("proofs, round %d: %s over HTTP, tessera ProofBuilder %s", round+1, perSecond(r.rate()), perSecond(t.rate()))
	}
	b.add(row{what: fmt.Sprintf("inclusion proofs over HTTP, %s entries", number(float64(size), "")), ours: perSecond(median(rates)), peer: perSecond(median(theirs)), result: rates, unit: "/s", goal: 30_000})
	b.remark("the peer of inclusion proofs is Tessera's ProofBuilder in process, on the tiles of the same log")
	return nil
}

func (b *bench) auditRow(ctx context.Context) error {
	if _, err := b.fill(ctx); err != nil {
		return err
	}
	s := verifySpec{URL: b.ledger.logURL(), Policy: b.ledger.policy.String()}
	var ratio, ours, theirs, treeRatio, trees []float64
	for round := range b.verifier {
		a, err := ask[verifyResult](roleAudit, s)
		if err != nil {
			return err
		}
		t, err := ask[verifyResult](roleTree, s)
		if err != nil {
			return err
		}
		f, err := ask[verifyResult](roleFsck, s)
		if err != nil {
			return err
		}
		ratio, ours, theirs = append(ratio, a.rate()/f.rate()), append(ours, a.rate()), append(theirs, f.rate())
		treeRatio, trees = append(treeRatio, t.rate()/f.rate()), append(trees, t.rate())
		b.say("audit, round %d: %s, of the tree alone %s, tessera fsck %s over %d entries; verdict %s", round+1, perSecond(a.rate()), perSecond(t.rate()), perSecond(f.rate()), f.Count, a.Verdict)
	}
	b.add(row{what: "audit of everything, vs tessera fsck of the tree, over HTTP", ours: perSecond(median(ours)), peer: perSecond(median(theirs)), result: ratio, goal: 1})
	b.add(row{what: "audit of the tree alone, vs the same", ours: perSecond(median(trees)), peer: perSecond(median(theirs)), result: treeRatio, goal: 2})
	return nil
}
