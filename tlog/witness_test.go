package tlog_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/storage/storagetest"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/witness"
)

// witnessServer is a witness that can be taken down.
type witnessServer struct {
	key    *keys.Private
	server *httptest.Server
	down   atomic.Bool
	asked  chan string // the requests, as far as there is room
}

func startWitness(t testing.TB, name string, log keys.Public) *witnessServer {
	t.Helper()
	w := &witnessServer{key: newKey(t, name, keys.Cosignature), asked: make(chan string, 1000)}
	store, err := sqlite.OpenWitness(context.Background(), filepath.Join(t.TempDir(), "witness.db"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := witness.New(context.Background(), witness.Config{Key: w.key, Logs: map[string][]keys.Public{log.Name: {log}}, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	handler := s.Handler()
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if w.down.Load() {
			http.Error(rw, "down", http.StatusBadGateway)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		select {
		case w.asked <- string(body):
		default:
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		handler.ServeHTTP(rw, r)
	}))
	t.Cleanup(func() {
		w.server.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func TestQuorum(t *testing.T) {
	f := newFixture(t)
	ws := f.witnesses(2)
	f.start()
	f.published(1)
	signed, _, _ := f.log.Checkpoint()
	cp, err := f.policy.Verify(signed)
	if err != nil || len(cp.Cosignatures) != 2 {
		t.Fatalf("published %+v, %v", cp, err)
	}

	ws[1].down.Store(true)
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(3)...) // taken all the same
	eventually(t, "not ready", func() bool { return f.log.Ready() != nil })
	if f.log.Published() != 1 || f.log.Size() != 6 {
		t.Errorf("published %d of %d below quorum", f.log.Published(), f.log.Size())
	}
	if _, err := f.log.InclusionProof(context.Background(), 0, 6); err == nil {
		t.Error("a proof for a size that is not published")
	}
	ws[1].down.Store(false)
	f.published(6)
	eventually(t, "ready again", func() bool { return f.log.Ready() == nil })
	f.checkTree()
}

// TestResume stops the log between signing and publishing.
func TestResume(t *testing.T) {
	f := newFixture(t)
	ws := f.witnesses(2)
	f.start()
	p := f.producer("proxy-1")
	f.published(2)
	ws[0].down.Store(true)
	f.mustSubmit(p.batch(2)...)
	eventually(t, "not ready", func() bool { return f.log.Ready() != nil })
	f.stop()
	unpublished, err := os.ReadFile(filepath.Join(f.dir, "log.db.signed"))
	if err != nil || !strings.Contains(string(unpublished), "\n5\n") {
		t.Fatalf("signed is\n%s%v", unpublished, err)
	}
	for len(ws[1].asked) > 0 {
		<-ws[1].asked
	}
	ws[0].down.Store(false)
	// It goes out first, as it is, though there is more by then.
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go f.log.Run(ctx)
	f.mustSubmit(p.batch(2)...)
	f.published(8)
	if first := <-ws[1].asked; !strings.HasSuffix(first, "\n\n"+string(unpublished)) {
		t.Errorf("the witness was first asked for\n%s\nwant\n%s", first, unpublished)
	}
	f.checkTree()
	cancel()
	f.stop()
}

// TestWitnessAhead starts a log whose database, with everything beside it, was
// put back from an older copy.
func TestWitnessAhead(t *testing.T) {
	f := newFixture(t)
	f.witnesses(2)
	f.start()
	p := f.producer("proxy-1")
	f.published(2)
	f.stop()
	db, signed := copyFile(t, filepath.Join(f.dir, "log.db")), copyFile(t, filepath.Join(f.dir, "log.db.signed"))
	fork := p.clone()
	f.start()
	f.mustSubmit(p.batch(5)...)
	f.published(8)
	f.stop()
	db.restore()
	signed.restore()
	f.start()
	// It is noticed before there is anything new to publish.
	eventually(t, "not ready", func() bool { return errors.Is(f.log.Ready(), witness.ErrWitnessAhead) })
	// A second history must not outgrow what the witnesses have seen: nothing is
	// taken, and nothing new is signed or shown.
	for range 3 {
		if _, err := f.submit(fork.clone().batch(20)...); !errors.Is(err, tlog.ErrUnavailable) {
			t.Errorf("submitting to an older copy: %v", err)
		}
	}
	if _, body, ok := f.log.Checkpoint(); ok && body.Size > 2 {
		t.Errorf("a checkpoint of size %d is shown", body.Size)
	}
	if now := copyFile(t, signed.path); string(now.data) != string(signed.data) {
		t.Errorf("another head was signed:\n%s", now.data)
	}
}

func TestCrashBetweenCommitAndCheckpoint(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	f.published(2)
	for _, fault := range []storagetest.Fault{storagetest.Failed, storagetest.Persisted, storagetest.Cancelled} {
		for _, method := range []string{"SetSigned", "SetPublished"} {
			f.storage.Fail(method, fault)
			f.mustSubmit(p.batch(3)...)
			size := f.log.Size()
			time.Sleep(5 * time.Millisecond) // into the failure, or not
			f.restart()
			if f.log.Size() != size {
				t.Fatalf("%s, fault %d: size %d after the restart, want %d", method, fault, f.log.Size(), size)
			}
			f.checkTree()
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// savedFile is a copy of a file.
type savedFile struct {
	t    *testing.T
	path string
	data []byte
}

func copyFile(t *testing.T, path string) savedFile {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return savedFile{t, path, data}
}

func (s savedFile) restore() {
	s.t.Helper()
	for _, behind := range []string{"-wal", "-shm"} {
		if err := os.Remove(s.path + behind); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.path, s.data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// TestLostSignedFile follows the advice that the error gives.
func TestLostSignedFile(t *testing.T) {
	f := newFixture(t)
	ws := f.witnesses(1)
	f.start()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(3)...)
	f.published(6)
	f.stop()
	path := filepath.Join(f.dir, "log.db.signed")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := f.open(); !errors.Is(err, sqlite.ErrNoSigned) {
		t.Fatalf("without the last signed checkpoint: %v", err)
	}
	resp, cosigned := call(t, "GET", ws[0].server.URL+"/"+witness.OriginHash(f.key.Name)+"/checkpoint", nil)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the witness answered %s", resp.Status)
	}
	if err := os.WriteFile(path, cosigned, 0o600); err != nil {
		t.Fatal(err)
	}
	f.start()
	f.mustSubmit(p.batch(3)...)
	f.published(10)
	f.checkTree()
}

// TestStricterPolicy restarts a log with witnesses that it did not have.
func TestStricterPolicy(t *testing.T) {
	f := newFixture(t).start()
	f.producer("proxy-1")
	f.published(2)
	f.stop()
	f.witnesses(2)
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	if _, body, ok := f.log.Checkpoint(); ok {
		t.Errorf("a checkpoint without a quorum is shown: %+v", body)
	}
	f.stop()
	f.start()
	f.published(2)
	f.checkTree()
}

// A witness that knows another history says so in words that an operator can read
// where readiness repeats them.
func TestReadyIsReadable(t *testing.T) {
	f := newFixture(t)
	w := f.witnesses(1)[0]
	signer, err := f.key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	other, err := note.Sign(&note.Note{Text: string(checkpoint.Body{Origin: f.key.Name, Size: 1, Root: record.Hash{7}}.Marshal())}, signer)
	if err != nil {
		t.Fatal(err)
	}
	resp, body := call(t, "POST", w.server.URL+"/add-checkpoint", append([]byte("old 0\n\n"), other...))
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", resp.Status, body)
	}
	w.down.Store(true)
	f.start()
	f.mustSubmit(f.producer("proxy-1").batch(3)...)
	w.down.Store(false)
	eventually(t, "the witness's word", func() bool {
		err := f.log.Ready()
		return err != nil && strings.Contains(err.Error(), "proof from size 1 to 6")
	})
	resp, body = call(t, "GET", f.serve().URL+"/readyz", nil)
	detail, _ := checkProblem(t, resp, body, http.StatusServiceUnavailable)["detail"].(string)
	if !strings.Contains(detail, "proof from size 1 to 6: it gives the root ") || strings.ContainsAny(detail, "[]") {
		t.Errorf("readiness says %q", detail)
	}
}

// While witnesses are asked about a larger tree, the proofs of the published one go
// on sharing what they have hashed.
func TestWitnessesLeaveTheEdge(t *testing.T) {
	f := newFixture(t)
	w := f.witnesses(2)[1]
	f.start()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(4)...)
	f.published(7)
	if _, err := f.log.InclusionProof(t.Context(), 0, 7); err != nil || f.log.EdgeSize() != 7 {
		t.Fatalf("a proof in 7 entries leaves the edge of %d: %v", f.log.EdgeSize(), err)
	}
	w.down.Store(true)
	f.mustSubmit(p.batch(3)...)
	// The other one has verified a proof to the size that is not published.
	eventually(t, "the quorum to be missed", func() bool {
		err := f.log.Ready()
		return err != nil && strings.Contains(err.Error(), "1 of 2 witnesses cosigned size 11")
	})
	if size := f.log.EdgeSize(); size != 7 {
		t.Errorf("proofs share the edge of %d entries, published are 7", size)
	}
}
