package audit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// tampers are attacks by someone who holds the log's key, and the witnesses'
// where that is said: the tree is rebuilt and signed again.
var tampers = []struct {
	name  string
	do    func(w *world, p *producer) // on a shop
	codes string                      // of all findings, the most serious first
	index int                         // of the first finding; -1 if it has none
}{
	{"a record is removed", func(w *world, _ *producer) { w.without(6) }, "record-missing", 6},
	{"the last record under a seal is removed", func(w *world, _ *producer) { w.without(8) }, "record-missing", 8},
	{"the last seal is removed with a record", func(w *world, p *producer) {
		p.request("/d")
		w.now += int64(time.Hour)
	}, "unsealed-tail", 10},
	{"a record is replaced", func(w *world, p *producer) {
		q := *p
		q.seq = 3
		q.tree = record.NewTree()
		w.entries[6] = q.make(request("/forged"))
	}, "seal-mismatch", 9},
	{"a record is doubled", func(w *world, _ *producer) { w.put(w.entries[6], nil) }, "record-duplicated", 10},
	{"a fork", func(w *world, p *producer) {
		q := *p
		q.seq = 3
		q.tree = record.NewTree()
		w.put(q.make(request("/other")), nil)
	}, "fork", 10},
	{"records before a beacon are swapped", func(w *world, _ *producer) {
		w.entries[2], w.entries[3] = w.entries[3], w.entries[2]
	}, "fork", 5},
	{"an unknown key writes", func(w *world, p *producer) {
		q := &producer{w: w, key: key(w.t, "stranger", keys.Ed25519)}
		q.restart(nil)
		q.seal()
	}, "unknown-producer", 10},
	{"a revoked key writes", func(w *world, p *producer) {
		w.change(record.KeyChange{Revoke: []record.Revocation{{Key: p.key.Public, Last: []record.LastSequence{{Incarnation: p.stream.Incarnation, Sequence: 5}}}}})
		p.request("/late")
		p.seal()
	}, "unknown-producer", 11},
	{"another key seals", func(w *world, p *producer) {
		w.entries[9] = p.sealWith(key(w.t, "shop", keys.Ed25519), p.tree.Size(), p.tree.Root())
	}, "seal-signature", 9},
	{"another tree is sealed", func(w *world, p *producer) {
		w.put(p.sealWith(p.key, 4, record.Hash{1}), nil)
	}, "fork", 10},
	{"a record is backdated", func(w *world, p *producer) {
		r := request("/old")
		r.Time = (epoch - 3600) * int64(time.Second)
		p.write(r)
		p.seal()
	}, "time-order", 10},
	{"a record is made for later", func(w *world, p *producer) {
		r := request("/soon")
		r.Time = (epoch + 3600) * int64(time.Second)
		p.write(r)
		p.seal()
	}, "time-order", 10},
	{"a clock runs backwards", func(w *world, p *producer) {
		w.now += int64(time.Hour)
		p.request("/later")
		r := request("/earlier")
		r.Time = (epoch + 60) * int64(time.Second)
		p.write(r)
		p.seal()
	}, "time-order", 11},
	{"an incarnation begins without start", func(w *world, p *producer) {
		prev := p.head()
		p.stream, p.tree, p.seq = record.NewStream(p.key.ID()), record.NewTree(), 0
		p.request("/x")
		p.start(prev)
		p.seal()
	}, "start-missing", 10},
	{"the end of an incarnation is removed", func(w *world, p *producer) {
		prev := p.head()
		p.restart(prev)
		p.seal()
		w.entries = append(w.entries[:6], w.entries[10:]...) // with its seal
	}, "record-missing", 6},
	{"an incarnation goes on from another tree", func(_ *world, p *producer) {
		prev := p.head()
		prev.Root[0] ^= 1
		p.restart(prev)
		p.seal()
	}, "seal-mismatch", 10},
	{"an incarnation is removed", func(w *world, p *producer) {
		prev := p.head()
		p.restart(prev)
		p.seal()
		w.entries = append(w.entries[:2], w.entries[10:]...)
	}, "record-missing", 2},
	{"a key change is left out", func(w *world, _ *producer) {
		k := record.KeyChange{Enrol: []keys.Public{key(w.t, "x", keys.Ed25519).Public}}
		w.change(k)
		w.change(record.KeyChange{Enrol: []keys.Public{key(w.t, "y", keys.Ed25519).Public}})
		w.without(10)
	}, "key-change-invalid", 10},
	{"a key change is not the operator's", func(w *world, _ *producer) {
		c := record.KeyChange{Origin: origin, Number: 2, Enrol: []keys.Public{key(w.t, "x", keys.Ed25519).Public}}
		w.put(record.NewKeyChange(c, key(w.t, w.operator.Name, keys.Ed25519)))
	}, "key-change-invalid", 10},
	{"another operator's log", func(w *world, _ *producer) {
		w.operator = key(w.t, "operator.example", keys.Ed25519)
		var err error
		if w.entries[0], err = record.NewGenesis(w.log.Public, w.operator, time.Unix(epoch, 0)); err != nil {
			w.t.Fatal(err)
		}
	}, "genesis-invalid key-change-invalid unknown-producer", 0},
	{"a second genesis", func(w *world, _ *producer) { w.put(w.entries[0], nil) }, "genesis-invalid", 10},
	{"an entry of no sense", func(w *world, _ *producer) { w.put([]byte{record.Version, byte(record.KindRecord), 0xff}, nil) }, "entry-malformed", 10},
	{"a beacon of another history", func(w *world, p *producer) {
		p.write(beacon(w.sign(checkpoint.Body{Origin: origin, Size: 3, Root: [32]byte{1}}, w.witnesses...)))
		p.seal()
	}, "fork", 10},
	{"a beacon of another log", func(w *world, p *producer) {
		log := w.log
		w.policy = w.alsoTrusting(&w.log)
		signed := w.sign(checkpoint.Body{Origin: w.log.Name, Size: 3, Root: [32]byte{1}}, w.witnesses...)
		w.log = log
		p.write(beacon(signed))
		p.seal()
	}, "checkpoint-signature", 10},
	{"a genesis of another log", func(w *world, _ *producer) {
		var err error
		if w.entries[0], err = record.NewGenesis(key(w.t, origin, keys.Ed25519).Public, w.operator, time.Unix(epoch, 0)); err != nil {
			w.t.Fatal(err)
		}
		w.without(5) // the beacon would give it away
		w.entries = w.entries[:5]
	}, "genesis-invalid", 0},
	{"two trees of one size", func(w *world, p *producer) {
		w.put(p.sealWith(p.key, 8, record.Hash{1}), nil)
		w.put(p.sealWith(p.key, 8, record.Hash{2}), nil)
	}, "fork record-missing", 11},
	{"a start after a seal that never was", func(w *world, p *producer) {
		head := p.head()
		head.Root[0] ^= 1
		p.start(head)
		p.seal()
	}, "seal-mismatch", 10},
	{"a start after more than there is", func(w *world, p *producer) {
		head := p.head()
		head.Size = 100
		p.start(head)
		p.seal()
	}, "seal-mismatch", 10},
	{"everything but the genesis is removed", func(w *world, _ *producer) { w.entries = w.entries[:0] }, "genesis-invalid", -1},
}

