package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness/policy"
)

// fleet is sealtap as separate daemons: three witnesses, a log, and a proxy
// where one was asked for. Its directory was made by sealtap up.
type fleet struct {
	bin, dir  string
	conf      *config.File
	policy    *policy.Policy
	witnesses []*stack.Process
	log       *stack.Process
	proxy     *stack.Process
}

func (f *fleet) proxyAddr() string { return f.conf.Proxy.Listen }
func (f *fleet) logURL() string    { return "http://" + f.conf.Log.Listen }
func (f *fleet) confPath() string  { return filepath.Join(f.dir, "config.yaml") }

// newFleet makes the directory and starts witnesses and log.
func newFleet(bin, dir, upstream string) (*fleet, error) {
	f := &fleet{bin: bin, dir: dir}
	err := f.make(upstream)
	if err != nil {
		return nil, fmt.Errorf("making %s: %w", dir, err)
	}
	if f.conf, err = config.Load(f.confPath()); err != nil {
		return nil, err
	}
	for _, w := range f.conf.Witnesses {
		p, err := stack.Start(nil, bin, "witness", "--config", f.confPath(), "--name", w.Name)
		if err != nil {
			return nil, errors.Join(err, f.stop())
		}
		f.witnesses = append(f.witnesses, p)
		if err := p.Await("witness", 10*time.Second, func() bool { return strings.Contains(p.Output(), "listens on") }); err != nil {
			return nil, errors.Join(err, f.stop())
		}
	}
	if f.log, err = f.daemon("log"); err != nil {
		return nil, errors.Join(err, f.stop())
	}
	return f, nil
}

// make has sealtap up make keys and configuration, adds a third witness, and has
// sealtap up begin the log and enrol the proxy once more: everything in the log is
// then cosigned by all three.
func (f *fleet) make(upstream string) error {
	s, err := stack.Up(f.bin, f.dir, upstream)
	if err != nil {
		return err
	}
	if err := errors.Join(s.Stop(), f.addWitness(s.Policy)); err != nil {
		return err
	}
	for _, pattern := range []string{"*.db*", "spool"} {
		old, err := filepath.Glob(filepath.Join(f.dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range old {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	if s, err = stack.Up(f.bin, f.dir, ""); err != nil {
		return err
	}
	return s.Stop()
}

func (f *fleet) daemon(name string) (*stack.Process, error) {
	p, err := stack.Start(nil, f.bin, name, "--config", f.confPath())
	if err != nil {
		return nil, err
	}
	if err := p.Await(name, 10*time.Second, func() bool { return strings.Contains(p.Output(), "listens on") }); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

func (f *fleet) startProxy() (err error) {
	f.proxy, err = f.daemon("proxy")
	return err
}

// addWitness makes a third witness beside the two of sealtap up.
func (f *fleet) addWitness(p *policy.Policy) error {
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	k, err := keys.Generate(p.Logs[0].Key.Name+"/w3", keys.Cosignature)
	if err != nil {
		return err
	}
	if err := k.Save(filepath.Join(f.dir, "keys", "w3.key")); err != nil {
		return err
	}
	witnesses := append(p.Witnesses, policy.Witness{Name: "w3", Key: k.Public, URL: "http://" + addr})
	all := policy.Group{Name: "all-three", K: len(witnesses)}
	for _, w := range witnesses {
		all.Members = append(all.Members, w.Name)
	}
	if f.policy, err = policy.New(p.Logs, witnesses, []policy.Group{all}, all.Name, p.Operator); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(f.dir, "policy.txt"), f.policy.Marshal(), 0o600); err != nil {
		return err
	}
	conf, err := os.ReadFile(f.confPath())
	if err != nil {
		return err
	}
	// One producer stands for many here.
	text := strings.Replace(string(conf), "\nlog:\n", "\nlog:\n  limits: {producer_bytes_per_second: 4GiB}\n", 1)
	// The witnesses are the last section of the file.
	text += fmt.Sprintf("  - name: w3\n    listen: %s\n    database: w3.db\n    key: keys/w3.key\n    logs: [%q]\n", addr, p.Logs[0].Key)
	return os.WriteFile(f.confPath(), []byte(text), 0o600)
}

// published is the size of the log's published checkpoint.
func (f *fleet) published(ctx context.Context) (uint64, error) {
	cp, err := stack.Fetch(ctx, f.logURL()+"/checkpoint")
	if err != nil {
		return 0, err
	}
	text, err := checkpoint.Text(cp)
	if err != nil {
		return 0, err
	}
	body, _, err := checkpoint.Parse(text)
	return body.Size, err
}

// settle waits until the log stands still: it has taken, and its witnesses have
// cosigned, what the proxy had for it. It returns how long that took.
func (f *fleet) settle(ctx context.Context) (time.Duration, uint64, error) {
	const quiet = 700 * time.Millisecond // longer than seals and checkpoints take
	begin := time.Now()
	var last uint64
	moved := begin
	for time.Since(begin) < 5*time.Minute {
		size, err := f.published(ctx)
		if err != nil {
			return 0, 0, err
		}
		if size != last {
			last, moved = size, time.Now()
		}
		if time.Since(moved) > quiet {
			return moved.Sub(begin), last, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return 0, 0, errors.New("the log does not come to rest")
}

// stop stops what runs, the proxy first.
func (f *fleet) stop() error {
	var err error
	for _, p := range append([]*stack.Process{f.proxy, f.log}, f.witnesses...) {
		if p != nil {
			err = errors.Join(err, p.Stop())
		}
	}
	f.proxy, f.log, f.witnesses = nil, nil, nil
	return err
}

func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
