package monitor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/mirror"
	"github.com/sealtap/sealtap/monitor"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

// hostileLog is a log that does over HTTP what it likes, with one real witness that
// it cannot deceive. Its histories agree in the genesis and in nothing else.
type hostileLog struct {
	*histories
	t       *testing.T
	witness *witness.Client
	policy  *policy.Policy
	url     string
	timeout time.Duration // of one attempt of those who read it

	mu    sync.Mutex
	files clienttest.Files
	does  func(rw http.ResponseWriter, r *http.Request) bool // reports whether it has answered
}

// histories are what several logs can be made of, which takes long to make.
type histories struct {
	key, operator *keys.Private
	one, two      [][]byte
}

func newHistories(t *testing.T) *histories {
	t.Helper()
	const entries = 300
	h := &histories{key: newKey(t, origin, keys.Ed25519), operator: newKey(t, "operator.example", keys.Ed25519)}
	genesis, err := record.NewGenesis(h.key.Public, h.operator, time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []*[][]byte{&h.one, &h.two} {
		*list = append(*list, genesis)
		for n := uint64(1); n < entries; n++ {
			e, err := record.NewKeyChange(record.KeyChange{Origin: origin, Number: n, Enrol: []keys.Public{newKey(t, fmt.Sprint("p", n), keys.Ed25519).Public}}, h.operator)
			if err != nil {
				t.Fatal(err)
			}
			*list = append(*list, e)
		}
	}
	return h
}

func newHostileLog(t *testing.T, from *histories) *hostileLog {
	t.Helper()
	h := &hostileLog{histories: from, t: t, timeout: 20 * time.Second}
	store, err := sqlite.OpenWitness(t.Context(), filepath.Join(t.TempDir(), "w.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	wkey := newKey(t, "w1.example", keys.Cosignature)
	w, err := witness.New(t.Context(), witness.Config{Key: wkey, Logs: map[string][]keys.Public{origin: {h.key.Public}}, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	wsrv := httptest.NewServer(w.Handler())
	t.Cleanup(wsrv.Close)
	h.policy, err = policy.Parse(fmt.Appendf(nil, "# sealtap-operator %s\nlog %s\nwitness w1 %s %s\nquorum w1\n", h.operator.Public, h.key.Public, wkey.Public, wsrv.URL))
	if err != nil {
		t.Fatal(err)
	}
	if h.witness, err = witness.NewClient(witness.ClientConfig{Policy: h.policy, MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.witness.Close() })
	srv := httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections) // before: some answers have no end
	h.url = srv.URL
	return h
}

func (h *hostileLog) serve(rw http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	files, does := h.files, h.does
	h.mu.Unlock()
	if does == nil || !does(rw, r) {
		files.ServeHTTP(rw, r)
	}
}

// do has the log do something else than answer, nil for nothing.
func (h *hostileLog) do(f func(rw http.ResponseWriter, r *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.does = f
}

// show has the log show the beginning of a history, cosigned if the witness does.
func (h *hostileLog) show(entries [][]byte) (cosigned bool) {
	h.t.Helper()
	files, root := clienttest.Tiles(entries)
	signer, err := h.key.Signer()
	if err != nil {
		h.t.Fatal(err)
	}
	body := checkpoint.Body{Origin: origin, Size: uint64(len(entries)), Root: root}
	signed, err := note.Sign(&note.Note{Text: string(body.Marshal())}, signer)
	if err != nil {
		h.t.Fatal(err)
	}
	tree := testonly.New(rfc6962.DefaultHasher)
	tree.AppendData(entries...)
	prove := func(_ context.Context, from uint64) (hashes [][32]byte, err error) {
		p, err := tree.ConsistencyProof(from, body.Size)
		for _, h := range p {
			hashes = append(hashes, [32]byte(h))
		}
		return hashes, err
	}
	files["checkpoint"], err = h.witness.Cosign(h.t.Context(), signed, prove)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files = files
	return err == nil
}

// party is somebody who follows the log, and remembers.
type party struct {
	*hostileLog
	mon  *monitor.Monitor
	told *kept
	dir  string // the mirror's
	aud  string // the audit's state file
	p    *policy.Policy
}

// follow makes a monitor, a mirror and an audit of the log.
func (h *hostileLog) follow(p *policy.Policy) *party {
	h.t.Helper()
	x := &party{hostileLog: h, told: new(kept), dir: h.t.TempDir(), aud: filepath.Join(h.t.TempDir(), "state"), p: p}
	var err error
	x.mon, err = monitor.New(monitor.Config{Source: h.source(), Policy: p, State: filepath.Join(h.t.TempDir(), "m"), Patience: time.Millisecond, Sinks: []monitor.Sink{x.told}})
	if err != nil {
		h.t.Fatal(err)
	}
	return x
}

func (h *hostileLog) source() *client.Source {
	h.t.Helper()
	s, err := client.Open(h.url, client.WithRetries(2, time.Millisecond), client.WithTimeout(h.timeout))
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// look has all three look at the log, and says what each concluded.
func (x *party) look() (alerts string, r *audit.Report, mirrored error) {
	x.t.Helper()
	if _, err := x.mon.Look(x.t.Context()); err != nil {
		x.t.Fatal(err)
	}
	m, err := mirror.Open(mirror.Config{Source: x.source(), Policy: x.p, Dir: x.dir})
	if err != nil {
		x.t.Fatal(err)
	}
	defer m.Close()
	_, mirrored = m.Update(x.t.Context())
	if r, err = audit.Run(x.t.Context(), x.source(), audit.Options{Policy: x.p, State: x.aud}); err != nil {
		x.t.Fatal(err)
	}
	codes := strings.Fields(x.told.take())
	slices.Sort(codes)
	return strings.Join(slices.Compact(codes), " "), r, mirrored
}

func has(r *audit.Report, code audit.Code) bool {
	return slices.ContainsFunc(r.Findings, func(f audit.Finding) bool { return f.Code == code })
}

// What a log does to its history ends in an alert of the monitor, in an error of
// the mirror, which keeps both heads, and in a finding of the audit.
func TestHostileHistories(t *testing.T) {
	from := newHistories(t)
	for _, tc := range []struct {
		name    string
		quorum  bool // the policy asks for the witness, which does not cosign this
		then    func(h *hostileLog) [][]byte
		alert   string
		mirror  error
		finding audit.Code
	}{
		{"fork", false, func(h *hostileLog) [][]byte { return h.two[:280] }, "fork", mirror.ErrRewritten, audit.Fork},
		{"two roots of one size", false, func(h *hostileLog) [][]byte { return h.two[:260] }, "fork", mirror.ErrRewritten, audit.Fork},
		{"rollback", false, func(h *hostileLog) [][]byte { return h.one[:200] }, "rollback", mirror.ErrRewritten, audit.Rollback},
		{"rollback and another way on", false, func(h *hostileLog) [][]byte { return append(h.one[:200:200], h.two[200:290]...) }, "fork", mirror.ErrRewritten, audit.Fork},
		{"fork that no witness cosigned", true, func(h *hostileLog) [][]byte { return h.two[:280] }, "quorum-not-met", policy.ErrQuorum, audit.QuorumNotMet},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHostileLog(t, from)
			p := h.policy
			if !tc.quorum {
				var err error
				if p, err = policy.Parse(bytes.Replace(p.Marshal(), []byte("quorum w1"), []byte("quorum none"), 1)); err != nil {
					t.Fatal(err)
				}
			}
			x := h.follow(p)
			if !h.show(h.one[:260]) {
				t.Fatal("the first head is not cosigned")
			}
			if alerts, r, err := x.look(); alerts != "" || err != nil || r.Verdict != audit.Pass {
				t.Fatalf("an honest log: alerts %q, mirror %v, audit %+v", alerts, err, r)
			}
			if h.show(tc.then(h)) {
				t.Fatal("the witness cosigned the second history")
			}
			alerts, r, err := x.look()
			if !strings.Contains(alerts, tc.alert) {
				t.Errorf("alerts %q, want %s", alerts, tc.alert)
			}
			if !errors.Is(err, tc.mirror) || !errors.Is(err, client.ErrVerification) {
				t.Errorf("mirror: %v, want %v", err, tc.mirror)
			}
			if r.Verdict != audit.Fail || !has(r, tc.finding) {
				t.Errorf("audit: %s, %+v, want %s", r.Verdict, r.Findings, tc.finding)
			}
			if b, err := os.ReadFile(filepath.Join(x.dir, "checkpoint")); err != nil || !bytes.Contains(b, []byte("\n260\n")) {
				t.Errorf("the mirror's checkpoint is now %q, %v", b, err)
			}
			// The log regrets. Nothing is told for a second time, and all goes on.
			if !h.show(h.one[:270]) {
				t.Fatal("the witness does not go on")
			}
			alerts, _, err = x.look()
			if strings.Contains(alerts, tc.alert) || err != nil {
				t.Errorf("afterwards: alerts %q, mirror %v", alerts, err)
			}
		})
	}
}

// A log that shows another history to this audience than to its witness is found
// out by the monitor, at its first look.
func TestHostileEquivocation(t *testing.T) {
	h := newHostileLog(t, newHistories(t))
	if !h.show(h.one[:260]) {
		t.Fatal("not cosigned")
	}
	h.show(h.two[:280]) // to us
	p, err := policy.Parse(bytes.Replace(h.policy.Marshal(), []byte("quorum w1"), []byte("quorum none"), 1))
	if err != nil {
		t.Fatal(err)
	}
	x := h.follow(p)
	alerts, _, _ := x.look()
	if !strings.Contains(alerts, monitor.SplitView) {
		t.Errorf("alerts %q", alerts)
	}
	if alerts, _, _ = x.look(); alerts != "" {
		t.Errorf("told again: %q", alerts)
	}
}

// endless writes for as long as it is let, and slowly if it is to pause.
func endless(rw http.ResponseWriter, r *http.Request, chunk []byte, pause time.Duration) {
	for r.Context().Err() == nil {
		if _, err := rw.Write(chunk); err != nil {
			return
		}
		if pause > 0 {
			rw.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(pause):
			}
		}
	}
}

// What a log does to its answers ends in "could not be audited" or "does not verify",
// soon and within bounded memory, and never in a verdict on what did not come.
func TestHostileAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds of waiting for a log that does not answer")
	}
	from := newHistories(t)
	huge := bytes.Repeat([]byte("A"), 64<<10)
	of := func(prefix string, f func(rw http.ResponseWriter, r *http.Request)) func(http.ResponseWriter, *http.Request) bool {
		return func(rw http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, prefix) {
				return false
			}
			f(rw, r)
			return true
		}
	}
	stall := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	bytewise := func(rw http.ResponseWriter, r *http.Request) { endless(rw, r, []byte("A"), 20*time.Millisecond) }
	large := func(rw http.ResponseWriter, r *http.Request) { endless(rw, r, huge, 0) }
	headers := func(rw http.ResponseWriter, _ *http.Request) {
		for i := range 300 {
			rw.Header().Set(fmt.Sprint("X-", i), string(huge))
		}
	}
	for _, tc := range []struct {
		name    string
		does    func(http.ResponseWriter, *http.Request) bool
		mirror  error
		verdict audit.Verdict
	}{
		{"stalls", of("/", stall), client.ErrUnavailable, audit.Incomplete},
		{"tiles stall", of("/tile/", stall), client.ErrUnavailable, audit.Incomplete},
		{"entries come slowly", of("/tile/entries/", bytewise), client.ErrUnavailable, audit.Incomplete},
		{"checkpoint comes slowly", of("/checkpoint", bytewise), client.ErrUnavailable, audit.Incomplete},
		{"checkpoint without end", of("/checkpoint", large), client.ErrVerification, audit.Fail},
		{"tiles without end", of("/tile/0/", large), client.ErrVerification, audit.Fail},
		{"entries without end", of("/tile/entries/", large), client.ErrVerification, audit.Fail},
		{"headers", of("/", headers), client.ErrUnavailable, audit.Incomplete},
		{"errors without end", of("/", func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(http.StatusInternalServerError)
			large(rw, r)
		}), client.ErrUnavailable, audit.Incomplete},
		{"sent round in circles", of("/", func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, r.URL.Path, http.StatusFound) }), client.ErrUnavailable, audit.Incomplete},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHostileLog(t, from)
			if !h.show(h.one) {
				t.Fatal("not cosigned")
			}
			if tc.mirror == client.ErrUnavailable {
				h.timeout = 250 * time.Millisecond
			}
			x := h.follow(h.policy)
			h.do(tc.does)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begin := time.Now()
			alerts, r, err := x.look()
			took := time.Since(begin)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, tc.mirror) {
				t.Errorf("mirror: %v, want %v", err, tc.mirror)
			}
			if _, err := os.Stat(filepath.Join(x.dir, "checkpoint")); err == nil {
				t.Error("the mirror has a checkpoint")
			}
			if r.Verdict != tc.verdict {
				t.Errorf("audit: %s, %+v, want %s", r.Verdict, r, tc.verdict)
			}
			if alerts == "" {
				t.Error("the monitor tells nobody")
			}
			if took > time.Minute {
				t.Errorf("took %v", took)
			}
			if cost := after.TotalAlloc - before.TotalAlloc; cost > 1<<30 {
				t.Errorf("%d MiB were allocated", cost>>20)
			}
			h.do(nil)
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				_, r, err := x.look()
				if err == nil && r.Verdict == audit.Pass {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("once it behaves: mirror %v, audit %+v", err, r)
				}
			}
		})
	}
}

