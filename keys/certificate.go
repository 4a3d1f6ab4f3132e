package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// ErrNotEd25519 is wrapped where a key of another algorithm is to sign TLS.
var ErrNotEd25519 = errors.New("not an Ed25519 key")

// BastionHash names an Ed25519 key to a bastion (C2SP https-bastion, "Client to
// bastion requests"): the SHA-256 of its 32 bytes.
func (p Public) BastionHash() ([sha256.Size]byte, error) {
	if p.Type != Ed25519 && p.Type != Cosignature {
		return [sha256.Size]byte{}, fmt.Errorf("%s: %w", p.Name, ErrNotEd25519)
	}
	return sha256.Sum256(p.Key), nil
}

// ClientCertificate makes a certificate, valid for a day, with which the owner of an
// Ed25519 key shows itself to a bastion. What TLS and X.509 sign begins as no
// checkpoint and no cosignature does (C2SP https-bastion, appendix A).
func (p *Private) ClientCertificate(now time.Time) (tls.Certificate, error) {
	if p.Type != Ed25519 && p.Type != Cosignature {
		return tls.Certificate{}, fmt.Errorf("%s: %w", p.Name, ErrNotEd25519)
	}
	key := ed25519.NewKeyFromSeed(p.seed)
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "Bastion backend"},
		NotBefore:    now.Add(-time.Hour), // clocks differ
		NotAfter:     now.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a client certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
