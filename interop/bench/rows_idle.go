package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// idleRows measures what the proxy's process holds of memory with 64 connections at
// work, and how much more with many that wait for their next request; plain, and
// over TLS.
func (b *bench) idleRows(ctx context.Context) error {
	for _, secure := range []bool{false, true} {
		name, how := "idle", ""
		if secure {
			name, how = "idle-tls", ", TLS"
		}
		if err := b.idleRow(ctx, name, how, secure); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (b *bench) idleRow(ctx context.Context, name, how string, secure bool) (err error) {
	f, err := newFleet(b.bin, filepath.Join(b.dir, name), "http://"+b.upstream)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	if secure {
		if err := f.speakTLS(); err != nil {
			return err
		}
	}
	var busy, each []float64
	for round := range b.verifier {
		x, y, err := b.idleRound(ctx, f, secure)
		if err != nil {
			return err
		}
		busy, each = append(busy, x), append(each, y)
		b.say("idle%s, round %d: %.0f MiB with 64 busy connections, %.1f KiB more with each of %d idle ones", how, round+1, x, y, b.idle)
	}
	b.add(
		row{what: "proxy's memory with 64 busy connections" + how, ours: number(median(busy), "MiB"), peer: "–", result: busy, unit: "MiB", goal: 64, most: true},
		row{what: fmt.Sprintf("  with each of %d idle connections more", b.idle) + how, ours: number(median(each), "KiB"), peer: "–", result: each, unit: "KiB", goal: 24, most: true},
	)
	return nil
}

// idleRound measures a proxy that has just begun: MiB with busy connections, KiB
// for each idle one.
func (b *bench) idleRound(ctx context.Context, f *fleet, secure bool) (busy, each float64, err error) {
	if err := f.startProxy(); err != nil {
		return 0, 0, err
	}
	defer func() {
		err = errors.Join(err, f.proxy.Stop())
		f.proxy = nil
	}()
	load, err := begin(roleLoad, loadSpec{Addr: f.proxyAddr(), Conns: 64, Body: 1024, Duration: 10 * time.Minute, TLS: secure})
	if err != nil {
		return 0, 0, err
	}
	defer load.Kill()
	before, err := steady(ctx, f.proxy)
	if err != nil {
		return 0, 0, err
	}
	idle, err := begin(roleHold, idleSpec{Addr: f.proxyAddr(), Conns: b.idle, TLS: secure})
	if err != nil {
		return 0, 0, err
	}
	defer idle.Kill()
	// Beside a full load, and two handshakes of TLS for each, that takes its time.
	if err := idle.Await("its connections", 90*time.Second, func() bool { return strings.Contains(idle.Output(), holding) }); err != nil {
		return 0, 0, err
	}
	after, err := steady(ctx, f.proxy)
	if err != nil {
		return 0, 0, err
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", f.proxy.PID()))
	if err != nil {
		return 0, 0, err
	}
	if len(files) < b.idle+64 {
		return 0, 0, fmt.Errorf("the proxy has %d descriptors at the end: some of %d connections have ended", len(files), b.idle)
	}
	for _, p := range []*stack.Process{load, idle} {
		select {
		case <-p.Done():
			return 0, 0, fmt.Errorf("the load has ended: %s", p.Output())
		default:
		}
	}
	return float64(before) / (1 << 20), float64(after-before) / float64(b.idle) / (1 << 10), nil
}

// speakTLS gives the proxy, which does not run yet, a certificate.
func (f *fleet) speakTLS() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	conf, err := os.ReadFile(f.confPath())
	if err != nil {
		return err
	}
	const section = "\nproxy:\n"
	text := strings.Replace(string(conf), section, section+"  tls: {cert: front.pem, key: front.key}\n", 1)
	for name, data := range map[string][]byte{
		"front.pem":   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"front.key":   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
		"config.yaml": []byte(text),
	} {
		if err := os.WriteFile(filepath.Join(f.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