// stream is a producer that the log has enrolled.
type stream struct {
	record.Stream
	tree   *record.Tree
	signer note.Signer
	next   uint64
}

// write returns a record of the time and the seal over everything so far.
func (s *stream) write(t *testing.T, at time.Time) [][]byte {
	t.Helper()
	r := &sealtapv1.Record{Producer: s.Producer[:], Incarnation: s.Incarnation[:], Sequence: s.next, Time: at.UnixNano()}
	r.About = &sealtapv1.Record_Request{Request: &sealtapv1.Request{Method: "GET", Path: "/"}}
	if s.next == 0 {
		r.About = &sealtapv1.Record_Start{Start: &sealtapv1.Start{Version: "test"}}
	}
	e, err := record.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	s.tree.Append(record.LeafHash(e), nil)
	s.next++
	seal, err := record.NewSeal(s.Stream, s.next, s.tree.Root(), s.signer)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{e, seal}
}

// A producer whose heartbeat is missing is told of, once, and again when it falls
// silent another time. A log that withholds what the producer writes looks the same.
func TestMissingHeartbeat(t *testing.T) {
	h := newHostileLog(t, newHistories(t))
	key := newKey(t, "shop", keys.Ed25519)
	signer, err := key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{Stream: record.Stream{Producer: key.ID(), Incarnation: [16]byte{1}}, tree: record.NewTree(), signer: signer}
	enrol, err := record.NewKeyChange(record.KeyChange{Origin: origin, Number: 1, Enrol: []keys.Public{key.Public}}, h.operator)
	if err != nil {
		t.Fatal(err)
	}
	entries := [][]byte{h.one[0], enrol}
	x := h.follow(h.policy)
	for i, step := range []struct {
		writes bool
		ago    time.Duration
		silent bool // we are told
	}{
		{true, 2 * time.Hour, true},
		{false, 0, false},
		{true, time.Hour, true},
		{false, 0, false},
		{true, 0, false},
	} {
		if step.writes {
			entries = append(entries, s.write(t, time.Now().Add(-step.ago))...)
		}
		if !h.show(entries) {
			t.Fatal("not cosigned")
		}
		if _, err := x.mon.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := x.told.take(); strings.Contains(got, string(audit.ProducerSilent)) != step.silent {
			t.Errorf("step %d: told %q", i, got)
		}
	}
}