func TestTampers(t *testing.T) {
	for _, test := range tampers {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			w, p := shop(t)
			if r := w.audit(w.publish(), audit.Options{}); r.Verdict != audit.Pass || len(r.Findings) > 0 {
				t.Fatal(r.Text())
			}
			test.do(w, p)
			r := w.audit(w.publish(), audit.Options{})
			if got := codes(r); got != test.codes || r.Verdict != audit.Fail {
				t.Fatalf("found %q, want %q\n%s", got, test.codes, r.Text())
			}
			if x := r.Findings[0]; test.index < 0 && x.Index != nil || test.index >= 0 && (x.Index == nil || *x.Index != uint64(test.index)) {
				t.Errorf("place of the first finding\n%s", r.Text())
			}
			for line := range strings.Lines(r.Text()) {
				if n := len([]rune(line)); n > 81 && strings.Count(strings.TrimSpace(line), " ") > 1 {
					t.Errorf("%d columns: %s", n, line)
				}
			}
		})
	}
}

// codes lists the codes of findings, each once, without notices.
func codes(r *audit.Report) string {
	var list []string
	for _, x := range r.Findings {
		if x.Severity == audit.Finds && (len(list) == 0 || list[len(list)-1] != string(x.Code)) {
			list = append(list, string(x.Code))
		}
	}
	return strings.Join(list, " ")
}

