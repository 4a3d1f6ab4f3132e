package intercept

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"time"

	"github.com/sealtap/sealtap/proxy/hosts"
)

// Create makes an authority: an ECDSA P-256 key and a certificate signed with it,
// both as PEM, that can sign leaves only (pathLenConstraint 0). With permitted
// domains it is good for hosts in those only (RFC 5280, section 4.2.1.10), and for no
// addresses: whoever steals its key can pretend to be nobody else.
func Create(name string, permitted []string, life time.Duration) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	begin := time.Now().Add(-backdating).Truncate(time.Second)
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    begin, NotAfter: begin.Add(life),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	for _, d := range permitted {
		h, err := hosts.New(d)
		if err != nil || h.Addr.IsValid() {
			return nil, nil, fmt.Errorf("%q is not a domain such as internal.example: %w", d, hosts.ErrHost)
		}
		t.PermittedDNSDomains = append(t.PermittedDNSDomains, h.Name)
	}
	if len(permitted) > 0 {
		t.PermittedDNSDomainsCritical = true
		t.ExcludedIPRanges = []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
			{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("making the certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}
