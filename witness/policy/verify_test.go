package policy_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	flog "github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness/policy"
)

const origin = "log.example/1"

// world is a policy of one log, two plain witnesses and a post-quantum one, of
// which two must cosign, and a stranger.
type world struct {
	policy                *policy.Policy
	log, a, b, q, strange party
	body                  checkpoint.Body
}

func newWorld(t testing.TB) world {
	t.Helper()
	w := world{
		log:     newParty(t, origin, keys.Ed25519),
		a:       newParty(t, "a.example", keys.Cosignature),
		b:       newParty(t, "b.example", keys.Cosignature),
		q:       newParty(t, "q.example", keys.MLDSA44),
		strange: newParty(t, "s.example", keys.Cosignature),
		body:    checkpoint.Body{Origin: origin, Size: 17, Root: [32]byte{1, 2, 3}},
	}
	p, err := policy.Parse([]byte("log " + w.log.vkey + "\nwitness A " + w.a.vkey + "\nwitness B " + w.b.vkey +
		"\nwitness Q " + w.q.vkey + "\ngroup g 2 A B Q\nquorum g\n"))
	if err != nil {
		t.Fatal(err)
	}
	w.policy = p
	return w
}

func sign(t testing.TB, text []byte, parties ...party) []byte {
	t.Helper()
	var ss []note.Signer
	for _, p := range parties {
		ss = append(ss, p.signer)
	}
	signed, err := note.Sign(&note.Note{Text: string(text)}, ss...)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// damage changes the signature on the last line of a note.
func damage(signed []byte) []byte {
	i := bytes.LastIndexByte(bytes.TrimSuffix(signed, []byte("\n")), ' ') + 30
	c := byte('A')
	if signed[i] == 'A' {
		c = 'B'
	}
	signed = bytes.Clone(signed)
	signed[i] = c
	return signed
}

func TestVerify(t *testing.T) {
	w := newWorld(t)
	text := w.body.Marshal()
	foreign := checkpoint.Body{Origin: "log.example/2", Size: 1}
	empty := checkpoint.Body{Origin: origin}
	for name, test := range map[string]struct {
		signed  []byte
		err     error
		cosigns string // of VerifyLogOnly where that is good: the names
	}{
		"good":                  {sign(t, text, w.log, w.a, w.b), nil, "A B"},
		"post-quantum":          {sign(t, text, w.log, w.a, w.q), nil, "A Q"},
		"any order":             {sign(t, text, w.q, w.b, w.strange, w.log), nil, "Q B"},
		"extension":             {sign(t, append(text, "x\n"...), w.log, w.a, w.b), nil, "A B"},
		"one short":             {sign(t, text, w.log, w.a, w.strange), policy.ErrQuorum, "A"},
		"same one twice":        {sign(t, text, w.log, w.a, w.a), policy.ErrQuorum, "A"},
		"log only":              {sign(t, text, w.log), policy.ErrQuorum, ""},
		"no log":                {sign(t, text, w.a, w.b), policy.ErrSignature, "-"},
		"damaged cosignature":   {damage(sign(t, text, w.log, w.a, w.b, w.q)), policy.ErrSignature, "A B"},
		"damaged by a stranger": {damage(sign(t, text, w.log, w.a, w.b, w.strange)), nil, "A B"},
		"damaged log signature": {damage(sign(t, text, w.a, w.b, w.log)), policy.ErrSignature, "-"},
		"unknown log":           {sign(t, foreign.Marshal(), w.log, w.a, w.b), policy.ErrUnknownLog, "-"},
		"wrong empty root":      {sign(t, empty.Marshal(), w.log, w.a, w.b), policy.ErrMalformed, "-"},
		"leading zero":          {sign(t, bytes.Replace(text, []byte("17"), []byte("017"), 1), w.log, w.a, w.b), policy.ErrMalformed, "-"},
		"no signature":          {text, policy.ErrMalformed, "-"},
		"nothing":               {nil, policy.ErrMalformed, "-"},
		"no final newline":      {bytes.TrimSuffix(sign(t, text, w.log, w.a, w.b), []byte("\n")), policy.ErrMalformed, "-"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := w.policy.Verify(test.signed)
			if !errors.Is(err, test.err) {
				t.Fatalf("Verify = %v, want %v", err, test.err)
			}
			if err == nil && (c.Origin != origin || c.Size != 17 || c.Root != w.body.Root || !bytes.Equal(c.Note, test.signed)) {
				t.Errorf("Verify = %+v", c)
			}
			lax, err := w.policy.VerifyLogOnly(test.signed)
			if test.cosigns == "-" {
				if !errors.Is(err, test.err) {
					t.Fatalf("VerifyLogOnly = %v, want %v", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, s := range lax.Cosignatures {
				names = append(names, s.Witness)
				if age := time.Now().Unix() - s.Time; age < 0 || age > 60 || !strings.HasPrefix(s.Line, "— "+s.Key.Name+" ") {
					t.Errorf("cosignature %+v", s)
				}
			}
			if got := strings.Join(names, " "); got != test.cosigns {
				t.Errorf("cosigned by %q, want %q", got, test.cosigns)
			}
		})
	}
}

// What Cosign puts together is a note that the reference reads.
func TestCosign(t *testing.T) {
	w := newWorld(t)
	text := w.body.Marshal()
	base, err := w.policy.VerifyLogOnly(sign(t, text, w.strange, w.log, w.a))
	if err != nil {
		t.Fatal(err)
	}
	more, err := w.policy.VerifyLogOnly(sign(t, text, w.log, w.a, w.b))
	if err != nil {
		t.Fatal(err)
	}
	signed := base.Cosign(more.Cosignatures...)
	if _, err := w.policy.Verify(signed); err != nil {
		t.Error(err)
	}
	if n := strings.Count(string(signed), "— "); n != 3 {
		t.Errorf("the note has %d signatures, want 3", n)
	}
	logV, _ := note.NewVerifier(w.log.vkey)
	aV, _ := fnote.NewVerifierForCosignatureV1(w.a.vkey)
	bV, _ := fnote.NewVerifierForCosignatureV1(w.b.vkey)
	cp, _, n, err := flog.ParseCheckpoint(signed, origin, logV, aV, bV)
	if err != nil || cp.Size != 17 || len(n.Sigs) != 3 {
		t.Errorf("the reference reads %+v, %v", cp, err)
	}
}

// cosignAt makes a cosignature with any timestamp.
func cosignAt(t testing.TB, name string, key ed25519.PrivateKey, at uint64, text []byte) string {
	t.Helper()
	pub := keys.Public{Name: name, Type: keys.Cosignature, Key: key.Public().(ed25519.PublicKey)}
	raw := binary.BigEndian.AppendUint32(nil, pub.KeyID())
	raw = binary.BigEndian.AppendUint64(raw, at)
	raw = append(raw, ed25519.Sign(key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, text))...)
	return "— " + name + " " + base64.StdEncoding.EncodeToString(raw) + "\n"
}

func TestTimestamps(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	pub := keys.Public{Name: "w.example", Type: keys.Cosignature, Key: key.Public().(ed25519.PublicKey)}
	log := newParty(t, origin, keys.Ed25519)
	p, err := policy.Parse([]byte("log " + log.vkey + "\nwitness w " + pub.String() + "\nquorum w\n"))
	if err != nil {
		t.Fatal(err)
	}
	text := checkpoint.Body{Origin: origin, Size: 1}.Marshal()
	for at, want := range map[uint64]error{
		1: nil, 1<<63 - 1: nil,
		0:          policy.ErrQuorum,    // makes no statement
		1 << 63:    policy.ErrSignature, // tlog-cosignature: MUST NOT exceed 2^63 - 1
		1<<64 - 1:  policy.ErrSignature,
		1893456000: nil,
	} {
		signed := string(sign(t, text, log)) + cosignAt(t, "w.example", key, at, text)
		c, err := p.Verify([]byte(signed))
		if !errors.Is(err, want) {
			t.Errorf("time %d: %v, want %v", at, err, want)
		}
		if err == nil && c.Cosignatures[0].Time != int64(at) {
			t.Errorf("time %d is read as %d", at, c.Cosignatures[0].Time)
		}
	}
}

// A log may change its key: both are trusted for the origin while it does.
func TestTwoLogKeys(t *testing.T) {
	one, two := newParty(t, origin, keys.Ed25519), newParty(t, origin, keys.MLDSA44)
	p, err := policy.Parse([]byte("log " + one.vkey + "\nlog " + two.vkey + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	text := checkpoint.Body{Origin: origin, Size: 1}.Marshal()
	for _, signers := range [][]party{{one}, {two}, {one, two}} {
		c, err := p.Verify(sign(t, text, signers...))
		if err != nil || len(c.Signatures) != len(signers) {
			t.Errorf("signed with %d keys: %v", len(signers), err)
		}
	}
	if _, err := p.Verify(damage(sign(t, text, one, two))); !errors.Is(err, policy.ErrSignature) {
		t.Errorf("one of two damaged: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	w := newWorld(f)
	f.Add(sign(f, w.body.Marshal(), w.log, w.a, w.b))
	f.Add(sign(f, w.body.Marshal(), w.log, w.a))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := w.policy.Verify(data)
		if err == nil && (c.Size != 17 || c.Root != w.body.Root) {
			t.Fatalf("forged: %q", data)
		}
		if _, lax := w.policy.VerifyLogOnly(data); err == nil && lax != nil {
			t.Fatalf("Verify accepts what VerifyLogOnly refuses: %v", lax)
		}
	})
}

// TestRepeatedSignatures: no signature line may be false, nor the second one by
// a key; and the log signs once.
func TestRepeatedSignatures(t *testing.T) {
	w := newWorld(t)
	text := w.body.Marshal()
	line := func(p party) string {
		signed := string(sign(t, text, w.log, p))
		return signed[strings.LastIndex(signed, "— "):]
	}
	good := string(sign(t, text, w.log, w.a, w.b))
	log := strings.SplitAfter(good, "\n")[4]
	for name, test := range map[string]struct {
		more string
		want error
	}{
		"nothing":                {"", nil},
		"a cosignature again":    {line(w.a), nil},
		"a false cosignature":    {string(damage([]byte(line(w.a)))), policy.ErrSignature},
		"the log's again":        {log, nil},
		"a false one of the log": {string(damage([]byte(log))), policy.ErrMalformed},
		"one by an unknown key":  {line(w.strange), nil},
		"none, but a tab":        {"\t\n", policy.ErrMalformed},
	} {
		c, err := w.policy.Verify([]byte(good + test.more))
		if !errors.Is(err, test.want) || err == nil && len(c.Cosignatures) != 2 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
