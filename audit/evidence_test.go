package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/formats/proof"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
)

// prove makes the tlog-proof of an entry among others under a signed checkpoint.
func prove(t testing.TB, entries [][]byte, index int, signed []byte) proof.TLogProof {
	t.Helper()
	files, root := clienttest.Tiles(entries)
	list, err := client.NewTree(files.Source(), uint64(len(entries)), root).InclusionProof(t.Context(), uint64(index))
	if err != nil {
		t.Fatal(err)
	}
	p := proof.TLogProof{Index: uint64(index), Checkpoint: signed}
	for _, h := range list {
		p.Hashes = append(p.Hashes, h)
	}
	return p
}

// exhibit is a shop with the evidence of one of its records, and what it is made of.
type exhibit struct {
	*world
	p      *producer
	index  int // of the record in the log
	head   []byte
	seal   []byte
	proven *record.Evidence
}

// newExhibit proves a record with a sealed path whose opening is disclosed.
func newExhibit(t testing.TB) *exhibit {
	t.Helper()
	w, p := shop(t)
	w.now += int64(20 * time.Second)
	beacon, beaconSeq := p.beacon(), int(p.seq)-1
	w.now += int64(3 * time.Second)
	r := request("")
	o := record.NewOpening(record.FieldPath, record.TypeString, []byte("/secret"))
	c := record.Commitment(p.stream, p.seq, o)
	r.Sealed = []*sealtapv1.SealedField{{Field: record.FieldPath, Commitment: c[:]}}
	index, seq := p.write(r), int(p.seq)-1
	w.now += int64(4 * time.Second)
	seal := w.entries[p.seal()][2:]
	x := &exhibit{world: w, p: p, index: index, head: w.checkpoint(len(w.entries), w.witnesses...), seal: seal}
	producer := prove(t, p.entries, seq, seal)
	x.proven = &record.Evidence{
		Entry: w.entries[index], Openings: []*sealtapv1.Opening{o}, Log: x.inLog(index), Producer: &producer,
		Beacon:    &record.Proven{Entry: w.entries[beacon], Proof: prove(t, p.entries, beaconSeq, seal)},
		KeyChange: x.statement(1), Genesis: x.statement(0),
	}
	return x
}

func (x *exhibit) inLog(index int) proof.TLogProof { return prove(x.t, x.entries, index, x.head) }

func (x *exhibit) statement(index int) *record.Proven {
	return &record.Proven{Entry: x.entries[index], Proof: x.inLog(index)}
}

func TestEvidence(t *testing.T) {
	x := newExhibit(t)
	r, err := audit.VerifyEvidence(x.proven.Marshal(), x.policy, nil)
	if err != nil {
		t.Fatal(err)
	}
	e := r.Entries[0]
	if !r.Pinned || e.NotBefore != "2027-01-15T08:00:20Z" || e.NotAfter != "2027-01-15T08:00:27Z" || e.Record.Index != uint64(x.index) || e.Record.Producer != "shop" || e.Record.Path.String() != "/secret" {
		t.Errorf("%+v\n%s", e, r.Text())
	}
	for _, want := range []string{"By the producer shop: it wrote this as record 7 of its own tree", "By the witnesses w1 (at 2027-01-15T08:00:27Z), w2", "By the operator operator.example: the producer shop was enrolled", "after 2027-01-15T08:00:20Z", "before 2027-01-15T08:00:27Z", `"path"`, "no record is missing"} {
		if !strings.Contains(strings.Join(strings.Fields(r.Text()), " "), want) {
			t.Errorf("no %q in\n%s", want, r.Text())
		}
	}
	for line := range strings.Lines(r.Text()) {
		if len(line) > 81 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}

	// Less evidence proves less, and says so.
	x.proven.Beacon, x.proven.Openings = nil, nil
	r, err = audit.VerifyEvidence(x.proven.Marshal(), x.policy, nil)
	if err != nil || r.Entries[0].NotBefore != "" || !strings.Contains(r.Text(), "holds no beacon") || r.Entries[0].Record.Path.String() != "" {
		t.Errorf("%v\n%s", err, r.Text())
	}
	// Several evidences in one text; entries that are not records.
	text := x.proven.Marshal()
	for _, e := range []record.Evidence{
		{Entry: x.entries[0], Log: x.inLog(0), Genesis: x.statement(0)},
		{Entry: x.entries[1], Log: x.inLog(1), Genesis: x.statement(0)},
		{Entry: x.entries[4], Log: x.inLog(4), Genesis: x.statement(0), KeyChange: x.statement(1)},
	} {
		text = append(text, e.Marshal()...)
	}
	r, err = audit.VerifyEvidence(text, x.policy, nil)
	if err != nil || len(r.Entries) != 4 {
		t.Errorf("%v", err)
	}
	// Without a pin the report says whom it believed.
	x.policy.Operator = nil
	if r, err = audit.VerifyEvidence(text, x.policy, nil); err != nil || r.Pinned || !strings.Contains(r.Text(), "none is pinned") {
		t.Errorf("%v", err)
	}
}

