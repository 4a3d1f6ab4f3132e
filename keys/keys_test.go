package keys

import (
	"encoding/hex"
	"errors"
	"slices"
	"testing"
)

// TestWeakKeys: a key under which anybody can sign is not one. (The points of
// small order of the curve of RFC 8032, in all their encodings.)
func TestWeakKeys(t *testing.T) {
	for _, y := range []string{ // little-endian, as in a key
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // not canonical
	} {
		raw, err := hex.DecodeString(y)
		if err != nil {
			t.Fatal(err)
		}
		for _, sign := range []byte{0, 0x80} {
			key := slices.Clone(raw)
			key[31] |= sign
			for _, typ := range []Type{Ed25519, Cosignature} {
				if _, err := ParsePublic(Public{"k", typ, key}.String()); !errors.Is(err, ErrMalformed) {
					t.Errorf("%x: %v", key, err)
				}
			}
		}
	}
	for range 50 {
		k, err := Generate("k", Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePublic(k.Public.String()); err != nil {
			t.Error(err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	k, err := Generate("log.example", Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	good := k.Public.String()
	if _, err := ParsePublic(good); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "log.example", good + "\n", " " + good, good[:len(good)-1], "log.example2" + good[len("log.example"):],
		"log example" + good[len("log.example"):], "log\u00a0example" + good[len("log.example"):], "log\u2028example" + good[len("log.example"):],
		"log\nexample" + good[len("log.example"):], "log.example+" + good[len("log.example"):],
	} {
		if _, err := ParsePublic(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, name := range []string{"", "a b", "a+b", "a\nb", "a\x00b", "a\u3000b", "a\u2029b", "a\x85b", "\xff"} {
		if ValidName(name) {
			t.Errorf("%q is taken for a name", name)
		}
	}
}
