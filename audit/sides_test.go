package audit_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/sealtap/sealtap/audit"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// path is two proxies on one path, with what each says of the one exchange on it.
type path struct {
	askA, askB       *sealtapv1.Request
	answerA, answerB *sealtapv1.Response
}

func bodyOf(text string) *sealtapv1.Body {
	sum := sha256.Sum256([]byte(text))
	return &sealtapv1.Body{Size: uint64(len(text)), Sha256: sum[:]}
}

func exchange(id byte) []byte { return append(make([]byte, 15), id) }

func newPath() *path {
	answer := func() *sealtapv1.Response {
		return &sealtapv1.Response{Status: 200, Received: bodyOf("answer"), Sent: bodyOf("answer"), Outcome: sealtapv1.Outcome_OUTCOME_COMPLETE}
	}
	return &path{
		askA: &sealtapv1.Request{Method: "POST", Body: bodyOf("question")},
		askB: &sealtapv1.Request{Method: "POST", Body: bodyOf("question"), Caller: exchange(1)}, answerA: answer(), answerB: answer(),
	}
}

// audit writes the records in an order, of which a and b are requests, A and B
// responses, and audits the log.
func (p *path) audit(t *testing.T, order string) *audit.Report {
	t.Helper()
	w := newWorld(t)
	outer, inner := w.producer("outer"), w.producer("inner")
	for _, c := range order {
		switch c {
		case 'a':
			outer.write(&sealtapv1.Record{Exchange: exchange(1), About: &sealtapv1.Record_Request{Request: p.askA}})
		case 'b':
			inner.write(&sealtapv1.Record{Exchange: exchange(2), About: &sealtapv1.Record_Request{Request: p.askB}})
		case 'A':
			outer.write(&sealtapv1.Record{Exchange: exchange(1), About: &sealtapv1.Record_Response{Response: p.answerA}})
		case 'B':
			inner.write(&sealtapv1.Record{Exchange: exchange(2), About: &sealtapv1.Record_Response{Response: p.answerB}})
		}
	}
	outer.stop()
	outer.seal()
	inner.stop()
	inner.seal()
	return w.audit(w.publish(), audit.Options{})
}

func TestTwoSidesAgree(t *testing.T) {
	for _, order := range []string{"abBA", "aAbB", "bBaA", "baAB", "AaBb"} {
		if r := newPath().audit(t, order); r.Verdict != audit.Pass || r.Checked.Sides != 1 || r.Checked.SidesUnpaired != 0 {
			t.Errorf("%s: %s, %d compared, %d not\n%s", order, r.Verdict, r.Checked.Sides, r.Checked.SidesUnpaired, r.Text())
		}
	}
}

func TestTwoSidesDiffer(t *testing.T) {
	for want, change := range map[string]func(*path){
		"outer sent a request":   func(p *path) { p.askB.Body = bodyOf("another question") },
		"answered with status":   func(p *path) { p.answerA.Status = 204 },
		"inner sent an answer":   func(p *path) { p.answerA.Received = bodyOf("another answer") },
		"and outer received one": func(p *path) { p.answerB.Sent = bodyOf("answeR") },
		"outer sent a request ": func(p *path) { // more than was sent
			p.askA.Body, p.askB.Body, p.answerB.RequestBody = bodyOf("x"), nil, bodyOf("xy")
		},
	} {
		p := newPath()
		change(p)
		for _, order := range []string{"abBA", "bBaA"} {
			r := p.audit(t, order)
			if codes(r) != "sides-differ" || r.Verdict != audit.Fail || !strings.Contains(r.Findings[0].Detail, strings.TrimSpace(want)) || r.Findings[0].Producer != "inner" {
				t.Errorf("%s: %s", want, r.Text())
			}
		}
	}
}

// TestTwoSidesNotComparable: where one side did not see the end, or something else
// explains a difference, nothing is concluded.
func TestTwoSidesNotComparable(t *testing.T) {
	for name, change := range map[string]func(*path){
		"client abort": func(p *path) {
			p.answerA.Outcome, p.answerA.Received = sealtapv1.Outcome_OUTCOME_CLIENT_ABORT, bodyOf("ans")
		},
		"truncated": func(p *path) {
			p.answerB.Outcome, p.answerB.Sent = sealtapv1.Outcome_OUTCOME_UPSTREAM_TRUNCATED, bodyOf("ans")
		},
		"second attempt": func(p *path) { p.answerA.Attempts, p.answerB.Status = make([]*sealtapv1.Attempt, 2), 500 },
		"not there":      func(p *path) { p.askB.Caller = exchange(9) },
	} {
		p := newPath()
		change(p)
		for i := range p.answerA.Attempts {
			p.answerA.Attempts[i] = &sealtapv1.Attempt{Upstream: "inner"}
		}
		if r := p.audit(t, "abBA"); r.Verdict != audit.Pass || r.Checked.Sides != 0 || r.Checked.SidesUnpaired != 1 {
			t.Errorf("%s: %s, %d compared, %d not\n%s", name, r.Verdict, r.Checked.Sides, r.Checked.SidesUnpaired, r.Text())
		}
	}
	early := newPath() // the callee's upstream answered before it had taken everything
	early.askB.Body, early.answerB.RequestBody = nil, bodyOf("quest")
	if r := early.audit(t, "abBA"); r.Verdict != audit.Pass || r.Checked.Sides != 1 {
		t.Errorf("an early answer: %s", r.Text())
	}
}
