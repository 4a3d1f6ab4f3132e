package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/mirror"
	logclient "github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// witnessRows compares our witness with litewitness, which is made durable, on new
// databases in each round.
func (b *bench) witnessRows(ctx context.Context) error {
	lite, err := b.buildLitewitness()
	if err != nil {
		return err
	}
	for _, x := range []struct {
		logs int
		each uint64
		goal float64
	}{{64, b.heads / 10, 2}, {1, b.heads, 1.5}} {
		var ours, theirs, ratios []float64
		for round := range b.rounds {
			disk, err := b.probe()
			if err != nil {
				return err
			}
			var got [2]float64
			for i := range 2 {
				i = (i + round) % 2
				run := b.ourWitness
				if i == 1 {
					run = func(logs int) (*stack.Process, string, error) { return b.litewitness(lite, logs) }
				}
				if got[i], err = cosignRate(run, x.logs, x.each); err != nil {
					return err
				}
			}
			ours, theirs, ratios = append(ours, got[0]), append(theirs, got[1]), append(ratios, got[0]/got[1])
			b.say("witness, %d logs, round %d: sealtap %s, litewitness %s  (disk %.0f/s)", x.logs, round+1, perSecond(got[0]), perSecond(got[1]), disk.rate)
		}
		b.add(row{what: fmt.Sprintf("add-checkpoint over HTTP, durable, %d logs, vs litewitness with synchronous=FULL", x.logs),
			ours: perSecond(median(ours)), peer: perSecond(median(theirs)), result: ratios, goal: x.goal})
	}
	return b.manyLogs()
}

// cosignRate runs a witness, asks it, and stops it.
func cosignRate(run func(logs int) (*stack.Process, string, error), logs int, each uint64) (rate float64, err error) {
	p, addr, err := run(logs)
	if err != nil {
		return 0, err
	}
	defer p.Kill()
	r, err := ask[cosignResult](roleCosign, cosignSpec{Addr: addr, Logs: logs, Each: each})
	return r.rate(), err
}

func (b *bench) ourWitness(logs int) (*stack.Process, string, error) {
	dir, err := os.MkdirTemp(b.dir, "witness")
	if err != nil {
		return nil, "", err
	}
	spec, err := json.Marshal(witnessSpec{Dir: dir, Logs: logs})
	if err != nil {
		return nil, "", err
	}
	return start(roleWitness, string(spec))
}

// manyLogs looks at what a log costs a witness: how much memory, and whether that
// grows with what is cosigned.
func (b *bench) manyLogs() error {
	const logs, first, more = 1000, 4, 16
	var growth, each []float64
	for range min(b.rounds, 3) {
		var base int64
		for _, n := range []int{1, logs} {
			p, addr, err := b.ourWitness(n)
			if err != nil {
				return err
			}
			early, late, err := grow(p, cosignSpec{Addr: addr, Logs: n, Each: first}, more)
			p.Kill()
			if err != nil {
				return err
			}
			if n == 1 {
				base = early
				continue
			}
			growth = append(growth, float64(late)/float64(early))
			each = append(each, float64(late-base)/logs/1024)
		}
	}
	b.add(row{what: "1,000 logs on one witness: memory after 20 heads of each, to that after 4", ours: number(median(each), "KiB a log"), peer: "–", result: growth, goal: 1.25, most: true})
	return nil
}

// grow has heads cosigned, and more of them, and returns the resident memory
// after each.
func grow(p *stack.Process, s cosignSpec, more uint64) (early, late int64, err error) {
	if _, err = ask[cosignResult](roleCosign, s); err != nil {
		return 0, 0, err
	}
	if early, err = memory(p.PID(), "VmRSS:"); err != nil {
		return 0, 0, err
	}
	s.From, s.Each = s.From+s.Each, more
	if _, err = ask[cosignResult](roleCosign, s); err != nil {
		return 0, 0, err
	}
	late, err = memory(p.PID(), "VmRSS:")
	return early, late, err
}

// buildLitewitness builds a litewitness that syncs each commit, which as it comes it
// leaves to SQLite: one statement is put into a copy of its source.
func (b *bench) buildLitewitness() (string, error) {
	const module = "filippo.io/torchwood"
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("finding litewitness: %w", err)
	}
	dir := filepath.Join(b.dir, "torchwood")
	if err := os.CopyFS(dir, os.DirFS(strings.TrimSpace(string(out)))); err != nil {
		return "", fmt.Errorf("copying litewitness: %w", err)
	}
	path := filepath.Join(dir, "internal", "witness", "witness.go")
	source, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	const before = "\treturn db, sqlitex.ExecScript(db,"
	if bytes.Count(source, []byte(before)) != 1 {
		return "", errors.New("the source of litewitness has changed: where it opens its database is not found")
	}
	source = bytes.Replace(source, []byte(before), []byte("\tif err := sqlitex.ExecuteTransient(db, \"PRAGMA synchronous = FULL\", nil); err != nil {\n\t\treturn nil, err\n\t}\n"+before), 1)
	// Whoever wrote the cache may not write the copy.
	if err := errors.Join(os.Remove(path), os.WriteFile(path, source, 0o600)); err != nil {
		return "", err
	}
	mod, bin := filepath.Join(b.dir, "litewitness.mod"), filepath.Join(b.dir, "litewitness")
	for from, to := range map[string]string{"go.mod": mod, "go.sum": strings.TrimSuffix(mod, "mod") + "sum"} {
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, text, 0o600)
		}
		if err != nil {
			return "", err
		}
	}
	for _, args := range [][]string{
		{"mod", "edit", "-replace", module + "=" + dir, mod},
		{"build", "-modfile", mod, "-o", bin, module + "/cmd/litewitness"},
	} {
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("building litewitness: %w: %s", err, out)
		}
	}
	return bin, nil
}

