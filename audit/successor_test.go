package audit_test

import (
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

func found(r *audit.Report, c audit.Code, s audit.Severity) bool {
	for _, x := range r.Findings {
		if x.Code == c && x.Severity == s {
			return true
		}
	}
	return false
}

// TestSuccessorLog: a log that goes on from another says so, and is held to it.
func TestSuccessorLog(t *testing.T) {
	w := newWorld(t)
	var other *keys.Private // the log before
	both := w.alsoTrusting(&other)
	old := &world{t: t, log: other, operator: w.operator, witnesses: w.witnesses, policy: both, now: w.now}
	old.put(record.NewGenesis(other.Public, w.operator, time.Unix(epoch, 0)))
	sign := func(witnesses ...*keys.Private) []byte { return old.headAs(other.Name, witnesses...) }

	for name, c := range map[string]struct {
		head     []byte
		options  audit.Options
		verdict  audit.Verdict
		verified bool
	}{
		"the policy names both":         {sign(w.witnesses...), audit.Options{Policy: both}, audit.Pass, true},
		"the policy names the new one":  {sign(w.witnesses...), audit.Options{}, audit.Pass, false},
		"the old one was not cosigned":  {sign(), audit.Options{Policy: both}, audit.Fail, false},
		"the old one is by a stranger":  {(&world{t: t, log: key(t, other.Name, keys.Ed25519), now: w.now, entries: old.entries}).headAs(other.Name, w.witnesses...), audit.Options{Policy: both}, audit.Fail, false},
		"not cosigned, and nobody asks": {sign(), audit.Options{}, audit.Pass, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := &world{t: t, log: w.log, operator: w.operator, witnesses: w.witnesses, policy: w.policy, now: w.now}
			n.put(record.NewSuccessor(w.log.Public, w.operator, time.Unix(epoch, 0), c.head))
			// A life whose spool was kept: it goes on from one in the log before, and has
			// seen that log's head.
			p := n.enrolled(key(t, "shop", keys.Ed25519))
			p.restart(&sealtapv1.Seal{Incarnation: make([]byte, 16), Size: 9, Root: make([]byte, 32)})
			p.write(beacon(sign(w.witnesses...)))
			p.request("/a")
			p.stop()
			p.seal()
			r := n.audit(n.publish(), c.options)
			if r.Verdict != c.verdict || r.Predecessor == nil || r.Predecessor.Origin != other.Name || r.Predecessor.Verified != c.verified {
				t.Errorf("%+v\n%s", r.Predecessor, r.Text())
			}
			if c.verdict == audit.Pass && !found(r, audit.Continues, audit.Notes) {
				t.Error(r.Text())
			}
		})
	}
	// Without a predecessor both would be wrong.
	p := w.producer("shop")
	p.restart(&sealtapv1.Seal{Incarnation: make([]byte, 16), Size: 9, Root: make([]byte, 32)})
	p.write(beacon(sign(w.witnesses...)))
	p.stop()
	p.seal()
	if r := w.audit(w.publish(), audit.Options{}); !has(r, audit.RecordMissing) || !has(r, audit.CheckpointSignature) {
		t.Error(r.Text())
	}
}

// TestClosedLog: the end of a log is told, and nothing may stand behind it.
func TestClosedLog(t *testing.T) {
	w, p := shop(t)
	w.changes++
	w.put(record.NewClose(origin, w.changes, key(t, "log.example/next", keys.Ed25519).Public, w.operator))
	if r := w.audit(w.publish(), audit.Options{}); r.Verdict != audit.Pass || !found(r, audit.Closed, audit.Notes) {
		t.Error(r.Text())
	}
	p.restart(p.head())
	p.stop()
	p.seal()
	if r := w.audit(w.publish(), audit.Options{}); r.Verdict != audit.Fail || !has(r, audit.UnknownProducer) {
		t.Error(r.Text())
	}
}