// TestEvidenceBits flips every bit of an evidence file.
func TestEvidenceBits(t *testing.T) {
	x := newExhibit(t)
	text := x.proven.Marshal()
	parallel(len(text)*8/stride(), func(i int) {
		bit := i * stride()
		if _, err := audit.VerifyEvidence(flip(text, bit), x.policy, nil); err == nil {
			from, to := max(0, bit/8-30), min(len(text), bit/8+30)
			t.Errorf("bit %d of byte %d is not missed, around %q", bit%8, bit/8, text[from:to])
		}
	})
	for n := range text {
		if _, err := audit.VerifyEvidence(text[:n], x.policy, nil); err == nil {
			t.Errorf("cut after %d bytes it is accepted", n)
		}
	}
}

// forgery makes bad evidence of good.
type forgery struct {
	name string
	do   func(x *exhibit)
	want audit.Code
}

func forgeries() []forgery {
	return []forgery{
		{"no genesis", func(x *exhibit) { x.proven.Genesis = nil }, audit.GenesisInvalid},
		{"another entry as genesis", func(x *exhibit) { x.proven.Genesis = x.statement(1) }, audit.GenesisInvalid},
		{"another operator", func(x *exhibit) { k := key(x.t, "operator.example", keys.Ed25519).Public; x.policy.Operator = &k }, audit.GenesisInvalid},
		{"no enrolment", func(x *exhibit) { x.proven.KeyChange = nil }, audit.UnknownProducer},
		{"enrolment of another", func(x *exhibit) {
			x.change(record.KeyChange{Enrol: []keys.Public{key(x.t, "x", keys.Ed25519).Public}})
			x.again(nil)
			x.proven.KeyChange = x.statement(len(x.entries) - 1)
		}, audit.UnknownProducer},
		{"enrolment by another", func(x *exhibit) {
			c := record.KeyChange{Origin: origin, Number: 1, Enrol: []keys.Public{x.p.key.Public}}
			var err error
			if x.entries[1], err = record.NewKeyChange(c, key(x.t, x.operator.Name, keys.Ed25519)); err != nil {
				x.t.Fatal(err)
			}
			x.again(nil)
		}, audit.KeyChangeInvalid},
		{"enrolment in another log", func(x *exhibit) {
			c := record.KeyChange{Origin: "log.example/other", Number: 1, Enrol: []keys.Public{x.p.key.Public}}
			var err error
			if x.entries[1], err = record.NewKeyChange(c, x.operator); err != nil {
				x.t.Fatal(err)
			}
			x.again(nil)
		}, audit.KeyChangeInvalid},
		{"no producer proof", func(x *exhibit) { x.proven.Producer = nil }, audit.EvidenceMalformed},
		{"an earlier seal", func(x *exhibit) { x.proven.Producer.Checkpoint = x.entries[4][2:] }, audit.SealMismatch},
		{"a seal by another key", func(x *exhibit) {
			x.proven.Producer.Checkpoint = x.p.sealWith(key(x.t, "shop", keys.Ed25519), x.p.tree.Size(), x.p.tree.Root())[2:]
		}, audit.SealSignature},
		{"a head for the seal", func(x *exhibit) { x.proven.Producer.Checkpoint = x.head }, audit.SealSignature},
		{"another place in the tree", func(x *exhibit) { x.proven.Producer.Index-- }, audit.SealMismatch},
		{"another place in the log", func(x *exhibit) { x.proven.Log.Index-- }, audit.RootMismatch},
		{"another record", func(x *exhibit) { x.proven.Entry = x.entries[7] }, audit.RootMismatch},
		{"another record with its proof", func(x *exhibit) { x.proven.Entry, x.proven.Log = x.entries[7], x.inLog(7) }, audit.SealMismatch},
		{"an older head beside", func(x *exhibit) {
			older := x.checkpoint(5, x.witnesses...)
			x.proven.Genesis.Proof = prove(x.t, x.entries[:5], 0, older)
		}, audit.EvidenceMalformed},
		{"no quorum", func(x *exhibit) { x.again(x.checkpoint(len(x.entries), x.witnesses[1])) }, audit.QuorumNotMet},
		{"an unsigned head", func(x *exhibit) { x.proven.Log.Checkpoint = x.seal }, audit.CheckpointSignature},
		{"extra data", func(x *exhibit) { x.proven.Log.ExtraData = []byte("x") }, audit.EvidenceMalformed},
		{"a later beacon", func(x *exhibit) {
			x.p.beacon()
			x.again(nil)
			x.proven.Beacon = &record.Proven{Entry: x.entries[len(x.entries)-1], Proof: prove(x.t, x.p.entries, len(x.p.entries)-1, x.seal)}
		}, audit.SealMismatch},
		{"another record as beacon", func(x *exhibit) { x.proven.Beacon.Entry = x.entries[7] }, audit.EvidenceMalformed},
		{"another beacon", func(x *exhibit) { x.proven.Beacon.Entry = x.entries[5] }, audit.SealMismatch},
		{"a head cosigned before the beacon", func(x *exhibit) {
			x.now -= int64(20 * time.Second)
			x.again(nil)
		}, audit.TimeOrder},
		{"a head cosigned just before the beacon", func(x *exhibit) { // so that what the record says is within the skew
			x.now = (epoch + 19) * int64(time.Second)
			x.again(nil)
		}, audit.TimeOrder},
		{"a beacon from after the record was logged", func(x *exhibit) {
			x.p.entries[6] = x.remake(6, beacon(x.sign(checkpoint.Body{Origin: origin, Size: uint64(x.index) + 1, Root: [32]byte{1}}, x.witnesses...)))
			x.reseal(7, 6)
		}, audit.TimeOrder},
		{"a beacon of another log", func(x *exhibit) {
			x.policy = x.alsoTrusting(&x.log)
			x.p.entries[6] = x.remake(6, beacon(x.sign(checkpoint.Body{Origin: x.log.Name, Size: 1, Root: [32]byte{1}}, x.witnesses...)))
			x.reseal(7, 6)
		}, audit.CheckpointSignature},
		{"a beacon of another tree", func(x *exhibit) {
			old := x.p.stream
			x.p.stream = record.NewStream(x.p.key.ID())
			x.p.entries[6] = x.remake(6, beacon(x.checkpoint(5, x.witnesses...)))
			x.p.stream = old
			x.reseal(7, 6)
		}, audit.SealMismatch},
		{"a seal of another tree", func(x *exhibit) {
			x.p.stream = record.NewStream(x.p.key.ID())
			x.reseal(7, 6)
		}, audit.SealMismatch},
		{"another place in the tree that was sealed", func(x *exhibit) {
			x.p.entries = x.p.entries[1:]
			x.reseal(6, 5)
			x.proven.Beacon = nil
		}, audit.SealMismatch},
		{"a beacon in another place of the tree", func(x *exhibit) {
			x.p.entries[5] = x.p.entries[6]
			x.reseal(7, 5)
		}, audit.SealMismatch},
		{"a later beacon under the seal", func(x *exhibit) {
			x.p.make(beacon(x.checkpoint(5, x.witnesses...)))
			x.reseal(7, 8)
		}, audit.SealMismatch},
		{"an enrolment after the record", func(x *exhibit) {
			x.put(record.NewKeyChange(record.KeyChange{Origin: origin, Number: 2, Enrol: []keys.Public{x.p.key.Public}}, x.operator))
			x.again(nil)
			x.proven.KeyChange = x.statement(len(x.entries) - 1)
		}, audit.UnknownProducer},
		{"a second genesis", func(x *exhibit) {
			x.put(record.NewGenesis(x.log.Public, x.operator, time.Unix(epoch+1, 0)))
			x.again(nil)
			x.proven.Genesis = x.statement(len(x.entries) - 1)
		}, audit.GenesisInvalid},
		{"a second genesis as the entry", func(x *exhibit) {
			x.put(record.NewGenesis(x.log.Public, key(x.t, "operator.example", keys.Ed25519), time.Unix(epoch, 0)))
			x.again(nil)
			i := len(x.entries) - 1
			x.proven = &record.Evidence{Entry: x.entries[i], Log: x.inLog(i), Genesis: x.statement(0)}
		}, audit.GenesisInvalid},
		{"an enrolment signed twice", func(x *exhibit) {
			x.entries[1] = append(x.entries[1], x.entries[1][bytes.LastIndex(x.entries[1], []byte("— ")):]...)
			x.again(nil)
		}, audit.KeyChangeInvalid},
		{"a seal signed twice", func(x *exhibit) {
			s := x.proven.Producer.Checkpoint
			s = append(bytes.Clone(s), s[bytes.LastIndex(s, []byte("— ")):]...)
			x.proven.Producer.Checkpoint, x.proven.Beacon.Proof.Checkpoint = s, s
		}, audit.SealSignature},
		{"a genesis of another log", func(x *exhibit) {
			var err error
			if x.entries[0], err = record.NewGenesis(key(x.t, origin, keys.Ed25519).Public, x.operator, time.Unix(epoch, 0)); err != nil {
				x.t.Fatal(err)
			}
			x.again(nil)
		}, audit.GenesisInvalid},
		{"a false cosignature in the beacon", func(x *exhibit) {
			signed := x.checkpoint(5, x.witnesses[0])
			signed = append(signed, cosign(x.t, x.witnesses[1], checkpoint.Body{Origin: origin, Size: 4}, epoch)...)
			x.p.entries[6] = x.remake(6, beacon(signed))
			x.reseal(7, 6)
		}, audit.CheckpointSignature},
		{"a guessed opening", func(x *exhibit) { x.proven.Openings[0].Value = []byte("/guess") }, audit.OpeningMismatch},
		{"an opening of another field", func(x *exhibit) { x.proven.Openings[0].Field = record.FieldQuery }, audit.OpeningMismatch},
		{"an opening twice", func(x *exhibit) { x.proven.Openings = append(x.proven.Openings, x.proven.Openings[0]) }, audit.EvidenceMalformed},
	}
}

