package trillian

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/storage/postgres/pgtest"
	"github.com/sealtap/sealtap/storage/trillian/trilliantest"
)

// A log server speaks TLS to PostgreSQL and to Trillian, and to none that is not the
// one it was told: each refusal is one line that says why.
func TestTLS(t *testing.T) {
	w := newSecured(t)
	w.tree = w.init(w.database+w.verified(w.ca), w.trillianTLS(w.good, w.ca))

	t.Run("as it should be", func(t *testing.T) {
		w.serves(t, w.database+w.verified(w.ca), w.trillianTLS(w.good, w.ca))
	})
	t.Run("with client certificates", func(t *testing.T) {
		mutual := w.database + "-cert" + w.verified(w.ca) + "&sslcert=" + w.client + ".pem&sslkey=" + w.client + ".key"
		before := w.demanding(t)
		own := fmt.Sprintf("\n      tls: {ca: %s, cert: %s.pem, key: %[2]s.key}", w.ca.file, w.client)
		tree := w.tree
		defer func() { w.tree = tree }()
		w.tree = w.init(mutual, "address: "+before+own)
		w.serves(t, mutual, "address: "+before+own)
		w.refused(t, w.database+"-cert"+w.verified(w.ca), "address: "+before+own, `PostgreSQL at .* certificate`)
		w.refused(t, mutual, w.trillianTLS(before, w.ca), `Trillian at .*it does not accept this client: tls: certificate required`)
	})

	const not = `its certificate is not accepted: x509: `
	const unknown, name, late = not + `certificate signed by unknown authority`, not + `(certificate is valid for .*, not 127\.|cannot validate certificate for 127\.)`, not + `certificate has expired`
	for what, c := range map[string]struct{ trillian, want string }{
		"another CA":   {w.trillianTLS(w.good, w.other), unknown},
		"another name": {w.trillianTLS(w.misnamed, w.ca), name},
		"expired":      {w.trillianTLS(w.expired, w.ca), late},
		"no TLS":       {w.trillianTLS(w.plain, w.ca), `it does not speak TLS`},
	} {
		t.Run("Trillian/"+what, func(t *testing.T) {
			w.refused(t, w.database+w.verified(w.ca), c.trillian, `tree \d+ of Trillian at 127\..*`+c.want)
		})
	}
	good := w.trillianTLS(w.good, w.ca)
	t.Run("PostgreSQL/another CA", func(t *testing.T) {
		w.refused(t, w.database+w.verified(w.other), good, `PostgreSQL at 127\..*`+unknown)
	})
	t.Run("PostgreSQL/another name", func(t *testing.T) {
		w.certify(t, w.ca.issue(t, "db.example", time.Hour))
		w.refused(t, w.database+w.verified(w.ca), good, `PostgreSQL at 127\..*`+name)
	})
	t.Run("PostgreSQL/expired", func(t *testing.T) {
		w.certify(t, w.ca.issue(t, w.host, -time.Hour))
		w.refused(t, w.database+w.verified(w.ca), good, `PostgreSQL at 127\..*`+late)
	})
	t.Run("PostgreSQL/no TLS", func(t *testing.T) {
		if err := w.postgres.Set("ssl=off"); err != nil {
			t.Fatal(err)
		}
		w.refused(t, w.database+w.verified(w.ca), good, `PostgreSQL at 127\..*refused TLS`)
	})
}

// secured is PostgreSQL and Trillian with certificates, and what a log server needs
// besides.
type secured struct {
	t         *testing.T
	dir       string
	ca, other *authority
	client    string // path of a client's certificate and key, without .pem and .key
	postgres  *pgtest.Server
	host      string // of PostgreSQL
	database  string // URL, without parameters
	tree      string
	n         int

	good, misnamed, expired, plain string // addresses of Trillian's log servers
}

