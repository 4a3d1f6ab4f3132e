package checkpoint_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	flog "github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
)

const (
	root      = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
	emptyRoot = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
)

func TestParse(t *testing.T) {
	long := strings.Repeat("o", 4000)
	for name, test := range map[string]struct {
		text, extension string
		ok              bool
	}{
		"plain":                       {text: "example.com/log\n20852163\n" + root + "\n", ok: true},
		"largest size":                {text: "o\n18446744073709551615\n" + root + "\n", ok: true},
		"size 0":                      {text: "o\n0\n" + emptyRoot + "\n", ok: true},
		"origin with spaces and plus": {text: "Go sum + database\n1\n" + root + "\n", ok: true},
		"long origin":                 {text: long + "\n1\n" + root + "\n", ok: true},
		"extension lines":             {text: "o\n1\n" + root + "\nx\ny z\n", extension: "x\ny z\n", ok: true},
		"nothing":                     {text: ""},
		"two lines":                   {text: "o\n1\n"},
		"empty origin":                {text: "\n1\n" + root + "\n"},
		"no final newline":            {text: "o\n1\n" + root},
		"leading zero":                {text: "o\n01\n" + root + "\n"},
		"double zero":                 {text: "o\n00\n" + emptyRoot + "\n"},
		"plus sign":                   {text: "o\n+1\n" + root + "\n"},
		"negative":                    {text: "o\n-1\n" + root + "\n"},
		"underscore":                  {text: "o\n1_0\n" + root + "\n"},
		"hexadecimal":                 {text: "o\n0x1\n" + root + "\n"},
		"space after size":            {text: "o\n1 \n" + root + "\n"},
		"other digits":                {text: "o\n١\n" + root + "\n"},
		"empty size":                  {text: "o\n\n" + root + "\n"},
		"size of 2^64":                {text: "o\n18446744073709551616\n" + root + "\n"},
		"unused bits in the root":     {text: "o\n1\n" + root[:42] + "J=\n"},
		"unpadded root":               {text: "o\n1\n" + root[:43] + "\n"},
		"base64url root":              {text: "o\n1\n" + strings.ReplaceAll(root, "/", "_") + "\n"},
		"root of 31 bytes":            {text: "o\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxqw==\n"},
		"root of 33 bytes":            {text: "o\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2IA\n"},
		"carriage return in the root": {text: "o\n1\n" + root + "\r\n"},
		"carriage returns":            {text: "o\r\n1\r\n" + root + "\r\n"},
		"tab in the origin":           {text: "o\to\n1\n" + root + "\n"},
		"not UTF-8":                   {text: "o\xff\n1\n" + root + "\n"},
		"empty extension line":        {text: "o\n1\n" + root + "\n\n"},
		"empty line in extension":     {text: "o\n1\n" + root + "\nx\n\ny\n"},
		"extension not terminated":    {text: "o\n1\n" + root + "\nx"},
	} {
		t.Run(name, func(t *testing.T) {
			b, extension, err := checkpoint.Parse([]byte(test.text))
			if !test.ok {
				if !errors.Is(err, checkpoint.ErrMalformed) {
					t.Fatalf("Parse = %+v, %v, want ErrMalformed", b, err)
				}
				return
			}
			if err != nil || string(extension) != test.extension {
				t.Fatalf("Parse: extension %q, error %v", extension, err)
			}
			if got := string(b.Marshal()) + string(extension); got != test.text {
				t.Errorf("round trip gives %q", got)
			}
		})
	}
}

func TestCheckEmpty(t *testing.T) {
	for _, test := range []struct {
		b  checkpoint.Body
		ok bool
	}{
		{checkpoint.Body{Origin: "o", Root: checkpoint.EmptyRoot()}, true},
		{checkpoint.Body{Origin: "o"}, false},
		{checkpoint.Body{Origin: "o", Size: 1}, true},
	} {
		if err := test.b.CheckEmpty(); (err == nil) != test.ok {
			t.Errorf("CheckEmpty of %+v = %v", test.b, err)
		}
	}
}

// sign returns a signed note and the verifier of its key.
func sign(t testing.TB, text string) ([]byte, note.Verifier) {
	t.Helper()
	k, err := keys.Generate("example.com/log", keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	s, err := k.Signer()
	if err != nil {
		t.Fatal(err)
	}
	v, err := k.Verifier()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		t.Fatal(err)
	}
	return signed, v
}

func TestOpen(t *testing.T) {
	text := "example.com/log\n7\n" + root + "\n"
	signed, v := sign(t, text)
	other, otherV := sign(t, text)
	known := note.VerifierList(v)

	b, n, err := checkpoint.Open(signed, known)
	if err != nil || b.Size != 7 || b.Origin != "example.com/log" || n.Text != text {
		t.Fatalf("Open = %+v, %v", b, err)
	}
	ref, _, _, err := flog.ParseCheckpoint(signed, "example.com/log", v)
	if err != nil || ref.Size != b.Size || !bytes.Equal(ref.Hash, b.Root[:]) {
		t.Errorf("the reference reads %+v, %v", ref, err)
	}
	if _, _, err := checkpoint.Open(other, known); !errors.Is(err, checkpoint.ErrSignature) {
		t.Errorf("unknown key: %v", err)
	}
	if _, _, err := checkpoint.Open(other, note.VerifierList(v, otherV)); err != nil {
		t.Errorf("one of two known keys: %v", err)
	}
	bad, badV := sign(t, "example.com/log\n0\n"+root+"\n")
	if _, _, err := checkpoint.Open(bad, note.VerifierList(badV)); !errors.Is(err, checkpoint.ErrMalformed) {
		t.Errorf("wrong root of an empty tree: %v", err)
	}
}

// A checkpoint has no bit that can be changed unseen.
func TestOpenEveryBit(t *testing.T) {
	signed, v := sign(t, "example.com/log\n7\n"+root+"\n")
	for i := range len(signed) * 8 {
		flipped := bytes.Clone(signed)
		flipped[i/8] ^= 1 << (i % 8)
		if _, _, err := checkpoint.Open(flipped, note.VerifierList(v)); err == nil {
			t.Errorf("flipping bit %d of byte %d (%q) is not noticed", i%8, i/8, signed[i/8])
		} else if !errors.Is(err, checkpoint.ErrMalformed) && !errors.Is(err, checkpoint.ErrSignature) {
			t.Errorf("bit %d: %v wraps no sentinel", i, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"o\n1\n" + root + "\n", "o\n0\n" + emptyRoot + "\nx\n", "o\n01\n" + root + "\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		b, extension, err := checkpoint.Parse(text)
		if err != nil {
			return
		}
		if got := append(b.Marshal(), extension...); !bytes.Equal(got, text) {
			t.Fatalf("%q parses, but its round trip is %q", text, got)
		}
		// The reference is laxer: it must accept all that we do, and agree.
		var ref flog.Checkpoint
		rest, err := ref.Unmarshal(text)
		if err != nil || ref.Origin != b.Origin || ref.Size != b.Size || !bytes.Equal(ref.Hash, b.Root[:]) || !bytes.Equal(rest, extension) {
			t.Fatalf("the reference reads %+v, %v", ref, err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	signed, v := sign(f, "example.com/log\n7\n"+root+"\n")
	f.Add(signed)
	f.Fuzz(func(t *testing.T, data []byte) {
		b, n, err := checkpoint.Open(data, note.VerifierList(v))
		if err == nil && (b.Size != 7 || len(n.Sigs) != 1 || !bytes.HasPrefix(data, signed[:len(n.Text)])) {
			t.Fatalf("forged: %q", data)
		}
	})
}