func TestForgedEvidence(t *testing.T) {
	for _, test := range forgeries() {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			x := newExhibit(t)
			test.do(x)
			r, err := audit.VerifyEvidence(x.proven.Marshal(), x.policy, nil)
			var e *audit.EvidenceError
			if !errors.As(err, &e) || e.Code != test.want {
				t.Errorf("want %s, got %v, %+v", test.want, err, r)
			}
			if python, err := exec.LookPath("python3"); err == nil && !testing.Short() {
				if stranger(t, python, x.policy.Marshal(), [][]byte{x.proven.Marshal()})[0] {
					t.Error("scripts/verify_evidence.py accepts it")
				}
			}
		})
	}
}

// remake returns a record of the producer with a sequence that it has used.
func (x *exhibit) remake(sequence uint64, r *sealtapv1.Record) []byte {
	q := *x.p
	q.seq, q.tree = sequence, record.NewTree()
	return q.make(r)
}

// reseal seals the producer's entries anew and proves two of them under that.
func (x *exhibit) reseal(place, beacon int) {
	tree := record.NewTree()
	for _, e := range x.p.entries {
		tree.Append(record.LeafHash(e), nil)
	}
	x.seal = x.p.sealWith(x.p.key, tree.Size(), tree.Root())[2:]
	p := prove(x.t, x.p.entries, place, x.seal)
	x.proven.Producer = &p
	x.proven.Beacon = &record.Proven{Entry: x.p.entries[beacon], Proof: prove(x.t, x.p.entries, beacon, x.seal)}
}

