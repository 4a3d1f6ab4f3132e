package monitor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/monitor"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

const origin = "log.example/m"

// world is a log, and a witness that shows what a test says.
type world struct {
	t        *testing.T
	log      *keys.Private
	operator *keys.Private
	policy   *policy.Policy
	entries  [][]byte
	changes  uint64
	state    string

	mu    sync.Mutex
	files clienttest.Files
	seen  []byte // by the witness
	down  bool
}

func newKey(t *testing.T, name string, typ keys.Type) *keys.Private {
	t.Helper()
	k, err := keys.Generate(name, typ)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, log: newKey(t, origin, keys.Ed25519), operator: newKey(t, "operator.example", keys.Ed25519), state: filepath.Join(t.TempDir(), "state")}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !strings.HasSuffix(r.URL.Path, witness.OriginHash(origin)+"/checkpoint") || w.seen == nil {
			http.NotFound(rw, r)
			return
		}
		_, _ = rw.Write(w.seen)
	}))
	t.Cleanup(srv.Close)
	var err error
	w.policy, err = policy.Parse(fmt.Appendf(nil, "# sealtap-operator %s\nlog %s\nwitness w1 %s %s\nquorum none\n", w.operator.Public, w.log.Public, newKey(t, "w1.example", keys.Cosignature).Public, srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	genesis, err := record.NewGenesis(w.log.Public, w.operator, time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	w.entries = append(w.entries, genesis)
	w.publish()
	return w
}

// enrol makes the log grow by a statement.
func (w *world) enrol(name string) {
	w.t.Helper()
	w.changes++
	e, err := record.NewKeyChange(record.KeyChange{Origin: origin, Number: w.changes, Enrol: []keys.Public{newKey(w.t, name, keys.Ed25519).Public}}, w.operator)
	if err != nil {
		w.t.Fatal(err)
	}
	w.entries = append(w.entries, e)
	w.publish()
}

func (w *world) publish() {
	files, _ := clienttest.Tiles(w.entries)
	files["checkpoint"] = w.head(w.entries)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files = files
}

func (w *world) head(entries [][]byte) []byte {
	w.t.Helper()
	_, root := clienttest.Tiles(entries)
	signer, err := w.log.Signer()
	if err != nil {
		w.t.Fatal(err)
	}
	body := checkpoint.Body{Origin: origin, Size: uint64(len(entries)), Root: root}
	signed, err := note.Sign(&note.Note{Text: string(body.Marshal())}, signer)
	if err != nil {
		w.t.Fatal(err)
	}
	return signed
}

func (w *world) String() string { return "world" }

func (w *world) Checkpoint(ctx context.Context) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, fmt.Errorf("%w: away", client.ErrUnavailable)
	}
	return w.files.Source().Checkpoint(ctx)
}

func (w *world) Tile(ctx context.Context, level uint, n uint64, width int) ([]byte, error) {
	return w.files.Source().Tile(ctx, level, n, width)
}

func (w *world) Bundle(ctx context.Context, n uint64, width int) ([]byte, error) {
	return w.files.Source().Bundle(ctx, n, width)
}

// kept is a sink in memory.
type kept struct{ list []monitor.Alert }

func (k *kept) Tell(_ context.Context, a monitor.Alert) error {
	k.list = append(k.list, a)
	return nil
}

// take returns the codes of what was told since, in order.
func (k *kept) take() string {
	var codes []string
	for _, a := range k.list {
		codes = append(codes, a.Code)
	}
	k.list = nil
	return strings.Join(codes, " ")
}

func (w *world) monitor(change ...func(*monitor.Config)) (*monitor.Monitor, *kept) {
	w.t.Helper()
	k := new(kept)
	c := monitor.Config{Source: w, Policy: w.policy, State: w.state, Patience: time.Hour, Sinks: []monitor.Sink{k}}
	for _, f := range change {
		f(&c)
	}
	m, err := monitor.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return m, k
}

// looks looks once and says what was told.
func looks(t *testing.T, m *monitor.Monitor, k *kept, want string) {
	t.Helper()
	if _, err := m.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := k.take(); got != want {
		t.Fatalf("told %q, want %q", got, want)
	}
}

func TestOnce(t *testing.T) {
	w := newWorld(t)
	m, k := w.monitor()
	looks(t, m, k, "")
	w.enrol("shop")
	looks(t, m, k, "")
	forked := append([][]byte{w.entries[0]}, []byte("\x01\x09another"))
	w.entries = append(forked, w.entries[1])
	w.publish()
	looks(t, m, k, "fork")
	looks(t, m, k, "")
	// Another life of the monitor has the same memory: of the head, and of what it told.
	m, k = w.monitor()
	if _, err := m.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if codes := k.take(); strings.Count(codes, "fork") > 1 {
		t.Errorf("told again: %q", codes)
	}
}

