package witness_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"filippo.io/mldsa"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
	"github.com/transparency-dev/merkle/rfc6962"
)

// mth is the Merkle Tree Hash of RFC 6962, section 2.1, over leaf hashes.
func mth(leaves [][]byte) []byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := split(len(leaves))
	return rfc6962.DefaultHasher.HashChildren(mth(leaves[:k]), mth(leaves[k:]))
}

// split is the largest power of two below n.
func split(n int) int {
	k := 1
	for 2*k < n {
		k *= 2
	}
	return k
}

// subproof is SUBTREE_SUBPROOF of draft-ietf-plants-merkle-tree-certs, section 4.4.1,
// as it stands there.
func subproof(start, end int, leaves [][]byte, known bool) [][]byte {
	if start == 0 && end == len(leaves) {
		if known {
			return nil
		}
		return [][]byte{mth(leaves)}
	}
	k := split(len(leaves))
	switch {
	case end <= k:
		return append(subproof(start, end, leaves[:k], known), mth(leaves[k:]))
	case k <= start:
		return append(subproof(start-k, end-k, leaves[k:], known), mth(leaves[:k]))
	}
	return append(subproof(0, end-k, leaves[k:], false), mth(leaves[:k]))
}

func leafHashes(n int) (leaves [][]byte) {
	for i := range n {
		leaves = append(leaves, rfc6962.DefaultHasher.HashLeaf(fmt.Append(nil, "a ", i)))
	}
	return leaves
}

// subtreeBody returns the body of a sign-subtree.
func subtreeBody(span, hash string, proof [][]byte, signed string) string {
	lines := []string{"subtree " + span, hash}
	for _, h := range proof {
		lines = append(lines, base64.StdEncoding.EncodeToString(h))
	}
	return strings.Join(lines, "\n") + "\n\n" + signed
}

func (s *server) subtree(t *testing.T, body string) answer {
	t.Helper()
	return do(t, "POST", s.http.URL+"/sign-subtree", body)
}

// Every subtree of every tree is signed, over the very message of the text, and
// nothing that a wrong hash or proof says.
func TestSignSubtree(t *testing.T) {
	const most = 14
	leaves := leafHashes(most)
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", most)
	s, quantum := quantumServer(t, l)
	pub, err := mldsa.NewPublicKey(mldsa.MLDSA44(), quantum.Key)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= most; n++ {
		if a := s.add(t, l.request(t, uint64(n-1), uint64(n))); a.status != 200 {
			t.Fatal(a)
		}
		signed := s.latest(t, origin).body
		for end := 1; end <= n; end++ {
			for start := range end {
				ceil := 1
				for ceil < end-start {
					ceil *= 2
				}
				node := mth(leaves[start:end])
				hash, span := base64.StdEncoding.EncodeToString(node), fmt.Sprintf("%d %d", start, end)
				if start%ceil != 0 {
					if a := s.subtree(t, subtreeBody(span, hash, nil, signed)); a.status != 400 {
						t.Fatalf("[%s) of %d: %+v", span, n, a)
					}
					continue
				}
				proof := subproof(start, end, leaves[:n], true)
				a := s.subtree(t, subtreeBody(span, hash, proof, signed))
				if a.status != 200 || a.contentType != "text/plain; charset=utf-8" {
					t.Fatalf("[%s) of %d: %+v", span, n, a)
				}
				b64, ok := strings.CutPrefix(a.body, "— witness.example/w ")
				raw, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(b64, "\n"))
				if !ok || err != nil || len(raw) != 12+2420 || binary.BigEndian.Uint32(raw) != quantum.KeyID() || binary.BigEndian.Uint64(raw[4:]) != 0 {
					t.Fatalf("[%s) of %d: %q", span, n, a.body)
				}
				if err := mldsa.Verify(pub, message("witness.example/w", 0, origin, uint64(start), uint64(end), [32]byte(node)), raw[12:], nil); err != nil {
					t.Fatalf("[%s) of %d: %v", span, n, err)
				}
				bad := [][][]byte{append(proof[:len(proof):len(proof)], node)}
				for i := range proof {
					changed := append([][]byte(nil), proof...)
					changed[i] = leaves[(start+1)%most]
					if string(changed[i]) != string(proof[i]) {
						bad = append(bad, changed)
					}
					bad = append(bad, append(append([][]byte(nil), proof[:i]...), proof[i+1:]...))
				}
				for _, p := range bad {
					if a := s.subtree(t, subtreeBody(span, hash, p, signed)); a.status != 422 {
						t.Fatalf("[%s) of %d with a wrong proof: %+v", span, n, a)
					}
				}
				other := base64.StdEncoding.EncodeToString(rfc6962.DefaultHasher.HashLeaf(node))
				if a := s.subtree(t, subtreeBody(span, other, proof, signed)); a.status != 422 {
					t.Fatalf("[%s) of %d with another hash: %+v", span, n, a)
				}
			}
		}
	}
}