func newSecured(t *testing.T) *secured {
	t.Helper()
	w := &secured{t: t, dir: t.TempDir(), postgres: pgtest.Start(t)}
	w.ca, w.other = newAuthority(t, filepath.Join(w.dir, "ca.pem")), newAuthority(t, filepath.Join(w.dir, "other.pem"))
	name, err := w.postgres.NewName()
	w.check(err)
	// Addresses of a loopback are many: on its own the server can have its usual port.
	w.host = fmt.Sprintf("127.%d.%d.%d", 1+mathrand.IntN(254), mathrand.IntN(256), 1+mathrand.IntN(254))
	w.database = fmt.Sprintf("postgres://sealtap@%s/%s", w.host, name)
	w.check(w.postgres.Exec("CREATE DATABASE \"" + name + "-cert\""))
	w.certify(t, w.ca.issue(t, w.host, time.Hour))
	// Behind the last start of PostgreSQL: it does not like to lose connections.
	cluster := trilliantest.Start(t, w.postgres)
	w.plain = cluster.Address
	for addr, pair := range map[*string]certificate{
		&w.good:     w.ca.issue(t, "127.0.0.1", time.Hour),
		&w.misnamed: w.ca.issue(t, "127.0.0.2", time.Hour),
		&w.expired:  w.ca.issue(t, "127.0.0.1", -time.Hour),
	} {
		file := pair.write(t, filepath.Join(t.TempDir(), "server"))
		p, at, err := cluster.Another(t.TempDir(), "--tls_cert_file="+file+".pem", "--tls_key_file="+file+".key")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		*addr = at
	}
	w.client = w.ca.issue(t, "sealtap", time.Hour).write(t, filepath.Join(w.dir, "client"))

	for _, args := range [][]string{{"keygen", "log.example"}, {"keygen", "operator"},
		{"policy", "init", "--log-key", "log.example.key.pub", "--operator", "operator.key.pub", "--quorum", "none"}} {
		code, out := w.sealtap(args...)
		if code != 0 {
			t.Fatalf("sealtap %v: %s", args, out)
		}
	}
	return w
}

func (w *secured) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// certify gives the server of PostgreSQL a certificate, and starts it with that. Who
// wants the database whose name ends with -cert has to have one too.
func (w *secured) certify(t *testing.T, c certificate) {
	t.Helper()
	name := w.database[strings.LastIndex(w.database, "/")+1:]
	var settings []string
	for file, f := range map[string]struct {
		setting string
		data    []byte
	}{
		"server.crt": {"ssl_cert_file", c.cert},
		"server.key": {"ssl_key_file", c.key},
		"ca.crt":     {"ssl_ca_file", w.ca.cert},
		"hba.conf":   {"hba_file", fmt.Appendf(nil, "local all all trust\nhostssl %q all 127.0.0.0/8 cert\nhost %q all 127.0.0.0/8 trust\n", name+"-cert", name)},
	} {
		path, err := w.postgres.Write(file, f.data)
		if err != nil {
			t.Fatal(err)
		}
		settings = append(settings, f.setting+"="+path)
	}
	if err := w.postgres.Set(append(settings, "ssl=on", "listen_addresses="+w.host)...); err != nil {
		t.Fatal(err)
	}
}

func (w *secured) verified(ca *authority) string {
	return "?sslmode=verify-full&sslrootcert=" + ca.file
}

func (w *secured) trillianTLS(addr string, ca *authority) string {
	return fmt.Sprintf("address: %s\n      tls: {ca: %s}", addr, ca.file)
}

// demanding is a server before Trillian that lets nobody through without a certificate,
// as those do that terminate TLS for others.
func (w *secured) demanding(t *testing.T) string {
	t.Helper()
	c := w.ca.issue(t, "127.0.0.1", time.Hour)
	pair, err := tls.X509KeyPair(c.cert, c.key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.ca.cert)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			from, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer from.Close()
				if from.(*tls.Conn).Handshake() != nil {
					return
				}
				to, err := net.Dial("tcp", w.plain)
				if err != nil {
					return
				}
				defer to.Close()
				wg.Go(func() { _, _ = io.Copy(to, from); to.Close() })
				_, _ = io.Copy(from, to)
			})
		}
	})
	return ln.Addr().String()
}

