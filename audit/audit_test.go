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
		if b, err := os.ReadFile(state); err != nil || string(b) != string(files["checkpoint"]) {
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

// tampers are attacks by someone who holds the log's key, and the witnesses'
// where that is said: the tree is rebuilt and signed again.
var tampers = []struct {
	name  string
	do    func(w *world, p *producer) // on a shop
	codes string                      // of all findings, the most serious first
	index int                         // of the first finding; -1 if it has none
}{
	{"a record is removed", func(w *world, _ *producer) { w.without(6) }, "record-missing", 6},
	{"the last record under a seal is removed", func(w *world, _ *producer) { w.without(8) }, "record-missing", 8},
	{"the last seal is removed with a record", func(w *world, p *producer) {
		p.request("/d")
		w.now += int64(time.Hour)
	}, "unsealed-tail", 10},
	{"a record is replaced", func(w *world, p *producer) {
		q := *p
		q.seq = 3
		q.tree = record.NewTree()
		w.entries[6] = q.make(request("/forged"))
	}, "seal-mismatch", 9},
	{"a record is doubled", func(w *world, _ *producer) { w.put(w.entries[6], nil) }, "record-duplicated", 10},
	{"a fork", func(w *world, p *producer) {
		q := *p
		q.seq = 3
		q.tree = record.NewTree()
		w.put(q.make(request("/other")), nil)
	}, "fork", 10},
	{"records before a beacon are swapped", func(w *world, _ *producer) {
		w.entries[2], w.entries[3] = w.entries[3], w.entries[2]
	}, "fork", 5},
	{"an unknown key writes", func(w *world, p *producer) {
		q := &producer{w: w, key: key(w.t, "stranger", keys.Ed25519)}
		q.restart(nil)
		q.seal()
	}, "unknown-producer", 10},
	{"a revoked key writes", func(w *world, p *producer) {
		w.change(record.KeyChange{Revoke: []record.Revocation{{Key: p.key.Public, Last: []record.LastSequence{{Incarnation: p.stream.Incarnation, Sequence: 5}}}}})
		p.request("/late")
		p.seal()
	}, "unknown-producer", 11},
	{"another key seals", func(w *world, p *producer) {
		w.entries[9] = p.sealWith(key(w.t, "shop", keys.Ed25519), p.tree.Size(), p.tree.Root())
	}, "seal-signature", 9},
	{"another tree is sealed", func(w *world, p *producer) {
		w.put(p.sealWith(p.key, 4, record.Hash{1}), nil)
	}, "fork", 10},
	{"a record is backdated", func(w *world, p *producer) {
		r := request("/old")
		r.Time = (epoch - 3600) * int64(time.Second)
		p.write(r)
		p.seal()
	}, "time-order", 10},
	{"a record is made for later", func(w *world, p *producer) {
		r := request("/soon")
		r.Time = (epoch + 3600) * int64(time.Second)
		p.write(r)
		p.seal()
	}, "time-order", 10},
	{"a clock runs backwards", func(w *world, p *producer) {
		w.now += int64(time.Hour)
		p.request("/later")
		r := request("/earlier")
		r.Time = (epoch + 60) * int64(time.Second)
		p.write(r)
		p.seal()
	}, "time-order", 11},
	{"an incarnation begins without start", func(w *world, p *producer) {
		prev := p.head()
		p.stream, p.tree, p.seq = record.NewStream(p.key.ID()), record.NewTree(), 0
		p.request("/x")
		p.start(prev)
		p.seal()
	}, "start-missing", 10},
	{"the end of an incarnation is removed", func(w *world, p *producer) {
		prev := p.head()
		p.restart(prev)
		p.seal()
		w.entries = append(w.entries[:6], w.entries[10:]...) // with its seal
	}, "record-missing", 6},
	{"an incarnation goes on after its end", func(w *world, p *producer) {
		prev := p.head()
		q := *p
		p.request("/after")
		p.seal()
		q.restart(prev)
		q.seal()
	}, "fork", 10},
	{"a spool is copied", func(w *world, p *producer) {
		prev := p.head()
		p.restart(prev)
		p.seal()
		p.restart(prev)
		p.seal()
	}, "fork", 12},
	{"an incarnation is removed", func(w *world, p *producer) {
		prev := p.head()
		p.restart(prev)
		p.seal()
		w.entries = append(w.entries[:2], w.entries[10:]...)
	}, "record-missing", 2},
	{"a key change is left out", func(w *world, _ *producer) {
		k := record.KeyChange{Enrol: []keys.Public{key(w.t, "x", keys.Ed25519).Public}}
		w.change(k)
		w.change(record.KeyChange{Enrol: []keys.Public{key(w.t, "y", keys.Ed25519).Public}})
		w.without(10)
	}, "key-change-invalid", 10},
	{"a key change is not the operator's", func(w *world, _ *producer) {
		c := record.KeyChange{Origin: origin, Number: 2, Enrol: []keys.Public{key(w.t, "x", keys.Ed25519).Public}}
		w.put(record.NewKeyChange(c, key(w.t, w.operator.Name, keys.Ed25519)))
	}, "key-change-invalid", 10},
	{"another operator's log", func(w *world, _ *producer) {
		w.operator = key(w.t, "operator.example", keys.Ed25519)
		var err error
		if w.entries[0], err = record.NewGenesis(w.log.Public, w.operator, time.Unix(epoch, 0)); err != nil {
			w.t.Fatal(err)
		}
	}, "genesis-invalid key-change-invalid unknown-producer", 0},
	{"a second genesis", func(w *world, _ *producer) { w.put(w.entries[0], nil) }, "genesis-invalid", 10},
	{"an entry of no sense", func(w *world, _ *producer) { w.put([]byte{record.Version, byte(record.KindRecord), 0xff}, nil) }, "entry-malformed", 10},
	{"a beacon of another history", func(w *world, p *producer) {
		p.write(beacon(w.sign(checkpoint.Body{Origin: origin, Size: 3, Root: [32]byte{1}}, w.witnesses...)))
		p.seal()
	}, "fork", 10},
	{"a beacon without quorum", func(w *world, p *producer) {
		p.write(beacon(w.checkpoint(3, w.witnesses[0])))
		p.seal()
	}, "quorum-not-met", 10},
	{"everything but the genesis is removed", func(w *world, _ *producer) { w.entries = w.entries[:0] }, "genesis-invalid", -1},
}

func TestTampers(t *testing.T) {
	for _, test := range tampers {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			w, p := shop(t)
			if r := w.audit(w.publish(), audit.Options{}); r.Verdict != audit.Pass || len(r.Findings) > 0 {
				t.Fatal(r.Text())
			}
			test.do(w, p)
			r := w.audit(w.publish(), audit.Options{})
			if got := codes(r); got != test.codes || r.Verdict != audit.Fail {
				t.Fatalf("found %q, want %q\n%s", got, test.codes, r.Text())
			}
			if x := r.Findings[0]; test.index < 0 && x.Index != nil || test.index >= 0 && (x.Index == nil || *x.Index != uint64(test.index)) {
				t.Errorf("place of the first finding\n%s", r.Text())
			}
			for line := range strings.Lines(r.Text()) {
				if n := len([]rune(line)); n > 81 && strings.Count(strings.TrimSpace(line), " ") > 1 {
					t.Errorf("%d columns: %s", n, line)
				}
			}
		})
	}
}

