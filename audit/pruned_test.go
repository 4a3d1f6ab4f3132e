package audit_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
	"github.com/sealtap/sealtap/witness/policy"
)

// retain appends a statement about retention.
func (w *world) retain(r record.Retention) int {
	w.t.Helper()
	w.changes++
	return w.put(record.NewRetention(origin, w.changes, r, w.operator))
}

// decision is what a log says about where it begins.
type decision struct {
	minimum    int
	at, old    []byte
	statements []int
	streams    []streamAt
}

type streamAt struct {
	stream record.Stream
	tree   *record.Tree
}

// decide collects what an honest log says when it is pruned.
func (w *world) decide(minimum int, at, old []byte) *decision {
	w.t.Helper()
	d := &decision{minimum: minimum, at: at, old: old}
next:
	for i, entry := range w.entries[:minimum] {
		e, err := record.Parse(entry)
		if err != nil {
			w.t.Fatal(err)
		}
		switch {
		case e.Record != nil:
			for _, s := range d.streams {
				if s.stream == e.Record.Stream {
					s.tree.Append(e.Leaf, nil)
					continue next
				}
			}
			s := streamAt{e.Record.Stream, record.NewTree()}
			s.tree.Append(e.Leaf, nil)
			d.streams = append(d.streams, s)
		case e.Seal == nil:
			d.statements = append(d.statements, i)
		}
	}
	return d
}

// prune takes out of the files what the decision lets go, and adds what it says.
func (d *decision) prune(t *testing.T, files clienttest.Files) clienttest.Files {
	t.Helper()
	files = files.Clone()
	for n := range d.minimum / 256 {
		kept := false
		for _, i := range d.statements {
			kept = kept || i/256 == n
		}
		if !kept {
			delete(files, fmt.Sprintf("tile/entries/%03d", n))
			delete(files, fmt.Sprintf("tile/0/%03d", n))
		}
	}
	put := func(path string, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		files[path] = b
	}
	var statements, streams []map[string]any
	for _, i := range d.statements {
		statements = append(statements, map[string]any{"index": i})
	}
	for _, s := range d.streams {
		var edge [][]byte
		for _, h := range s.tree.Edge() {
			edge = append(edge, h[:])
		}
		streams = append(streams, map[string]any{"producer": s.stream.Producer.String(), "incarnation": s.stream.Incarnation.String(), "size": s.tree.Size(), "edge": edge})
	}
	put("v1/retention", map[string]any{"minimum_index": d.minimum, "at": string(d.at), "old": string(d.old)})
	put("v1/statements", map[string]any{"statements": statements})
	put("v1/retention/streams", map[string]any{"minimum_index": d.minimum, "streams": streams})
	return files
}

// old is a world with 1200 entries over ten hours, which keeps them for four and
// while they are among the newest 300.
type old struct {
	*world
	shop, pay *producer
	young     []byte // checkpoint of 900 entries, three hours before the end
	forged    []byte // of a history that never was
	small     []byte // of 700 entries
	aged      []byte // of 800 entries, five hours before the end
	revoked   int    // index of a key change in the middle
	policy2   int    // index of the statement about retention
}

func newOld(t *testing.T) *old {
	o := &old{world: newWorld(t)}
	o.shop, o.pay = o.producer("shop"), o.producer("pay")
	again := false
	for len(o.entries) < 1200 {
		o.now += int64(10*time.Hour) / 240
		for range 3 {
			o.shop.request("/a")
		}
		if len(o.entries)%4 == 0 {
			o.shop.beacon()
		}
		o.shop.seal()
		if len(o.entries) < 500 {
			o.pay.request("/b")
			o.pay.seal()
		}
		switch n := len(o.entries); {
		case n > 900 && !again: // a life that ends below, and one that goes on from it
			o.pay.restart(o.pay.head())
			o.pay.seal()
			again = true
		case n > 600 && o.revoked == 0:
			k := key(t, "old", keys.Ed25519)
			o.change(record.KeyChange{Enrol: []keys.Public{k.Public}})
			o.revoked = o.change(record.KeyChange{Revoke: []record.Revocation{{Key: k.Public}}})
			o.policy2 = o.retain(record.Retention{Keep: 4 * time.Hour, Entries: 300})
		case n >= 700 && o.small == nil:
			o.small = o.checkpoint(n, o.witnesses...)
			o.forged = o.sign(checkpoint.Body{Origin: origin, Size: 800, Root: record.Hash{1}}, o.witnesses...)
		case n >= 800 && o.aged == nil:
			o.aged = o.checkpoint(n, o.witnesses...)
		case n >= 1100 && o.young == nil:
			o.young = o.checkpoint(n, o.witnesses...)
		}
	}
	o.shop.stop()
	o.shop.seal()
	o.pay.stop()
	o.pay.seal()
	return o
}

