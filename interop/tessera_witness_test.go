package interop

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness/policy"
)

const tesseraOrigin = "tessera.example/witnessed"

// Our witnesses driven by Tessera's own witness client: a log of Tessera's with
// two of them as its policy publishes, stands still while one is away, and tells
// by the answers how far they are. A second history under the same key it never
// publishes.
func TestTesseraPublishesWithOurWitnesses(t *testing.T) {
	skey, vkey, err := note.GenerateKey(rand.Reader, tesseraOrigin)
	if err != nil {
		t.Fatal(err)
	}
	one, two := startWitness(t, "w1", vkey), startWitness(t, "w2", vkey)
	l := &tesseraLog{dir: t.TempDir(), skey: skey, policy: fmt.Appendf(nil, "log %s\nwitness w1 %s %s\nwitness w2 %s %s\ngroup both all w1 w2\nquorum both\n",
		vkey, one.vkey, one.url, two.vkey, two.url)}
	l.start(t)
	l.add(t, 300)
	l.await(t, 300)

	if err := two.Stop(); err != nil {
		t.Fatal(err)
	}
	pending := l.queue(t, 10)
	time.Sleep(time.Second) // several of its checkpoint intervals
	if size := l.published(t); size != 300 {
		t.Fatalf("published size %d with one of two witnesses", size)
	}
	two.start(t)
	l.awaitAll(t, pending)
	l.await(t, 310)
	l.stop(t)

	// A log that has lost its checkpoint begins with old size 0, and goes on from
	// the size that stands in the 409.
	if err := os.Remove(filepath.Join(l.dir, "checkpoint")); err != nil {
		t.Fatal(err)
	}
	conflicts := one.metric(t, `sealtap_witness_requests_total{result="conflict"}`)
	l.start(t)
	l.add(t, 5)
	l.await(t, 315)
	l.stop(t)
	if one.metric(t, `sealtap_witness_requests_total{result="conflict"}`) == conflicts {
		t.Error("the log that had lost its checkpoint was told no size")
	}

	// Another history under the same key, longer than the first.
	fork := &tesseraLog{dir: t.TempDir(), skey: skey, policy: []byte("quorum none\n"), tag: "forged "}
	fork.start(t)
	fork.add(t, 700)
	fork.stop(t)
	forged := fork.checkpoint(t)
	fork.policy = l.policy
	fork.start(t)
	fork.queue(t, 5)
	deadline := time.Now().Add(30 * time.Second)
	for one.metric(t, "sealtap_witness_forks_total") == 0 || two.metric(t, "sealtap_witness_forks_total") == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("no fork was kept: %s", one.Output())
		}
		time.Sleep(50 * time.Millisecond)
	}
	if now := fork.checkpoint(t); !bytes.Equal(now, forged) {
		t.Errorf("the second history is published:\n%s", now)
	}
	fork.end()
	// The first goes on as if nothing had been.
	l.start(t)
	l.add(t, 5)
	l.await(t, 320)
}

// ownWitness is a sealtap witness in a process of its own.
type ownWitness struct {
	*stack.Process
	conf, url, vkey string
}

func startWitness(t *testing.T, name, logKey string) *ownWitness {
	t.Helper()
	dir := t.TempDir()
	k, err := keys.Generate("witness.example/"+name, keys.Cosignature)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Save(filepath.Join(dir, "w.key")); err != nil {
		t.Fatal(err)
	}
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	w := &ownWitness{conf: filepath.Join(dir, "config.yaml"), url: "http://" + addr, vkey: k.Public.String()}
	text := fmt.Sprintf("witnesses:\n  - name: %s\n    listen: %s\n    database: w.db\n    key: w.key\n    logs: [%q]\n", name, addr, logKey)
	if err := os.WriteFile(w.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start(t)
	return w
}

func (w *ownWitness) start(t *testing.T) {
	t.Helper()
	var err error
	if w.Process, err = stack.Start(nil, world.bin, "witness", "--config", w.conf); err != nil {
		t.Fatal(err)
	}
	p := w.Process
	t.Cleanup(func() { _ = p.Stop() }) // the connections of Tessera's client may be open for long
	if err := p.Await("witness", 20*time.Second, func() bool { return strings.Contains(p.Output(), "listens on") }); err != nil {
		t.Fatal(err)
	}
}

// metric returns a counter that the witness shows.
func (w *ownWitness) metric(t *testing.T, name string) uint64 {
	t.Helper()
	b, err := stack.Fetch(t.Context(), w.url+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var n uint64
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(value, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("the witness has no %s", name)
	return 0
}

// tesseraLog is a log of Tessera's in a directory.
type tesseraLog struct {
	dir, skey string
	policy    []byte
	tag       string
	n         int

	appender *tessera.Appender
	group    tessera.WitnessGroup
	shutdown func(context.Context) error
	end      context.CancelFunc
}

func (l *tesseraLog) start(t *testing.T) {
	t.Helper()
	signer, err := note.NewSigner(l.skey)
	if err != nil {
		t.Fatal(err)
	}
	if l.group, err = tessera.NewWitnessGroupFromPolicy(l.policy); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	driver, err := posix.New(ctx, posix.Config{Path: l.dir})
	if err != nil {
		t.Fatal(err)
	}
	o := tessera.NewAppendOptions().WithCheckpointSigner(signer).WithBatching(64, 50*time.Millisecond).WithCheckpointInterval(100*time.Millisecond).
		WithWitnesses(l.group, nil)
	if l.appender, l.shutdown, _, err = tessera.NewAppender(ctx, driver, o); err != nil {
		t.Fatal(err)
	}
	l.end = end
}

// stop stops the log once all that it took is published.
func (l *tesseraLog) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := l.shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	l.end()
}

func (l *tesseraLog) queue(t *testing.T, n int) []tessera.IndexFuture {
	t.Helper()
	var futures []tessera.IndexFuture
	for range n {
		futures = append(futures, l.appender.Add(t.Context(), tessera.NewEntry(fmt.Appendf(nil, "%sentry %d", l.tag, l.n))))
		l.n++
	}
	return futures
}

func (l *tesseraLog) awaitAll(t *testing.T, futures []tessera.IndexFuture) {
	t.Helper()
	for _, f := range futures {
		if _, err := f(); err != nil {
			t.Fatal(err)
		}
	}
}

func (l *tesseraLog) add(t *testing.T, n int) {
	t.Helper()
	l.awaitAll(t, l.queue(t, n))
}

// checkpoint is what is published, nil for nothing.
func (l *tesseraLog) checkpoint(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(l.dir, "checkpoint"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return b
}

func (l *tesseraLog) published(t *testing.T) uint64 {
	t.Helper()
	raw := l.checkpoint(t)
	if raw == nil {
		return 0
	}
	p, err := policy.Parse(l.policy)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := p.Verify(raw)
	if err != nil {
		t.Fatalf("published checkpoint: %v\n%s", err, raw)
	}
	if len(cp.Cosignatures) != 2 || !l.group.Satisfied(raw) {
		t.Fatalf("%d witnesses cosigned:\n%s", len(cp.Cosignatures), raw)
	}
	return cp.Size
}

// await waits until a size is published with both cosignatures.
func (l *tesseraLog) await(t *testing.T, size uint64) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for l.published(t) != size {
		if time.Now().After(deadline) {
			t.Fatalf("size %d is not published, but %s", size, bytes.TrimSpace(l.checkpoint(t)))
		}
		time.Sleep(20 * time.Millisecond)
	}
}
