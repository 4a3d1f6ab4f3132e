package interop

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/mod/sumdb/note"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/witness/policy"
)

// litewitness runs as a process of its own, with its key in an ssh-agent, and is
// a third witness of a log that began without it. The log publishes what it
// cosigned, and does not publish what it did not.
func TestLitewitnessCosigns(t *testing.T) {
	bin, err := stack.BuildForeign(t.TempDir(), "filippo.io/torchwood/cmd/litewitness")
	if err != nil {
		skip(t, "litewitness cannot be built: "+err.Error())
	}
	cosignsOurs(t, func(origin, logKey string) *foreignWitness { return startLitewitness(t, bin, origin, logKey) })
}

// cosignsOurs has a log that began without a witness cosigned by it too.
func cosignsOurs(t *testing.T, begin func(origin, logKey string) *foreignWitness) {
	t.Helper()
	upstream := newUpstream()
	defer upstream.Close()
	dir := filepath.Join(t.TempDir(), "data")
	s, err := stack.Up(world.bin, dir, upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(traffic(s, 20), s.Stop()); err != nil {
		t.Fatal(err)
	}

	w := begin(s.Origin(), s.LogKey())
	three := addWitness(t, string(s.PolicyTx), w.vkey, w.url)
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
	if err := traffic(s, 20); err != nil {
		t.Fatal(err)
	}
	cosigned(t, s, three, w)

	without := stopsWithout(t, s, w)
	// It goes on where it was, and so does the log.
	w.start(t)
	if err := s.Await("a checkpoint after the witness came back", 30*time.Second, func() bool {
		size, err := published(s)
		return err == nil && size >= without+10
	}); err != nil {
		t.Fatal(err)
	}
	cosigned(t, s, three, w)
}

// stopsWithout stops the witness: all three must cosign, so nothing new is
// published. It returns the size at which the log stands.
func stopsWithout(t *testing.T, s *stack.Stack, w *foreignWitness) uint64 {
	t.Helper()
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	// What it cosigned last may still be on its way.
	time.Sleep(300 * time.Millisecond)
	before, err := published(s)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := post(s.Proxy + "/echo"); err != nil {
			t.Fatalf("exchange while a witness is down: %v", err)
		}
	}
	time.Sleep(time.Second)
	if after, err := published(s); err != nil || after != before {
		t.Fatalf("published %d after %d without the quorum, %v", after, before, err)
	}
	return before
}

// cosigned checks the published checkpoint with our policy code and torchwood's.
func cosigned(t *testing.T, s *stack.Stack, three string, w *foreignWitness) {
	t.Helper()
	raw, err := s.Get(t.Context(), "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse([]byte(three))
	if err != nil {
		t.Fatal(err)
	}
	cp, err := p.Verify(raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(cp.Cosignatures) != 3 {
		t.Fatalf("%d witnesses cosigned", len(cp.Cosignatures))
	}
	v, err := torchwood.NewCosignatureVerifier(w.vkey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(raw, note.VerifierList(v)); err != nil {
		t.Fatalf("its cosignature is not on the checkpoint: %v", err)
	}
	if _, _, err := torchwood.VerifyCheckpoint(raw, torchPolicy(t, []byte(three))); err != nil {
		t.Fatal(err)
	}
}

// traffic sends exchanges through a proxy, and waits until they are published.
func traffic(s *stack.Stack, n int) error {
	before, err := published(s)
	if err != nil {
		return err
	}
	for range n {
		if err := post(s.Proxy + "/echo"); err != nil {
			return err
		}
	}
	return s.Await("records in the log", 30*time.Second, func() bool {
		size, err := published(s)
		return err == nil && size >= before+2*uint64(n)
	})
}

// addWitness adds a witness to a policy whose quorum is a group of all.
func addWitness(t *testing.T, text, vkey, url string) string {
	t.Helper()
	var out []string
	groups := 0
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 3 && f[0] == "group" {
			out = append(out, "witness foreign "+vkey+" "+url+"\n",
				"group "+f[1]+" all "+strings.Join(f[3:], " ")+" foreign\n")
			groups++
			continue
		}
		out = append(out, line)
	}
	if groups != 1 {
		t.Fatalf("%d groups in the policy:\n%s", groups, text)
	}
	return strings.Join(out, "")
}

// foreignWitness is a running witness of somebody else's.
type foreignWitness struct {
	*stack.Process
	name, bin string
	args      []string
	vkey, url string
}

func startLitewitness(t *testing.T, bin, origin, logKey string) *foreignWitness {
	t.Helper()
	// Not t.TempDir: the path of a unix socket is short.
	dir, err := os.MkdirTemp("", "lw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := torchwood.NewCosignatureSigner("witness.example/lite", key)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(dir, "litewitness.db")
	w := &foreignWitness{name: "litewitness", bin: bin, vkey: c.Verifier().String(), url: "http://" + addr, args: []string{
		"-name", "witness.example/lite", "-db", db, "-ssh-agent", serveAgent(t, dir, key),
		"-listen", addr, "-key", ssh.FingerprintSHA256(signer.PublicKey()),
	}}
	w.start(t)
	if !strings.Contains(w.Output(), w.vkey) {
		t.Fatalf("litewitness does not say that its key is %s: %s", w.vkey, w.Output())
	}
	// litewitness makes its tables by itself and is configured by SQL.
	conn, err := sqlite.OpenConn(db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" // SHA-256 of nothing
	err = errors.Join(
		sqlitex.Execute(conn, "INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)", &sqlitex.ExecOptions{Args: []any{origin, empty}}),
		sqlitex.Execute(conn, "INSERT INTO key (origin, key) VALUES (?, ?)", &sqlitex.ExecOptions{Args: []any{origin, logKey}}))
	if err != nil {
		t.Fatalf("configuring litewitness: %v", err)
	}
	return w
}

// start runs it, and waits until it listens.
func (w *foreignWitness) start(t *testing.T) {
	t.Helper()
	p, err := stack.Start(nil, w.bin, w.args...)
	if err != nil {
		t.Fatal(err)
	}
	w.Process = p
	t.Cleanup(func() { _ = p.Stop() }) // an interrupt is how it is meant to end
	if err := p.Await(w.name, 20*time.Second, func() bool {
		resp, err := http.Get(w.url + "/")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil // whatever it answers, it listens
	}); err != nil {
		t.Fatal(err)
	}
}

// serveAgent runs an ssh-agent with one key, and returns its socket.
func serveAgent(t *testing.T, dir string, key ed25519.PrivateKey) string {
	t.Helper()
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "agent")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = agent.ServeAgent(ring, c) // until the client closes
				c.Close()
			}()
		}
	}()
	return path
}

func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
