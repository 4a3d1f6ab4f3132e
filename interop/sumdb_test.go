package interop

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The answers of /v1, read by nothing of ours.
type inclusionAnswer struct {
	Index      int64    `json:"index"`
	Size       int64    `json:"size"`
	LeafHash   []byte   `json:"leaf_hash"`
	Hashes     [][]byte `json:"hashes"`
	Checkpoint string   `json:"checkpoint"`
}

type consistencyAnswer struct {
	From   int64    `json:"from"`
	To     int64    `json:"to"`
	Hashes [][]byte `json:"hashes"`
}

func call(t *testing.T, path string, answer any) {
	t.Helper()
	b, err := world.log.Get(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, answer); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func toHashes(t *testing.T, list [][]byte) []tlog.Hash {
	t.Helper()
	out := make([]tlog.Hash, len(list))
	for i, h := range list {
		if copy(out[i][:], h) != len(h) || len(h) != tlog.HashSize {
			t.Fatalf("hash %d has %d bytes", i, len(h))
		}
	}
	return out
}

// The Go checksum database's own code verifies the proofs of /v1, with the
// root out of the signed checkpoint that the answer carries.
func TestSumDBChecksOurProofs(t *testing.T) {
	size, err := published(world.log)
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(0); i < size; i += 29 {
		var a inclusionAnswer
		call(t, fmt.Sprintf("/v1/proof/inclusion?index=%d", i), &a)
		leaf := toHashes(t, [][]byte{a.LeafHash})[0]
		n, err := note.Open([]byte(a.Checkpoint), note.VerifierList(logVerifier(t, world.log)))
		if err != nil {
			t.Fatal(err)
		}
		tree := head(t, n.Text)
		if err := tlog.CheckRecord(toHashes(t, a.Hashes), tree.N, tree.Hash, int64(i), leaf); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		leaf[0] ^= 1
		if tlog.CheckRecord(toHashes(t, a.Hashes), tree.N, tree.Hash, int64(i), leaf) == nil {
			t.Fatalf("record %d: another leaf passes", i)
		}
		// The same proof by leaf hash instead of index.
		var by inclusionAnswer
		call(t, "/v1/proof/inclusion?leaf="+url.QueryEscape(base64.URLEncoding.EncodeToString(a.LeafHash)), &by)
		if by.Index != int64(i) {
			t.Fatalf("leaf of %d is said to be at %d", i, by.Index)
		}
	}
	if err := world.exchanges(5); err != nil {
		t.Fatal(err)
	}
	latest, err := published(world.log)
	if err != nil {
		t.Fatal(err)
	}
	ours := follow(t)
	for from := uint64(1); from < latest; from += 1 + from/3 {
		var a consistencyAnswer
		call(t, fmt.Sprintf("/v1/proof/consistency?from=%d&to=%d", from, latest), &a)
		roots := toHashes(t, [][]byte{ours.roots[from], ours.roots[latest]})
		if err := tlog.CheckTree(toHashes(t, a.Hashes), int64(latest), roots[1], int64(from), roots[0]); err != nil {
			t.Fatalf("tree from %d to %d: %v", from, latest, err)
		}
	}
}

// head reads the tree out of a checkpoint's text.
func head(t *testing.T, text string) tlog.Tree {
	t.Helper()
	var origin, root string
	var tree tlog.Tree
	if _, err := fmt.Sscanf(text, "%s\n%d\n%s\n", &origin, &tree.N, &root); err != nil {
		t.Fatalf("checkpoint %q: %v", text, err)
	}
	h, err := tlog.ParseHash(root)
	if err != nil {
		t.Fatal(err)
	}
	tree.Hash = h
	return tree
}
