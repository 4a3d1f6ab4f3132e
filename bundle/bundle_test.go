package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/witness/policy"
)

func good(t *testing.T, r *Report) {
	t.Helper()
	if r.Verdict != audit.Pass {
		t.Fatalf("verdict %s: %s", r.Verdict, r.Text())
	}
}

func TestBundle(t *testing.T) {
	w := newWorld(t)
	o := w.options("/a/1")
	dir, tar := w.make("b", o), w.make("b.tar", o)
	for _, path := range []string{dir, tar} {
		if !Is(path) {
			t.Fatalf("%s does not look like a bundle", path)
		}
		r := w.verify(path)
		good(t, r)
		// /a/1, /a/10 to 19, /a/100 to 199, and the gap.
		if r.Records != 112 || r.Gaps != 1 || r.Openings != 0 || r.Statements != 2 || r.Range != nil || !r.Pinned {
			t.Fatalf("report %+v", r)
		}
		if text := strings.Join(r.NotProven, " "); !strings.Contains(text, "That nothing else in the log matches") {
			t.Fatalf("it does not say what a filtered bundle does not prove: %s", text)
		}
	}
	again := w.make("b.tar", o)
	if a, b := must[[]byte](t)(os.ReadFile(tar)), must[[]byte](t)(os.ReadFile(again)); !bytes.Equal(a, b) {
		t.Fatal("the same records give another archive")
	}
	// What stands in it is evidence as any verifier takes it.
	text := must[[]byte](t)(os.ReadFile(filepath.Join(dir, recordsFile)))
	if e, err := audit.VerifyEvidence(text, w.policy, nil); err != nil || len(e.Entries) != 111 || e.Entries[50].NotBefore == "" {
		t.Fatalf("the records are no evidence of their own: %v", err)
	}
	if _, err := Make(context.Background(), dir, o); !errors.Is(err, ErrExists) {
		t.Fatalf("a bundle over another one: %v", err)
	}
	if list, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(list) != 1 {
		t.Fatalf("there is more left than the bundle: %v", list)
	}
}

func TestUnsealedIsLeftOut(t *testing.T) {
	w := newWorld(t)
	path := w.make("b", w.options("/a/unsealed"))
	r := w.verify(path)
	good(t, r)
	if r.Records-r.Gaps != 0 || r.Unsealed != 1 {
		t.Fatalf("report %+v", r)
	}
}

func TestOpenings(t *testing.T) {
	w := newWorld(t)
	o := w.options("/a/20")
	o.Openings = []string{"query"}
	o.Disclose = func(_ context.Context, _ uint64, e record.Entry) ([]*sealtapv1.Opening, error) {
		return w.openings[e.Leaf], nil
	}
	r := w.verify(w.make("b", o))
	good(t, r)
	if r.Openings != r.Records-r.Gaps {
		t.Fatalf("%d openings of %d records", r.Openings, r.Records)
	}
	// One that is another record's is not written.
	o.Disclose = func(context.Context, uint64, record.Entry) ([]*sealtapv1.Opening, error) {
		return []*sealtapv1.Opening{record.NewOpening("query", "string", []byte("q"))}, nil
	}
	if _, err := Make(context.Background(), filepath.Join(t.TempDir(), "b"), o); err == nil {
		t.Fatal("a false opening was bundled")
	}
}

// complete is a bundle of 60 seconds of the world.
func complete(t *testing.T) (*world, string) {
	w := newWorld(t)
	o := w.options("/a/7")
	o.Complete, o.Since, o.Until = true, begin.Add(60*time.Second), begin.Add(120*time.Second)
	return w, w.make("b", o)
}

func TestComplete(t *testing.T) {
	w, path := complete(t)
	r := w.verify(path)
	good(t, r)
	g := r.Range
	// Two of shop and a third of till's a second, three beacons of each, one gap.
	if g == nil || g.Records < 147 || g.Records > 160 || len(g.Streams) != 2 || g.Unsettled != 0 || g.Shown == 0 || g.Shown >= g.Records || g.Others != 2*11 {
		t.Fatalf("range %+v", g)
	}
	// Everything, up to the unsealed end.
	o := w.options("/a/29")
	o.Complete = true
	r = w.verify(w.make("all.tar", o))
	good(t, r)
	if g = r.Range; g.First != 0 || g.End != r.Size || g.Unsettled != 1 {
		t.Fatalf("range of all %+v", g)
	}
	o.Since = begin.Add(time.Hour)
	if _, err := Make(context.Background(), filepath.Join(t.TempDir(), "b"), o); !errors.Is(err, ErrTooMany) {
		t.Fatalf("a complete bundle of nothing: %v", err)
	}
}

