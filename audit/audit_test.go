package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
	"github.com/sealtap/sealtap/witness/policy"
)

func TestPass(t *testing.T) {
	w := newWorld(t)
	a, b := w.producer("a"), w.producer("b")
	for i := range 300 {
		a.request("/a")
		b.request("/b")
		if i%50 == 0 {
			a.seal()
			b.beacon()
			b.seal()
		}
	}
	a.stop()
	a.seal()
	prev := a.head()
	a.restart(prev)
	a.seal()
	b.seal()
	files := w.publish()
	dir := t.TempDir()
	if err := files.WriteTo(dir); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(files)
	defer server.Close()
	for _, location := range []string{dir, server.URL} {
		src, err := client.Open(location)
		if err != nil {
			t.Fatal(err)
		}
		done := uint64(0)
		state := filepath.Join(t.TempDir(), "state")
		for range 2 { // with the state of the first run in the second
			r, err := audit.Run(t.Context(), src, audit.Options{Policy: w.policy, State: state, Progress: func(d, _ uint64) { done = d }})
			if err != nil {
				t.Fatal(err)
			}
			n := uint64(len(w.entries))
			if r.Verdict != audit.Pass || len(r.Findings) != 0 || r.Size != n || done != n || r.Checked.Entries != n || r.Checked.Beacons != 6 {
				t.Fatalf("%s: %s\n%+v", location, r.Text(), r.Checked)
			}
			if len(r.Producers) != 2 || r.Producers[0].Name != "a" || r.Producers[0].Records != 303 || r.Producers[0].Sealed != 303 || r.Producers[0].Incarnations != 2 {
				t.Errorf("%+v", r.Producers)
			}
			if strings.Join(r.CosignedBy, " ") != "w1 w2" {
				t.Error(r.CosignedBy)
			}
		}
		if b, err := os.ReadFile(state); err != nil || !strings.HasPrefix(string(b), string(files["checkpoint"])) {
			t.Errorf("state: %v", err)
		}
	}
}

