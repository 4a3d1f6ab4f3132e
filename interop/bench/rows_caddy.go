package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/storage/trillian/trilliantest"
)

// caddyVersion is the Caddy that is measured.
const caddyVersion = "v2.11.9"

// caddyFile makes Caddy a reverse proxy that writes its access log, and nothing
// else. With the idle connections that it keeps by default, 32 to a host, it would
// open new ones all the time.
const caddyFile = `{
	admin off
	auto_https off
	persist_config off
}
http://%[1]s {
	bind 127.0.0.1
	log {
		output file %[2]s {
			roll_disabled
		}
		format json
	}
	reverse_proxy %[3]s {
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}
}
`

// caddy runs it in front of an upstream. It returns its address and where its
// access log is.
func (b *bench) caddy(upstream string) (p *stack.Process, addr, access string, err error) {
	b.say("building Caddy, or taking the one of the last time")
	built, err := trilliantest.Install("caddy-"+caddyVersion, "github.com/caddyserver/caddy/v2/cmd/caddy@"+caddyVersion)
	if err != nil {
		return nil, "", "", err
	}
	bin := filepath.Join(built, "caddy")
	if addr, err = freeAddr(); err != nil {
		return nil, "", "", err
	}
	dir := filepath.Join(b.dir, "caddy")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", "", err
	}
	conf := filepath.Join(dir, "Caddyfile")
	access = filepath.Join(dir, "access.log")
	if err := os.WriteFile(conf, fmt.Appendf(nil, caddyFile, addr, access, upstream), 0o600); err != nil {
		return nil, "", "", err
	}
	p, err = stack.Start([]string{"HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir}, bin, "run", "--config", conf, "--adapter", "caddyfile")
	if err != nil {
		return nil, "", "", err
	}
	err = p.Await("Caddy", 20*time.Second, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if err != nil {
		return nil, "", "", errors.Join(err, p.Stop())
	}
	return p, addr, access, nil
}

// caddyRow compares the proxy, its two records durable, with Caddy and its access
// log.
func (b *bench) caddyRow(ctx context.Context) (err error) {
	p, addr, access, err := b.caddy(b.upstream)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	l := b.ledger
	theirs := &contender{name: "caddy", addr: addr, process: p}
	ours := &contender{name: "sealtap", addr: l.proxyAddr(), process: l.proxy, behind: append([]*stack.Process{l.log}, l.witnesses...), fleet: l}
	list := []*contender{theirs, ours}
	spec := loadSpec{Conns: 64, Body: 1024, Warmup: b.warm, Duration: b.load}
	for round := range b.rounds {
		disk, err := b.probe()
		if err != nil {
			return err
		}
		for i := range list {
			c := list[(i+round)%len(list)]
			if err := c.run(ctx, spec); err != nil {
				return err
			}
			r := c.results[len(c.results)-1]
			b.say("caddy, round %d: %-8s %8s  p50 %8s  p99 %8s  CPU %3.0f µs a request  (disk %.0f/s)", round+1, c.name, perSecond(r.rate()), micros(r.P50), micros(r.P99), c.cpu[len(c.cpu)-1], disk.rate)
		}
	}
	if err := checkAccessLog(access, theirs); err != nil {
		return err
	}
	b.add(row{what: "proxy, 64 connections, vs Caddy with its access log", ours: perSecond(ours.rate()), peer: perSecond(theirs.rate()), result: compare(ours, theirs, loadResult.rate), goal: 1.6})
	b.remark("beside Caddy %s: p50 %s (Caddy %s), p99 %s (%s), processor time a request %.0f µs (%.0f µs); log and witnesses, which Caddy has not, %.0f µs more on the same cores", caddyVersion,
		micros(ours.latency(p50)), micros(theirs.latency(p50)), micros(ours.latency(p99)), micros(theirs.latency(p99)), median(ours.cpu), median(theirs.cpu), median(ours.extra))
	return nil
}

// checkAccessLog makes sure that Caddy wrote down what it answered.
func checkAccessLog(path string, c *contender) error {
	answered := 0
	for _, r := range c.results {
		answered += r.Requests
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := 0
	for buf := make([]byte, 1<<20); ; {
		n, err := f.Read(buf)
		lines += bytes.Count(buf[:n], []byte{'\n'})
		switch {
		case err == io.EOF && lines < answered:
			return fmt.Errorf("caddy answered %d requests and logged %d: nothing can be said", answered, lines)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}
