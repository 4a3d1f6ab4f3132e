package bastion_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness/bastion"
)

// far is a small bastion: it gives the connections of one backend to the test.
type far struct {
	addr    string
	roots   *x509.CertPool
	conns   chan *tls.Conn
	dialled atomic.Int64
}

// newFar serves on loopback. It refuses other keys than the one with hash.
func newFar(t *testing.T, hash, proto string) *far {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	f := &far{addr: ln.Addr().String(), roots: x509.NewCertPool(), conns: make(chan *tls.Conn, 16)}
	f.roots.AddCert(cert)
	conf := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{proto}, ClientAuth: tls.RequireAnyClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error {
			pk, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
			if sum := sha256.Sum256(pk); !ok || hex.EncodeToString(sum[:]) != hash || cs.Version != tls.VersionTLS13 {
				return errors.New("unknown backend")
			}
			return nil
		},
	}
	if proto == "" {
		conf.NextProtos = nil // a server that takes whatever comes
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f.dialled.Add(1)
			go func() {
				conn := tls.Server(c, conf)
				if conn.Handshake() != nil {
					c.Close()
					return
				}
				f.conns <- conn
			}()
		}
	}()
	return f
}

// next waits for the backend to connect.
func (f *far) next(t *testing.T) *tls.Conn {
	t.Helper()
	select {
	case c := <-f.conns:
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(20 * time.Second):
		t.Fatal("the backend does not connect")
		return nil
	}
}

// get asks the backend for a path.
func get(t *testing.T, c net.Conn) string {
	t.Helper()
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return struct{ net.Conn }{c}, nil
	}}
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get("http://backend/path")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func newKey(t *testing.T) (*keys.Private, string) {
	t.Helper()
	k, err := keys.Generate("w.example/1", keys.Cosignature)
	if err != nil {
		t.Fatal(err)
	}
	h, err := k.BastionHash()
	if err != nil {
		t.Fatal(err)
	}
	return k, hex.EncodeToString(h[:])
}

// serve runs a bastion until the test ends, or stop is called.
func serve(t *testing.T, c bastion.Config) (b *bastion.Bastion, stop func()) {
	t.Helper()
	c.MinBackoff, c.MaxBackoff = time.Millisecond, 20*time.Millisecond
	b, err := bastion.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "served "+r.URL.Path) }))
	}()
	stop = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("it does not end with its context")
		}
	}
	t.Cleanup(stop)
	return b, stop
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

func TestServesAndComesBack(t *testing.T) {
	k, hash := newKey(t)
	f := newFar(t, hash, "bastion/0")
	b, stop := serve(t, bastion.Config{Address: f.addr, Roots: f.roots, Key: k})
	if b.KeyHash() != hash {
		t.Errorf("hash %s, want %s", b.KeyHash(), hash)
	}
	for i := range 3 {
		c := f.next(t)
		if got := get(t, c); got != "served /path" {
			t.Fatalf("got %q", got)
		}
		if s := b.Status(); !s.Linked || s.Links != uint64(i+1) {
			t.Errorf("while it is connected: %+v", s)
		}
		c.Close()
		await(t, "loss is noticed", func() bool { return b.Status().Failures == uint64(i+1) })
	}
	f.next(t)
	stop()
	if b.Status().Linked {
		t.Error("linked after its end")
	}
}

// TestRefused has a bastion that does not know the key: it is asked again, and
// nothing counts as a connection.
func TestRefused(t *testing.T) {
	k, _ := newKey(t)
	f := newFar(t, "another", "bastion/0")
	b, _ := serve(t, bastion.Config{Address: f.addr, Roots: f.roots, Key: k})
	await(t, "three attempts", func() bool { return f.dialled.Load() >= 3 })
	if s := b.Status(); s.Linked || s.Links != 0 || s.Failures < 2 {
		t.Errorf("%+v", s)
	}
}

// TestBastionIsVerified: nothing is served to who has another certificate, or does
// not speak the protocol.
func TestBastionIsVerified(t *testing.T) {
	k, hash := newKey(t)
	for name, f := range map[string]*far{"certificate": newFar(t, hash, "bastion/0"), "protocol": newFar(t, hash, "h2"), "none": newFar(t, hash, "")} {
		t.Run(name, func(t *testing.T) {
			roots := f.roots
			if name == "certificate" {
				roots = x509.NewCertPool()
			}
			b, _ := serve(t, bastion.Config{Address: f.addr, Roots: roots, Key: k})
			await(t, "three failures", func() bool { return b.Status().Failures >= 3 })
			if b.Status().Links != 0 {
				t.Error("linked")
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	k, _ := newKey(t)
	q, err := keys.Generate("w.example/q", keys.MLDSA44)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []bastion.Config{{Address: "bastion.example", Key: k}, {Address: ":443", Key: k}, {Address: "bastion.example:443"}} {
		if _, err := bastion.New(c); err == nil {
			t.Errorf("%q is taken", c.Address)
		}
	}
	if _, err := bastion.New(bastion.Config{Address: "bastion.example:443", Key: q}); !errors.Is(err, keys.ErrNotEd25519) {
		t.Errorf("an ML-DSA key: %v", err)
	}
}