// TestJSON holds the names that scripts rely on.
func TestJSON(t *testing.T) {
	w, p := shop(t)
	w.without(4)
	raw, err := json.Marshal(w.audit(w.publish(), audit.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Verdict, Origin, Root string
		Size                  uint64
		CosignedBy            []string         `json:"cosigned_by"`
		Producers             []map[string]any `json:"producers"`
		Findings              []map[string]any `json:"findings"`
		Checked               map[string]any   `json:"checked"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	if v.Verdict != "fail" || v.Origin != origin || v.Root == "" || v.Size == 0 || len(v.CosignedBy) != 2 || len(v.Checked) == 0 {
		t.Errorf("%s", raw)
	}
	for _, name := range []string{"name", "records", "sealed", "first", "last"} {
		if _, ok := v.Producers[0][name]; !ok {
			t.Errorf("no %q in %v", name, v.Producers[0])
		}
	}
	for _, name := range []string{"code", "index", "producer", "sequence", "detail"} {
		if _, ok := v.Findings[0][name]; !ok {
			t.Errorf("no %q in %v", name, v.Findings[0])
		}
	}
	if v.Findings[0]["producer"] != p.key.Name {
		t.Errorf("%v", v.Findings[0])
	}
}

// TestNotices: what passes, but is said.
func TestNotices(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(w *world, p *producer)
		want audit.Code
	}{
		"gap": {func(_ *world, p *producer) {
			p.write(&sealtapv1.Record{About: &sealtapv1.Record_Gap{Gap: &sealtapv1.Gap{Exchanges: 3, Reason: "disk"}}})
			p.seal()
		}, audit.GapDeclared},
		"young tail": {func(_ *world, p *producer) { p.request("/new") }, audit.UnsealedTail},
		"silent": {func(w *world, p *producer) {
			p.request("/new")
			p.seal()
			w.now += int64(time.Hour)
		}, audit.ProducerSilent},
		"silent for a while": {func(w *world, p *producer) {
			p.restart(p.head())
			w.now += int64(time.Minute)
			p.beacon()
			p.stop()
			p.seal()
		}, audit.SilentInterval},
		"killed": {func(_ *world, p *producer) {
			p.restart(p.head())
			p.seal()
			p.restart(p.head())
			p.stop()
			p.seal()
		}, audit.UncleanStop},
		"unlinked": {func(_ *world, p *producer) {
			p.restart(nil)
			p.seal()
		}, audit.IncarnationUnlinked},
		"seal again": {func(_ *world, p *producer) { p.seal() }, audit.RecordDuplicated},
		"revoked later": {func(w *world, p *producer) {
			w.change(record.KeyChange{Revoke: []record.Revocation{{Key: p.key.Public}}})
		}, audit.UnknownProducer},
	} {
		t.Run(name, func(t *testing.T) {
			w, p := shop(t)
			test.do(w, p)
			r := w.audit(w.publish(), audit.Options{MaxBracket: 2 * time.Hour})
			if r.Verdict != audit.Pass || len(r.Findings) != 1 || r.Findings[0].Code != test.want || r.Findings[0].Severity != audit.Notes {
				t.Error(r.Text())
			}
		})
	}
}

// TestAnyOrder: the log's order means nothing for a producer's tree.
func TestAnyOrder(t *testing.T) {
	w := newWorld(t)
	p := w.producer("p")
	first := len(w.entries)
	for range 40 {
		p.request("/x")
		p.request("/y")
		p.seal()
	}
	p.stop()
	p.seal()
	for i, j := first, len(w.entries)-1; i < j; i, j = i+1, j-1 {
		w.entries[i], w.entries[j] = w.entries[j], w.entries[i]
	}
	if r := w.audit(w.publish(), audit.Options{}); r.Verdict != audit.Pass || len(r.Findings) > 0 || r.Producers[0].Sealed != 82 {
		t.Error(r.Text())
	}
}

func TestOperatorPin(t *testing.T) {
	w, _ := shop(t)
	w.policy.Operator = nil
	r := w.audit(w.publish(), audit.Options{})
	if r.Verdict != audit.Pass || len(r.Findings) != 1 || r.Findings[0].Code != audit.OperatorNotPinned {
		t.Error(r.Text())
	}
	other := key(t, "operator.example", keys.Ed25519).Public
	if r := w.audit(w.publish(), audit.Options{Operator: &other}); codes(r) != "genesis-invalid" {
		t.Error(r.Text())
	}
	if r := w.audit(w.publish(), audit.Options{Operator: &w.operator.Public}); r.Verdict != audit.Pass || len(r.Findings) > 0 {
		t.Error(r.Text())
	}
}

func TestState(t *testing.T) {
	w, p := shop(t)
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	opts := audit.Options{State: state}
	if r := w.audit(w.publish(), opts); r.Verdict != audit.Pass {
		t.Fatal(r.Text())
	}
	saved, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	all := w.entries
	fails := func(name, want string) {
		t.Helper()
		r := w.audit(w.publish(), opts)
		if codes(r) != want || len(r.Findings[0].Heads) != 2 {
			t.Errorf("%s: %s", name, r.Text())
		}
		if now, err := os.ReadFile(state); err != nil || string(now) != string(saved) {
			t.Errorf("%s: the state has changed", name)
		}
	}
	w.entries = all[:5] // a whole seal earlier
	fails("rolled back", "rollback")

	w.entries = append([][]byte(nil), all...)
	w.entries[6], w.entries[7] = all[7], all[6]
	fails("forked at the same size", "fork")
	p.request("/more")
	p.stop()
	p.seal()
	fails("forked and longer", "fork")

	w.entries = append(append([][]byte(nil), all...), w.entries[len(all):]...)
	if r := w.audit(w.publish(), opts); r.Verdict != audit.Pass || !r.Checked.Consistent {
		t.Error(r.Text())
	}
	if err := os.WriteFile(state, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Run(t.Context(), w.publish().Source(), audit.Options{Policy: w.policy, State: state}); err == nil {
		t.Error("a damaged state file is taken")
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

// TestSplitView: the log alone can sign a second head; the witnesses do not.
func TestSplitView(t *testing.T) {
	w, p := shop(t)
	p.request("/only for you")
	p.stop()
	p.seal()
	files := w.publish()
	for name, signers := range map[string][]*keys.Private{"nobody": nil, "one of two": w.witnesses[:1], "others": {key(t, "w1.example", keys.Cosignature), w.witnesses[1]}} {
		files["checkpoint"] = w.checkpoint(len(w.entries), signers...)
		if r := w.audit(files, audit.Options{}); codes(r) != "quorum-not-met" || len(r.Findings[0].Heads) != 1 {
			t.Errorf("%s: %s", name, r.Text())
		}
	}
}

func TestUnavailable(t *testing.T) {
	w := newWorld(t)
	p := w.producer("p")
	for range 600 {
		p.request("/x")
	}
	p.stop()
	p.seal()
	good := w.publish()
	for path := range good {
		files := good.Clone()
		delete(files, path)
		if r := w.audit(files, audit.Options{}); r.Verdict != audit.Incomplete || len(r.Unfinished) == 0 || len(r.Findings) > 0 {
			t.Errorf("without %s: %s", path, r.Text())
		}
	}
	// What is proven before stays proven.
	files := good.Clone()
	files[client.TilePath("entries", 0, 256)] = flip(files[client.TilePath("entries", 0, 256)], 9000)
	delete(files, client.TilePath("entries", 1, 256))
	if r := w.audit(files, audit.Options{}); r.Verdict != audit.Fail || len(r.Unfinished) == 0 || codes(r) != "entry-altered" {
		t.Error(r.Text())
	}
	if r := w.audit(clienttest.Files{}, audit.Options{}); r.Verdict != audit.Incomplete {
		t.Error(r.Text())
	}
}

func TestOpenings(t *testing.T) {
	w, p := shop(t)
	r := request("")
	o := record.NewOpening(record.FieldPath, record.TypeString, []byte("/secret"))
	c := record.Commitment(p.stream, p.seq, o)
	r.Sealed = []*sealtapv1.SealedField{{Field: record.FieldPath, Commitment: c[:]}}
	index := uint64(p.write(r))
	p.stop()
	p.seal()
	var damaged error
	given := func(i uint64, leaf record.Hash) ([]*sealtapv1.Opening, error) {
		if i == index && leaf == record.LeafHash(w.entries[i]) {
			return []*sealtapv1.Opening{o}, damaged
		}
		return nil, nil
	}
	if r := w.audit(w.publish(), audit.Options{Openings: given}); r.Verdict != audit.Pass || r.Checked.Openings != 1 {
		t.Error(r.Text())
	}
	damaged = errors.New("they do not decrypt")
	if r := w.audit(w.publish(), audit.Options{Openings: given}); codes(r) != "opening-mismatch" || *r.Findings[0].Index != index {
		t.Error(r.Text())
	}
	damaged = nil
	o.Value = []byte("/guess")
	if r := w.audit(w.publish(), audit.Options{Openings: given}); codes(r) != "opening-mismatch" || *r.Findings[0].Index != index {
		t.Error(r.Text())
	}
}

func TestConfig(t *testing.T) {
	w, _ := shop(t)
	files := w.publish()
	if _, err := audit.Run(t.Context(), files.Source(), audit.Options{}); !errors.Is(err, audit.ErrConfig) {
		t.Errorf("without policy: %v", err)
	}
	// The state of another log under the same policy.
	other := key(t, "log.example/other", keys.Ed25519)
	p, err := policy.New(append(slices.Clone(w.policy.Logs), policy.Log{Key: other.Public}), nil, nil, policy.None, nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := other.Signer()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: string(checkpoint.Body{Origin: other.Name, Root: checkpoint.EmptyRoot()}.Marshal())}, signer)
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(state, signed, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Run(t.Context(), files.Source(), audit.Options{Policy: p, State: state}); !errors.Is(err, audit.ErrConfig) {
		t.Errorf("state of another log: %v", err)
	}
	// A policy that does not know the log.
	if r := w.audit(files, audit.Options{Policy: newWorld(t).policy}); codes(r) != "checkpoint-signature" {
		t.Error(r.Text())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := audit.Run(ctx, files.Source(), audit.Options{Policy: w.policy}); err != nil || r.Verdict != audit.Incomplete {
		t.Errorf("cancelled: %v", err)
	}
}