// codes lists the codes of findings, each once, without notices.
func codes(r *audit.Report) string {
	var list []string
	for _, x := range r.Findings {
		if x.Severity == audit.Finds && (len(list) == 0 || list[len(list)-1] != string(x.Code)) {
			list = append(list, string(x.Code))
		}
	}
	return strings.Join(list, " ")
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
			r := w.audit(w.publish(), audit.Options{})
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
	given := func(i uint64) []*sealtapv1.Opening {
		if i == index {
			return []*sealtapv1.Opening{o}
		}
		return nil
	}
	if r := w.audit(w.publish(), audit.Options{Openings: given}); r.Verdict != audit.Pass || r.Checked.Openings != 1 {
		t.Error(r.Text())
	}
	o.Value = []byte("/guess")
	if r := w.audit(w.publish(), audit.Options{Openings: given}); codes(r) != "opening-mismatch" || *r.Findings[0].Index != index {
		t.Error(r.Text())
	}
}

// TestBoundByBeacon: a record that claims a time to come is found although the
// head under audit is from after that time, once a beacon holds the head that
// first covered the record.
func TestBoundByBeacon(t *testing.T) {
	w := newWorld(t)
	p := w.producer("p")
	r := request("/tomorrow")
	r.Time = w.now + int64(24*time.Hour)
	index := p.write(r)
	for range 300 {
		q := request("/today")
		q.Time = r.Time // nothing else may give it away
		p.write(q)
	}
	p.seal()
	bad := w.checkpoint(len(w.entries), w.witnesses...)
	w.now += int64(48 * time.Hour)
	for _, beacon := range []*sealtapv1.Record{nil, beacon(bad)} {
		if beacon != nil {
			p.write(beacon)
		}
		p.stop()
		p.seal()
		report := w.audit(w.publish(), audit.Options{})
		if beacon == nil && report.Verdict != audit.Pass {
			t.Error(report.Text())
		}
		if beacon != nil && (codes(report) != "time-order" || *report.Findings[0].Index != uint64(index)) {
			t.Error(report.Text())
		}
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
