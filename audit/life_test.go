package audit_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
	"github.com/sealtap/sealtap/witness/policy"
)

// What honest systems live through must not be taken for tampering.

// notices lists the codes of notices, in order.
func notices(r *audit.Report) string {
	var list []string
	for _, x := range r.Findings {
		if x.Severity == audit.Notes {
			list = append(list, string(x.Code))
		}
	}
	return strings.Join(list, " ")
}

// quorum returns the policy of the world with another group for its quorum.
func (w *world) quorum(threshold string, members ...string) *policy.Policy {
	w.t.Helper()
	text := "# sealtap-operator " + w.operator.Public.String() + "\nlog " + w.log.Public.String() + "\n"
	for i, k := range w.witnesses {
		text += fmt.Sprintf("witness w%d %s\n", i+1, k.Public)
	}
	p, err := policy.Parse([]byte(text + "group g " + threshold + " " + strings.Join(members, " ") + "\nquorum g\n"))
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// TestPolicyChanges: beacons from before a policy became stricter bound no time,
// and that is all. The head must satisfy the policy of today.
func TestPolicyChanges(t *testing.T) {
	w := newWorld(t)
	p := w.producer("shop")
	for range 3 { // while one witness was enough
		p.write(beacon(w.checkpoint(len(w.entries), w.witnesses[0])))
		p.seal()
	}
	p.beacon()
	p.stop()
	p.seal()
	strict, lax := w.policy, w.quorum("any", "w1", "w2")

	r := w.audit(w.publish(), audit.Options{})
	if r.Verdict != audit.Pass || notices(r) != "quorum-not-met" || *r.Findings[0].Index != 3 || r.Checked.Beacons != 1 || r.Checked.Bracketed != 2 ||
		!strings.HasPrefix(r.Findings[0].Detail, "3 checkpoints in beacons") {
		t.Errorf("after the second witness was added: %s", r.Text())
	}
	if r = w.audit(w.publish(), audit.Options{Policy: lax}); r.Verdict != audit.Pass || len(r.Findings) > 0 || r.Checked.Beacons != 4 {
		t.Errorf("after a witness was taken from the quorum: %s", r.Text())
	}
	gone, err := policy.Parse([]byte(strings.Replace(strings.Replace(strict.String(), "all w1 w2", "all w2", 1), "witness w1", "# ", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if r = w.audit(w.publish(), audit.Options{Policy: gone}); r.Verdict != audit.Pass || notices(r) != "quorum-not-met" {
		t.Errorf("after a witness was taken out: %s", r.Text())
	}

	// The head is another matter, and so is a beacon that contradicts the log.
	files := w.publish()
	files["checkpoint"] = w.checkpoint(len(w.entries), w.witnesses[0])
	if r = w.audit(files, audit.Options{}); r.Verdict != audit.Fail || codes(r) != "quorum-not-met" {
		t.Errorf("a head as of the old policy: %s", r.Text())
	}
	p.write(beacon(w.sign(checkpoint.Body{Origin: origin, Size: 3, Root: [32]byte{1}}, w.witnesses[0])))
	p.stop()
	p.seal()
	if r = w.audit(w.publish(), audit.Options{}); codes(r) != "fork" || len(r.Findings[0].Heads) != 2 {
		t.Errorf("a beacon of another history: %s", r.Text())
	}
}

// TestWeakBeaconEvidence is the same in an evidence file.
func TestWeakBeaconEvidence(t *testing.T) {
	x := newExhibit(t)
	weak := x.checkpoint(5, x.witnesses[0])
	x.p.entries[6] = x.remake(6, beacon(weak))
	x.reseal(7, 6)
	r, err := audit.VerifyEvidence(x.proven.Marshal(), x.policy, nil)
	if err != nil || r.Entries[0].NotBefore != "" || !strings.Contains(strings.Join(strings.Fields(r.Text()), " "), "its beacon does not satisfy the policy") {
		t.Errorf("%v", err)
	}
	r, err = audit.VerifyEvidence(x.proven.Marshal(), x.quorum("any", "w1", "w2"), nil)
	if err != nil || r.Entries[0].NotBefore == "" {
		t.Errorf("under the old policy: %v", err)
	}
	// Not even the log has signed it.
	i := strings.Index(string(weak), "\n\n— ") + 60
	x.p.entries[6] = x.remake(6, beacon(flip(weak, i*8)))
	x.reseal(7, 6)
	var e *audit.EvidenceError
	if _, err = audit.VerifyEvidence(x.proven.Marshal(), x.policy, nil); !errors.As(err, &e) || e.Code != audit.CheckpointSignature {
		t.Errorf("%v", err)
	}
}

// restored are ways of going on from an older seal, from a shop on.
var restored = map[string]struct {
	do    func(w *world, p *producer)
	found string
	says  string
}{
	"restarts after crashes": {func(_ *world, p *producer) {
		for range 3 {
			prev := p.head()
			p.restart(prev)
			p.request("/x")
			p.seal()
		}
		p.stop()
		p.seal()
	}, "", "unclean-stop unclean-stop"},
	"a copy from before the last incarnation": {func(_ *world, p *producer) {
		prev := p.head()
		p.restart(prev)
		p.request("/x")
		p.stop()
		p.seal()
		p.restart(prev)
		p.stop()
		p.seal()
	}, "", "incarnation-branched"},
	"a copy from the middle of an incarnation": {func(_ *world, p *producer) {
		prev := p.head()
		p.request("/after the copy")
		p.seal()
		p.restart(prev)
		p.stop()
		p.seal()
	}, "", "unclean-stop incarnation-branched"},
	"two proxies at a time": {func(w *world, p *producer) {
		q := *p
		q.restart(p.head())
		for range 3 {
			p.request("/one")
			q.request("/other")
			p.seal()
			q.seal()
		}
		p.stop()
		p.seal()
		q.stop()
		q.seal()
	}, "", "incarnation-branched"},
	"a copy, and what came after it is removed": {func(w *world, p *producer) {
		prev := p.head()
		p.request("/gone")
		later := p.head()
		p.restart(prev)
		p.seal()
		p.restart(later)
		p.stop()
		p.seal()
		w.without(10)
	}, "record-missing", "unclean-stop incarnation-branched"},
	"a copy of another tree": {func(_ *world, p *producer) {
		prev := p.head()
		prev.Root[3] ^= 1
		p.request("/after the copy")
		p.seal()
		p.restart(prev)
		p.stop()
		p.seal()
	}, "seal-mismatch", "unclean-stop incarnation-branched"},
}

// TestRestored: a spool that was restored from an older copy, or a second proxy
// with the same key, starts an incarnation that names an older seal. Nobody has
// tampered with anything, unless records are missing.
func TestRestored(t *testing.T) {
	for name, test := range restored {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			w, p := shop(t)
			test.do(w, p)
			r := w.audit(w.publish(), audit.Options{})
			if codes(r) != test.found || notices(r) != test.says || (r.Verdict == audit.Pass) != (test.found == "") {
				t.Error(r.Text())
			}
		})
	}
}

// TestBeginnings: logs and producers that have only just begun.
func TestBeginnings(t *testing.T) {
	w := newWorld(t)
	if r := w.audit(w.publish(), audit.Options{}); r.Verdict != audit.Pass || len(r.Findings) > 0 || r.Size != 1 || len(r.Producers) != 0 {
		t.Errorf("a genesis alone: %s", r.Text())
	}
	p := w.producer("shop")
	if r := w.audit(w.publish(), audit.Options{}); r.Verdict != audit.Pass || notices(r) != "unsealed-tail" {
		t.Errorf("in its first heartbeat: %s", r.Text())
	}
	w.now += int64(15 * time.Second)
	if r := w.audit(w.publish(), audit.Options{}); r.Verdict != audit.Pass || notices(r) != "unsealed-tail" {
		t.Errorf("within the slack: %s", r.Text())
	}
	w.now += int64(6 * time.Second)
	if r := w.audit(w.publish(), audit.Options{}); r.Verdict != audit.Fail || codes(r) != "unsealed-tail" {
		t.Errorf("nothing sealed after heartbeat and slack: %s", r.Text())
	}
	p.seal()
	if r := w.audit(w.publish(), audit.Options{}); r.Verdict != audit.Pass || notices(r) != "producer-silent" {
		t.Errorf("sealed late: %s", r.Text())
	}
}

// TestOneSilent: of two producers one says nothing more. It may have died; only
// its next start would tell what it had.
func TestOneSilent(t *testing.T) {
	w := newWorld(t)
	a, b := w.producer("a"), w.producer("b")
	b.beacon()
	b.seal()
	for range 60 { // an hour of beacons
		a.beacon()
		a.seal()
		w.now += int64(time.Minute)
	}
	a.stop()
	a.seal()
	r := w.audit(w.publish(), audit.Options{})
	if r.Verdict != audit.Pass || notices(r) != "producer-silent silent-interval" || r.Findings[0].Producer != "b" {
		t.Error(r.Text())
	}
	// It comes back and names a seal that the log has not got.
	b.request("/lost")
	lost := b.head()
	b.restart(lost)
	b.stop()
	b.seal()
	w.without(len(w.entries) - 4)
	if r := w.audit(w.publish(), audit.Options{}); codes(r) != "record-missing" || r.Findings[0].Producer != "b" {
		t.Error(r.Text())
	}
}

// TestHeldBack: log and proxy together can hold a record back and let it claim
// any time within its bracket; the width of the bracket shows it.
func TestHeldBack(t *testing.T) {
	w := newWorld(t)
	p := w.producer("shop")
	p.beacon()
	p.seal()
	early := w.now
	w.now += int64(6 * time.Hour)
	r := request("/made in the evening, dated in the morning")
	r.Time = early + 1
	index := p.write(r)
	p.stop()
	p.seal()
	report := w.audit(w.publish(), audit.Options{})
	x := report.Findings[0]
	if report.Verdict != audit.Pass || notices(report) != "bracket-wide silent-interval" || *x.Index > uint64(index) || !strings.Contains(x.Detail, "6h0m0s") {
		t.Error(report.Text())
	}
	if report.Checked.WidestBracket < 6*time.Hour {
		t.Error(report.Checked.WidestBracket)
	}
	if report = w.audit(w.publish(), audit.Options{MaxBracket: 7 * time.Hour}); codes(report) != "" || notices(report) != "silent-interval" {
		t.Error(report.Text())
	}
	// With a beacon in between the bracket is as narrow as it should be, and the
	// claim stands outside.
	w, p = shop(t)
	early = w.now
	for range 90 {
		p.beacon()
		p.seal()
		w.now += int64(30 * time.Second)
	}
	r.Time = early + 1
	p.write(r)
	p.stop()
	p.seal()
	if report = w.audit(w.publish(), audit.Options{}); codes(report) != "time-order" || report.Checked.WidestBracket > time.Minute {
		t.Error(report.Text())
	}
}

// TestOneWrongClock: one witness whose clock is wrong accuses nobody, as long as
// the quorum does without it.
func TestOneWrongClock(t *testing.T) {
	w, p := shop(t)
	p.request("/young")
	files := w.publish()
	_, root := clienttest.Tiles(w.entries)
	body := checkpoint.Body{Origin: origin, Size: uint64(len(w.entries)), Root: root}
	files["checkpoint"] = append(w.checkpoint(len(w.entries), w.witnesses[0]), cosign(t, w.witnesses[1], body, epoch+1e9)...)
	r := w.audit(files, audit.Options{Policy: w.quorum("any", "w1", "w2")})
	if r.Verdict != audit.Pass || notices(r) != "unsealed-tail" {
		t.Error(r.Text())
	}
	// Where nobody vouches for a time, the clock of another producer does not count.
	none, err := policy.New(w.policy.Logs, nil, nil, policy.None, w.policy.Operator)
	if err != nil {
		t.Fatal(err)
	}
	q := w.producer("fast")
	w.now += int64(time.Hour)
	q.stop()
	q.seal()
	if r = w.audit(w.publish(), audit.Options{Policy: none}); r.Verdict != audit.Pass || !strings.Contains(notices(r), "unsealed-tail") {
		t.Error(r.Text())
	}
	p.request("/an hour later, and still no seal")
	if r = w.audit(w.publish(), audit.Options{Policy: none}); codes(r) != "unsealed-tail" {
		t.Error(r.Text())
	}
}
