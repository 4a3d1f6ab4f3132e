package audit_test

import (
	"slices"
	"testing"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
)

// TestFalseCosignatureInBeacon: a beacon with fewer cosignatures is nobody's fault, but
// one with a false cosignature in a witness's name is.
func TestFalseCosignatureInBeacon(t *testing.T) {
	for _, test := range []struct {
		name  string
		below func(w *world) string
		want  bool
	}{
		{"one lacks", func(*world) string { return "" }, false},
		{"one is false", func(w *world) string {
			return cosign(t, w.witnesses[1], checkpoint.Body{Origin: origin, Size: 4}, epoch)
		}, true},
	} {
		w, p := shop(t)
		p.restart(p.head())
		p.write(beacon(append(w.checkpoint(5, w.witnesses[0]), test.below(w)...)))
		p.stop()
		p.seal()
		r := w.audit(w.publish(), audit.Options{})
		if got := slices.Contains(codesOf(r, audit.Finds), audit.CheckpointSignature); got != test.want {
			t.Errorf("%s: found %v, want %v\n%s", test.name, got, test.want, r.Text())
		}
	}
}
