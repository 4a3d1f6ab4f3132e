package audit_test

import (
	"testing"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/record"
)

// TestPrunedSums: a producer all of whose records are below the minimum index has no
// later seal that speaks for it, but the entries must add up.
func TestPrunedSums(t *testing.T) {
	w := newWorld(t)
	gone, shop := w.producer("gone"), w.producer("shop")
	for range 50 {
		for range 9 {
			gone.request("/a")
		}
		gone.seal()
	}
	gone.stop()
	gone.seal()
	for range 300 {
		shop.request("/b")
	}
	w.retain(record.Retention{Entries: 100})
	shop.stop()
	shop.seal()
	files := w.publish()
	base := func() *decision { return w.decide(512, w.head(), nil) }
	if r := w.audit(base().prune(t, files), audit.Options{}); r.Verdict != audit.Pass {
		t.Fatal(r.Text())
	}
	for name, c := range map[string]struct {
		streams func([]streamAt) []streamAt
		want    audit.Code
	}{
		"left out":               {func(l []streamAt) []streamAt { return l[1:] }, audit.RecordMissing},
		"most of it left out":    {func(l []streamAt) []streamAt { l[0].tree = rooted(100); return l }, audit.RecordMissing},
		"more than there is":     {func(l []streamAt) []streamAt { l[0].tree = rooted(512); return l }, audit.SealMismatch},
		"far more than there is": {func(l []streamAt) []streamAt { l[0].tree = rooted(100_000); return l }, audit.SealMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			d := base()
			if d.streams[0].stream != gone.stream {
				t.Fatal("the first stream is another")
			}
			d.streams = c.streams(d.streams)
			if r := w.audit(d.prune(t, files), audit.Options{}); r.Verdict != audit.Fail || !has(r, c.want) {
				t.Error(r.Text())
			}
		})
	}
}
