package witness_test

import (
	"encoding/base64"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/mldsa"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

// quantumServer is a witness with two keys.
func quantumServer(t *testing.T, l ...*testLog) (*server, *keys.Private) {
	t.Helper()
	key, quantum := newKey(t, "witness.example/w", keys.Cosignature), newKey(t, "witness.example/w", keys.MLDSA44)
	return startQuantum(t, key, quantum, openStore(t, filepath.Join(t.TempDir(), "w.db")), l...), quantum
}

func startQuantum(t *testing.T, key, quantum *keys.Private, store witness.Store, logs ...*testLog) *server {
	t.Helper()
	known := make(map[string][]keys.Public)
	for _, l := range logs {
		known[l.origin] = append(known[l.origin], l.key.Public)
	}
	s, err := witness.New(t.Context(), witness.Config{Key: key, PostQuantumKey: quantum, Logs: known, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return serveWitness(t, s, key, store)
}

// message is the cosigned_message of tlog-cosignature, "ML-DSA-44 signed message",
// written from the text.
func message(name string, timestamp uint64, origin string, start, end uint64, hash [32]byte) []byte {
	m := []byte("subtree/v1\n\x00")
	m = append(append(m, byte(len(name))), name...)
	m = binary.BigEndian.AppendUint64(m, timestamp)
	m = append(append(m, byte(len(origin))), origin...)
	m = binary.BigEndian.AppendUint64(m, start)
	m = binary.BigEndian.AppendUint64(m, end)
	return append(m, hash[:]...)
}

// Both keys sign, and the ML-DSA-44 signature is over the very message of the text.
func TestQuantumCosignature(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	s, quantum := quantumServer(t, l)
	signed := l.sign(t, string(l.body(7).Marshal())+"an extension line\n")
	before := uint64(time.Now().Unix())
	a := s.add(t, body("0", nil, signed))
	lines := strings.SplitAfter(a.body, "\n")
	if a.status != 200 || len(lines) != 3 || lines[2] != "" {
		t.Fatalf("answer %+v", a)
	}
	if latest := s.latest(t, origin); latest.body != string(signed)+a.body {
		t.Errorf("the latest is %q", latest.body)
	}
	name, b64, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(lines[1], "— "), "\n"), " ")
	raw, err := base64.StdEncoding.DecodeString(b64)
	if !ok || err != nil || name != "witness.example/w" || len(raw) != 4+8+2420 || binary.BigEndian.Uint32(raw) != quantum.KeyID() {
		t.Fatalf("line %q: %v, %d bytes", lines[1], err, len(raw))
	}
	at := binary.BigEndian.Uint64(raw[4:])
	if now := uint64(time.Now().Unix()); at < before || at > now {
		t.Errorf("it was made at %d, between %d and %d", at, before, now)
	}
	pub, err := mldsa.NewPublicKey(mldsa.MLDSA44(), quantum.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := mldsa.Verify(pub, message(name, at, origin, 0, 7, l.body(7).Root), raw[12:], nil); err != nil {
		t.Error(err)
	}
	for _, vkey := range []string{s.key.Public.String(), quantum.Public.String()} {
		v, err := fnote.NewVerifierForCosignatureV1(vkey)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := note.Open([]byte(string(signed)+a.body), note.VerifierList(v)); err != nil || len(n.Sigs) != 1 {
			t.Errorf("others read %+v, %v", n, err)
		}
	}
}

// A witness that gets a second key signs its latest head with it too.
func TestQuantumLater(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	path := filepath.Join(t.TempDir(), "w.db")
	db := openStore(t, path)
	key, quantum := newKey(t, "witness.example/w", keys.Cosignature), newKey(t, "witness.example/w", keys.MLDSA44)
	s := startServer(t, key, db, l)
	s.add(t, l.request(t, 0, 7))
	s.http.Close()
	db.Close()
	s = startQuantum(t, key, quantum, openStore(t, path), l)
	if n := strings.Count(s.latest(t, origin).body, "\n— "); n != 3 {
		t.Errorf("%d signatures on\n%s", n, s.latest(t, origin).body)
	}
	// Its own cosignature is known by either key.
	signer, err := quantum.Signer()
	if err != nil {
		t.Fatal(err)
	}
	if a := s.add(t, body("7", nil, l.sign(t, string(l.body(9).Marshal()), signer))); a.status != 503 {
		t.Errorf("its own cosignature: %+v", a)
	}
}

// An origin that is too long for an ML-DSA-44 signature is signed with the other key.
func TestQuantumLongOrigin(t *testing.T) {
	l := newLog(t, newKey(t, "log.example/"+strings.Repeat("x", 250), keys.Ed25519), "a", 20)
	s, _ := quantumServer(t, l)
	if a := s.add(t, l.request(t, 0, 7)); a.status != 200 || strings.Count(a.body, "\n") != 1 {
		t.Errorf("answer %+v", a)
	}
	only, err := witness.New(t.Context(), witness.Config{Key: newKey(t, "w.example", keys.MLDSA44), Store: openStore(t, filepath.Join(t.TempDir(), "w.db"))})
	if err != nil {
		t.Fatal(err)
	}
	if err := only.SetLogs(t.Context(), map[string][]keys.Public{l.origin: {l.key.Public}}); err == nil {
		t.Error("a witness without another key takes it")
	}
}

// Policies that name such keys get their cosignatures, alone and beside the others.
func TestQuantumClient(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	s, quantum := quantumServer(t, l)
	both := []policy.Witness{{Name: "w", Key: s.key.Public, URL: s.http.URL}, {Name: "wq", Key: quantum.Public, URL: s.http.URL}}
	for i, test := range []struct {
		witnesses []policy.Witness
		groups    []policy.Group
		quorum    string
	}{
		{both, []policy.Group{{Name: "g", K: 2, Members: []string{"w", "wq"}}}, "g"},
		{both[1:], nil, "wq"},
		{both[:1], nil, "w"},
	} {
		p, err := policy.New([]policy.Log{{Key: l.key.Public}}, test.witnesses, test.groups, test.quorum, nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := witness.NewClient(witness.ClientConfig{Policy: p})
		if err != nil {
			t.Fatal(err)
		}
		size := uint64(7 + i)
		cosigned, err := c.Cosign(t.Context(), l.checkpoint(t, size), l.consistency(size))
		if err != nil {
			t.Fatalf("%s: %v", test.quorum, err)
		}
		if cp, err := p.Verify(cosigned); err != nil || len(cp.Cosignatures) != len(test.witnesses) {
			t.Errorf("%s: %+v, %v", test.quorum, cp, err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
