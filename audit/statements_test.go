package audit_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// hiding is a log whose operator allowed pruning, and then made one more
// statement, all of it below where the log is pruned to.
type hiding struct {
	*world
	shop   *producer
	hidden int // index of the operator's newest statement
}

func newHiding(t *testing.T, state func(w *world, p *producer) int) *hiding {
	t.Helper()
	w := newWorld(t)
	p, q := w.producer("shop"), w.producer("pay")
	q.stop()
	q.seal()
	w.retain(record.Retention{Entries: 100})
	h := &hiding{world: w, shop: p}
	h.fill(300)
	h.hidden = state(w, q)
	h.fill(900)
	p.stop()
	p.seal()
	return h
}

// fill lets the shop write until the log has so many entries.
func (h *hiding) fill(size int) {
	for len(h.entries) < size {
		h.shop.request("/a")
	}
	h.shop.seal()
}

// hide prunes the log and leaves statements out of what it lists.
func (h *hiding) hide(t *testing.T, indices ...int) *decision {
	d := h.decide(768, h.head(), nil)
	d.statements = slices.DeleteFunc(d.statements, func(i int) bool { return slices.Contains(indices, i) })
	return d
}

var newest = map[string]func(w *world, p *producer) int{
	"keep forever": func(w *world, _ *producer) int { return w.retain(record.Retention{Forever: true}) },
	"a revocation": func(w *world, p *producer) int {
		return w.change(record.KeyChange{Revoke: []record.Revocation{{Key: p.key.Public}}})
	},
	"an enrolment": func(w *world, _ *producer) int {
		return w.change(record.KeyChange{Enrol: []keys.Public{key(w.t, "new", keys.Ed25519).Public}})
	},
}

// TestHiddenStatement: a log that was pruned and leaves the operator's newest
// statement out is found by what an earlier audit saw, and by what the operator
// tells; by nothing else.
func TestHiddenStatement(t *testing.T) {
	for name, state := range newest {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			h := newHiding(t, state)
			file := filepath.Join(t.TempDir(), "state")
			whole := h.audit(h.publish(), audit.Options{State: file, Statements: 4})
			if whole.Verdict != audit.Pass || whole.Statements.Count != 4 || whole.Statements.LastIndex != uint64(h.hidden) {
				t.Fatalf("%+v\n%s", whole.Statements, whole.Text())
			}
			files := h.hide(t, h.hidden).prune(t, h.publish())
			if r := h.audit(files, audit.Options{State: copyOf(t, file)}); r.Verdict != audit.Fail || codes(r) != "rollback" {
				t.Errorf("with the state of an earlier audit: %s", r.Text())
			}
			if r := h.audit(files, audit.Options{Statements: 4}); r.Verdict != audit.Fail || codes(r) != "rollback" {
				t.Errorf("with the operator's word: %s", r.Text())
			}
			// docs/audit.md says so: then nothing tells, but the number.
			if r := h.audit(files, audit.Options{Statements: 3}); r.Verdict != audit.Pass || r.Statements.Count != 3 || !strings.Contains(r.Text(), "3 statements") {
				t.Errorf("with neither: %s", r.Text())
			}
		})
	}
}

// TestStatementsKept: an honest log passes, before and after it was pruned, and
// with more statements than were there before.
func TestStatementsKept(t *testing.T) {
	h := newHiding(t, newest["a revocation"])
	file := filepath.Join(t.TempDir(), "state")
	for range 2 {
		if r := h.audit(h.publish(), audit.Options{State: file, Statements: 3}); r.Verdict != audit.Pass {
			t.Fatal(r.Text())
		}
	}
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), "\nstatements 4 ") {
		t.Fatalf("%q, %v", text, err)
	}
	pruned := h.hide(t).prune(t, h.publish())
	if r := h.audit(pruned, audit.Options{State: file, Statements: 4}); r.Verdict != audit.Pass || !r.Checked.Consistent {
		t.Error(r.Text())
	}
	newest["an enrolment"](h.world, nil)
	if r := h.audit(h.publish(), audit.Options{State: file}); r.Verdict != audit.Pass || r.Statements.Count != 5 {
		t.Error(r.Text())
	}
	// What a state file says twice, or in other words, is not guessed at.
	for _, bad := range []string{"statements 4\n", "statements 04 " + strings.Repeat("A", 43) + "=\n", string(text[strings.LastIndex(string(text), "statements"):])} {
		if err := os.WriteFile(file, append(slices.Clone(text), bad...), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := audit.Run(t.Context(), h.publish().Source(), audit.Options{Policy: h.policy, State: file}); err == nil {
			t.Errorf("taken: %q", bad)
		}
	}
}

// TestForkedStatement: an operator's tool that was shown too few statements signs
// another one of a number that is taken, and the log shows to each what suits it.
func TestForkedStatement(t *testing.T) {
	h := newHiding(t, newest["keep forever"])
	file := filepath.Join(t.TempDir(), "state")
	if r := h.audit(h.publish(), audit.Options{State: file}); r.Verdict != audit.Pass {
		t.Fatal(r.Text())
	}
	h.changes--
	other := newest["an enrolment"](h.world, nil)
	h.shop.restart(h.shop.head())
	h.fill(1300)
	h.shop.stop()
	h.shop.seal()
	d := h.decide(1024, h.head(), nil)
	d.statements = slices.DeleteFunc(d.statements, func(i int) bool { return i == h.hidden })
	if !slices.Contains(d.statements, other) {
		t.Fatal(d.statements)
	}
	files := d.prune(t, h.publish())
	if r := h.audit(files, audit.Options{State: file}); r.Verdict != audit.Fail || codes(r) != "fork" {
		t.Error(r.Text())
	}
	if r := h.audit(files, audit.Options{}); r.Verdict != audit.Pass {
		t.Error(r.Text())
	}
}

// TestTwoOfOneName: what two keys of one name wrote can be told apart.
func TestTwoOfOneName(t *testing.T) {
	w, old := shop(t)
	if r := w.audit(w.publish(), audit.Options{}); strings.Contains(r.Text(), ", key ") {
		t.Error(r.Text())
	}
	fresh := key(t, "shop", keys.Ed25519)
	w.change(record.KeyChange{Enrol: []keys.Public{fresh.Public}, Revoke: []record.Revocation{{Key: old.key.Public, Last: []record.LastSequence{{Incarnation: old.stream.Incarnation, Sequence: old.seq - 1}}}}})
	p := &producer{w: w, key: fresh}
	p.restart(nil)
	p.seal()
	w.now += int64(time.Hour)
	q := w.producer("other")
	q.stop()
	q.seal()
	r := w.audit(w.publish(), audit.Options{})
	for _, k := range []keys.ID{old.key.ID(), fresh.ID()} {
		if !strings.Contains(r.Text(), "producer   shop, key "+k.String()[:8]+": ") {
			t.Errorf("%s: %s", k, r.Text())
		}
	}
	if x := r.Findings[len(r.Findings)-1]; x.Code != audit.ProducerSilent || x.ProducerKey != fresh.ID().String() || !strings.Contains(r.Text(), "(shop, key "+x.ProducerKey[:8]+", sequence 0)") {
		t.Error(r.Text())
	}
	if strings.Contains(r.Text(), "other, key") {
		t.Error(r.Text())
	}
}