// head is the checkpoint over everything.
func (w *world) head() []byte { return w.checkpoint(len(w.entries), w.witnesses...) }

func TestPrunedLog(t *testing.T) {
	o := newOld(t)
	files := o.publish()
	whole := o.audit(files, audit.Options{})
	if whole.Verdict != audit.Pass {
		t.Fatal(whole.Text())
	}
	for _, minimum := range []int{256, 512, 768} {
		r := o.audit(o.decide(minimum, o.head(), o.aged).prune(t, files), audit.Options{})
		last := r.Findings[len(r.Findings)-1]
		if r.Verdict != audit.Pass || last.Code != audit.Pruned || r.Checked.Pruned != uint64(minimum) {
			t.Fatalf("minimum %d: %s", minimum, r.Text())
		}
		if !strings.Contains(last.Detail, fmt.Sprintf("its statement at index %d", o.policy2)) {
			t.Errorf("minimum %d: nothing says what allowed it: %s", minimum, r.Text())
		}
		for i, p := range r.Producers {
			if all := whole.Producers[i]; p.Records == 0 || p.Records > all.Records || p.Sealed != p.Records || p.Name != all.Name {
				t.Errorf("minimum %d: producer %+v, of all %+v", minimum, p, all)
			}
		}
		// Statements stay; 767 is the last entry of a bundle with statements.
		if r.Checked.KeyChanges != whole.Checked.KeyChanges || r.Checked.Statements != 1 {
			t.Errorf("minimum %d: %d key changes, %d statements", minimum, r.Checked.KeyChanges, r.Checked.Statements)
		}
	}
}

// TestPrunedTooMuch: what the operator's statements do not allow is found.
func TestPrunedTooMuch(t *testing.T) {
	o := newOld(t)
	files := o.publish()
	other := newOld(t)
	stranger := key(t, "w1.example", keys.Cosignature)
	weak := o.checkpoint(800, stranger)
	for name, c := range map[string]struct {
		d    *decision
		want audit.Code
	}{
		"younger than the policy says":    {o.decide(768, o.head(), o.young), audit.RecordMissing},
		"more than the count allows":      {o.decide(1024, o.checkpoint(1100, o.witnesses...), o.checkpoint(1100, o.witnesses...)), audit.RecordMissing},
		"nothing shows the age":           {o.decide(768, o.head(), nil), audit.RecordMissing},
		"nothing shows the decision":      {o.decide(768, nil, o.aged), audit.RecordMissing},
		"the age of something else":       {o.decide(768, o.head(), o.small), audit.RecordMissing},
		"decided before the policy":       {o.decide(256, o.checkpoint(500, o.witnesses...), o.checkpoint(500, o.witnesses...)), audit.RecordMissing},
		"a checkpoint of another history": {o.decide(768, o.head(), other.aged), audit.RecordMissing},
		"one of a fork of this history":   {o.decide(768, o.head(), o.forged), audit.Fork},
		"not a multiple of a bundle":      {o.decide(700, o.head(), o.aged), audit.RecordMissing},
		"more than there is":              {&decision{minimum: 1 << 20, at: o.head(), old: o.aged, statements: []int{0}}, audit.RecordMissing},
	} {
		t.Run(name, func(t *testing.T) {
			r := o.audit(c.d.prune(t, files), audit.Options{})
			if !has(r, c.want) || r.Verdict != audit.Fail {
				t.Error(r.Text())
			}
		})
	}
	// An age that only witnesses vouch for whom the policy does not know is none.
	r := o.audit(o.decide(768, o.head(), weak).prune(t, files), audit.Options{})
	if r.Verdict == audit.Pass {
		t.Error(r.Text())
	}
	// Without any statement nothing may go; and none is for ever.
	w := newWorld(t)
	p := w.producer("shop")
	for range 600 {
		p.request("/a")
	}
	p.stop()
	p.seal()
	d := w.decide(256, w.checkpoint(len(w.entries), w.witnesses...), nil)
	if r := w.audit(d.prune(t, w.publish()), audit.Options{}); r.Verdict != audit.Fail || !has(r, audit.RecordMissing) {
		t.Error(r.Text())
	}
	w.retain(record.Retention{Forever: true})
	d = w.decide(256, w.checkpoint(len(w.entries), w.witnesses...), nil)
	if r := w.audit(d.prune(t, w.publish()), audit.Options{}); r.Verdict != audit.Fail || !has(r, audit.RecordMissing) {
		t.Error(r.Text())
	}
	// A stricter statement does not forbid what was done before it.
	w.retain(record.Retention{Entries: 100})
	at := w.checkpoint(len(w.entries), w.witnesses...)
	w.retain(record.Retention{Entries: 10_000})
	d = w.decide(256, at, nil)
	if r := w.audit(d.prune(t, w.publish()), audit.Options{}); r.Verdict != audit.Pass {
		t.Error(r.Text())
	}
	d.at = w.checkpoint(len(w.entries), w.witnesses...)
	if r := w.audit(d.prune(t, w.publish()), audit.Options{}); r.Verdict != audit.Fail {
		t.Error(r.Text())
	}
}

