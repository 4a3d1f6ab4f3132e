package audit_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// only returns the one finding of a code, nil unless there is exactly one.
func only(r *audit.Report, c audit.Code) *audit.Finding {
	var found []audit.Finding
	for _, x := range r.Findings {
		if x.Code == c {
			found = append(found, x)
		}
	}
	if len(found) != 1 {
		return nil
	}
	return &found[0]
}

// beats lets a producer write a beacon and a seal every ten seconds.
func (p *producer) beats(n int) {
	for range n {
		p.w.now += int64(10 * time.Second)
		p.beacon()
		p.seal()
	}
}

// spans returns the spans of a kind of all lives of the first producer.
func spans(r *audit.Report, kind audit.SpanKind) (list []audit.Span) {
	for _, l := range r.Coverage[0].Lives {
		for _, x := range l.Spans {
			if x.Kind == kind {
				list = append(list, x)
			}
		}
	}
	return list
}

// TestSilentInterval: of a life that was silent the audit says how often, how long at
// most, and when; a report draws the same intervals.
func TestSilentInterval(t *testing.T) {
	w := newWorld(t)
	p := w.producer("shop")
	p.beats(3)
	w.now += int64(9 * time.Second) // with the next beat 19 s, which the slack allows
	p.beats(1)
	if r := w.audit(w.publish(), audit.Options{}); len(r.Findings) > 0 {
		t.Fatal(r.Text())
	}
	w.now += int64(30 * time.Second)
	p.beats(2)
	w.now += int64(5 * time.Minute)
	longest := p.seq
	p.beats(2)
	w.now += int64(15 * time.Second)
	p.beats(1)
	p.stop()
	p.seal()
	for _, o := range []audit.Options{{}, {Coverage: true}} {
		r := w.audit(w.publish(), o)
		x := only(r, audit.SilentInterval)
		if r.Verdict != audit.Pass || notices(r) != "silent-interval" || *x.Sequence != longest || !strings.Contains(x.Detail, "for 5m10.001s, from 2027-01-15T08:0") ||
			!strings.Contains(x.Detail, "every 10s") || !strings.Contains(x.Detail, "the longest of 3 such intervals in this incarnation, which make 6m15.003s") {
			t.Error(r.Text())
		}
		if o.Coverage {
			if list := spans(r, audit.SpanSilent); len(list) != 3 || list[1].Last != longest {
				t.Errorf("spans %+v", list)
			}
		}
	}
	// One that follows a hole is not known to be one.
	w, p = shop(t)
	p.restart(p.head())
	p.beats(2)
	for range 6 {
		w.now += int64(10 * time.Second)
		p.make(beacon(w.checkpoint(len(w.entries), w.witnesses...)))
	}
	p.stop()
	p.seal()
	if r := w.audit(w.publish(), audit.Options{}); codes(r) != "record-missing" || notices(r) != "" {
		t.Error(r.Text())
	}
}

// TestUncleanStop: a life that ended without a stop record is told at the next one,
// with what that found.
func TestUncleanStop(t *testing.T) {
	w := newWorld(t)
	p := w.producer("shop")
	p.beats(2)
	first := p.stream.Incarnation.String()
	w.now += int64(time.Hour)
	at := len(w.entries) + 4 // three requests and a seal
	died(p, 3)
	p.beats(1)
	p.stop()
	p.seal()
	p.restart(p.head()) // behind a stop
	p.stop()
	p.seal()
	for _, o := range []audit.Options{{}, {Coverage: true}} {
		r := w.audit(w.publish(), o)
		x := only(r, audit.UncleanStop)
		if r.Verdict != audit.Pass || x == nil || *x.Index != uint64(at) || *x.Sequence != 0 || !strings.Contains(x.Detail, "incarnation "+first+" of producer shop ended without a stop record") ||
			!strings.Contains(x.Detail, "found under no seal, and sealed: 2") || !strings.Contains(x.Detail, "found open: 3, of which it closed with outcome unknown: 3") {
			t.Error(r.Text())
		}
		if o.Coverage {
			if l := r.Coverage[0].Lives; l[0].End != audit.Unclean || l[1].End != audit.Stopped || l[2].End != audit.Stopped {
				t.Errorf("lives %+v", l)
			}
		}
	}
}

// TestRestartWithin: a producer that goes on with its incarnation. Behind a stop it was
// down, and behind none it was killed.
func TestRestartWithin(t *testing.T) {
	w := newWorld(t)
	p := w.producer("shop")
	p.beats(1)
	p.stop()
	p.seal()
	w.now += int64(time.Hour)
	p.start(p.head())
	p.beats(1)
	r := w.audit(w.publish(), audit.Options{Coverage: true})
	if r.Verdict != audit.Pass || strings.Contains(notices(r), "silent-interval") || only(r, audit.UncleanStop) != nil || len(spans(r, audit.SpanDown)) != 1 || len(spans(r, audit.SpanSilent)) != 0 {
		t.Error(r.Text())
	}
	w.now += int64(time.Minute)
	killed := p.start(p.head())
	p.seal()
	r = w.audit(w.publish(), audit.Options{Coverage: true})
	if x := only(r, audit.UncleanStop); r.Verdict != audit.Pass || x == nil || *x.Index != uint64(killed) || only(r, audit.SilentInterval) == nil || len(spans(r, audit.SpanSilent)) != 1 {
		t.Error(r.Text())
	}
	p.start(p.head())
	p.seal()
	if x := only(w.audit(w.publish(), audit.Options{}), audit.UncleanStop); x == nil || !strings.Contains(x.Detail, "2 times, the last time") {
		t.Errorf("%+v", x)
	}
}

