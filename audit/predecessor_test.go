package audit_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
)

// enrolled enrols a key that has written nothing yet.
func (w *world) enrolled(k *keys.Private) *producer {
	w.t.Helper()
	w.change(record.KeyChange{Enrol: []keys.Public{k.Public}})
	return &producer{w: w, key: k}
}

// former is a log in which a shop has lived, and which was closed for another one.
type former struct {
	*world
	shop *producer
	next *world // the log that goes on, without entries
}

func newFormer(t *testing.T) *former {
	t.Helper()
	next := newWorld(t)
	next.entries = nil
	f := &former{next: next}
	var other *keys.Private
	next.alsoTrusting(&other)
	f.world = &world{t: t, log: other, operator: next.operator, witnesses: next.witnesses, now: next.now}
	f.put(record.NewGenesis(other.Public, f.operator, time.Unix(epoch, 0)))
	f.shop = &producer{w: f.world, key: key(t, "shop", keys.Ed25519)}
	f.put(record.NewKeyChange(record.KeyChange{Origin: other.Name, Number: 1, Enrol: []keys.Public{f.shop.key.Public}}, f.operator))
	f.shop.restart(nil)
	for range 300 {
		f.shop.request("/old")
	}
	f.shop.stop()
	f.shop.seal()
	return f
}

// close ends the log for the one that goes on.
func (f *former) close() { f.closeFor(f.next.log.Public, f.operator) }

func (f *former) closeFor(next keys.Public, by *keys.Private) {
	f.put(record.NewClose(f.log.Name, 2, next, by))
}

func (f *former) head() []byte { return f.headAs(f.log.Name, f.witnesses...) }

func (f *former) files() clienttest.Files {
	files, _ := clienttest.Tiles(f.entries)
	files["checkpoint"] = f.head()
	return files
}

// begin makes the beginning of the log that goes on, and enrols the shop in it.
func (f *former) begin() *producer {
	f.next.put(record.NewSuccessor(f.next.log.Public, f.operator, time.Unix(epoch, 0), f.head()))
	f.next.now = f.now
	return f.next.enrolled(f.shop.key)
}

// live writes a life that names the seal of the one before, and returns its own.
func (p *producer) live(previous *sealtapv1.Seal) *sealtapv1.Seal {
	p.restart(previous)
	p.request("/new")
	p.stop()
	p.seal()
	return p.head()
}

// ask audits the log that goes on, with the log before beside it.
func (f *former) ask(files clienttest.Files) *audit.Report {
	return f.next.audit(f.next.publish(), audit.Options{Predecessor: files.Source()})
}

