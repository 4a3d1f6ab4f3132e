package audit_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
)

// Attackers who hold keys. The subtests are named after who they are: docs/threat-model.md
// has a row for each. An empty wish for codes says that nothing is found, which that
// page states plainly.

// heldKeys is one attack by those who hold the keys that who names.
type heldKeys struct {
	who, what string
	do        func(w *world, p *producer, good clienttest.Files) clienttest.Files // on a shop; what the auditor is shown
	found     string                                                              // codes of the findings
	says      string                                                              // codes of the notices
}

// published is what is shown after a change, under a head that all witnesses cosigned.
func published(do func(w *world, p *producer)) func(*world, *producer, clienttest.Files) clienttest.Files {
	return func(w *world, p *producer, _ clienttest.Files) clienttest.Files {
		do(w, p)
		return w.publish()
	}
}

// cosignedBy shows the log under a head with these cosignatures only.
func cosignedBy(do func(w *world, p *producer), which func(w *world) []*keys.Private) func(*world, *producer, clienttest.Files) clienttest.Files {
	return func(w *world, p *producer, _ clienttest.Files) clienttest.Files {
		do(w, p)
		files := w.publish()
		files["checkpoint"] = w.checkpoint(len(w.entries), which(w)...)
		return files
	}
}

// rewrite replaces the record at index 6, sequence 3, and everything that the producer
// sealed from there on.
func rewrite(w *world, p *producer) {
	tree := record.NewTree()
	for i, e := range p.entries {
		if i == 3 {
			q := *p
			q.seq, q.tree, q.entries = 3, record.NewTree(), nil
			e = q.make(request("/rewritten"))
			w.entries[6] = e
		}
		tree.Append(record.LeafHash(e), nil)
	}
	w.entries[9] = p.sealWith(p.key, tree.Size(), tree.Root())
}