// TestForgedRange: what a maker could do who wants to leave something out.
func TestForgedRange(t *testing.T) {
	w, path := complete(t)
	record7 := func(list []string) int { // a line of a record that is shown as a hash
		for i, l := range list {
			if i > 40 && strings.HasPrefix(l, "1 ") {
				return i
			}
		}
		t.Fatal("no such line")
		return 0
	}
	for name, change := range map[string]func(f map[string]string, m *Manifest){
		"a leaf is left out": func(f map[string]string, _ *Manifest) {
			f[leavesFile] = without(f[leavesFile], record7(lines(f[leavesFile])))
		},
		"a leaf is left out, and the range is shorter": func(f map[string]string, m *Manifest) {
			f[leavesFile] = without(f[leavesFile], record7(lines(f[leavesFile])))
			f[rangeFile] = strings.Replace(f[rangeFile], fmt.Sprintf(" %d\n", m.Range.End), fmt.Sprintf(" %d\n", m.Range.End-1), 1)
			m.Range.End--
		},
		"two leaves change places": func(f map[string]string, _ *Manifest) {
			l := lines(f[leavesFile])
			i := record7(l)
			l[i], l[i+1] = l[i+1], l[i]
			f[leavesFile] = unlines(l)
		},
		"a leaf is doubled": func(f map[string]string, _ *Manifest) {
			l := lines(f[leavesFile])
			f[leavesFile] = unlines(slices.Insert(l, 10, l[10]))
		},
		"a record is said to be another stream's": func(f map[string]string, _ *Manifest) {
			l := lines(f[leavesFile])
			i := record7(l)
			l[i] = "0" + l[i][1:]
			f[leavesFile] = unlines(l)
		},
		"a sequence is another": func(f map[string]string, _ *Manifest) {
			l := lines(f[leavesFile])
			p := strings.Fields(l[record7(l)])
			l[record7(l)] = p[0] + " 9" + p[1] + " " + p[2] + "\n"
			f[leavesFile] = unlines(l)
		},
		"two records have each other's sequence": func(f map[string]string, _ *Manifest) {
			l := lines(f[leavesFile])
			i := record7(l)
			for j := i + 1; ; j++ {
				if a, b := strings.Fields(l[i]), strings.Fields(l[j]); a[0] == b[0] {
					l[i], l[j] = a[0]+" "+b[1]+" "+a[2]+"\n", a[0]+" "+a[1]+" "+b[2]+"\n"
					break
				}
			}
			f[leavesFile] = unlines(l)
		},
		"a stream is said to end earlier": func(f map[string]string, _ *Manifest) {
			l := lines(f[rangeFile])
			for i, s := range l {
				if strings.HasPrefix(s, "stream 1 ") {
					p := strings.Fields(s)
					l[i] = strings.Join(append(p[:5], p[4]), " ") + "\n"
					l = l[:i+1]
					break
				}
			}
			f[rangeFile] = unlines(l)
		},
		"a stream is not named": func(f map[string]string, _ *Manifest) {
			i := strings.Index(f[rangeFile], "stream 1 ")
			f[rangeFile] = f[rangeFile][:i]
		},
		"an edge is another": func(f map[string]string, _ *Manifest) {
			l := lines(f[rangeFile])
			l[1] = "edge " + b64(record.Hash{1}) + "\n"
			f[rangeFile] = unlines(l)
		},
		"the seals are gone":        func(f map[string]string, _ *Manifest) { delete(f, sealsFile) },
		"the leaves are gone":       func(f map[string]string, _ *Manifest) { delete(f, leavesFile) },
		"the leaves have no end":    func(f map[string]string, _ *Manifest) { f[leavesFile] = strings.TrimSuffix(f[leavesFile], "\n") },
		"a line is without measure": func(f map[string]string, _ *Manifest) { f[leavesFile] = strings.Repeat("A", 1<<20) + "\n" },
		"a line has a blank more":   func(f map[string]string, _ *Manifest) { f[leavesFile] = strings.Replace(f[leavesFile], " ", "  ", 1) },
		"a record stands in full": func(f map[string]string, _ *Manifest) {
			l := lines(f[leavesFile])
			l[record7(l)] = "entry AQIA\n"
			f[leavesFile] = unlines(l)
		},
	} {
		t.Run(name, func(t *testing.T) {
			copied := copyDir(t, path)
			forge(t, copied, change)
			r := w.verify(copied)
			if name == "a stream is said to end earlier" {
				// Allowed, but then it says so: the leaves behind that end are unsettled.
				if r.Verdict == audit.Pass && r.Range.Unsettled == 0 {
					t.Fatalf("unseen: %s", r.Text())
				}
				return
			}
			if r.Verdict != audit.Fail || r.Range != nil {
				t.Fatalf("verdict %s: %s", r.Verdict, r.Text())
			}
		})
	}
}

