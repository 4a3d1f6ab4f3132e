package crash

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
)

// witnessFailpoints are the steps of a witness between a request and its answer.
var witnessFailpoints = []string{
	"head-written",   // in the transaction
	"head-committed", // nothing is signed
	"head-cosigned",  // nobody has seen it
}

// A witness that is killed at any moment, and started again, and offered two ways on
// from wherever it was, never cosigns two roots of one size, nor a head that is
// smaller than one that it has answered before.
func TestWitnessKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a witness some dozen times")
	}
	n := *rounds
	if n == 0 {
		n = 16
	}
	w := newWitnessWorld(t, 4)
	for i := range n {
		spec := ""
		if i%2 == 0 {
			spec = fmt.Sprintf("%s:%d", witnessFailpoints[i/2%len(witnessFailpoints)], 1+rand.IntN(40))
		}
		w.round(spec)
		if t.Failed() {
			t.Fatalf("in round %d (%q)", i, spec)
		}
	}
	sizes := 0
	for _, l := range w.logs {
		sizes += len(l.roots)
	}
	t.Logf("%d rounds: %d answers, %d heads cosigned", n, w.answers, sizes)
	if sizes < n {
		t.Errorf("only %d heads were cosigned", sizes)
	}
}

// witnessWorld is a witness in a process, and logs that are out to have it err.
type witnessWorld struct {
	*testing.T
	conf, url string
	process   *stack.Process
	cosigner  note.Verifier
	logs      []*twoFaced
	http      *http.Client

	mu      sync.Mutex
	answers int
}

// twoFaced is a log with two ways on from what the witness has cosigned.
type twoFaced struct {
	origin string
	signer note.Signer
	signed note.Verifiers // by the log and by the witness
	leaves [2][][]byte
	trees  [2]*testonly.Tree

	mu    sync.Mutex
	roots map[uint64][32]byte // cosigned
	floor uint64              // the largest size that was answered
}

func newWitnessWorld(t *testing.T, logs int) *witnessWorld {
	t.Helper()
	dir := t.TempDir()
	w := &witnessWorld{T: t, conf: filepath.Join(dir, "config.yaml"), http: &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	key, err := keys.Generate("witness.example/killed", keys.Cosignature)
	w.check(err)
	w.check(key.Save(filepath.Join(dir, "w.key")))
	w.cosigner, err = fnote.NewVerifierForCosignatureV1(key.Public.String())
	w.check(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.check(err)
	addr := ln.Addr().String()
	ln.Close()
	w.url = "http://" + addr
	text := fmt.Sprintf("witnesses:\n  - name: w\n    listen: %s\n    database: w.db\n    key: w.key\n    logs:\n", addr)
	for i := range logs {
		k, err := keys.Generate(fmt.Sprint("log.example/", i), keys.Ed25519)
		w.check(err)
		l := &twoFaced{origin: k.Name, roots: make(map[uint64][32]byte)}
		l.signer, err = k.Signer()
		w.check(err)
		v, err := k.Verifier()
		w.check(err)
		l.signed = note.VerifierList(v, w.cosigner)
		w.logs = append(w.logs, l)
		text += fmt.Sprintf("      - %q\n", k.Public)
	}
	w.check(os.WriteFile(w.conf, []byte(text), 0o600))
	return w
}

func (w *witnessWorld) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// start starts the witness, and waits until it serves, or is killed while it recovers.
func (w *witnessWorld) start(spec string) {
	w.Helper()
	var err error
	w.process, err = stack.Start([]string{"SEALTAP_FAILPOINT=" + spec}, bin, "witness", "--config", w.conf)
	w.check(err)
	w.Cleanup(w.process.Kill)
	err = w.process.Await("the witness", patience, func() bool { return strings.Contains(w.process.Output(), "listens on") })
	if spec == "" || running(w.process) {
		w.check(err)
	}
}

// round kills the witness under load, and looks at what it says afterwards.
func (w *witnessWorld) round(spec string) {
	w.Helper()
	w.start("")
	for _, l := range w.logs {
		size, root := w.latest(l)
		if size == 0 && l.floor > 0 {
			w.Fatalf("%s: the witness shows nothing, and has answered %d", l.origin, l.floor)
		}
		l.fork(w.T, size, root)
	}
	w.process.Kill()
	w.start(spec)
	ctx, stop := context.WithCancel(w.Context())
	var wg sync.WaitGroup
	for _, l := range w.logs {
		for face := range 2 {
			for range 2 {
				wg.Go(func() { w.offer(ctx, l, face) })
			}
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				w.latest(l)
			}
		})
	}
	limit := time.Duration(20+rand.IntN(150)) * time.Millisecond
	if spec != "" {
		limit = patience
	}
	select {
	case <-w.process.Done():
	case <-time.After(limit):
		if spec != "" {
			w.Errorf("the witness has not come to %s", spec)
		}
	}
	w.process.Kill()
	stop()
	wg.Wait()
	w.http.CloseIdleConnections()
}