func TestSignSubtreeRefuses(t *testing.T) {
	leaves := leafHashes(14)
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	s, _ := quantumServer(t, l)
	s.add(t, l.request(t, 0, 14))
	signed := s.latest(t, origin).body
	node := base64.StdEncoding.EncodeToString(mth(leaves[8:13]))
	proof := subproof(8, 13, leaves, true)
	line := base64.StdEncoding.EncodeToString(leaves[0])
	many := func(n int) string { return "subtree 8 13\n" + strings.Repeat(line+"\n", n+1) + "\n" + signed }
	unknown := newLog(t, newKey(t, "log.example/other", keys.Ed25519), "a", 20)
	signer, err := s.key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	body := func(span string) string { return subtreeBody(span, node, proof, signed) }
	for name, test := range map[string]struct {
		body   string
		status int
	}{
		"good":                  {body("8 13"), 200},
		"one of the signatures": {subtreeBody("8 13", node, proof, string(l.sign(t, string(l.body(14).Marshal()), signer))), 200},
		"nothing":               {"", 400},
		"no range":              {strings.Replace(body("8 13"), "subtree", "tree", 1), 400},
		"one number":            {body("8"), 400},
		"three numbers":         {body("8 13 14"), 400},
		"two spaces":            {body("8  13"), 400},
		"leading zero":          {body("08 13"), 400},
		"empty":                 {body("8 8"), 400},
		"backwards":             {body("13 8"), 400},
		"not aligned":           {body("9 13"), 400},
		"beyond the tree":       {body("8 15"), 400},
		"huge":                  {body("0 18446744073709551615"), 400},
		"huge and not aligned":  {body("1 18446744073709551615"), 400},
		"no hash":               {"subtree 8 13\n\n" + signed, 400},
		"short hash":            {subtreeBody("8 13", node[:40], proof, signed), 400},
		"63 proof lines":        {many(63), 422},
		"64 proof lines":        {many(64), 400},
		"no checkpoint":         {subtreeBody("8 13", node, proof, ""), 400},
		"unknown log":           {subtreeBody("8 13", node, proof, string(unknown.sign(t, string(unknown.body(14).Marshal()), signer))), 404},
		"not cosigned":          {subtreeBody("8 13", node, proof, string(l.checkpoint(t, 14))), 403},
		"forged":                {subtreeBody("8 13", node, proof, string(damage([]byte(signed)))), 403},
		"no proof":              {subtreeBody("8 13", node, nil, signed), 422},
		"far too long":          {body("8 13") + strings.Repeat("x", 300<<10), 413},
	} {
		if a := s.subtree(t, test.body); a.status != test.status {
			t.Errorf("%s: %+v, want %d", name, a, test.status)
		}
	}
	if a := do(t, "GET", s.http.URL+"/sign-subtree", ""); a.status != 405 {
		t.Errorf("GET: %+v", a)
	}
	plain := newServer(t, l)
	plain.add(t, l.request(t, 0, 14))
	if a := plain.subtree(t, subtreeBody("8 13", node, proof, plain.latest(t, origin).body)); a.status != 404 || !strings.Contains(a.body, "no ML-DSA-44 key") {
		t.Errorf("without such a key: %+v", a)
	}
	s.SetRate(witness.Rate{PerSecond: 1.0 / 3600, Burst: 1})
	if a, b := s.subtree(t, body("8 13")), s.subtree(t, body("8 13")); a.status+b.status != 200+429 {
		t.Errorf("%d, then %d", a.status, b.status)
	}
}