// TestDamage: where one record is damaged the others stay proven.
func TestDamage(t *testing.T) {
	w := newWorld(t)
	whole := w.make("b", w.options("/a/10"))
	path := copyDir(t, whole)
	forge(t, path, func(f map[string]string, _ *Manifest) {
		docs := strings.SplitAfter(f[recordsFile], evidenceStart)
		docs[6] = strings.Replace(docs[6], "\nA", "\nB", 1)
		f[recordsFile] = strings.Join(docs, "")
	})
	r := w.verify(path)
	if r.Verdict != audit.Fail || r.Records != 11 || len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Detail, "records.evidence, evidence 6:") {
		t.Fatalf("report %s", r.Text())
	}
	// Nothing of that in the same place twice, nor under another head.
	for name, change := range map[string]func(f map[string]string, m *Manifest){
		"twice":          func(f map[string]string, m *Manifest) { f[recordsFile] += f[recordsFile]; m.Records *= 2 },
		"less than said": func(f map[string]string, m *Manifest) { m.Records++ },
		"gap is none": func(f map[string]string, m *Manifest) {
			f[gapsFile] = f[recordsFile]
			delete(f, recordsFile)
			m.Gaps, m.Records = m.Records, 0
		},
		"no keys":      func(f map[string]string, _ *Manifest) { f[keysFile] = "" },
		"keys missing": func(f map[string]string, _ *Manifest) { delete(f, keysFile) },
		"other checkpoint": func(f map[string]string, m *Manifest) {
			f[headFile] = string(w.checkpoint(700))
			head := must[*policy.Checkpoint](t)(w.policy.Verify([]byte(f[headFile])))
			m.Size, m.Root = head.Size, b64(head.Root)
		},
		"no witness": func(f map[string]string, _ *Manifest) {
			f[headFile] = f[headFile][:strings.Index(f[headFile], "— w1")]
		},
		"keys out of order": func(f map[string]string, _ *Manifest) {
			d := strings.SplitAfter(f[keysFile], evidenceStart)
			f[keysFile] = evidenceStart + d[1] + d[3] + evidenceStart + strings.TrimSuffix(d[2], evidenceStart)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := copyDir(t, whole)
			forge(t, path, change)
			if r := w.verify(path); r.Verdict != audit.Fail {
				t.Fatalf("verdict %s: %s", r.Verdict, r.Text())
			}
		})
	}
}

func TestGoesOn(t *testing.T) {
	w := newWorld(t)
	o := w.options("/a/29")
	o.Older = must[*policy.Checkpoint](t)(w.policy.Verify(w.checkpoint(500)))
	path := w.make("b", o)
	r := w.verify(path)
	good(t, r)
	if r.Older == nil || r.Older.Size != 500 || r.Compared {
		t.Fatalf("goes on from %+v", r.Older)
	}
	compare := func(known *policy.Checkpoint) *Report {
		return must[*Report](t)(Verify(path, VerifyOptions{Policy: w.policy, Known: known}))
	}
	if r = compare(o.Older); r.Verdict != audit.Pass || !r.Compared {
		t.Fatalf("held against the same one: %s", r.Text())
	}
	if r = compare(must[*policy.Checkpoint](t)(w.policy.Verify(w.checkpoint(400)))); r.Verdict != audit.Incomplete {
		t.Fatalf("held against another one: %s", r.Text())
	}
	w.entries[7], w.entries[8] = w.entries[8], w.entries[7]
	if r = compare(must[*policy.Checkpoint](t)(w.policy.Verify(w.checkpoint(500)))); r.Verdict != audit.Fail || r.Findings[0].Code != audit.Fork {
		t.Fatalf("held against one of another history: %s", r.Text())
	}
	other := must[*policy.Checkpoint](t)(w.policy.Verify(w.checkpoint(500)))
	w.entries[7], w.entries[8] = w.entries[8], w.entries[7]
	o.Older = other
	if _, err := Make(context.Background(), filepath.Join(t.TempDir(), "b"), o); err == nil {
		t.Fatal("a bundle says to go on from another history")
	}
	forge(t, path, func(f map[string]string, _ *Manifest) { f[olderFile] = string(other.Note) })
	if r = w.verify(path); r.Verdict != audit.Fail || r.Older != nil {
		t.Fatalf("another older checkpoint: %s", r.Text())
	}
}