// fork gives the log two ways on from a head that was cosigned, the larger of which
// no proof leads to from the other.
func (l *twoFaced) fork(t *testing.T, size uint64, root [32]byte) {
	t.Helper()
	var common [][]byte
	for face := range 2 {
		if size > 0 && [32]byte(l.trees[face].HashAt(size)) == root {
			common = l.leaves[face][:size:size]
		}
	}
	if uint64(len(common)) != size {
		t.Fatalf("%s: the latest head, of size %d, is of no history", l.origin, size)
	}
	for face := range 2 {
		l.leaves[face] = common
		for i := range 60 {
			l.leaves[face] = append(l.leaves[face], fmt.Appendf(nil, "%d of face %d", size+uint64(i), face))
		}
		l.trees[face] = testonly.New(rfc6962.DefaultHasher)
		l.trees[face].AppendData(l.leaves[face]...)
	}
}

// offer has a face of the log grow at the witness until the witness is gone.
func (w *witnessWorld) offer(ctx context.Context, l *twoFaced, face int) {
	l.mu.Lock()
	old := l.floor
	l.mu.Unlock()
	tree := l.trees[face]
	for size := old; ctx.Err() == nil; {
		if size = max(size, old); size < tree.Size() {
			size += rand.Uint64N(3)
			size = min(size, tree.Size())
		}
		l.mu.Lock()
		floor := l.floor
		l.mu.Unlock()
		status, answer, err := w.add(l, face, old, size)
		if err != nil {
			return // it was killed
		}
		switch status {
		case http.StatusOK:
			l.cosigned(w.T, answer, floor)
			old = size
		case http.StatusConflict:
			n, err := strconv.ParseUint(strings.TrimSuffix(string(answer), "\n"), 10, 64)
			if err != nil || n < floor {
				w.Errorf("%s: it says that it is at %q, and has answered %d", l.origin, answer, floor)
			}
			if old = n; old > tree.Size() {
				return
			}
		case http.StatusUnprocessableEntity: // the other face was first
			old = max(old, floor)
			time.Sleep(time.Millisecond)
		case http.StatusTooManyRequests:
			time.Sleep(20 * time.Millisecond)
		default:
			w.Errorf("%s: status %d: %s", l.origin, status, answer)
			return
		}
		w.mu.Lock()
		w.answers++
		w.mu.Unlock()
	}
}

// add makes one add-checkpoint. With status 200 the answer is the cosigned checkpoint.
func (w *witnessWorld) add(l *twoFaced, face int, old, size uint64) (status int, answer []byte, err error) {
	tree := l.trees[face]
	body := checkpoint.Body{Origin: l.origin, Size: size, Root: [32]byte(tree.HashAt(size))}
	signed, err := note.Sign(&note.Note{Text: string(body.Marshal())}, l.signer)
	w.fault(err)
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", old)
	if old > 0 && old < size {
		proof, err := tree.ConsistencyProof(old, size)
		w.fault(err)
		for _, h := range proof {
			b.WriteString(base64.StdEncoding.EncodeToString(h) + "\n")
		}
	}
	b.WriteString("\n")
	b.Write(signed)
	resp, err := w.http.Post(w.url+"/add-checkpoint", "text/plain", &b)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode == http.StatusOK {
		answer = append(signed, answer...)
	}
	return resp.StatusCode, answer, err
}

// fault is check for goroutines that are not the test's.
func (w *witnessWorld) fault(err error) {
	if err != nil {
		w.Error(err)
	}
}

// latest asks for the head that monitors see, and takes note of it.
func (w *witnessWorld) latest(l *twoFaced) (uint64, [32]byte) {
	l.mu.Lock()
	floor := l.floor
	l.mu.Unlock()
	resp, err := w.http.Get(w.url + "/" + witness.OriginHash(l.origin) + "/checkpoint")
	if err != nil {
		return 0, [32]byte{} // it was killed
	}
	defer resp.Body.Close()
	signed, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, [32]byte{}
	}
	if resp.StatusCode == http.StatusNotFound && floor == 0 {
		return 0, [32]byte{}
	}
	return l.cosigned(w.T, signed, floor)
}

// cosigned takes a cosigned checkpoint, which was asked for when the witness had
// answered floor already.
func (l *twoFaced) cosigned(t *testing.T, signed []byte, floor uint64) (uint64, [32]byte) {
	n, err := note.Open(signed, l.signed)
	if err != nil || len(n.Sigs) != 2 {
		t.Errorf("%s: %v: not signed by both: %s", l.origin, err, signed)
		return 0, [32]byte{}
	}
	body, _, err := checkpoint.Parse([]byte(n.Text))
	if err != nil {
		t.Error(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if body.Size < floor {
		t.Errorf("%s: size %d is cosigned after %d", l.origin, body.Size, floor)
	}
	if root, ok := l.roots[body.Size]; ok && root != body.Root {
		t.Errorf("%s: two roots of size %d are cosigned", l.origin, body.Size)
	}
	l.roots[body.Size] = body.Root
	l.floor = max(l.floor, body.Size)
	return body.Size, body.Root
}
