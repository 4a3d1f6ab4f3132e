package crash

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
)

// A monitor that is killed at any moment, while its webhook is away, loses no alert:
// what it has printed the webhook gets in a later life, though the log shows nothing
// wrong any more by then. Nothing comes for ever.
func TestMonitorKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a monitor some dozen times")
	}
	n := *rounds
	if n == 0 {
		n = 20
	}
	w := newMonitorWorld(t)
	printed := 0
	for i := range n {
		w.round(i, &printed)
		if t.Failed() {
			t.Fatalf("in round %d", i)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, times := range w.got {
		if times > 3 { // a kill between the delivery and its note may come twice
			t.Errorf("%s came %d times", id, times)
		}
	}
	t.Logf("%d rounds: %d alerts were printed before the end, the webhook got %d", n, printed, len(w.got))
	if printed < n/4 {
		t.Errorf("only %d alerts were printed before the end: the rounds are too short to prove anything", printed)
	}
}

// monitorWorld is a log whose files the test changes, and a webhook.
type monitorWorld struct {
	*testing.T
	dir, log, hook string
	policy, secret string // files
	key, operator  *keys.Private
	entries        [][]byte

	mu    sync.Mutex
	files clienttest.Files
	away  bool
	got   map[string]int // by the time and the detail of the alert
}

func newMonitorWorld(t *testing.T) *monitorWorld {
	t.Helper()
	w := &monitorWorld{T: t, dir: t.TempDir(), got: make(map[string]int)}
	w.policy, w.secret = filepath.Join(w.dir, "policy.txt"), filepath.Join(w.dir, "secret.txt")
	var err error
	w.key, err = keys.Generate("log.example/monitored", keys.Ed25519)
	w.check(err)
	w.operator, err = keys.Generate("operator.example", keys.Ed25519)
	w.check(err)
	w.check(os.WriteFile(w.policy, fmt.Appendf(nil, "# sealtap-operator %s\nlog %s\nquorum none\n", w.operator.Public, w.key.Public), 0o600))
	w.check(os.WriteFile(w.secret, []byte("0123456789abcdef\n"), 0o600))
	genesis, err := record.NewGenesis(w.key.Public, w.operator, time.Unix(1_800_000_000, 0))
	w.check(err)
	w.entries = [][]byte{genesis}
	w.enrol()
	w.show(w.entries)
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		files := w.files
		w.mu.Unlock()
		files.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	hook := httptest.NewServer(http.HandlerFunc(w.receive))
	t.Cleanup(hook.Close)
	w.log, w.hook = srv.URL, hook.URL
	return w
}

func (w *monitorWorld) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// receive is the webhook.
func (w *monitorWorld) receive(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the monitor was killed
	}
	signature := r.Header.Get("Sealtap-Signature")
	at, _, _ := strings.Cut(strings.TrimPrefix(signature, "t="), ",")
	h := hmac.New(sha256.New, []byte("0123456789abcdef"))
	h.Write([]byte(at + "."))
	h.Write(body)
	if want := fmt.Sprintf("t=%s,v1=%x", at, h.Sum(nil)); signature != want {
		w.Errorf("signature %q, want %q of %s", signature, want, body)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.got[identity(w.T, body)]++
}

// identity tells alerts apart.
func identity(t *testing.T, line []byte) string {
	var a struct{ Time, Code, Detail string }
	if err := json.Unmarshal(line, &a); err != nil {
		t.Errorf("%v: %q", err, line)
	}
	return a.Time + " " + a.Code + " " + a.Detail
}

// enrol makes the honest log grow.
func (w *monitorWorld) enrol() {
	w.Helper()
	k, err := keys.Generate(fmt.Sprint("p", len(w.entries)), keys.Ed25519)
	w.check(err)
	e, err := record.NewKeyChange(record.KeyChange{Origin: w.key.Name, Number: uint64(len(w.entries)), Enrol: []keys.Public{k.Public}}, w.operator)
	w.check(err)
	w.entries = append(w.entries, e)
}

// show has the log show these entries.
func (w *monitorWorld) show(entries [][]byte) {
	w.Helper()
	files, root := clienttest.Tiles(entries)
	signer, err := w.key.Signer()
	w.check(err)
	body := checkpoint.Body{Origin: w.key.Name, Size: uint64(len(entries)), Root: root}
	files["checkpoint"], err = note.Sign(&note.Note{Text: string(body.Marshal())}, signer)
	w.check(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files = files
}

func (w *monitorWorld) start() *stack.Process {
	w.Helper()
	p, err := stack.Start(nil, bin, "monitor", w.log, "--policy", w.policy, "--state", filepath.Join(w.dir, "state"), "--interval", "100ms", "--patience", "10ms",
		"--webhook", w.hook, "--webhook-secret", w.secret)
	w.check(err)
	w.Cleanup(p.Kill)
	return p
}

func (w *monitorWorld) setAway(away bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away = away
}

// alerts are those that a monitor has printed.
func alerts(t *testing.T, output string) []string {
	var list []string
	for line := range strings.Lines(output) {
		if strings.Contains(line, `"code":"fork"`) && strings.Contains(line, `"origin"`) && strings.HasSuffix(line, "\n") {
			list = append(list, identity(t, bytes.TrimSpace([]byte(line))))
		}
	}
	return list
}

// round has the log fork while the webhook is away, kills the monitor about when it
// sees that, and has another life deliver what it said.
func (w *monitorWorld) round(i int, printed *int) {
	w.Helper()
	w.setAway(true)
	p := w.start()
	state := filepath.Join(w.dir, "state")
	before, _ := os.ReadFile(state)
	w.enrol()
	w.show(w.entries)
	w.check(p.Await("an audit that passes", patience, func() bool {
		now, err := os.ReadFile(state)
		return err == nil && len(now) > 0 && !bytes.Equal(now, before)
	}))
	time.Sleep(300 * time.Millisecond) // patience: the fork before is over
	forged := append(w.entries[:len(w.entries)-1:len(w.entries)-1], fmt.Appendf(nil, "\x01\x09forged %d", i))
	w.show(forged)
	time.Sleep(time.Duration(rand.IntN(250)) * time.Millisecond)
	p.Kill()
	if !p.Killed() {
		w.Fatalf("the monitor has ended by itself: %s", p.Output())
	}
	told := alerts(w.T, p.Output())
	*printed += len(told)
	if len(told) > 1 {
		w.Errorf("told %d times of one fork: %q", len(told), told)
	}
	w.show(w.entries)
	w.setAway(false)
	p = w.start()
	defer p.Kill()
	w.check(p.Await("the webhook to be told", patience, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, id := range told {
			if w.got[id] == 0 {
				return false
			}
		}
		return true
	}))
	// A fork that only the state file knows of comes too, and what has come does not again.
	time.Sleep(150 * time.Millisecond)
}