var attacksWithKeys = []heldKeys{
	{"log", "drops a record", published(func(w *world, _ *producer) { w.without(6) }), "record-missing", ""},
	{"log", "rewrites a record", published(func(w *world, p *producer) {
		seal := w.entries[9]
		rewrite(w, p)
		w.entries[9] = seal // it has no key to seal with
	}), "seal-mismatch", ""},
	{"log", "forges a seal over what it rewrote", published(func(w *world, p *producer) {
		rewrite(w, p)
		s, err := record.Parse(w.entries[9])
		if err != nil {
			w.t.Fatal(err)
		}
		w.entries[9] = p.sealWith(key(w.t, "shop", keys.Ed25519), s.Seal.Size, s.Seal.Root)
	}), "seal-signature", "unsealed-tail"},
	{"log", "replays the old life of a producer behind its end", published(func(w *world, _ *producer) {
		w.entries = append(w.entries, w.entries[2:10]...)
	}), "record-duplicated", "record-duplicated"},
	{"log", "forges a statement that enrols a key of its own", published(func(w *world, _ *producer) {
		k := record.KeyChange{Origin: origin, Number: 2, Enrol: []keys.Public{key(w.t, "forged", keys.Ed25519).Public}}
		w.put(record.NewKeyChange(k, w.log))
	}), "key-change-invalid", ""},
	{"log", "replays a statement of its operator", published(func(w *world, _ *producer) { w.put(w.entries[1], nil) }), "key-change-invalid", ""},
	{"log", "shows an audience another history", cosignedBy(func(w *world, p *producer) {
		w.entries = w.entries[:8]
	}, func(*world) []*keys.Private { return nil }), "quorum-not-met", "unsealed-tail"},
	{"log", "withholds the newest records", published(func(w *world, p *producer) {
		p.restart(p.head())
		p.seal()
		p.request("/withheld")
		p.seal()
		w.entries = w.entries[:12]
	}), "", ""},
	{"log", "withholds the whole newest life of a producer", published(func(w *world, p *producer) {
		size := len(w.entries)
		p.restart(p.head())
		p.request("/withheld")
		p.seal()
		w.entries = w.entries[:size]
	}), "", ""},
	{"log", "withholds records for hours", published(func(w *world, p *producer) {
		q := w.producer("other")
		q.seal()
		w.now += int64(6 * time.Hour)
		q.stop()
		q.seal()
		p.restart(p.head())
		w.now += int64(6 * time.Hour)
	}), "unsealed-tail", "bracket-wide bracket-wide bracket-wide producer-silent silent-interval"},
	{"log", "puts producers into another order", published(func(w *world, p *producer) {
		q := w.producer("other")
		first, second := q.request("/first"), p.restart(p.head())
		w.entries[first], w.entries[second] = w.entries[second], w.entries[first]
		for _, p := range []*producer{p, q} {
			p.stop()
			p.seal()
		}
	}), "", ""},

	{"proxy", "writes two records of one sequence", published(func(w *world, p *producer) {
		q := *p
		q.seq, q.tree = 3, record.NewTree()
		w.put(q.make(request("/other")), nil)
	}), "fork", ""},
	{"proxy", "seals two trees of one size", published(func(w *world, p *producer) {
		w.put(p.sealWith(p.key, 4, record.Hash{1}), nil)
	}), "fork", ""},
	{"proxy", "drops a record that it has sealed", published(func(w *world, p *producer) {
		p.make(request("/dropped"))
		p.request("/d")
		p.seal()
	}), "record-missing", ""},
	{"proxy", "forgets a life that it has sealed", published(func(w *world, p *producer) {
		p.request("/forgotten")
		forgotten := p.head()
		w.without(len(w.entries) - 1)
		p.restart(forgotten)
		p.stop()
		p.seal()
	}), "record-missing", ""},
	{"proxy", "dates a record before its beacon", published(func(w *world, p *producer) {
		p.restart(p.head())
		w.now += int64(time.Hour)
		p.beacon()
		r := request("/backdated")
		r.Time = w.now - int64(30*time.Minute)
		p.write(r)
		p.stop()
		p.seal()
	}), "time-order", "bracket-wide bracket-wide silent-interval"},
	{"proxy", "dates a record after its cosignature", published(func(w *world, p *producer) {
		r := request("/tomorrow")
		r.Time = w.now + int64(24*time.Hour)
		p.write(r)
		p.seal()
	}), "time-order", "silent-interval"},
	{"proxy", "invents a head for its beacon", published(func(w *world, p *producer) {
		log := w.log
		w.log = key(w.t, origin, keys.Ed25519)
		signed := w.checkpoint(5, w.witnesses...)
		w.log = log
		p.restart(p.head())
		p.write(beacon(signed))
		p.stop()
		p.seal()
	}), "checkpoint-signature", ""},
	{"proxy", "writes in the name of another producer", published(func(w *world, p *producer) {
		q := w.producer("other")
		q.stop()
		q.seal()
		forged := *q
		forged.write(request("/in your name"))
		w.put(forged.sealWith(p.key, forged.tree.Size(), forged.tree.Root()), nil)
	}), "seal-signature", "unsealed-tail"},
	{"proxy", "writes after it was revoked", published(func(w *world, p *producer) {
		w.change(record.KeyChange{Revoke: []record.Revocation{{Key: p.key.Public, Last: []record.LastSequence{{Incarnation: p.stream.Incarnation, Sequence: 5}}}}})
		p.request("/late")
		p.seal()
	}), "unknown-producer", ""},
	{"proxy", "leaves a record out before it seals", published(func(w *world, p *producer) {
		p.restart(p.head()) // the exchange behind this is never written
		p.stop()
		p.seal()
	}), "", ""},
	{"proxy", "leaves the response of an exchange out", published(func(w *world, p *producer) {
		p.restart(p.head())
		p.request("/half")
		p.stop()
		p.seal()
	}), "", ""},
	{"proxy", "says what is not true", published(func(w *world, p *producer) {
		p.restart(p.head())
		p.request("/nobody asked for this")
		p.stop()
		p.seal()
	}), "", ""},

	{"log and proxy", "rewrite what another producer has a beacon of", published(func(w *world, p *producer) {
		q := w.producer("other")
		q.beacon()
		q.stop()
		q.seal()
		rewrite(w, p)
	}), "fork", ""},
	{"log and proxy", "prepare a record for later", published(func(w *world, p *producer) {
		p.restart(p.head())
		r := request("/for later")
		r.Time = w.now + int64(time.Hour)
		p.write(r)
		p.seal()
	}), "time-order", "silent-interval"},
	{"log and proxy", "rewrite what nobody has seen yet", published(func(w *world, p *producer) {
		w.entries = w.entries[:5]
		p.seq, p.tree, p.entries = 2, record.NewTree(), p.entries[:2]
		for _, e := range p.entries {
			p.tree.Append(record.LeafHash(e), nil)
		}
		w.entries[4] = p.sealWith(p.key, 2, p.tree.Root())
		p.request("/rewritten before any witness saw it")
		p.stop()
		p.seal()
	}), "", ""},
	{"log and witness", "sign another history below the quorum", cosignedBy(rewrite, func(w *world) []*keys.Private { return w.witnesses[:1] }), "quorum-not-met", ""},
	{"log and witness", "count one witness twice", cosignedBy(rewrite, func(w *world) []*keys.Private {
		return []*keys.Private{w.witnesses[0], w.witnesses[0]}
	}), "quorum-not-met", ""},
	{"proxy and witness", "date a beacon's head before it was there", published(func(w *world, p *producer) {
		p.restart(p.head())
		_, root := clienttest.Tiles(w.entries[:5])
		body := checkpoint.Body{Origin: origin, Size: 5, Root: root}
		p.write(beacon(append(w.sign(body), cosign(w.t, w.witnesses[0], body, epoch-1e6)...)))
		p.stop()
		p.seal()
	}), "", "quorum-not-met"},
	{"log, proxy and all witnesses", "rewrite everything", published(func(w *world, p *producer) {
		w.without(5) // the beacon: they would have made another one
		p.seq, p.tree, p.entries = 2, record.NewTree(), p.entries[:2]
		for _, e := range p.entries {
			p.tree.Append(record.LeafHash(e), nil)
		}
		w.entries = w.entries[:5]
		w.entries[4] = p.sealWith(p.key, 2, p.tree.Root())
		p.request("/never happened")
		p.stop()
		p.seal()
	}), "", ""},
	{"log and operator", "enrol a producer that says what suits them", published(func(w *world, _ *producer) {
		q := w.producer("invented")
		q.request("/invented")
		q.stop()
		q.seal()
	}), "", ""},
}