// TestUncleanElsewhere: of a life that does not stand in the log the next one says how it
// ended.
func TestUncleanElsewhere(t *testing.T) {
	for reason, want := range map[sealtapv1.StartReason]string{
		sealtapv1.StartReason_START_REASON_NEW: "", sealtapv1.StartReason_START_REASON_CLEAN: "",
		sealtapv1.StartReason_START_REASON_CRASH: "unclean-stop", sealtapv1.StartReason_START_REASON_REPLACED: "unclean-stop",
	} {
		w := newWorld(t)
		p := w.producer("shop")
		w.entries = w.entries[:2] // without its first life
		p.begins(&sealtapv1.Start{Reason: reason})
		p.stop()
		p.seal()
		if r := w.audit(w.publish(), audit.Options{}); r.Verdict != audit.Pass || notices(r) != want {
			t.Errorf("%v: %s", reason, r.Text())
		}
	}
}

// TestUncleanPruned: the same of a life that lies below the minimum index; and a silence
// that began there is not known to be one.
func TestUncleanPruned(t *testing.T) {
	for _, clean := range []bool{true, false} {
		w := newWorld(t)
		p, q := w.producer("pay"), w.producer("shop")
		p.request("/x")
		p.seal()
		for len(w.entries) < 255 {
			q.request("/a")
		}
		q.seal() // 255
		w.now += int64(time.Minute)
		q.request("/b")
		reason := sealtapv1.StartReason_START_REASON_CRASH
		if clean {
			reason = sealtapv1.StartReason_START_REASON_CLEAN
		}
		at := p.begins(&sealtapv1.Start{Previous: p.head(), Reason: reason})
		for _, x := range []*producer{p, q} {
			x.stop()
			x.seal()
		}
		w.retain(record.Retention{Entries: 1})
		full := w.audit(w.publish(), audit.Options{})
		if notices(full) != "silent-interval unclean-stop" {
			t.Error(full.Text())
		}
		r := w.audit(w.decide(256, w.head(), nil).prune(t, w.publish()), audit.Options{})
		x := only(r, audit.UncleanStop)
		if r.Verdict != audit.Pass || only(r, audit.SilentInterval) != nil || (x == nil) != clean {
			t.Errorf("clean %t: %s", clean, r.Text())
		}
		if x != nil && (*x.Index != uint64(at) || !strings.Contains(x.Detail, "keeps no record any more")) {
			t.Errorf("%+v", x)
		}
	}
}

// TestInterruptedAcrossAudits: an interval that begins before the cut between two audits
// and ends behind it, and a life that ends before it, are found by the second.
func TestInterruptedAcrossAudits(t *testing.T) {
	w := newWorld(t)
	p := w.producer("shop")
	p.beats(2)
	w.now += int64(time.Minute)
	p.beats(1)
	g := &rising{files: w.publish()}
	state := filepath.Join(t.TempDir(), "state")
	if r := incremental(t, w, g, state); notices(r) != "silent-interval" {
		t.Fatal(r.Text())
	}
	for i, step := range []struct {
		do   func()
		want string
	}{
		{func() { w.now += int64(2 * time.Minute); p.beats(1) }, "silent-interval"},
		{func() { died(p, 2) }, "silent-interval unclean-stop"},
		{func() { w.now += int64(time.Minute); p.beats(1) }, "silent-interval silent-interval unclean-stop"},
		{func() { p.stop(); p.seal(); w.now += int64(time.Hour); p.restart(p.head()); p.seal() }, "silent-interval silent-interval unclean-stop"},
		{func() { died(p, 1) }, "silent-interval silent-interval unclean-stop unclean-stop"},
	} {
		step.do()
		g.files = w.publish()
		got, want := incremental(t, w, g, state), w.audit(g.files, audit.Options{})
		if got.Known == nil {
			t.Fatalf("step %d: everything was read again: %s", i, got.Text())
		}
		alike(t, got, want)
		if s := strings.TrimSpace(strings.ReplaceAll(strings.ReplaceAll(notices(got), "unsealed-tail", ""), "bracket-wide", "")); strings.Join(strings.Fields(s), " ") != step.want {
			t.Fatalf("step %d: %s", i, got.Text())
		}
	}
	for _, x := range w.audit(g.files, audit.Options{}).Findings {
		if x.Code == audit.SilentInterval {
			if !strings.Contains(x.Detail, "the longest of 2") {
				t.Errorf("%+v", x)
			}
			break // of the first life
		}
	}
}
