package interop

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	tproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/formats/witness"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

// transparency-dev/formats opens our checkpoint with the log's key and every
// witness of policy.txt, and finds the policy satisfied.
func TestFormatsCheckpointAndPolicy(t *testing.T) {
	raw := newest(t)
	var witnesses []note.Verifier
	for _, key := range witnessKeys(world.log.PolicyTx) {
		v, err := fnote.NewVerifierForCosignatureV1(key)
		if err != nil {
			t.Fatal(err)
		}
		witnesses = append(witnesses, v)
	}
	cp, extra, n, err := log.ParseCheckpoint(raw, world.log.Origin(), logVerifier(t, world.log), witnesses...)
	if err != nil {
		t.Fatal(err)
	}
	if len(extra) != 0 || len(n.Sigs) != 1+len(witnesses) || len(n.UnverifiedSigs) != 0 {
		t.Fatalf("checkpoint: %d signatures verified and %d not, %d bytes of extension", len(n.Sigs), len(n.UnverifiedSigs), len(extra))
	}
	if cp.Size < 600 {
		t.Fatalf("size %d", cp.Size)
	}
	g, err := witness.ParsePolicy(world.log.PolicyTx)
	if err != nil {
		t.Fatal(err)
	}
	if !g.Satisfied(raw) {
		t.Fatal("policy is not satisfied by the published checkpoint")
	}
	for _, key := range witnessKeys(world.log.PolicyTx) {
		if g.Satisfied(without(t, raw, key)) {
			t.Fatalf("policy is satisfied without %s", key)
		}
	}
}

// transparency-dev/formats parses our tlog-proofs, and transparency-dev/merkle
// verifies what is in them.
func TestFormatsProof(t *testing.T) {
	tree := follow(t)
	for i := uint64(0); i < tree.cp.Size; i += 53 {
		text, err := world.log.Get(t.Context(), fmt.Sprintf("/v1/records/%d/proof", i))
		if err != nil {
			t.Fatal(err)
		}
		var p tproof.TLogProof
		if err := p.Unmarshal(text); err != nil {
			t.Fatal(err)
		}
		cp, _, _, err := log.ParseCheckpoint(p.Checkpoint, world.log.Origin(), logVerifier(t, world.log))
		if err != nil {
			t.Fatal(err)
		}
		hashes := make([][]byte, len(p.Hashes))
		for j := range p.Hashes {
			hashes[j] = p.Hashes[j][:]
		}
		if p.Index != i || len(p.ExtraData) != 0 || !bytes.Equal(p.Marshal(), text) {
			t.Fatalf("proof of %d is for %d, has %d bytes of extra data, or another spelling", i, p.Index, len(p.ExtraData))
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, cp.Size, tree.leaves[i], hashes, cp.Hash); err != nil {
			t.Fatalf("proof of %d: %v", i, err)
		}
	}
}