func TestAttackersWithKeys(t *testing.T) {
	for _, test := range attacksWithKeys {
		t.Run(strings.ReplaceAll(test.who+" "+test.what, " ", "-"), func(t *testing.T) {
			w, p := shop(t)
			good := w.publish()
			r := w.audit(test.do(w, p, good), audit.Options{})
			if codes(r) != test.found || notices(r) != test.says {
				t.Errorf("found %q, want %q; notices %q, want %q\n%s", codes(r), test.found, notices(r), test.says, r.Text())
			}
			if (r.Verdict == audit.Fail) != (test.found != "") {
				t.Error(r.Verdict)
			}
		})
	}
}

// TestAttackersMeetMemory: what no first audit can find, one finds that has seen the
// log before, whoever holds whatever keys.
func TestAttackersMeetMemory(t *testing.T) {
	for name, test := range map[string]struct {
		do    func(w *world, p *producer)
		found string
	}{
		"all but the operator rewrite the history": {rewrite, "fork"},
		"the quorum helps the log to go back":      {func(w *world, _ *producer) { w.entries = w.entries[:8] }, "rollback"},
		"the quorum signs a second history": {func(w *world, p *producer) {
			w.entries[6], w.entries[7] = w.entries[7], w.entries[6]
			p.restart(p.head())
			p.stop()
			p.seal()
		}, "fork"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			w, p := shop(t)
			o := audit.Options{State: filepath.Join(t.TempDir(), "state")}
			if r := w.audit(w.publish(), o); r.Verdict != audit.Pass {
				t.Fatal(r.Text())
			}
			test.do(w, p)
			if r := w.audit(w.publish(), o); !strings.HasPrefix(codes(r), test.found) || len(r.Findings[0].Heads) != 2 {
				t.Error(r.Text())
			}
		})
	}
}

// TestWitnessLiesAboutTime: a witness can move the times that follow from its own
// cosignature only: below the quorum that bounds nothing, and at the edge of it the
// honest one bounds still.
func TestWitnessLiesAboutTime(t *testing.T) {
	w, p := shop(t)
	p.restart(p.head())
	r := request("/tomorrow")
	r.Time = w.now + int64(24*time.Hour)
	p.write(r)
	p.write(&sealtapv1.Record{Time: r.Time, About: &sealtapv1.Record_Stop{Stop: &sealtapv1.Stop{}}})
	p.seal()
	_, root := clienttest.Tiles(w.entries)
	body := checkpoint.Body{Origin: origin, Size: uint64(len(w.entries)), Root: root}
	files := w.publish()
	late := w.now/int64(time.Second) + 2*24*3600
	files["checkpoint"] = append(w.checkpoint(len(w.entries), w.witnesses[0]), cosign(t, w.witnesses[1], body, late)...)
	// Where any witness is enough, the honest one is the quorum, and was there first.
	if r := w.audit(files, audit.Options{Policy: w.quorum("any", "w1", "w2")}); codes(r) != "time-order" {
		t.Errorf("any of two: %s", r.Text())
	}
	// Where all are needed, the one that lies says when all had signed.
	if r := w.audit(files, audit.Options{}); codes(r) != "" {
		t.Errorf("all of two: %s", r.Text())
	}
	// It cannot say that the head was there before the honest one saw it.
	early := w.now/int64(time.Second) - 24*3600
	files["checkpoint"] = append(w.checkpoint(len(w.entries), w.witnesses[0]), cosign(t, w.witnesses[1], body, early)...)
	if r := w.audit(files, audit.Options{}); codes(r) != "time-order" {
		t.Errorf("all of two, early: %s", r.Text())
	}
}

// TestTwoProxiesLieTogether: two proxies on one path that agree on a false digest are
// believed; one of them alone is not (TestTwoSidesDiffer).
func TestTwoProxiesLieTogether(t *testing.T) {
	p := newPath()
	p.answerA.Received, p.answerA.Sent = bodyOf("forged"), bodyOf("forged")
	if r := p.audit(t, "abBA"); codes(r) != "sides-differ" {
		t.Errorf("one lies: %s", r.Text())
	}
	p.answerB.Received, p.answerB.Sent = bodyOf("forged"), bodyOf("forged")
	if r := p.audit(t, "abBA"); r.Verdict != audit.Pass || r.Checked.Sides != 1 {
		t.Errorf("both lie: %s", r.Text())
	}
}
