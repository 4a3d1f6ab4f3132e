package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness/policy"
)

// A witness that dials torchwood's litebastion cosigns for a log that knows only the
// bastion's URL, and does so again after the bastion was away.
func TestWitnessBehindLitebastion(t *testing.T) {
	bin, err := stack.BuildForeign(t.TempDir(), "filippo.io/torchwood/cmd/litebastion")
	if err != nil {
		skip(t, "litebastion cannot be built: "+err.Error())
	}
	upstream := newUpstream()
	defer upstream.Close()
	dir := filepath.Join(t.TempDir(), "data")
	s, err := stack.Up(world.bin, dir, upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(traffic(s, 5), s.Stop()); err != nil {
		t.Fatal(err)
	}
	key, err := keys.Generate("witness.example/hidden", keys.Cosignature)
	if err != nil {
		t.Fatal(err)
	}
	lb := startLitebastion(t, bin, key)
	direct := startHidden(t, key, lb, s.LogKey())

	three := addWitness(t, string(s.PolicyTx), key.Public.String(), lb.url)
	if err := os.WriteFile(filepath.Join(dir, "policy.txt"), []byte(three), 0o644); err != nil {
		t.Fatal(err)
	}
	if s, err = stack.Up(world.bin, dir, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := traffic(s, 5); err != nil {
		t.Fatal(err)
	}
	throughBastion(t, s, three)

	// Metrics stay at home, and direct serving does not depend on the bastion.
	if statusOf(t, lb.url+"/metrics") != http.StatusNotFound || statusOf(t, direct+"/metrics") != http.StatusOK {
		t.Error("metrics are not where they should be")
	}
	if err := lb.Stop(); err != nil {
		t.Log("litebastion:", err)
	}
	if statusOf(t, direct+"/healthz") != http.StatusOK {
		t.Error("direct serving ended with the bastion")
	}
	lb.start(t)
	if err := traffic(s, 5); err != nil {
		t.Fatal(err)
	}
	throughBastion(t, s, three)
}

// throughBastion checks that all witnesses, the hidden one among them, cosigned.
func throughBastion(t *testing.T, s *stack.Stack, three string) {
	t.Helper()
	raw, err := s.Get(t.Context(), "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse([]byte(three))
	if err != nil {
		t.Fatal(err)
	}
	if cp, err := p.Verify(raw); err != nil || len(cp.Cosignatures) != 3 {
		t.Fatalf("the hidden witness did not cosign: %v\n%s", err, raw)
	}
}

func statusOf(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// litebastion is a running litebastion that one backend may connect to.
type litebastion struct {
	*stack.Process
	bin      string
	args     []string
	backends string // where backends connect
	ca       string // file with its certificate
	url      string // of the backend
}

func startLitebastion(t *testing.T, bin string, key *keys.Private) *litebastion {
	t.Helper()
	hash, err := key.BastionHash()
	if err != nil {
		t.Fatal(err)
	}
	backends, err1 := freeAddr()
	clients, err2 := freeAddr()
	dir := t.TempDir()
	allowed := filepath.Join(dir, "backends")
	if err := errors.Join(err1, err2, os.WriteFile(allowed, []byte(hex.EncodeToString(hash[:])+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	lb := &litebastion{bin: bin, backends: backends, ca: filepath.Join(dir, "cert.pem"), url: "http://" + clients + "/" + hex.EncodeToString(hash[:])}
	secret := filepath.Join(dir, "key.pem")
	writeCertificate(t, lb.ca, secret)
	lb.args = []string{"-listen", backends, "-listen-http", clients, "-tls-cert", lb.ca, "-tls-key", secret, "-backends", allowed}
	lb.start(t)
	return lb
}

// start runs it, and waits until it listens.
func (lb *litebastion) start(t *testing.T) {
	t.Helper()
	p, err := stack.Start(nil, lb.bin, lb.args...)
	if err != nil {
		t.Fatal(err)
	}
	lb.Process = p
	t.Cleanup(func() { _ = p.Stop() })
	if err := p.Await("litebastion", 20*time.Second, func() bool {
		c, err := net.Dial("tcp", lb.backends)
		if err != nil {
			return false
		}
		c.Close()
		return true
	}); err != nil {
		t.Fatal(err)
	}
}

// startHidden runs a witness that dials a bastion, waits until it is reached, and
// returns the URL at which it is served besides.
func startHidden(t *testing.T, key *keys.Private, lb *litebastion, logKey string) string {
	t.Helper()
	dir := t.TempDir()
	if err := key.Save(filepath.Join(dir, "w.key")); err != nil {
		t.Fatal(err)
	}
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf("witnesses:\n  - name: w\n    listen: %s\n    database: w.db\n    key: w.key\n    logs: [%q]\n    bastions: [{address: %q, ca: %q}]\n",
		addr, logKey, lb.backends, lb.ca)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := stack.Start(nil, world.bin, "witness", "--config", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Errorf("witness: %v", err)
		}
		if t.Failed() {
			t.Log(p.Output())
		}
	})
	if err := p.Await("a witness behind a bastion", 30*time.Second, func() bool {
		b, err := stack.Fetch(context.Background(), "http://"+addr+"/metrics")
		return err == nil && strings.Contains(string(b), fmt.Sprintf("sealtap_witness_bastion_linked{bastion=%q} 1", lb.backends))
	}); err != nil {
		t.Fatal(err)
	}
	return "http://" + addr
}

// writeCertificate makes a certificate for loopback.
func writeCertificate(t *testing.T, cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err1 := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	secret, err2 := x509.MarshalPKCS8PrivateKey(k)
	err = errors.Join(err1, err2,
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
}