// TestPredecessor: the log before ended where its successor begins, and its
// operator says so there, or that is found.
func TestPredecessor(t *testing.T) {
	stranger := key(t, "stranger", keys.Ed25519)
	for name, c := range map[string]struct {
		end  func(f *former)          // before the successor begins
		then func(f *former)          // after that
		show func(f clienttest.Files) // what is done to what the log before serves
		want audit.Code               // "" if all is well
		says string
	}{
		"closed":                 {end: (*former).close},
		"never closed":           {want: audit.PredecessorMismatch, says: "was never closed"},
		"closed for another log": {end: func(f *former) { f.closeFor(key(t, "log.example/third", keys.Ed25519).Public, f.operator) }, want: audit.PredecessorMismatch, says: "was closed for log.example/third"},
		"closed for another key": {end: func(f *former) { f.closeFor(key(t, origin, keys.Ed25519).Public, f.operator) }, want: audit.PredecessorMismatch, says: "and not for this log"},
		"closed by a stranger":   {end: func(f *former) { f.closeFor(f.next.log.Public, stranger) }, want: audit.PredecessorMismatch, says: "is not its operator's"},
		"closed later":           {then: (*former).close, want: audit.PredecessorMismatch, says: "it did not end there"},
		"goes on behind its end": {end: (*former).close, then: func(f *former) { f.shop.request("/behind"); f.shop.seal() }, want: audit.PredecessorMismatch, says: "it did not end there"},
		"an older copy":          {end: (*former).close, then: func(f *former) { f.entries = f.entries[:200] }, want: audit.PredecessorMismatch, says: "it did not end there"},
		"another history":        {end: (*former).close, then: func(f *former) { f.entries[5], f.entries[6] = f.entries[6], f.entries[5] }, want: audit.PredecessorMismatch, says: "or it is another one"},
		"an altered end":         {end: (*former).close, show: flipEnd, want: audit.PredecessorMismatch, says: "cannot be read"},
		"no checkpoint":          {end: (*former).close, show: func(f clienttest.Files) { f["checkpoint"] = []byte("hello\n") }, want: audit.PredecessorMismatch},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			f := newFormer(t)
			if c.end != nil {
				c.end(f)
			}
			f.begin().live(f.shop.head())
			if c.then != nil {
				c.then(f)
			}
			files := f.files()
			if c.show != nil {
				c.show(files)
			}
			r := f.ask(files)
			if c.want == "" {
				if r.Verdict != audit.Pass || !r.Predecessor.Closed || !found(r, audit.Continues, audit.Notes) {
					t.Error(r.Text())
				}
				return
			}
			if r.Verdict != audit.Fail || codes(r) != string(c.want) || !strings.Contains(r.Findings[0].Detail, c.says) || r.Predecessor.Closed {
				t.Error(r.Text())
			}
			// Where it is not given the report says what was not checked, and no more.
			r = f.next.audit(f.next.publish(), audit.Options{})
			if r.Verdict != audit.Pass || r.Predecessor.Closed || !strings.Contains(strings.Join(strings.Fields(r.Text()), " "), "was closed for this one") {
				t.Error(r.Text())
			}
		})
	}
}

// TestPredecessorAbsent: what cannot be had concludes nothing, and a log that goes on
// from none is not the successor that it was said to be.
func TestPredecessorAbsent(t *testing.T) {
	f := newFormer(t)
	f.close()
	f.begin().live(f.shop.head())
	files := f.files()
	for path := range files {
		if path != "tile/entries/000" && strings.HasPrefix(path, "tile/entries/") || path == "checkpoint" {
			gone := files.Clone()
			delete(gone, path)
			if r := f.ask(gone); r.Verdict != audit.Incomplete {
				t.Errorf("without %s: %s", path, r.Text())
			}
		}
	}
	w, _ := shop(t)
	if r := w.audit(w.publish(), audit.Options{Predecessor: files.Source()}); r.Verdict != audit.Fail || codes(r) != "predecessor-mismatch" {
		t.Error(r.Text())
	}
}

// TestWithheldLife: a log that goes on from another one drops a whole life of a
// producer, and lets it pass for one in the log before.
func TestWithheldLife(t *testing.T) {
	for name, c := range map[string]struct {
		write        func(f *former, p *producer)
		alone, given string // findings without and with the log before
		notices      string // with it
	}{
		"nothing": {func(f *former, p *producer) {
			p.live(p.live(f.shop.head()))
		}, "", "", "continues"},
		// The second of three lives: the third ought to name it, or the first.
		"a later life": {func(f *former, p *producer) {
			second := f.next.unseen(func() *sealtapv1.Seal { return p.live(p.live(f.shop.head())) }, 4)
			p.live(second)
		}, "record-missing", "record-missing", "continues"},
		// Only the log before can tell that it did not stand there.
		"the first life": {func(f *former, p *producer) {
			first := f.next.unseen(func() *sealtapv1.Seal { return p.live(f.shop.head()) }, 4)
			p.live(first)
		}, "", "record-missing", "continues"},
		"a seal that is none of the log before": {func(f *former, p *producer) {
			prev := f.shop.head()
			prev.Root[7] ^= 1
			p.live(prev)
		}, "", "seal-mismatch", "continues"},
		// Nothing is missing: an old spool was copied.
		"a copy of the old spool": {func(f *former, p *producer) {
			p.live(f.shop.head())
			p.live(f.shop.head())
		}, "", "", "incarnation-branched continues"},
		"a copy of the old spool, beside a new one": {func(f *former, p *producer) {
			p.live(nil)
			p.live(f.shop.head())
		}, "record-missing", "", "incarnation-branched continues"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			f := newFormer(t)
			f.close()
			c.write(f, f.begin())
			if r := f.next.audit(f.next.publish(), audit.Options{}); codes(r) != c.alone {
				t.Errorf("alone, %s: %s", codes(r), r.Text())
			}
			if r := f.ask(f.files()); codes(r) != c.given || notices(r) != c.notices {
				t.Errorf("with the log before, %s, %s: %s", codes(r), notices(r), r.Text())
			}
		})
	}
}

