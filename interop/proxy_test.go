package interop

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// upProxy runs a stack of a test's own until the test ends. more are lines of YAML
// of the section proxy.
func upProxy(t *testing.T, upstream, more string) *stack.Stack {
	t.Helper()
	return upEdited(t, upstream, func(_ string, text []byte) ([]byte, error) {
		return bytes.Replace(text, []byte("\nproxy:\n"), []byte("\nproxy:\n"+more), 1), nil
	})
}

// upEdited is upProxy with any change of the configuration.
func upEdited(t *testing.T, upstream string, edit func(path string, text []byte) ([]byte, error)) *stack.Stack {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	s, err := stack.Up(world.bin, dir, upstream)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.yaml")
	text, err := os.ReadFile(path)
	if err == nil {
		text, err = edit(path, text)
	}
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if s, err = stack.Up(world.bin, dir, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// audit checks the whole log of a stack.
func audit(t *testing.T, s *stack.Stack) {
	t.Helper()
	if out, err := exec.Command(s.Bin, "audit", s.Log, "--policy", filepath.Join(s.Dir, "policy.txt"), "--state", "none").CombinedOutput(); err != nil {
		t.Errorf("audit: %v: %s", err, out)
	}
}

// certificate is one for 127.0.0.1 that vouches for itself, as files.
type certificate struct {
	cert, key string
	pool      *x509.CertPool
}

// client is how a client believes it.
func (c certificate) client() *tls.Config { return &tls.Config{RootCAs: c.pool} }

func newCertificate(t *testing.T) certificate {
	t.Helper()
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	key, err := x509.MarshalPKCS8PrivateKey(srv.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := certificate{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), pool: x509.NewCertPool()}
	c.pool.AddCert(srv.Certificate())
	for path, block := range map[string]*pem.Block{
		c.cert: {Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}, c.key: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}