func has(r *audit.Report, c audit.Code) bool {
	for _, x := range r.Findings {
		if x.Code == c && x.Severity == audit.Finds {
			return true
		}
	}
	return false
}

// TestPrunedTampered: what remains is audited as before, and what the log says of
// what was below is not believed.
func TestPrunedTampered(t *testing.T) {
	o := newOld(t)
	files := o.publish()
	base := func() *decision { return o.decide(768, o.head(), o.aged) }
	for name, c := range map[string]struct {
		change func(*decision, clienttest.Files)
		want   audit.Code // "" for incomplete
	}{
		"a remaining entry altered": {func(_ *decision, f clienttest.Files) { flipIn(f, "tile/entries/003", 5000) }, audit.EntryAltered},
		"a kept statement altered":  {func(_ *decision, f clienttest.Files) { flipIn(f, "tile/entries/000", 60) }, audit.EntryAltered},
		"a kept statement gone":     {func(_ *decision, f clienttest.Files) { delete(f, "tile/entries/000") }, audit.RecordMissing},
		"a tile of level 1 altered": {func(_ *decision, f clienttest.Files) { flipIn(f, "tile/1/000.p/4", 40) }, audit.TileAltered},
		"a bundle above is gone":    {func(_ *decision, f clienttest.Files) { delete(f, "tile/entries/003") }, audit.RecordMissing},
		"a stream with less": {func(d *decision, _ clienttest.Files) {
			short := record.NewTree()
			for _, e := range o.shop.entries[:d.streams[0].tree.Size()-1] {
				short.Append(record.LeafHash(e), nil)
			}
			d.streams[0].tree = short
		}, audit.RecordMissing},
		"a stream with more":        {func(d *decision, _ clienttest.Files) { d.streams[0].tree.Append(record.Hash{1}, nil) }, audit.RecordDuplicated},
		"a stream of other records": {func(d *decision, _ clienttest.Files) { d.streams[0].tree = rooted(d.streams[0].tree.Size()) }, audit.SealMismatch},
		"a stream that is left out": {func(d *decision, _ clienttest.Files) { d.streams = d.streams[1:] }, audit.RecordMissing},
		"a former life left out":    {func(d *decision, _ clienttest.Files) { d.streams = append(d.streams[:1], d.streams[2:]...) }, audit.RecordMissing},
		"a former life cut short":   {func(d *decision, _ clienttest.Files) { d.streams[1].tree = rooted(d.streams[1].tree.Size() - 1) }, audit.RecordMissing},
		"a former life replaced":    {func(d *decision, _ clienttest.Files) { d.streams[1].tree = rooted(d.streams[1].tree.Size()) }, audit.SealMismatch},
		"a stream named twice":      {func(d *decision, _ clienttest.Files) { d.streams = append(d.streams, d.streams[0]) }, audit.SealMismatch},
		"an enrolment left out":     {func(d *decision, _ clienttest.Files) { d.statements = append(d.statements[:1:1], d.statements[2:]...) }, audit.KeyChangeInvalid},
		"the genesis left out":      {func(d *decision, _ clienttest.Files) { d.statements = d.statements[1:] }, audit.GenesisInvalid},
		"the policy left out":       {func(d *decision, _ clienttest.Files) { d.statements = d.statements[:len(d.statements)-1] }, audit.RecordMissing},
		"records named as statements": {func(d *decision, _ clienttest.Files) {
			d.statements = append([]int{0, 1, 2, 3}, d.statements[3:]...)
		}, "pass"},
	} {
		t.Run(name, func(t *testing.T) {
			d := base()
			f := files.Clone()
			c.change(d, f)
			pruned := d.prune(t, f)
			r := o.audit(pruned, audit.Options{})
			if c.want == "pass" {
				if r.Verdict != audit.Pass {
					t.Error(r.Text())
				}
				return
			}
			if r.Verdict != audit.Fail || !has(r, c.want) {
				t.Error(r.Text())
			}
		})
	}
}

