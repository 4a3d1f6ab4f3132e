package audit_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
)

// The tree alone is audited of any log, whatever its entries say: every flipped bit of
// it is found, and what only entries show is not.
func TestTreeOnly(t *testing.T) {
	w := newWorld(t)
	for i := range 700 {
		w.put(fmt.Appendf(nil, "entry %d of a log of something else", i), nil)
	}
	files := w.publish()
	o := audit.Options{Policy: w.policy, TreeOnly: true, State: filepath.Join(t.TempDir(), "state"), Incremental: true}
	run := func(files clienttest.Files) *audit.Report {
		t.Helper()
		r, err := audit.Run(t.Context(), files.Source(), o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := run(files)
	if r.Verdict != audit.Pass || r.Checked.Entries != 701 || !r.TreeOnly || !strings.Contains(r.Text(), "was not looked at") {
		t.Fatal(r.Text())
	}
	for i := range 300 {
		w.put(fmt.Appendf(nil, "more %d", i), nil)
	}
	files = w.publish()
	if r = run(files); r.Verdict != audit.Pass || r.Known == nil || r.Known.Entries != 701 || r.Checked.Entries != 1001 {
		t.Fatal(r.Text())
	}
	for path, b := range files {
		if path == "checkpoint" {
			continue
		}
		for _, at := range []int{0, len(b) / 2, len(b) - 1} {
			bad := files.Clone()
			bad[path] = append([]byte(nil), b...)
			bad[path][at] ^= 4
			o.Full = true
			if r := run(bad); r.Verdict != audit.Fail {
				t.Fatalf("byte %d of %s: %s", at, path, r.Text())
			}
		}
	}
	if r := w.audit(files, audit.Options{}); r.Verdict != audit.Fail {
		t.Fatal(r.Text())
	}
}

// What an audit of everything remembers of the operator's statements stays, and it does
// not take over what one of the tree alone knows.
func TestTreeOnlyState(t *testing.T) {
	w, p := shop(t)
	state := filepath.Join(t.TempDir(), "state")
	g := &rising{files: w.publish()}
	incremental(t, w, g, state)
	p.restart(p.head())
	p.seal()
	g.files = w.publish()
	r, err := audit.Run(t.Context(), g.source(), audit.Options{Policy: w.policy, State: state, Incremental: true, TreeOnly: true})
	if err != nil || r.Verdict != audit.Pass || r.Known != nil || r.ReadAnew == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if b, err := os.ReadFile(state); err != nil || !strings.Contains(string(b), "\nstatements 1 ") {
		t.Fatalf("%s, %v", b, err)
	}
	if r := incremental(t, w, g, state); r.Verdict != audit.Pass || r.Known != nil || r.ReadAnew == "" || len(r.Producers) != 1 {
		t.Fatal(r.Text())
	}
}