func TestSplitView(t *testing.T) {
	w := newWorld(t)
	w.enrol("shop")
	m, k := w.monitor(func(c *monitor.Config) { c.Patience = time.Nanosecond })
	w.seen = w.head(w.entries[:1])
	looks(t, m, k, "") // it is behind, and in agreement
	w.seen = w.head(w.entries)
	looks(t, m, k, "")
	other := append([][]byte{w.entries[0]}, []byte("\x01\x09another"))
	w.seen = w.head(other)
	if _, err := m.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(k.list) != 1 || k.list[0].Code != monitor.SplitView || k.list[0].Severity != "finding" || len(k.list[0].Heads) != 2 || k.list[0].Heads[0] != string(w.seen) {
		t.Fatalf("%+v", k.list)
	}
	k.take()
	looks(t, m, k, "")
	// A witness that has seen more is worth a word once it stays so.
	w.seen = w.head(append(other, []byte("\x01\x09more")))
	looks(t, m, k, monitor.WitnessAhead)
	looks(t, m, k, "")
}

func TestUnreachable(t *testing.T) {
	w := newWorld(t)
	m, k := w.monitor(func(c *monitor.Config) { c.Patience = 50 * time.Millisecond })
	looks(t, m, k, "")
	w.down = true
	looks(t, m, k, "")
	if m.Ready() == "" {
		t.Error("ready although the log cannot be read")
	}
	time.Sleep(60 * time.Millisecond)
	looks(t, m, k, monitor.Unreachable)
	looks(t, m, k, "")
	w.down = false
	looks(t, m, k, monitor.Reachable)
	if why := m.Ready(); why != "" {
		t.Error(why)
	}
}

func TestState(t *testing.T) {
	w := newWorld(t)
	m, k := w.monitor()
	looks(t, m, k, "")
	if err := os.WriteFile(w.state+".alerts", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := monitor.New(monitor.Config{Source: w, Policy: w.policy, State: w.state}); !errors.Is(err, audit.ErrConfig) || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("a damaged file: %v", err)
	}
	if _, err := monitor.New(monitor.Config{Source: w, Policy: w.policy}); !errors.Is(err, audit.ErrConfig) {
		t.Errorf("no state file: %v", err)
	}
}

func TestWebhook(t *testing.T) {
	secret := []byte("0123456789abcdef")
	var status []int
	var bodies []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		var unix int64
		if _, err := fmt.Sscanf(r.Header.Get("Sealtap-Signature"), "t=%d,", &unix); err != nil || r.Header.Get("Sealtap-Signature") != monitor.Signature(secret, unix, b) {
			t.Errorf("signature %q", r.Header.Get("Sealtap-Signature"))
		}
		bodies = append(bodies, string(b))
		w.WriteHeader(status[0])
		status = status[1:]
	}))
	defer srv.Close()
	h := &monitor.Webhook{URL: srv.URL, Secret: secret, Pause: time.Millisecond}
	for _, tc := range []struct {
		status   []int
		attempts int
		good     bool
	}{
		{[]int{200}, 1, true}, {[]int{503, 429, 204}, 3, true}, {[]int{400, 200}, 1, false}, {[]int{500, 500, 500, 500, 500, 500, 200}, 6, false},
	} {
		status, bodies = tc.status, nil
		err := h.Tell(t.Context(), monitor.Alert{Code: "fork", Detail: "<&>"})
		if (err == nil) != tc.good || len(bodies) != tc.attempts {
			t.Errorf("%v: %v after %d attempts", tc.status, err, len(bodies))
		}
		var a monitor.Alert
		if err := json.Unmarshal([]byte(bodies[0]), &a); err != nil || a.Code != "fork" || a.Detail != "<&>" {
			t.Errorf("%q, %v", bodies[0], err)
		}
	}
	if s := monitor.Signature(secret, 1, []byte("x")); s == monitor.Signature(secret, 2, []byte("x")) || s == monitor.Signature(secret, 1, []byte("y")) {
		t.Error("a signature that does not depend on time and body")
	}
}

func TestCommand(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	c := &monitor.Command{Path: "/bin/sh", Args: []string{"-c", "cat > " + out}}
	if err := c.Tell(t.Context(), monitor.Alert{Code: "fork"}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(b), `"code":"fork"`) {
		t.Errorf("%q, %v", b, err)
	}
	c = &monitor.Command{Path: "/bin/sh", Args: []string{"-c", "echo no; exit 3"}}
	if err := c.Tell(t.Context(), monitor.Alert{}); err == nil || !strings.Contains(err.Error(), "no") {
		t.Errorf("%v", err)
	}
}

func TestRules(t *testing.T) {
	for _, bad := range []string{"", "x", "=true", "x=", "x=r.", "x=1", "x=y.z == 1", "x='a'"} {
		if _, err := monitor.NewRules([]string{bad}); !errors.Is(err, monitor.ErrRule) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := monitor.NewRules([]string{"a=r.response.status >= 500", "b=has(r.who) && !r.who.verified", "c=r.method in ['PUT', 'DELETE']"}); err != nil {
		t.Error(err)
	}
}
