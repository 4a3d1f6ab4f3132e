package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// authority makes certificates.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, pool: x509.NewCertPool()}
	a.cert, a.key = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "ca"}})
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(tmpl *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c, key
}

func (a *authority) pair(name string) tls.Certificate {
	c, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

// TestUpstreamTLS: the upstream's certificate is verified under the pool's roots
// and name, ours is shown, HTTP/2 is spoken, and the record names the certificate.
func TestUpstreamTLS(t *testing.T) {
	settled(t)
	ca, other := newAuthority(t), newAuthority(t)
	cert := ca.pair("orders.internal")
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto+" "+r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	up.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool}
	up.EnableHTTP2 = true
	up.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	up.StartTLS()
	t.Cleanup(func() { up.CloseClientConnections(); up.Close() })
	ours := []tls.Certificate{ca.pair("sealtap")}
	for _, c := range []struct {
		name   string
		tls    *tls.Config
		status int
		detail string
	}{
		{"good", &tls.Config{RootCAs: ca.pool, ServerName: "orders.internal", Certificates: ours}, 200, ""},
		{"other roots", &tls.Config{RootCAs: other.pool, ServerName: "orders.internal", Certificates: ours}, 502, "unknown authority"},
		{"other name", &tls.Config{RootCAs: ca.pool, ServerName: "users.internal", Certificates: ours}, 502, "users.internal"},
		{"no certificate", &tls.Config{RootCAs: ca.pool, ServerName: "orders.internal"}, 502, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := poolOf(t, "", up.URL)
			p.TLS = c.tls
			s := pooled(t, p, nil)
			res, body := get(t, client(t), request(t, "GET", s.url("/"), nil))
			_, r := s.rec.last(t)
			if res.StatusCode != c.status || !strings.Contains(r.rec.GetResponse().GetDetail(), c.detail) {
				t.Fatalf("%s %s, detail %q", res.Status, body, r.rec.GetResponse().GetDetail())
			}
			if c.status != 200 {
				return
			}
			if string(body) != "HTTP/2.0 sealtap" {
				t.Errorf("%s", body)
			}
			sum := sha256.Sum256(cert.Leaf.Raw)
			a := r.rec.GetResponse().GetAttempts()
			if len(a) != 1 || string(a[0].GetCertificate()) != string(sum[:]) || a[0].GetStatus() != 200 {
				t.Errorf("attempts %v", a)
			}
		})
	}
}
