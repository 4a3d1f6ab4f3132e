// Package intercept makes the certificates with which a forward proxy ends its
// clients' TLS itself: short-lived leaves, for one host each, under an authority
// of the operator's that clients were told to trust.
//
// Start with [Create] for an authority, and [Load] for the leaves.
package intercept

import (
	"container/list"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"sync"
	"time"
)

// ErrAuthority is wrapped by errors about an authority's certificate or key.
var ErrAuthority = errors.New("unusable certificate authority")

const (
	// leafLife is how long a leaf is valid in all; backdating is how much of that
	// lies before it was made, for clients whose clocks are behind.
	leafLife   = 24 * time.Hour
	backdating = 10 * time.Minute
	// renewal is how long before its end a leaf is made again: a connection
	// begun with it should not see it expire.
	renewal = time.Hour
	// maxLeaves bounds the leaves that are kept, each of about 2 KiB.
	maxLeaves = 1024
)

// Authority makes leaves. It can be used from many goroutines.
type Authority struct {
	cert  *x509.Certificate
	chain [][]byte // DER, the authority first
	key   crypto.Signer
	now   func() time.Time

	mu     sync.Mutex
	leaves map[string]*list.Element // of *leaf, by host
	recent *list.List               // the most recently used first
}

// leaf is a certificate that is there, or about to be.
type leaf struct {
	host  string
	ready chan struct{} // closed once the rest is set
	cert  *tls.Certificate
	err   error
	until time.Time // when another one is made
}

// Load reads an authority from PEM: its certificate, followed by those that
// lead from it to a root that clients know, if there are any; and its key.
func Load(certPEM, keyPEM []byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAuthority, err)
	}
	c, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAuthority, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: its key cannot sign", ErrAuthority)
	case !c.BasicConstraintsValid || !c.IsCA:
		return nil, fmt.Errorf("%w: the certificate is not an authority's (CA:TRUE); sealtap keygen --ca NAME makes one", ErrAuthority)
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("%w: the certificate may not sign others", ErrAuthority)
	case time.Now().After(c.NotAfter):
		return nil, fmt.Errorf("%w: the certificate ended on %s; make another with sealtap keygen --ca NAME", ErrAuthority, c.NotAfter.Format(time.DateOnly))
	}
	return &Authority{cert: c, chain: pair.Certificate, key: key, now: time.Now, leaves: make(map[string]*list.Element), recent: list.New()}, nil
}

// Leaf returns a certificate for a host, a name or an address. Of calls for one
// host at a time one makes it, and the others wait.
func (a *Authority) Leaf(host string) (*tls.Certificate, error) {
	for {
		l, mine := a.find(host)
		if mine {
			l.cert, l.err = a.make(host)
			a.made(l)
			return l.cert, l.err
		}
		<-l.ready
		if l.err != nil || a.now().Before(l.until) {
			return l.cert, l.err
		}
		a.forget(l)
	}
}

// find returns the leaf of a host, and reports whether the caller has to make it.
func (a *Authority) find(host string) (*leaf, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.leaves[host]; e != nil {
		a.recent.MoveToFront(e)
		return e.Value.(*leaf), false
	}
	l := &leaf{host: host, ready: make(chan struct{})}
	a.leaves[host] = a.recent.PushFront(l)
	for a.recent.Len() > maxLeaves {
		a.remove(a.recent.Back())
	}
	return l, true
}

// made lets those who wait for a leaf go on. One that could not be made is tried
// again by the next call.
func (a *Authority) made(l *leaf) {
	if l.err == nil {
		l.until = l.cert.Leaf.NotAfter.Add(-renewal)
	}
	close(l.ready)
	if l.err != nil {
		a.forget(l)
	}
}

func (a *Authority) forget(l *leaf) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.leaves[l.host]; e != nil && e.Value.(*leaf) == l {
		a.remove(e)
	}
}

func (a *Authority) remove(e *list.Element) {
	delete(a.leaves, a.recent.Remove(e).(*leaf).host)
}

func (a *Authority) make(host string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key for %s: %w", host, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	begin := a.now().Add(-backdating).Truncate(time.Second)
	t := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    begin, NotAfter: begin.Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		t.IPAddresses = append(t.IPAddresses, addr.AsSlice())
	} else {
		t.DNSNames = []string{host}
	}
	if len(host) <= 64 { // RFC 5280, appendix A: ub-common-name
		t.Subject = pkix.Name{CommonName: host}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate for %s: %w", host, err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making a certificate for %s: %w", host, err)
	}
	// What its own authority does not permit no client accepts.
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	if _, err := parsed.Verify(x509.VerifyOptions{Roots: roots, DNSName: bracketed(host), CurrentTime: a.now()}); err != nil {
		return nil, fmt.Errorf("%w: it permits no certificate for %s: %w", ErrAuthority, host, err)
	}
	return &tls.Certificate{Certificate: append([][]byte{der}, a.chain...), PrivateKey: key, Leaf: parsed}, nil
}

// bracketed writes addresses as x509 wants them where it checks names.
func bracketed(host string) string {
	if _, err := netip.ParseAddr(host); err == nil {
		return "[" + host + "]"
	}
	return host
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil // never zero (RFC 5280, section 4.1.2.2)
}