// unseen removes the newest n entries that do writes.
func (w *world) unseen(do func() *sealtapv1.Seal, n int) *sealtapv1.Seal {
	seal := do()
	w.entries = slices.Clone(w.entries[:len(w.entries)-n])
	return seal
}

// flipEnd flips a bit of the last entry.
func flipEnd(f clienttest.Files) {
	for path := range f {
		if strings.HasPrefix(path, "tile/entries/001.p/") {
			flipIn(f, path, len(f[path])-9)
		}
	}
}

// TestPredecessorPruned: what the log before does not keep any more is not held
// against the one that goes on; what it keeps is found.
func TestPredecessorPruned(t *testing.T) {
	f := newFormer(t)
	for len(f.entries) < 600 {
		f.shop.restart(f.shop.head())
		f.shop.request("/more")
		f.shop.stop()
		f.shop.seal()
	}
	gone := f.shop.head()
	f.put(record.NewRetention(f.log.Name, 2, record.Retention{Entries: 1}, f.operator))
	for len(f.entries) < 800 {
		f.shop.restart(f.shop.head())
		f.shop.stop()
		f.shop.seal()
	}
	f.put(record.NewClose(f.log.Name, 3, f.next.log.Public, f.operator))
	p := f.begin()
	p.live(f.shop.head())
	files := f.decide(768, f.head(), nil).prune(t, f.files())
	if r := f.ask(files); r.Verdict != audit.Pass || notices(r) != "continues" || !r.Predecessor.Closed {
		t.Error(r.Text())
	}
	p.live(gone)
	if r := f.ask(files); r.Verdict != audit.Pass || notices(r) != "continues continues" || !strings.Contains(strings.Join(strings.Fields(r.Text()), " "), "from its minimum index 768 on") {
		t.Error(r.Text())
	}
	if r := f.ask(f.files()); r.Verdict != audit.Pass || notices(r) != "incarnation-branched continues" {
		t.Errorf("with all that was there: %s", r.Text())
	}
}

// TestPredecessorOfAnother: nobody goes on from somebody else's log, even if that one
// closes it.
func TestPredecessorOfAnother(t *testing.T) {
	f := newFormer(t)
	f.close()
	f.next.operator = key(t, "thief.example", keys.Ed25519)
	f.next.put(record.NewSuccessor(f.next.log.Public, f.next.operator, time.Unix(epoch, 0), f.head()))
	r := f.next.audit(f.next.publish(), audit.Options{Operator: &f.next.operator.Public, Predecessor: f.files().Source()})
	if r.Verdict != audit.Fail || codes(r) != "predecessor-mismatch" || !strings.Contains(r.Findings[0].Detail, "has another operator") {
		t.Error(r.Text())
	}
}

// TestLives: of a producer's lives the report says what its own seals cover, and
// that is nothing of what others write in its name.
func TestLives(t *testing.T) {
	w, p := shop(t)
	first := p.stream
	forged := *p
	forged.restart(p.head())
	forged.request("/never made")
	r := w.audit(w.publish(), audit.Options{})
	if len(r.Lives) != 2 || r.Lives[0] != (audit.Life{Stream: first, Records: 6, Sealed: 6, SealAt: 9}) {
		t.Fatalf("%+v\n%s", r.Lives, r.Text())
	}
	if r.Lives[1] != (audit.Life{Stream: forged.stream, Records: 2}) {
		t.Errorf("%+v", r.Lives[1])
	}
}