// rooted returns a tree of so many other records.
func rooted(size uint64) *record.Tree {
	tree := record.NewTree()
	for i := range size {
		tree.Append(record.Hash{1, byte(i), byte(i >> 8)}, nil)
	}
	return tree
}

func flipIn(f clienttest.Files, path string, at int) {
	b := append([]byte(nil), f[path]...)
	b[at%len(b)] ^= 1
	f[path] = b
}

// TestPrunedState: an audit from before the pruning still catches a log that
// shrinks or forks.
func TestPrunedState(t *testing.T) {
	for _, size := range []int{300, 512, 700, 100} {
		o := newOld(t)
		state := filepath.Join(t.TempDir(), "state")
		early := &world{t: t, log: o.log, operator: o.operator, witnesses: o.witnesses, policy: o.policy, entries: o.entries[:size], now: o.now}
		r := early.audit(early.publish(), audit.Options{State: state})
		if r.Verdict != audit.Pass && !onlyTail(r) {
			t.Fatal(r.Text())
		}
		if _, err := os.Stat(state); err != nil {
			// The prefix ends in the middle of things: remember it by hand, as older
			// versions did, without the edge.
			if err := os.WriteFile(state, early.checkpoint(size, o.witnesses...), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		pruned := o.decide(768, o.head(), o.aged).prune(t, o.publish())
		if r := o.audit(pruned, audit.Options{State: copyOf(t, state)}); r.Verdict != audit.Pass {
			t.Errorf("state of %d entries: %s", size, r.Text())
		}
		small := early.publish()
		if r := early.audit(small, audit.Options{State: copyOf(t, state)}); has(r, audit.Rollback) || has(r, audit.Fork) {
			t.Errorf("state of %d entries, the same log: %s", size, r.Text())
		}
	}
}

func onlyTail(r *audit.Report) bool {
	for _, x := range r.Findings {
		if x.Severity == audit.Finds && x.Code != audit.UnsealedTail {
			return false
		}
	}
	return true
}

func copyOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestPrunedFork: the state of one history, and another that was pruned.
func TestPrunedFork(t *testing.T) {
	o := newOld(t)
	pruned := o.decide(768, o.head(), o.aged).prune(t, o.publish())
	for _, size := range []int{512, 600} {
		other := append([][]byte(nil), o.entries[:size]...)
		other[300], other[301] = other[301], other[300]
		_, root := clienttest.Tiles(other)
		signed := o.sign(checkpoint.Body{Origin: origin, Size: uint64(size), Root: root}, o.witnesses...)
		_, edge := clienttest.Tiles(other[:512])
		state := filepath.Join(t.TempDir(), "state")
		text := string(signed)
		if size == 600 { // the edge of 512 entries is one hash
			text += "\nsealtap/audit-state/v1\n" + base64.StdEncoding.EncodeToString(edge[:]) + "\n"
		}
		if err := os.WriteFile(state, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := audit.Run(context.Background(), pruned.Source(), audit.Options{Policy: o.policy, State: state})
		if err != nil || r.Verdict != audit.Fail || !has(r, audit.Fork) {
			t.Errorf("a fork before %d entries: %v, %s", size, err, r.Text())
		}
	}
}

// TestPrunedWitnessless: where nobody vouches for times, the count still holds.
func TestPrunedWitnessless(t *testing.T) {
	o := newOld(t)
	p, err := policy.New(o.world.policy.Logs, nil, nil, policy.None, o.world.policy.Operator)
	if err != nil {
		t.Fatal(err)
	}
	r := o.audit(o.decide(768, o.head(), o.aged).prune(t, o.publish()), audit.Options{Policy: p})
	if r.Verdict != audit.Pass || !strings.Contains(r.Text(), "nobody vouches") {
		t.Error(r.Text())
	}
}

// TestPrunedOrder: which life of a producer is its newest is told by what was below
// the minimum index too; and a seal over records from there says nothing any more.
func TestPrunedOrder(t *testing.T) {
	w := newWorld(t)
	a := w.producer("shop")
	early := a.sealWith(a.key, a.tree.Size(), a.tree.Root())
	for len(w.entries) < 255 {
		a.request("/a")
	}
	a.seal() // 255
	b := *a  // the same key on another machine, which came later
	b.restart(nil)
	b.request("/b")
	b.stop()
	b.seal()
	a.request("/last")
	a.seal()
	w.put(early, nil)
	w.retain(record.Retention{Entries: 1})
	w.now += int64(time.Hour)
	r := w.audit(w.decide(256, w.head(), nil).prune(t, w.publish()), audit.Options{})
	if r.Verdict != audit.Pass || found(r, audit.ProducerSilent, audit.Notes) {
		t.Error(r.Text())
	}
}
