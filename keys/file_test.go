package keys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

func TestSaveAndLoad(t *testing.T) {
	for _, typ := range []Type{Ed25519, Cosignature, MLDSA44} {
		path := filepath.Join(t.TempDir(), "a.key")
		k, err := Generate("example.com/a", typ)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Save(path); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
			t.Errorf("the key file has mode %v, %v", st.Mode(), err)
		}
		got, err := Load(path)
		if err != nil || got.Encode() != k.Encode() || got.Public.String() != k.Public.String() {
			t.Fatalf("loaded %v, %v", got, err)
		}
		pub, err := os.ReadFile(path + ".pub")
		if err != nil || strings.TrimSpace(string(pub)) != k.Public.String() {
			t.Errorf("the verifier key file holds %q, %v", pub, err)
		}
		if err := k.Save(path); !errors.Is(err, fs.ErrExist) {
			t.Errorf("a key was overwritten: %v", err)
		}
		signVerify(t, got, typ)
	}
}

func signVerify(t *testing.T, k *Private, typ Type) {
	t.Helper()
	signer, err := k.Signer()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ParsePublic(k.Public.String())
	if err != nil || pub.Type != typ {
		t.Fatalf("parsed %v, %v", pub, err)
	}
	v, err := pub.Verifier()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: "example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"}, signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(signed, note.VerifierList(v)); err != nil {
		t.Error(err)
	}
}

// TestSecretsStayIn checks that no part of a signing key is in an error or in
// what is printed of it.
func TestSecretsStayIn(t *testing.T) {
	k, err := Generate("example.com/a", Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	// The base64 of the secret may hold a "+" of its own.
	skey := k.Encode()
	secret := strings.SplitN(skey, "+", 5)[4]
	for _, s := range []string{k.String(), k.GoString()} {
		if strings.Contains(s, secret[:8]) {
			t.Errorf("printed: %s", s)
		}
	}
	for _, bad := range []string{"", "x", skey[8:], skey[:len(skey)-4], skey + "A", strings.Replace(skey, "+", " ", 1), strings.Replace(skey, "example", "exampel", 1), "PRIVATE+KEY++00000000+" + secret} {
		_, err := ParsePrivate(bad)
		if !errors.Is(err, ErrMalformed) || strings.Contains(err.Error(), secret[:8]) {
			t.Errorf("error %v", err)
		}
	}
}

func TestGenerateRefuses(t *testing.T) {
	for _, name := range []string{"", "two words", "a+b", "line\nbreak"} {
		if _, err := Generate(name, Ed25519); !errors.Is(err, ErrMalformed) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := Generate("a", 0x05); !errors.Is(err, ErrMalformed) {
		t.Errorf("another type: %v", err)
	}
	// An ML-DSA-44 signature has one byte for the length of the name.
	if _, err := Generate(strings.Repeat("a", 255), MLDSA44); err != nil {
		t.Error(err)
	}
	if _, err := Generate(strings.Repeat("a", 256), MLDSA44); !errors.Is(err, ErrMalformed) {
		t.Errorf("a long name: %v", err)
	}
}

// TestForeignMLDSA: keys of transparency-dev/formats are read, and it verifies and
// reads ours.
func TestForeignMLDSA(t *testing.T) {
	skey, vkey, err := fnote.GenerateMLDSAKey("example.com/log")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := ParsePrivate(skey)
	if err != nil || theirs.Public.String() != vkey || theirs.Encode() != skey {
		t.Fatalf("their key is read as %v, %v; want %s", theirs, err, vkey)
	}
	ours, err := Generate("example.com/log", MLDSA44)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := fnote.NewMLDSASigner(ours.Encode())
	if err != nil || signer.KeyHash() != ours.KeyID() {
		t.Fatalf("they read our key as %v, %v", signer, err)
	}
	own, err := ours.Signer()
	if err != nil {
		t.Fatal(err)
	}
	text := "example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
	signed, err := note.Sign(&note.Note{Text: text}, own)
	if err != nil {
		t.Fatal(err)
	}
	v, err := fnote.NewMLDSAVerifier(ours.Public.String())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := note.Open(signed, note.VerifierList(v)); err != nil || len(n.Sigs) != 1 {
		t.Errorf("they do not verify our signature: %v", err)
	}
}
