package tlog_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	flog "github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

// quantum gives the log a second key from the next start on.
func (f *fixture) quantum() *keys.Private {
	f.t.Helper()
	k := newKey(f.t, f.key.Name, keys.MLDSA44)
	f.with(k, f.operator)
	return k
}

// with sets the second key and the operator's of the next start.
func (f *fixture) with(k, operator *keys.Private) {
	f.t.Helper()
	own, err := tlog.OwnPolicy(f.policy, f.key, k)
	if err != nil {
		f.t.Fatal(err)
	}
	f.policy = own // its cosigner has it too
	before := f.config
	f.config = func(c *tlog.Config) {
		if before != nil {
			before(c)
		}
		c.PostQuantumKey, c.Operator = k, operator
	}
}

// trusting is a policy of a stranger, without witnesses.
func (f *fixture) trusting(ks ...*keys.Private) *policy.Policy {
	f.t.Helper()
	var logs []policy.Log
	for _, k := range ks {
		logs = append(logs, policy.Log{Key: k.Public})
	}
	p, err := policy.New(logs, nil, nil, policy.None, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// logLines are the lines that the log signed itself.
func (f *fixture) logLines() []string {
	signed, _, _ := f.log.Checkpoint()
	var list []string
	for line := range strings.Lines(string(signed)) {
		if strings.HasPrefix(line, "— "+f.key.Name+" ") {
			list = append(list, line)
		}
	}
	return list
}

// TestPostQuantumLine: transparency-dev/formats verifies both lines of the log,
// with the witnesses' beside them; policies take the one that they know.
func TestPostQuantumLine(t *testing.T) {
	f := newFixture(t)
	f.witnesses(2)
	quantum := f.quantum()
	f.start()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(5)...)
	f.published(f.log.Size())
	signed, body, _ := f.log.Checkpoint()

	classic, err := note.NewVerifier(f.key.Public.String())
	if err != nil {
		t.Fatal(err)
	}
	mldsa, err := fnote.NewMLDSAVerifier(quantum.Public.String())
	if err != nil {
		t.Fatal(err)
	}
	cp, _, n, err := flog.ParseCheckpoint(signed, f.key.Name, classic, mldsa)
	if err != nil || cp.Size != body.Size || len(n.Sigs) != 2 || len(n.UnverifiedSigs) != 2 {
		t.Fatalf("%v, %+v\n%s", err, n, signed)
	}
	damaged := bytes.Clone(signed)
	at := bytes.Index(damaged, []byte(f.logLines()[1])) + 2000
	for _, c := range []byte("AB") {
		if damaged[at] != c {
			damaged[at] = c
			break
		}
	}
	if _, err := note.Open(damaged, note.VerifierList(mldsa)); err == nil {
		t.Error("a damaged line verifies")
	}
	for name, test := range map[string]struct {
		policy *policy.Policy
		refuse bool // the damaged one
	}{
		"classic":      {f.trusting(f.key), false},
		"post-quantum": {f.trusting(quantum), true},
		"both":         {f.trusting(f.key, quantum), true},
	} {
		if _, err := test.policy.Verify(signed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := test.policy.Verify(damaged); errors.Is(err, policy.ErrSignature) != test.refuse || (err != nil) != test.refuse {
			t.Errorf("%s, damaged: %v", name, err)
		}
	}
	if _, err := f.policy.Verify(signed); err != nil { // with the quorum of both witnesses
		t.Error(err)
	}
	genesis, err := f.log.Entry(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := record.Parse(genesis); err != nil || e.Genesis.PostQuantum == nil || e.Genesis.PostQuantum.String() != quantum.Public.String() {
		t.Errorf("genesis: %+v, %v", e.Genesis, err)
	}

	// A restart shows the very lines again: nothing is signed twice.
	before := f.logLines()
	f.restart()
	f.published(body.Size)
	if after := f.logLines(); len(after) != 2 || strings.Join(after, "") != strings.Join(before, "") {
		t.Errorf("other lines after a restart:\n%v\n%v", before, after)
	}
	if f.log.Size() != body.Size {
		t.Errorf("a restart made entries: %d, not %d", f.log.Size(), body.Size)
	}
}

// TestLatePostQuantumKey: a log that has its operator's key names a new key by
// itself, once, before it signs with it.
func TestLatePostQuantumKey(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(5)...)
	size := f.log.Size()
	f.published(size)
	f.stop()

	quantum := f.quantum()
	f.start()
	f.published(size + 1)
	entry, err := f.log.Entry(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.Parse(entry)
	if err != nil || e.KeyChange == nil || len(e.KeyChange.Log) != 1 || e.KeyChange.Log[0].String() != quantum.Public.String() || e.KeyChange.Verify(f.operator.Public) != nil {
		t.Fatalf("%+v, %v", e, err)
	}
	signed, _, _ := f.log.Checkpoint()
	if _, err := f.trusting(quantum).Verify(signed); err != nil {
		t.Error(err)
	}
	f.mustSubmit(p.batch(1)...) // the log goes on
	f.changes++
	f.producer("proxy-2")
	size = f.log.Size()
	f.published(size)
	f.with(quantum, nil) // the operator's key is not needed again
	f.restart()
	f.mustSubmit(p.batch(1)...)
	f.published(size + 2)
	if got := f.log.Size(); got != size+2 {
		t.Errorf("%d entries, not %d: it was named again", got, size+2)
	}
}

// TestUnnamedPostQuantumKey: a key that no statement names signs nothing.
func TestUnnamedPostQuantumKey(t *testing.T) {
	f := newFixture(t).start()
	f.published(1)
	f.stop()
	refused := func(what, want string) {
		t.Helper()
		err := f.open()
		if !errors.Is(err, tlog.ErrConfig) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil {
			f.stop()
		}
	}
	quantum := newKey(t, f.key.Name, keys.MLDSA44)
	f.config = func(c *tlog.Config) { c.PostQuantumKey = quantum }
	refused("a policy without it", "does not name this log")
	f.with(quantum, nil)
	refused("no operator key", "have the operator run sealtap enrol")
	f.with(quantum, newKey(t, "somebody", keys.Ed25519))
	refused("another operator", "the log's operator is operator")
	f.with(newKey(t, f.key.Name, keys.Ed25519), f.operator)
	refused("an Ed25519 key", "has signature type 0x01, 0x06 is wanted")
	f.with(newKey(t, "log.example/two", keys.MLDSA44), f.operator)
	refused("another name", "two names")

	// The operator names it by hand, in a log that has not got it yet.
	f.config = nil
	f.start()
	f.change(record.KeyChange{Log: []keys.Public{quantum.Public}})
	f.published(2)
	f.stop()
	f.with(quantum, nil)
	f.start()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(1)...)
	f.published(5)
	if lines := f.logLines(); len(lines) != 2 {
		t.Errorf("%d lines of the log", len(lines))
	}
}

// TestLostLine: a cosigner that drops a line of the log's own is not believed.
func TestLostLine(t *testing.T) {
	f := newFixture(t)
	narrow := f.trusting(f.key)
	f.config = func(c *tlog.Config) { c.Cosigner = narrowCosigner{narrow} }
	f.quantum()
	f.start()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := f.log.Ready(); err != nil && strings.Contains(err.Error(), "a signature of the log's own was lost") {
			break
		}
		if time.Now().After(deadline) || f.log.Published() > 0 {
			t.Fatalf("published %d: %v", f.log.Published(), f.log.Ready())
		}
	}
}

// narrowCosigner knows one key of the log, and asks nobody.
type narrowCosigner struct{ policy *policy.Policy }

func (n narrowCosigner) Status() []witness.WitnessStatus { return nil }
func (n narrowCosigner) Cosign(_ context.Context, signed []byte, _ witness.Consistency) ([]byte, error) {
	cp, err := n.policy.VerifyLogOnly(signed)
	if err != nil {
		return nil, err
	}
	return cp.Cosign(), nil
}

// TestOwnPolicy: whichever key of the log its policy names, heads carry both.
func TestOwnPolicy(t *testing.T) {
	f := newFixture(t)
	quantum := newKey(t, f.key.Name, keys.MLDSA44)
	stranger := newKey(t, "log.example/other", keys.Ed25519)
	for name, c := range map[string]struct {
		trusted []*keys.Private
		want    int // logs of the log's own policy
	}{"classic": {[]*keys.Private{f.key}, 2}, "post-quantum": {[]*keys.Private{quantum}, 2}, "both": {[]*keys.Private{f.key, quantum}, 2},
		"neither": {[]*keys.Private{stranger}, 1}} {
		own, err := tlog.OwnPolicy(f.trusting(c.trusted...), f.key, quantum)
		if err != nil || len(own.Logs) != c.want {
			t.Errorf("%s: %d logs, %v", name, len(own.Logs), err)
		}
		if same, err := tlog.OwnPolicy(own, f.key, nil); err != nil || same != own {
			t.Errorf("%s: changed without a second key, %v", name, err)
		}
	}
	f.policy = f.trusting(quantum)
	f.with(quantum, f.operator)
	f.start()
	f.published(1)
	if lines := f.logLines(); len(lines) != 2 {
		t.Errorf("%d lines of the log", len(lines))
	}
}

// TestNotBeforeItIsNamed: while the statement that names the log's second key is
// still being stored, heads are published without it.
func TestNotBeforeItIsNamed(t *testing.T) {
	f := newFixture(t)
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	f.stop()
	f.quantum()
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	reached, release := f.storage.Hold("Commit")
	f.run()
	<-reached
	f.published(1)
	if n := len(f.logLines()); n != 1 {
		t.Errorf("the head before the statement has %d lines of the log", n)
	}
	release()
	f.published(2)
	eventually(t, "the second line", func() bool { return len(f.logLines()) == 2 })
}

// TestKeyTakenAway: a head that two keys signed is still published when the log has
// lost one of them, and its cosigner no longer knows it.
func TestKeyTakenAway(t *testing.T) {
	f := newFixture(t)
	f.witnesses(1)
	before, config := f.policy, f.config
	f.quantum()
	f.start()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(3)...)
	f.published(f.log.Size())
	f.stop()
	f.policy, f.config = before, config
	f.start()
	eventually(t, "ready", func() bool { return f.log.Ready() == nil })
	f.mustSubmit(p.batch(3)...)
	f.published(f.log.Size())
}