// TestBackdated: a whole life with a slow clock shows only by its beacons.
func TestBackdated(t *testing.T) {
	w, p := shop(t)
	slow := w.now
	w.now += int64(time.Hour)
	b := beacon(w.checkpoint(len(w.entries), w.witnesses...))
	b.Time = slow + 1
	index := p.write(b)
	p.seal()
	if r := w.audit(w.publish(), audit.Options{}); codes(r) != "time-order" || *r.Findings[0].Index != uint64(index) || !strings.Contains(r.Findings[0].Detail, "backdated") {
		t.Error(r.Text())
	}
	if r := w.audit(w.publish(), audit.Options{Skew: 2 * time.Hour}); r.Verdict != audit.Pass {
		t.Error(r.Text())
	}
}

// TestLateSeals: seals may come well after their records, whatever their size.
func TestLateSeals(t *testing.T) {
	w := newWorld(t)
	p := w.producer("p")
	type late struct {
		at   int
		seal []byte
	}
	var queue []late
	for i := range 6_000 {
		p.request("/")
		if i%211 == 0 {
			queue = append(queue, late{i + 1 + i%1000, p.sealWith(p.key, p.tree.Size(), p.tree.Root())})
		}
		for len(queue) > 0 && queue[0].at <= i {
			w.put(queue[0].seal, nil)
			queue = queue[1:]
		}
	}
	old := p.sealWith(p.key, 3000, record.Hash{})
	p.stop()
	p.seal()
	if r := w.audit(w.publish(), audit.Options{}); r.Verdict != audit.Pass || len(r.Findings) > 0 {
		t.Fatal(r.Text())
	}
	w.put(old, nil)
	if r := w.audit(w.publish(), audit.Options{}); codes(r) != "seal-mismatch" || !strings.Contains(r.Text(), "too far behind") {
		t.Error(r.Text())
	}
	w.entries[len(w.entries)-1] = w.entries[50] // a record, long after its place
	if r := w.audit(w.publish(), audit.Options{}); codes(r) != "record-duplicated" {
		t.Error(r.Text())
	}
}

// TestBoundByBeacon: a record that claims a time to come is found although the
// head under audit is from after that time, once a beacon holds the head that
// first covered the record.
func TestBoundByBeacon(t *testing.T) {
	w := newWorld(t)
	p := w.producer("p")
	r := request("/tomorrow")
	r.Time = w.now + int64(24*time.Hour)
	index := p.write(r)
	for range 300 {
		q := request("/today")
		q.Time = r.Time // nothing else may give it away
		p.write(q)
	}
	p.seal()
	bad := w.checkpoint(len(w.entries), w.witnesses...)
	w.now += int64(48 * time.Hour)
	for _, beacon := range []*sealtapv1.Record{nil, beacon(bad)} {
		if beacon != nil {
			p.write(beacon)
		}
		p.stop()
		p.seal()
		report := w.audit(w.publish(), audit.Options{})
		if beacon == nil && report.Verdict != audit.Pass {
			t.Error(report.Text())
		}
		if beacon != nil && (codes(report) != "time-order" || *report.Findings[0].Index != uint64(index)) {
			t.Error(report.Text())
		}
	}
}