// again proves everything anew under a new head of the log, as it is now.
func (x *exhibit) again(head []byte) {
	if x.head = head; head == nil {
		x.head = x.checkpoint(len(x.entries), x.witnesses...)
	}
	x.proven.Log, x.proven.KeyChange, x.proven.Genesis = x.inLog(x.index), x.statement(1), x.statement(0)
}

// TestBackdatedEvidence: a record that claims a time from before its beacon.
func TestBackdatedEvidence(t *testing.T) {
	for name, at := range map[string]int64{"backdated": epoch - 100, "made for later": epoch + 100} {
		w, p := shop(t)
		b, bSeq := p.beacon(), int(p.seq)-1
		r := request("/x")
		r.Time = at * int64(time.Second)
		index, seq := p.write(r), int(p.seq)-1
		seal := w.entries[p.seal()][2:]
		x := &exhibit{world: w, p: p, index: index, head: w.checkpoint(len(w.entries), w.witnesses...)}
		producer := prove(t, p.entries, seq, seal)
		e := &record.Evidence{Entry: w.entries[index], Log: x.inLog(index), Producer: &producer, KeyChange: x.statement(1), Genesis: x.statement(0),
			Beacon: &record.Proven{Entry: w.entries[b], Proof: prove(t, p.entries, bSeq, seal)}}
		_, err := audit.VerifyEvidence(e.Marshal(), w.policy, nil)
		var f *audit.EvidenceError
		if !errors.As(err, &f) || f.Code != audit.TimeOrder {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzVerifyEvidence(f *testing.F) {
	x := newExhibit(f)
	good := x.proven.Marshal()
	f.Add(good)
	for _, cut := range []int{30, 200, len(good) / 2} {
		f.Add(good[:cut])
	}
	sections := strings.SplitAfter(string(good), "\n-- ")
	for i := range sections {
		f.Add([]byte(strings.Join(append(append([]string{}, sections[:i]...), sections[i+1:]...), "")))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := audit.VerifyEvidence(text, x.policy, nil)
		if err == nil == (r == nil) {
			t.Fatal("neither or both")
		}
		if err != nil {
			return
		}
		// Nobody who fuzzes has the keys: what is accepted consists of parts of the good one.
		for _, e := range r.Entries {
			if e.Root == "" || e.Record == nil || fmt.Sprint(e.CosignedBy) != "[w1 w2]" {
				t.Fatalf("%+v", e)
			}
		}
	})
}
