// Command bench measures sealtap against the goals of its design and against the
// programs that it has to bear comparison with, built in the same run: the method
// is in README.md. Run it in the folder of this module:
//
//	go run ./bench [-short] [-rows proxy,caddy,latency,idle,download,append,publish,proofs,tiles,audit,mirror,witness,growth,trillian]
//
// It exits 0 when everything was measured, whether goals are met or not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "role" {
		if err := play(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintf(os.Stderr, "bench: role %s: %v\n", os.Args[2], err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// plan says how long and how often.
type plan struct {
	rounds   int
	warm     time.Duration
	load     time.Duration // of one measurement of a proxy
	slow     time.Duration // of one at low load
	entries  int           // of one append measurement
	singles  int           // appends one after the other
	tessera  int           // the same for Tessera, which takes its time
	publish  time.Duration
	log      uint64 // entries that proofs and audits need
	verifier int    // rounds of audits, mirrors, downloads, and of idle connections
	idle     int    // connections
	download int64  // bytes
	heads    uint64 // that a witness cosigns of one log
	largest  uint64 // entries of the log in the growth rows
	chosen   []string
}

var (
	// The growth rows fill a large log, and the last one needs PostgreSQL: they are
	// measured on demand only.
	allRows = []string{"proxy", "caddy", "latency", "idle", "download", "append", "publish", "proofs", "tiles", "audit", "mirror", "witness", "growth", "trillian"}
	full    = plan{rounds: 5, warm: time.Second, load: 5 * time.Second, slow: 2 * time.Second, entries: 100_000, singles: 500, tessera: 10,
		publish: 5 * time.Second, log: 1_000_000, verifier: 3, idle: 10_000, download: 10 << 30, heads: 5000, largest: 10_000_000}
	short = plan{rounds: 3, warm: 300 * time.Millisecond, load: 900 * time.Millisecond, slow: 500 * time.Millisecond, entries: 20_000, singles: 100, tessera: 2,
		publish: time.Second, log: 30_000, verifier: 3, idle: 3_000, download: 1 << 30, heads: 1000, largest: 100_000}
)

// bench is a run.
type bench struct {
	plan
	report
	bin, dir string
	upstream string         // address
	ledger   *fleet         // with a proxy
	later    []func() error // at the end
}

func run(ctx context.Context) error {
	quick := flag.Bool("short", false, "a quick run: less than a minute, rougher figures")
	rows := flag.String("rows", strings.Join(allRows[:len(allRows)-2], ","), "which `ROWS` to measure")
	dir := flag.String("dir", "", "work in `DIR`, whose disk is measured (default: a temporary one)")
	entries := flag.Uint64("entries", 0, "how many entries the log of proofs, tiles, audit and mirror has (default 1 M, or 30 k with -short)")
	download := flag.Int64("download", 0, "how many `MIB` a download has (default 10240, or 1024 with -short)")
	rounds := flag.Int("rounds", 0, "how many rounds, at least 3 (default 5, or 3 with -short)")
	flag.Parse()
	b := &bench{plan: full}
	if *quick {
		b.plan = short
	}
	if *rounds >= 3 {
		b.rounds = *rounds
	} else if *rounds != 0 || flag.NArg() > 0 {
		return errors.New("at least 3 rounds, and no arguments beside flags")
	}
	if *entries > 0 {
		b.plan.log = *entries
	}
	if *download > 0 {
		b.plan.download = *download << 20
	}
	b.chosen = strings.Split(*rows, ",")
	for _, r := range b.chosen {
		if !slices.Contains(allRows, r) {
			return fmt.Errorf("there is no row %q; there are %s", r, strings.Join(allRows, ", "))
		}
	}
	var err error
	if b.dir, err = os.MkdirTemp(*dir, "sealtap-bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	return b.all(ctx)
}

func (b *bench) all(ctx context.Context) (err error) {
	begin := time.Now()
	defer func() {
		for _, f := range b.later {
			err = errors.Join(err, f())
		}
	}()
	b.say("building sealtap")
	if b.bin, err = stack.Build(b.dir); err != nil {
		return err
	}
	up, addr, err := start(roleUpstream)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, up.Stop()) }()
	b.upstream = addr
	if b.ledger, err = newFleet(b.bin, filepath.Join(b.dir, "ledger"), "http://"+addr); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.ledger.stop()) }()
	if err = b.ledger.startProxy(); err != nil {
		return err
	}
	measures := map[string]func(context.Context) error{
		"proxy": b.proxyRows, "caddy": b.caddyRow, "latency": b.latencyRow, "idle": b.idleRows, "download": b.downloadRows, "append": b.appendRows, "publish": b.publishRow, "proofs": b.proofsRow, "tiles": b.tilesRow, "audit": b.auditRow, "mirror": b.mirrorRow, "witness": b.witnessRows, "growth": b.growthRows, "trillian": b.trillianRow,
	}
	for _, name := range allRows {
		if !slices.Contains(b.chosen, name) {
			continue
		}
		if err := measures[name](ctx); err != nil {
			return fmt.Errorf("measuring %s: %w", name, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := b.memory(); err != nil {
		return err
	}
	fmt.Printf("\nSealtap benchmark, %s, %s, %d × %s, %d rounds, %v\n", begin.UTC().Format("2006-01-02"), runtime.Version(), runtime.NumCPU(), machine(),
		b.rounds, time.Since(begin).Round(time.Second))
	b.print(os.Stdout)
	return nil
}

// memory remarks what the daemons of the ledger needed at most.
func (b *bench) memory() error {
	p, err := peakMemory(b.ledger.proxy.PID())
	if err != nil {
		return err
	}
	l, err := peakMemory(b.ledger.log.PID())
	if err != nil {
		return err
	}
	b.remark("most memory: proxy %d MiB (goal ≤ 64 MiB at 64 connections), log %d MiB (goal ≤ 256 MiB at 10 M entries)", p>>20, l>>20)
	return nil
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// probe looks at the disk between measurements.
func (b *bench) probe() (probe, error) {
	p, err := probeDisk(b.dir, 250*time.Millisecond)
	b.probes = append(b.probes, p)
	return p, err
}
