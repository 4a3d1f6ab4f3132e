package interop

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// torchwood's go.mod names sigsum-go, none of whose packages torchwood or
// litewitness import: what is used here builds without it.

func torchPolicy(t *testing.T, text []byte) torchwood.Policy {
	t.Helper()
	p, err := torchwood.ParsePolicy(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func torchClient(t *testing.T) *torchwood.Client {
	t.Helper()
	f, err := torchwood.NewTileFetcher(world.log.Log)
	if err != nil {
		t.Fatal(err)
	}
	c, err := torchwood.NewClient(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// torchwood accepts the checkpoint under our policy.txt, and follows the log
// entry by entry, each checked against the tree.
func TestTorchwoodFollows(t *testing.T) {
	cp, n, err := torchwood.VerifyCheckpoint(newest(t), torchPolicy(t, world.log.PolicyTx))
	if err != nil {
		t.Fatal(err)
	}
	if len(n.Sigs) != 3 || cp.Origin != world.log.Origin() {
		t.Fatalf("%d verified signatures on the checkpoint of %s, want the log's and two witnesses'", len(n.Sigs), cp.Origin)
	}
	c := torchClient(t)
	var seen int64
	for i, e := range c.AllEntries(t.Context(), cp.Tree, 0) {
		if i != seen || len(e) < 2 || e[0] != 1 {
			t.Fatalf("entry %d, expected %d: %x", i, seen, e)
		}
		seen++
	}
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	if seen != cp.N {
		t.Fatalf("followed %d entries of %d", seen, cp.N)
	}
}

// torchwood verifies the tlog-proofs that we serve, under our policy.txt, and
// refuses them for another entry, with another byte or without a witness.
func TestTorchwoodVerifiesProofs(t *testing.T) {
	p := torchPolicy(t, world.log.PolicyTx)
	c := torchClient(t)
	cp, _, err := torchwood.VerifyCheckpoint(newest(t), p)
	if err != nil {
		t.Fatal(err)
	}
	for i := int64(0); i < cp.N; i += 71 {
		entry, path, err := c.Entry(t.Context(), cp.Tree, i)
		if err != nil {
			t.Fatal(err)
		}
		text, err := world.log.Get(t.Context(), fmt.Sprintf("/v1/records/%d/proof", i))
		if err != nil {
			t.Fatal(err)
		}
		leaf := tlog.RecordHash(entry)
		if err := torchwood.VerifyProof(p, leaf, text); err != nil {
			t.Fatalf("proof of %d: %v\n%s", i, err, text)
		}
		if err := tlog.CheckRecord(path, cp.N, cp.Hash, i, leaf); err != nil {
			t.Fatalf("torchwood's own proof of %d: %v", i, err)
		}
		var wrong *torchwood.VerifyRecordError
		if err := torchwood.VerifyProof(p, tlog.RecordHash(append(entry, 0)), text); !errors.As(err, &wrong) {
			t.Fatalf("proof of %d for another entry: %v", i, err)
		}
		for _, key := range witnessKeys(world.log.PolicyTx) {
			if err := torchwood.VerifyProof(p, leaf, without(t, text, key)); err == nil {
				t.Fatalf("proof of %d passes without the cosignature by %s", i, key)
			}
		}
	}
}

// without drops a witness's signature line.
func without(t *testing.T, signed []byte, vkey string) []byte {
	t.Helper()
	v, err := torchwood.NewCosignatureVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(signed, []byte("\n"))
	var kept [][]byte
	for _, l := range lines {
		if !bytes.HasPrefix(l, []byte("— "+v.Name()+" ")) {
			kept = append(kept, l)
		}
	}
	if len(kept) != len(lines)-1 {
		t.Fatalf("%d lines by %s", len(lines)-len(kept), v.Name())
	}
	return bytes.Join(kept, nil)
}

// torchwood's verifier of a single cosignature agrees on each witness of its own.
func TestTorchwoodCosignatures(t *testing.T) {
	for _, key := range witnessKeys(world.log.PolicyTx) {
		v, err := torchwood.NewCosignatureVerifier(key)
		if err != nil {
			t.Fatal(err)
		}
		n, err := note.Open(newest(t), note.VerifierList(v))
		if err != nil || len(n.Sigs) != 1 {
			t.Fatalf("cosignature by %s: %v", v.Name(), err)
		}
		if at, err := torchwood.CosignatureTimestamp(n.Sigs[0]); err != nil || at <= 0 {
			t.Fatalf("time of the cosignature by %s: %d, %v", v.Name(), at, err)
		}
	}
}