// litewitness runs it, with its key in an ssh-agent of ours, as it wants it.
func (b *bench) litewitness(bin string, logs int) (*stack.Process, string, error) {
	dir, err := os.MkdirTemp("", "lw") // the path of a unix socket is short
	if err != nil {
		return nil, "", err
	}
	b.later = append(b.later, func() error { return os.RemoveAll(dir) })
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, "", err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	socket := filepath.Join(dir, "agent")
	if err := b.serveAgent(socket, key); err != nil {
		return nil, "", err
	}
	data, err := os.MkdirTemp(b.dir, "litewitness")
	if err != nil {
		return nil, "", err
	}
	db := filepath.Join(data, "litewitness.db")
	p, err := stack.Start(nil, bin, "-name", "witness.example/lite", "-db", db, "-ssh-agent", socket, "-listen", addr, "-key", ssh.FingerprintSHA256(signer.PublicKey()), "-obscurity")
	if err != nil {
		return nil, "", err
	}
	err = p.Await("litewitness", 20*time.Second, func() bool {
		c, err := net.Dial("tcp", addr)
		return err == nil && c.Close() == nil
	})
	if err == nil {
		err = configureLitewitness(db, logs)
	}
	if err != nil {
		p.Kill()
		return nil, "", err
	}
	return p, addr, nil
}

// configureLitewitness adds logs, which is done by SQL.
func configureLitewitness(db string, logs int) error {
	conn, err := sqlite.OpenConn(db)
	if err != nil {
		return err
	}
	defer conn.Close()
	const empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" // SHA-256 of nothing
	for i := range logs {
		n := benchLog(i)
		vkey, err := n.vkey()
		if err != nil {
			return err
		}
		err = errors.Join(
			sqlitex.Execute(conn, "INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)", &sqlitex.ExecOptions{Args: []any{n.origin(), empty}}),
			sqlitex.Execute(conn, "INSERT INTO key (origin, key) VALUES (?, ?)", &sqlitex.ExecOptions{Args: []any{n.origin(), vkey}}))
		if err != nil {
			return fmt.Errorf("configuring litewitness: %w", err)
		}
	}
	return nil
}

// serveAgent runs an ssh-agent with one key until the benchmark ends.
func (b *bench) serveAgent(path string, key ed25519.PrivateKey) error {
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		return err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	b.later = append(b.later, ln.Close)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = agent.ServeAgent(ring, c) // until the client closes
				c.Close()
			}()
		}
	}()
	return nil
}

// mirrorRow compares a mirror of the ledger with what its audit takes.
func (b *bench) mirrorRow(ctx context.Context) error {
	size, err := b.fill(ctx)
	if err != nil {
		return err
	}
	s := verifySpec{URL: b.ledger.logURL(), Policy: b.ledger.policy.String()}
	var ratio, ours, theirs []float64
	for round := range b.verifier {
		var got [2]float64
		for i := range 2 {
			i = (i + round) % 2
			role := []string{roleMirror, roleAudit}[i]
			if s.Dir, err = os.MkdirTemp(b.dir, "mirror"); err != nil {
				return err
			}
			r, err := ask[verifyResult](role, s)
			if err != nil {
				return err
			}
			got[i] = r.rate()
		}
		// In entries a second: the time of the mirror is to that of the audit as these are, turned round.
		ratio, ours, theirs = append(ratio, got[1]/got[0]), append(ours, got[0]), append(theirs, got[1])
		b.say("mirror, round %d: %s, audit %s over %d entries", round+1, perSecond(got[0]), perSecond(got[1]), size)
	}
	b.add(row{what: fmt.Sprintf("mirror of %s entries over HTTP, time to that of the audit", number(float64(size), "")),
		ours: perSecond(median(ours)), peer: perSecond(median(theirs)), result: ratio, goal: 2, most: true})
	return nil
}

// mirrorOurs is everything that sealtap mirror does.
func mirrorOurs(s verifySpec) (verifyResult, error) {
	p, err := policy.Parse([]byte(s.Policy))
	if err != nil {
		return verifyResult{}, err
	}
	src, err := logclient.Open(s.URL)
	if err != nil {
		return verifyResult{}, err
	}
	begin := time.Now()
	m, err := mirror.Open(mirror.Config{Source: src, Policy: p, Dir: s.Dir})
	if err != nil {
		return verifyResult{}, err
	}
	defer m.Close()
	head, err := m.Update(context.Background())
	if err != nil {
		return verifyResult{}, err
	}
	return verifyResult{head.Size, time.Since(begin).Seconds(), ""}, nil
}
