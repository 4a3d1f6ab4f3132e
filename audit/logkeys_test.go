package audit_test

import (
	"bytes"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

// trusting returns the world's policy with other keys of the log.
func (w *world) trusting(ks ...*keys.Private) *policy.Policy {
	w.t.Helper()
	var logs []policy.Log
	for _, k := range ks {
		logs = append(logs, policy.Log{Key: k.Public})
	}
	p, err := policy.New(logs, w.policy.Witnesses, w.policy.Groups, w.policy.Quorum, w.policy.Operator)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// quantumShop is a shop whose log has a post-quantum key from its genesis on.
func quantumShop(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	w.quantum = key(t, origin, keys.MLDSA44)
	w.entries = nil
	w.put(record.NewGenesis(w.log.Public, w.operator, time.Unix(epoch, 0), w.quantum.Public))
	w.trade(w.producer("shop"))
	return w
}

// trade has a producer see a head, write and stop.
func (w *world) trade(p *producer) {
	p.request("/a")
	p.seal()
	p.beacon()
	p.request("/b")
	p.stop()
	p.seal()
}

// damageLine changes a letter of a key's signature in a signed note.
func damageLine(t testing.TB, signed []byte, k *keys.Private) []byte {
	t.Helper()
	signed = bytes.Clone(signed)
	for line := range bytes.Lines(signed) {
		// Ed25519 lines have some 100 bytes, ML-DSA-44 lines more than 3000.
		if bytes.HasPrefix(line, []byte("— "+k.Name+" ")) && (len(line) > 1000) == (k.Type == keys.MLDSA44) {
			if c := &line[len(line)-8]; *c == 'A' {
				*c = 'B'
			} else {
				*c = 'A'
			}
			return signed
		}
	}
	t.Fatalf("no line by %s in\n%s", k.Name, signed)
	return nil
}

func codesOf(r *audit.Report, severity audit.Severity) []audit.Code {
	var list []audit.Code
	for _, f := range r.Findings {
		if f.Severity == severity && !slices.Contains(list, f.Code) {
			list = append(list, f.Code)
		}
	}
	return list
}

// TestTwoLogKeys audits a log with two keys under policies that trust one of them
// or both.
func TestTwoLogKeys(t *testing.T) {
	w := quantumShop(t)
	classic, quantum, both := w.trusting(w.log), w.trusting(w.quantum), w.trusting(w.log, w.quantum)
	files := w.publish()
	for name, p := range map[string]*policy.Policy{"classic": classic, "post-quantum": quantum, "both": both} {
		if r := w.audit(files, audit.Options{Policy: p}); r.Verdict != audit.Pass || len(r.Findings) > 0 || r.Checked.Beacons != 1 {
			t.Errorf("%s: %s", name, r.Text())
		}
	}
	good := files["checkpoint"]
	for _, test := range []struct {
		name    string
		damaged *keys.Private
		policy  *policy.Policy
		pass    bool
	}{
		{"post-quantum line, post-quantum", w.quantum, quantum, false},
		{"post-quantum line, both", w.quantum, both, false},
		{"post-quantum line, classic", w.quantum, classic, true},
		{"classic line, post-quantum", w.log, quantum, true},
		{"classic line, both", w.log, both, false},
		{"classic line, classic", w.log, classic, false},
	} {
		files["checkpoint"] = damageLine(t, good, test.damaged)
		r := w.audit(files, audit.Options{Policy: test.policy})
		if (r.Verdict == audit.Pass) != test.pass || !test.pass && !slices.Contains(codesOf(r, audit.Finds), audit.CheckpointSignature) {
			t.Errorf("%s: %s", test.name, r.Text())
		}
	}
	// The operator names another key than the policy's.
	w.quantum = key(t, origin, keys.MLDSA44)
	if r := w.audit(w.publish(), audit.Options{Policy: w.trusting(w.quantum)}); !slices.Contains(codesOf(r, audit.Finds), audit.GenesisInvalid) {
		t.Errorf("a key that the operator does not name: %s", r.Text())
	}
}

// lateShop is a shop whose log gets a post-quantum key after some trade. It
// returns the index of the statement about it.
func lateShop(t testing.TB) (w *world, statement int) {
	t.Helper()
	w, p := shop(t)
	w.quantum = key(t, origin, keys.MLDSA44)
	statement = w.change(record.KeyChange{Log: []keys.Public{w.quantum.Public}})
	last := p.head()
	p.restart(last)
	w.trade(p)
	return w, statement
}

// TestLatePostQuantumKey: the statement ties the key to the log, and heads from
// before it bound no time for those who trust the new key only.
func TestLatePostQuantumKey(t *testing.T) {
	w, _ := lateShop(t)
	classic, quantum, both := w.trusting(w.log), w.trusting(w.quantum), w.trusting(w.log, w.quantum)
	for name, test := range map[string]struct {
		policy *policy.Policy
		beacon uint64
	}{"classic": {classic, 2}, "both": {both, 2}, "post-quantum": {quantum, 1}} {
		r := w.audit(w.publish(), audit.Options{Policy: test.policy})
		if r.Verdict != audit.Pass || len(codesOf(r, audit.Finds)) > 0 || r.Checked.Beacons != test.beacon {
			t.Errorf("%s: %d beacons: %s", name, r.Checked.Beacons, r.Text())
		}
		if older := slices.Contains(codesOf(r, audit.Notes), audit.QuorumNotMet); older != (test.policy == quantum) {
			t.Errorf("%s: a notice about an older head: %v", name, older)
		}
	}
	// A beacon whose post-quantum line is false is no older one.
	last := w.producer("another")
	last.write(beacon(damageLine(t, w.checkpoint(len(w.entries), w.witnesses...), w.quantum)))
	last.stop()
	last.seal()
	if r := w.audit(w.publish(), audit.Options{Policy: quantum}); !slices.Contains(codesOf(r, audit.Finds), audit.CheckpointSignature) {
		t.Errorf("a false line in a beacon: %s", r.Text())
	}
	if r := w.audit(w.publish(), audit.Options{Policy: classic}); r.Verdict != audit.Pass {
		t.Errorf("a line that nobody reads: %s", r.Text())
	}

	// Nor is one whose false line is by a key that has come and gone since.
	w, _ = lateShop(t)
	w.quantum = key(t, origin, keys.MLDSA44)
	w.change(record.KeyChange{Log: []keys.Public{w.quantum.Public}})
	last = w.producer("another")
	last.write(beacon(damageLine(t, w.checkpoint(len(w.entries), w.witnesses...), w.quantum)))
	last.stop()
	last.seal()
	w.quantum = key(t, origin, keys.MLDSA44)
	w.change(record.KeyChange{Log: []keys.Public{w.quantum.Public}})
	if r := w.audit(w.publish(), audit.Options{Policy: w.trusting(w.quantum)}); !slices.Contains(codesOf(r, audit.Finds), audit.CheckpointSignature) {
		t.Errorf("a false line by an older key in a beacon: %s", r.Text())
	}

	w, statement := lateShop(t)
	quantum = w.trusting(w.quantum)
	w.entries[statement] = []byte{1, 0x77} // no statement at all, where one was
	if r := w.audit(w.publish(), audit.Options{Policy: quantum}); !slices.Contains(codesOf(r, audit.Finds), audit.GenesisInvalid) {
		t.Errorf("without the statement: %s", r.Text())
	}
}

// TestEvidenceOfLateKey: evidence ties the key to the log by the statement, which
// the second implementation checks too.
func TestEvidenceOfLateKey(t *testing.T) {
	x := newExhibit(t)
	x.quantum = key(t, origin, keys.MLDSA44)
	statement := x.change(record.KeyChange{Log: []keys.Public{x.quantum.Public}})
	forged := x.put(record.NewKeyChange(record.KeyChange{Origin: origin, Number: x.changes + 1, Log: []keys.Public{x.quantum.Public}}, key(t, "operator.example", keys.Ed25519)))
	x.head = x.checkpoint(len(x.entries), x.witnesses...)
	again := func() *record.Evidence {
		e := *x.proven
		e.Log, e.KeyChange, e.Genesis, e.LogKey = x.inLog(x.index), x.statement(1), x.statement(0), x.statement(statement)
		return &e
	}
	classic, quantum := x.trusting(x.log), x.trusting(x.quantum)
	good := again()
	for name, p := range map[string]*policy.Policy{"classic": classic, "post-quantum": quantum, "both": x.trusting(x.log, x.quantum)} {
		r, err := audit.VerifyEvidence(good.Marshal(), p, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// The beacon is of a head that had no such line: it bounds no time then.
		if bounded := r.Entries[0].NotBefore != ""; bounded != (name != "post-quantum") {
			t.Errorf("%s: bounded from below: %v", name, bounded)
		}
	}
	python, err := exec.LookPath("python3")
	second := func(e *record.Evidence, want bool) {
		t.Helper()
		if err == nil && stranger(t, python, x.trusting(x.quantum, x.log).Marshal(), [][]byte{e.Marshal()})[0] != want {
			t.Errorf("scripts/verify_evidence.py accepts it: %v", !want)
		}
	}
	second(good, true)
	for name, change := range map[string]func(*record.Evidence){
		"none":                func(e *record.Evidence) { e.LogKey = nil },
		"another":             func(e *record.Evidence) { e.LogKey = x.statement(1) },
		"by another operator": func(e *record.Evidence) { e.LogKey = x.statement(forged) },
		"a record":            func(e *record.Evidence) { e.LogKey = x.statement(x.index) },
		"proven elsewhere":    func(e *record.Evidence) { e.LogKey.Proof.Index-- },
		"altered": func(e *record.Evidence) {
			e.LogKey.Entry = bytes.Clone(e.LogKey.Entry)
			e.LogKey.Entry[len(e.LogKey.Entry)-10] ^= 1
		},
	} {
		e := again()
		change(e)
		if _, err := audit.VerifyEvidence(e.Marshal(), quantum, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
		_, err := audit.VerifyEvidence(e.Marshal(), classic, nil)
		if (err == nil) != (e.LogKey == nil) { // what is given must be good
			t.Errorf("%s under the classic policy: %v", name, err)
		}
		second(e, e.LogKey == nil)
	}
	// Evidence from the genesis on, and a false line in it.
	x.entries[0], err = record.NewGenesis(x.log.Public, x.operator, time.Unix(epoch, 0), x.quantum.Public)
	if err != nil {
		t.Fatal(err)
	}
	x.head = x.checkpoint(len(x.entries), x.witnesses...)
	e := again()
	e.LogKey = nil
	for _, p := range []*policy.Policy{classic, quantum} {
		if _, err := audit.VerifyEvidence(e.Marshal(), p, nil); err != nil {
			t.Error(err)
		}
	}
	second(e, true)
	x.head = damageLine(t, x.head, x.quantum)
	e = again()
	e.LogKey = nil
	if _, err := audit.VerifyEvidence(e.Marshal(), quantum, nil); err == nil {
		t.Error("a false post-quantum line is accepted")
	}
}
