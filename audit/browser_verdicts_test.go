package audit_test

import (
	"testing"

	"github.com/sealtap/sealtap/audit"
)

// TestPageAgrees: the page and the Go verifier, which share no code, say the same of
// good evidence and of thousands of altered ones.
func TestPageAgrees(t *testing.T) {
	p := verifierPage(t)
	x := newExhibit(t)
	good, policyText := x.proven.Marshal(), x.policy.Marshal()
	step := 1
	if testing.Short() {
		step = 13
	}
	if v := agree(t, p, good, policyText, flipsAndCuts(good, step), false); v != audit.Pass {
		t.Errorf("the good one: %s", v)
	}
	agree(t, p, good, policyText, flipsAndCuts(policyText, step), true)
}
