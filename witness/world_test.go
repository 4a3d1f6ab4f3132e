package witness_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/witness"
)

// testLog is a log whose tree is computed by code that is not ours.
type testLog struct {
	origin string
	key    *keys.Private
	signer note.Signer
	mu     sync.Mutex
	tree   *testonly.Tree
}

// newLog makes a log with leaves that begin with tag, so that two logs of one
// key and different tags are a fork.
func newLog(t testing.TB, key *keys.Private, tag string, size int) *testLog {
	t.Helper()
	signer, err := key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	l := &testLog{origin: key.Name, key: key, signer: signer, tree: testonly.New(rfc6962.DefaultHasher)}
	for i := range size {
		l.tree.AppendData(fmt.Appendf(nil, "%s %d", tag, i))
	}
	return l
}

func newKey(t testing.TB, name string, typ keys.Type) *keys.Private {
	t.Helper()
	k, err := keys.Generate(name, typ)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (l *testLog) body(size uint64) checkpoint.Body {
	l.mu.Lock()
	defer l.mu.Unlock()
	return checkpoint.Body{Origin: l.origin, Size: size, Root: [32]byte(l.tree.HashAt(size))}
}

// checkpoint returns a signed checkpoint.
func (l *testLog) checkpoint(t testing.TB, size uint64) []byte {
	t.Helper()
	return l.sign(t, string(l.body(size).Marshal()))
}

func (l *testLog) sign(t testing.TB, text string, more ...note.Signer) []byte {
	t.Helper()
	signed, err := note.Sign(&note.Note{Text: text}, append([]note.Signer{l.signer}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// consistency returns a proof to the size, as a client wants it.
func (l *testLog) consistency(to uint64) witness.Consistency {
	return func(_ context.Context, from uint64) ([][32]byte, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		p, err := l.tree.ConsistencyProof(from, to)
		var hashes [][32]byte
		for _, h := range p {
			hashes = append(hashes, [32]byte(h))
		}
		return hashes, err
	}
}

// request returns the body of an add-checkpoint.
func (l *testLog) request(t testing.TB, from, to uint64) string {
	t.Helper()
	var lines []string
	if from > 0 && from < to {
		hashes, err := l.consistency(to)(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range hashes {
			lines = append(lines, base64.StdEncoding.EncodeToString(h[:]))
		}
	}
	return body(fmt.Sprint(from), lines, l.checkpoint(t, to))
}

// body puts the body of an add-checkpoint together.
func body(old string, proof []string, signed []byte) string {
	return strings.Join(append([]string{"old " + old}, proof...), "\n") + "\n\n" + string(signed)
}

// server is a witness on loopback.
type server struct {
	*witness.Server
	key   *keys.Private
	store witness.Store
	http  *httptest.Server
}

// newServer starts a witness with a database of its own that knows the logs.
func newServer(t testing.TB, logs ...*testLog) *server {
	t.Helper()
	return startServer(t, newKey(t, "witness.example/w", keys.Cosignature), openStore(t, filepath.Join(t.TempDir(), "w.db")), logs...)
}

func openStore(t testing.TB, path string) *sqlite.Witness {
	t.Helper()
	store, err := sqlite.OpenWitness(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func startServer(t testing.TB, key *keys.Private, store witness.Store, logs ...*testLog) *server {
	t.Helper()
	known := make(map[string][]keys.Public)
	for _, l := range logs {
		known[l.origin] = append(known[l.origin], l.key.Public)
	}
	s, err := witness.New(t.Context(), witness.Config{Key: key, Logs: known, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return serveWitness(t, s, key, store)
}

func serveWitness(t testing.TB, s *witness.Server, key *keys.Private, store witness.Store) *server {
	t.Helper()
	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	return &server{Server: s, key: key, store: store, http: h}
}

// answer is what a server answered.
type answer struct {
	status      int
	contentType string
	body        string
}

// client keeps enough connections for all the goroutines of a test.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

func do(t testing.TB, method, url, body string) answer {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header.Get("Content-Type"), string(b)}
}

// add posts an add-checkpoint.
func (s *server) add(t testing.TB, body string) answer {
	t.Helper()
	return do(t, "POST", s.http.URL+"/add-checkpoint", body)
}

// latest gets the checkpoint that monitors see.
func (s *server) latest(t testing.TB, origin string) answer {
	t.Helper()
	return do(t, "GET", s.http.URL+"/"+witness.OriginHash(origin)+"/checkpoint", "")
}

// errStore is what a faulty store fails with.
var errStore = errors.New("disk on fire")

// faultyStore is a working store whose Advance fails on demand.
type faultyStore struct {
	witness.Store
	mu       sync.Mutex
	fail     bool // does not persist
	failKept bool // persists, and then fails
}

func (f *faultyStore) set(fail, failKept bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.failKept = fail, failKept
}

func (f *faultyStore) Advance(ctx context.Context, from *witness.Head, next witness.Head) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail {
		return errStore
	}
	err := f.Store.Advance(ctx, from, next)
	if err == nil && f.failKept {
		return errStore
	}
	return err
}

// damage changes the last signature of a note.
func damage(signed []byte) []byte {
	signed = bytes.Clone(signed)
	i := len(signed) - 20
	if signed[i] == 'A' {
		signed[i] = 'B'
	} else {
		signed[i] = 'A'
	}
	return signed
}
