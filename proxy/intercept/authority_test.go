package intercept

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

func newAuthority(t *testing.T, permitted ...string) *Authority {
	t.Helper()
	cert, key, err := Create("Example operator", permitted, 1000*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Load(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestLeaf(t *testing.T) {
	a := newAuthority(t)
	if c := a.cert; !c.IsCA || !c.MaxPathLenZero || c.MaxPathLen != 0 || c.KeyUsage&x509.KeyUsageCertSign == 0 {
		t.Errorf("authority %+v", c)
	}
	for host, sans := range map[string]string{"api.example": "[api.example] []", "10.0.0.1": "[] [10.0.0.1]", "fd00::1": "[] [fd00::1]"} {
		c, err := a.Leaf(host)
		if err != nil {
			t.Fatal(err)
		}
		l := c.Leaf
		if got := fmt.Sprint(l.DNSNames, " ", l.IPAddresses); got != sans {
			t.Errorf("%s: %s", host, got)
		}
		if k, ok := l.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
			t.Errorf("%s: key %T", host, l.PublicKey)
		}
		if life, back := l.NotAfter.Sub(l.NotBefore), time.Since(l.NotBefore); life > 24*time.Hour || back < 5*time.Minute || back > time.Hour {
			t.Errorf("%s: life %v, backdated %v", host, life, back)
		}
		if l.IsCA || len(l.ExtKeyUsage) != 1 || l.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
			t.Errorf("%s: %+v", host, l)
		}
	}
	if len(a.leaves) != 3 {
		t.Errorf("%d leaves", len(a.leaves))
	}
}

func TestLeafCache(t *testing.T) {
	a := newAuthority(t)
	now := time.Now()
	var mu sync.Mutex
	a.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	// All who ask at once get the one that one of them made.
	var wg sync.WaitGroup
	got := make([]*tls.Certificate, 32)
	for i := range got {
		wg.Go(func() { got[i], _ = a.Leaf("api.example") })
	}
	wg.Wait()
	for _, c := range got {
		if c == nil || c != got[0] {
			t.Fatal("more than one leaf was made")
		}
	}
	pass := func(d time.Duration) { mu.Lock(); now = now.Add(d); mu.Unlock() }
	pass(20 * time.Hour)
	if c, _ := a.Leaf("api.example"); c != got[0] {
		t.Error("the leaf was made again too early")
	}
	pass(3 * time.Hour)
	c, err := a.Leaf("api.example")
	if err != nil || c == got[0] {
		t.Errorf("the leaf was not made again before it ends: %v", err)
	}
	for i := range maxLeaves + 10 {
		if i == maxLeaves/2 {
			_, _ = a.Leaf("api.example") // used lately, so it stays
		}
		if _, err := a.Leaf(fmt.Sprintf("h%d.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.leaves) != maxLeaves || a.recent.Len() != maxLeaves {
		t.Errorf("%d leaves are kept, want %d", len(a.leaves), maxLeaves)
	}
	if again, _ := a.Leaf("api.example"); again != c {
		t.Error("a leaf that was used lately is gone")
	}
}

func TestConstraints(t *testing.T) {
	a := newAuthority(t, "internal.example")
	for host, ok := range map[string]bool{"a.internal.example": true, "internal.example": true, "bank.example": false, "10.0.0.1": false, "::1": false} {
		if _, err := a.Leaf(host); (err == nil) != ok || err != nil && !errors.Is(err, ErrAuthority) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if len(a.leaves) != 2 {
		t.Errorf("%d leaves: what cannot be made is not kept", len(a.leaves))
	}
	if _, _, err := Create("x", []string{"10.0.0.1"}, time.Hour); err == nil {
		t.Error("an address is no domain")
	}
}

func TestLoadRefuses(t *testing.T) {
	a := newAuthority(t)
	cert, key, _ := Create("one", nil, time.Hour)
	_, other, _ := Create("two", nil, time.Hour)
	old, oldKey, _ := Create("old", nil, -time.Hour)
	l, err := a.Leaf("api.example")
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKCS8PrivateKey(l.PrivateKey)
	leafCert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.Certificate[0]})
	leafKey := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for name, pair := range map[string][2][]byte{"mixed": {cert, other}, "leaf": {leafCert, leafKey}, "old": {old, oldKey}, "empty": {nil, nil}, "swapped": {key, cert}} {
		if _, err := Load(pair[0], pair[1]); !errors.Is(err, ErrAuthority) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
