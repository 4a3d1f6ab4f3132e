package audit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/record"
)

// omitted is a world whose producer promised a record that the log lacks, with the
// evidence. The log has a seal of the producer's over it.
func omitted(t *testing.T, delay uint32) (*world, *producer, *record.Omission) {
	t.Helper()
	w, p := shop(t)
	p.make(request("/withheld"))
	leaf := record.LeafHash(p.entries[len(p.entries)-1])
	seal := p.seal()
	signer, err := p.key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	batch, err := record.SignPromises([]record.Promise{{Stream: p.stream, Sequence: p.seq - 1, Time: w.now, Leaf: leaf, Delay: delay}}, signer)
	if err != nil {
		t.Fatal(err)
	}
	w.now += int64(time.Minute)
	o := &record.Omission{Receipt: batch.Receipt(0)}
	o.Seal, o.KeyChange, o.Genesis = &record.Proven{Entry: w.entries[seal]}, &record.Proven{Entry: w.entries[1]}, &record.Proven{Entry: w.entries[0]}
	return w, p, o
}

// text proves the parts under the head as it is now.
func omissionText(t *testing.T, w *world, o *record.Omission) []byte {
	t.Helper()
	head := w.checkpoint(len(w.entries), w.witnesses...)
	for _, part := range []*record.Proven{o.Other, o.Seal, o.KeyChange, o.Genesis} {
		for i, e := range w.entries {
			if part != nil && string(e) == string(part.Entry) {
				part.Proof = prove(t, w.entries, i, head)
			}
		}
	}
	return o.Marshal()
}

func TestOmissionIsProven(t *testing.T) {
	w, _, o := omitted(t, 10)
	text := omissionText(t, w, o)
	r, err := audit.VerifyOmission(text, w.policy, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Code != audit.RecordOmitted || r.Other || !strings.Contains(r.Text(), "OMITTED: record") || !strings.Contains(strings.Join(r.Proven, " "), "holds back a record that its producer sealed") {
		t.Error(r.Text())
	}
	o.Seal = nil
	if r, err := audit.VerifyOmission(omissionText(t, w, o), w.policy, nil); err != nil || !strings.Contains(strings.Join(r.NotProven, " "), "no seal of that incarnation is shown") {
		t.Errorf("without a seal: %v, %v", r, err)
	}
	if _, err := audit.VerifyOmission(text, newWorld(t).policy, nil); err == nil {
		t.Error("evidence about a log that the policy does not name is believed")
	}
	// No byte is without meaning.
	for i := 0; i < len(text); i += 7 {
		bad := append([]byte(nil), text...)
		bad[i] ^= 1
		if _, err := audit.VerifyOmission(bad, w.policy, nil); err == nil {
			t.Errorf("evidence with byte %d changed (%q) is believed", i, text[max(i-20, 0):min(i+20, len(text))])
		}
	}
}

// TestNothingIsOmittedBeforeItIsDue is what keeps a proxy with a slow log honest.
func TestNothingIsOmittedBeforeItIsDue(t *testing.T) {
	for delay, late := range map[uint32]bool{54: true, 55: false, 60: false, 3600: false} {
		w, _, o := omitted(t, delay)
		if _, err := audit.VerifyOmission(omissionText(t, w, o), w.policy, nil); (err == nil) != late {
			t.Errorf("%d s after a minute: %v", delay, err)
		}
	}
}

func TestContradictedReceipt(t *testing.T) {
	w, p, o := omitted(t, 3600)
	p.seq--
	other := w.put(p.make(request("/another")), nil)
	o.Other = &record.Proven{Entry: w.entries[other]}
	r, err := audit.VerifyOmission(omissionText(t, w, o), w.policy, nil)
	if err != nil || !r.Other || !strings.Contains(r.Text(), "CONTRADICTED") {
		t.Fatalf("%v, %v", r, err)
	}
	// A record of another place, and the promised one itself, contradict nothing.
	o.Other = &record.Proven{Entry: w.entries[3]}
	if _, err := audit.VerifyOmission(omissionText(t, w, o), w.policy, nil); err == nil {
		t.Error("a record of another place counts as a contradiction")
	}
	right := w.put(p.entries[len(p.entries)-2], nil)
	o.Other = &record.Proven{Entry: w.entries[right]}
	if _, err := audit.VerifyOmission(omissionText(t, w, o), w.policy, nil); err == nil {
		t.Error("the promised record counts as a contradiction of itself")
	}
}

// TestNobodysReceipt: a promise that the producer did not sign accuses nobody.
func TestNobodysReceipt(t *testing.T) {
	w, p, o := omitted(t, 10)
	forger := key(t, p.key.Name, p.key.Type)
	signer, err := forger.Signer()
	if err != nil {
		t.Fatal(err)
	}
	batch, err := record.SignPromises([]record.Promise{o.Receipt.Promise}, signer)
	if err != nil {
		t.Fatal(err)
	}
	o.Receipt = batch.Receipt(0)
	if _, err := audit.VerifyOmission(omissionText(t, w, o), w.policy, nil); err == nil {
		t.Error("a forged receipt is believed")
	}
}