// configure writes the configuration of a log server.
func (w *secured) configure(database, trillian string) (file, addr string) {
	w.t.Helper()
	w.n++
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.check(err)
	addr = ln.Addr().String()
	ln.Close()
	tree := ""
	if w.tree != "" {
		tree = "\n      tree_id: " + w.tree
	}
	file = filepath.Join(w.dir, fmt.Sprintf("log%d.yaml", w.n))
	w.check(os.WriteFile(file, fmt.Appendf(nil, `log:
  listen: %s
  database: log%d.db
  key: log.example.key
  operator_key: operator.key
  policy: policy.txt
  storage:
    trillian:
      postgres: %q
      %s%s
`, addr, w.n, database, trillian, tree), 0o600))
	return file, addr
}

func (w *secured) sealtap(args ...string) (code int, out string) {
	w.t.Helper()
	p, err := stack.StartIn(w.dir, bin, args...)
	w.check(err)
	select {
	case <-p.Done():
	case <-time.After(2 * time.Minute):
		p.Kill()
		w.t.Fatalf("sealtap %v does not end: %s", args, p.Output())
	}
	return p.ExitCode(), p.Output()
}

var madeTree = regexp.MustCompile(`made tree (\d+) `)

// init has sealtap make tables and a tree, whose id it returns.
func (w *secured) init(database, trillian string) string {
	w.t.Helper()
	w.tree = ""
	file, _ := w.configure(database, trillian)
	code, out := w.sealtap("log", "init", "--config", file)
	m := madeTree.FindStringSubmatch(out)
	if code != 0 || m == nil {
		w.t.Fatalf("sealtap log init: %d: %s", code, out)
	}
	return m[1]
}

// serves runs a log server, which must publish.
func (w *secured) serves(t *testing.T, database, trillian string) {
	t.Helper()
	file, addr := w.configure(database, trillian)
	p, err := stack.StartIn(w.dir, bin, "log", "--config", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if err := p.Await("a head", time.Minute, func() bool {
		resp, err := http.Get("http://" + addr + "/checkpoint")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
}

// refused runs a log server, and sealtap log init, which must end with one line that
// says what is wanted.
func (w *secured) refused(t *testing.T, database, trillian, want string) {
	t.Helper()
	file, _ := w.configure(database, trillian)
	for _, verb := range [][]string{{"log"}, {"log", "init"}} {
		began := time.Now()
		code, out := w.sealtap(append(verb, "--config", file)...)
		t.Logf("after %v, %d: %s", time.Since(began).Round(100*time.Millisecond), code, out)
		if code == 0 || strings.Count(out, "\n") != 1 || !regexp.MustCompile(`^sealtap: .*`+want).MatchString(out) {
			t.Errorf("sealtap %v ends with %d, and not with one line that has %q: %s", verb, code, want, out)
		}
	}
}

// authority is a CA of our own.
type authority struct {
	file string
	cert []byte // PEM
	x509 *x509.Certificate
	key  *ecdsa.PrivateKey
}

// certificate is one with its key, in PEM form.
type certificate struct{ cert, key []byte }

func newAuthority(t *testing.T, file string) *authority {
	t.Helper()
	a := &authority{file: file}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: filepath.Base(file)}, NotBefore: time.Now().Add(-24 * time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	c, key := a.sign(t, template)
	a.cert, a.key = c.cert, key
	block, _ := pem.Decode(c.cert)
	var err error
	if a.x509, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, c.cert, 0o644); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue makes a certificate for an address or a name, which is valid for a time.
func (a *authority) issue(t *testing.T, name string, valid time.Duration) certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-12 * time.Hour), NotAfter: time.Now().Add(valid),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	c, _ := a.sign(t, template)
	return c
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) (certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := a.x509, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return certificate{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})}, key
}

// write writes both files, and returns the path without .pem and .key.
func (c certificate) write(t *testing.T, path string) string {
	t.Helper()
	for suffix, data := range map[string][]byte{".pem": c.cert, ".key": c.key} {
		if err := os.WriteFile(path+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}
