package audit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// instant is a time of the world, in seconds since it began.
func instant(seconds int) time.Time { return time.Unix(epoch+int64(seconds), 0).UTC() }

// to lets the world's clock go on to a second.
func (w *world) to(seconds int) { w.now = instant(seconds).UnixNano() }

// shift is a world with one producer that wrote until second 100, was killed, wrote
// again from 200 to 300, and is there.
func shift(t testing.TB) (*world, *producer) {
	w := newWorld(t)
	p := w.producer("shop")
	p.seal()
	for s := 10; s <= 100; s += 10 {
		w.to(s)
		p.beacon()
		p.request("/a")
		p.seal()
	}
	last := p.head()
	w.to(200)
	p.restart(last)
	p.seal()
	for s := 210; s <= 300; s += 10 {
		w.to(s)
		p.beacon()
		p.request("/b")
		p.seal()
	}
	return w, p
}

func during(since, until int) *audit.Period {
	return &audit.Period{Since: instant(since), Until: instant(until)}
}

func TestPeriod(t *testing.T) {
	w, _ := shift(t)
	r := w.audit(w.publish(), audit.Options{Period: during(50, 250)})
	if r.Verdict != audit.Pass || !r.Period.Complete {
		t.Fatalf("verdict %s, period %+v", r.Verdict, r.Period)
	}
	// 50 to 100 and 210 to 240 have two records for each ten seconds, and there is one start.
	if r.Period.Records != 6*2+1+4*2 || r.Period.Requests != 10 {
		t.Fatalf("%d records, %d requests in the period", r.Period.Records, r.Period.Requests)
	}
	if r.Period.Within == 0 || r.Period.Within >= r.Period.Records {
		t.Fatalf("%d of %d records are bounded by witnesses on both sides", r.Period.Within, r.Period.Records)
	}
	if b := r.Period.Opens.Before; b == nil || b.CosignedAt.After(instant(50)) || r.Period.Closes.After == nil {
		t.Fatalf("edges %+v", r.Period)
	}
	c := r.Coverage[0]
	if len(c.Lives) != 2 || c.Lives[0].End != audit.Unclean || c.Lives[1].End != audit.Open || c.SealedUntil.Before(instant(300)) {
		t.Fatalf("coverage %+v", c)
	}
	for _, x := range r.Witnesses {
		if !x.OnNow || x.Heads < 10 || x.Size != r.Size || x.First.After(instant(20)) {
			t.Fatalf("witness %+v", x)
		}
	}
	if text := strings.Join(strings.Fields(r.Text()), " "); !strings.Contains(text, "not running from") || !strings.Contains(text, "no record of the period is missing") {
		t.Fatalf("the text does not tell: %s", text)
	}
}

// TestPeriodNotShown: what the data do not show is never said to be complete.
func TestPeriodNotShown(t *testing.T) {
	for _, c := range []struct {
		name   string
		spoil  func(w *world, p *producer)
		period *audit.Period
		want   string
	}{
		{"the period is not over", func(*world, *producer) {}, during(50, 400), "before the period ends"},
		{"no seal covers its end", func(w *world, p *producer) { w.to(330); w.producer("other").seal(); w.to(330) }, during(50, 320), "shop: no seal of it covers the end"},
		{"what covers its end is not sealed", func(w *world, p *producer) { w.to(330); p.request("/late") }, during(50, 320), "shop: no seal of it covers the end"},
		{"a producer never wrote", func(w *world, _ *producer) {
			w.change(record.KeyChange{Enrol: []keys.Public{key(w.t, "idle", keys.Ed25519).Public}})
		}, during(50, 250), "idle: it is enrolled, and nothing of it is there"},
		{"a producer has stopped", func(w *world, p *producer) {
			q := w.producer("brief")
			q.stop()
			q.seal()
			w.to(400)
			p.beacon()
			p.seal()
		}, during(50, 350), "brief: its records end with a stop record"},
		{"lives are not linked", func(w *world, p *producer) {
			w.to(305)
			p.restart(nil)
			p.seal()
			w.to(320)
			p.beacon()
			p.seal()
		}, during(50, 310), "does not name a seal of the one before"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, p := shift(t)
			c.spoil(w, p)
			r := w.audit(w.publish(), audit.Options{Period: c.period})
			if r.Verdict != audit.Incomplete || r.Period.Complete || !strings.Contains(strings.Join(r.Period.Lacking, "\n"), c.want) {
				t.Fatalf("verdict %s, findings %+v, period %+v; want %q", r.Verdict, r.Findings, r.Period, c.want)
			}
		})
	}
}

// TestPeriodRevoked: a key that was ended counts as covered if all that stays
// admissible is there, and not otherwise.
func TestPeriodRevoked(t *testing.T) {
	for _, missing := range []bool{false, true} {
		w, p := shift(t)
		q := w.producer("old")
		q.request("/x")
		q.seal()
		last := q.seq - 1
		if missing {
			last++
		}
		w.change(record.KeyChange{Revoke: []record.Revocation{{Key: q.key.Public, Last: []record.LastSequence{{Incarnation: q.stream.Incarnation, Sequence: last}}}}})
		w.to(400)
		p.beacon()
		p.seal()
		r := w.audit(w.publish(), audit.Options{Period: during(50, 390)})
		if r.Period.Complete == missing {
			t.Fatalf("missing %t: %+v", missing, r.Period)
		}
	}
}

// TestSpans: what is wrong within a life is told with its place.
func TestSpans(t *testing.T) {
	w, p := shift(t)
	w.to(350)
	p.beacon()
	p.write(&sealtapv1.Record{About: &sealtapv1.Record_Gap{Gap: &sealtapv1.Gap{Since: instant(340).UnixNano(), Until: instant(345).UnixNano(), Exchanges: 3, Reason: "disk"}}})
	hole := p.request("/lost")
	p.request("/c")
	p.seal()
	p.request("/tail")
	w.without(hole)
	r := w.audit(w.publish(), audit.Options{Coverage: true})
	got := make(map[audit.SpanKind]audit.Span)
	for _, l := range r.Coverage[0].Lives {
		for _, x := range l.Spans {
			got[x.Kind] = x
		}
	}
	if x := got[audit.SpanSilent]; !x.From.Before(instant(301)) || x.To.Before(instant(350)) {
		t.Errorf("silence %+v", x)
	}
	if x := got[audit.SpanGap]; x.Count != 3 || !x.From.Equal(instant(340)) {
		t.Errorf("gap %+v", x)
	}
	if x := got[audit.SpanMissing]; x.First != x.Last || x.To.IsZero() {
		t.Errorf("missing %+v", x)
	}
	if _, ok := got[audit.SpanUnsealed]; !ok {
		t.Errorf("no unsealed tail in %+v", got)
	}
	if again := w.audit(w.publish(), audit.Options{Period: during(0, 150)}); len(again.Coverage[0].Interruptions(*again.Period)) != 1 {
		t.Errorf("spans from outside the period: %+v", again.Coverage[0])
	}
}
