package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sealtap/sealtap/interop/internal/cluster"
)

// trillianRow submits to a log on Trillian, with PostgreSQL, two log servers and three
// witnesses on this machine, and measures until everything is integrated, the same as
// our own tree, cosigned and published.
func (b *bench) trillianRow(ctx context.Context) (err error) {
	// PostgreSQL does not run as root, and its user has to get at its directory.
	disk, err := os.MkdirTemp(filepath.Dir(b.dir), "sealtap-bench-pg")
	if err != nil {
		return err
	}
	defer os.RemoveAll(disk)
	if err := os.Chmod(disk, 0o755); err != nil {
		return err
	}
	c, err := cluster.Up(b.bin, filepath.Join(b.dir, "cluster"), cluster.Options{Logs: 2, Witnesses: 3, Proxies: 1, Upstream: "http://" + b.upstream, Disk: disk})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	if err := os.Rename(filepath.Join(c.Dir, "keys", "proxy0.key"), filepath.Join(c.Dir, "keys", "proxy.key")); err != nil {
		return err
	}
	s := appendSpec{Entries: b.entries / 2, InFlight: 512, Batch: 64, URL: c.Logs[c.Writer()].URL, Dir: c.Dir, Policy: c.Policy.String()}
	var rates []float64
	for round := range b.rounds {
		before, begin := c.Published(0), time.Now()
		r, err := ask[appendResult](roleAppend, s)
		if err != nil {
			return err
		}
		taken := time.Since(begin)
		end := before + uint64(r.Entries+r.Entries/(s.Batch-1))
		for c.Published(0) < end {
			if time.Since(begin) > 5*time.Minute || ctx.Err() != nil {
				return fmt.Errorf("%d of %d entries are published", c.Published(0), end)
			}
			time.Sleep(10 * time.Millisecond)
		}
		making := taken - time.Duration(r.Seconds*float64(time.Second)) // the batches are made first
		rates = append(rates, float64(end-before)/(time.Since(begin)-making).Seconds())
		b.say("trillian, round %d: stored %s, published %s", round+1, perSecond(r.rate()), perSecond(rates[round]))
	}
	b.add(row{what: "log on Trillian and PostgreSQL, to published", ours: perSecond(median(rates)), peer: "–", result: rates, unit: "/s", goal: 9000})
	return nil
}
