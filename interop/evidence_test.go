package interop

import (
	"fmt"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"github.com/transparency-dev/formats/proof"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealtap/sealtap/record"
)

// The tlog-proofs in our evidence files, taken out of them: torchwood verifies the log's
// under our policy.txt, and formats reads what was written back as the same bytes.
func TestProofsOfEvidence(t *testing.T) {
	p := torchPolicy(t, world.log.PolicyTx)
	cp, _, err := torchwood.VerifyCheckpoint(newest(t), p)
	if err != nil {
		t.Fatal(err)
	}
	verified := 0
	for i := int64(0); i < cp.N; i += 31 {
		text, err := world.log.Get(t.Context(), fmt.Sprintf("/v1/records/%d/evidence", i))
		if err != nil && strings.Contains(err.Error(), "no seal that is published covers") {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		verified++
		list, err := record.ParseEvidence(text)
		if err != nil || len(list) != 1 {
			t.Fatalf("evidence of %d: %d, %v", i, len(list), err)
		}
		e := list[0]
		proven := map[string]struct {
			entry []byte
			proof proof.TLogProof
		}{"entry": {e.Entry, e.Log}}
		if e.Genesis != nil {
			proven["genesis"] = struct {
				entry []byte
				proof proof.TLogProof
			}{e.Genesis.Entry, e.Genesis.Proof}
		}
		if e.KeyChange != nil {
			proven["key change"] = struct {
				entry []byte
				proof proof.TLogProof
			}{e.KeyChange.Entry, e.KeyChange.Proof}
		}
		for what, x := range proven {
			out := x.proof.Marshal()
			if err := torchwood.VerifyProof(p, tlog.RecordHash(x.entry), out); err != nil {
				t.Fatalf("%s of evidence of %d: %v\n%s", what, i, err, out)
			}
			if err := torchwood.VerifyProof(p, tlog.RecordHash(append(x.entry, 0)), out); err == nil {
				t.Fatalf("%s of evidence of %d passes for another entry", what, i)
			}
			var again proof.TLogProof
			if err := again.Unmarshal(out); err != nil || string(again.Marshal()) != string(out) {
				t.Fatalf("%s of evidence of %d read by formats: %v", what, i, err)
			}
		}
	}
	if verified < 2 { // the genesis and something that hangs on it
		t.Errorf("%d evidences of %d entries", verified, cp.N)
	}
}
