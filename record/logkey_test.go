package record

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
)

func newQuantumKey(t testing.TB, name string) *keys.Private {
	t.Helper()
	k, err := keys.Generate(name, keys.MLDSA44)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestLogKeysInStatements: the genesis and later statements name the log's second
// key, in one spelling.
func TestLogKeysInStatements(t *testing.T) {
	const origin = "example.com/log"
	operator, log := newKey(t, "example.com/operator"), newKey(t, origin)
	one, two, other := newQuantumKey(t, origin), newQuantumKey(t, origin), newQuantumKey(t, "example.com/other")
	entry, err := NewGenesis(log.Public, operator, time.Now(), one.Public)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Parse(entry)
	if err != nil || e.Genesis.Log.String() != log.Public.String() || e.Genesis.PostQuantum == nil || e.Genesis.PostQuantum.String() != one.Public.String() {
		t.Fatalf("%+v, %v", e.Genesis, err)
	}
	ring, err := NewKeyring(e.Genesis, &operator.Public)
	if err != nil {
		t.Fatal(err)
	}
	change := func(signer *keys.Private, c KeyChange) error {
		c.Origin = origin
		entry, err := NewKeyChange(c, signer)
		if err != nil {
			return err
		}
		e, err := Parse(entry)
		if err != nil {
			return err
		}
		if len(e.KeyChange.Log) != len(c.Log) {
			t.Errorf("%d keys of the log are read, %d were written", len(e.KeyChange.Log), len(c.Log))
		}
		return ring.Apply(e.KeyChange, 10+ring.Number)
	}
	for name, c := range map[string]struct {
		signer *keys.Private
		keys   []keys.Public
	}{
		"named in the genesis": {operator, []keys.Public{one.Public}},
		"twice":                {operator, []keys.Public{two.Public, two.Public}},
		"of another name":      {operator, []keys.Public{other.Public}},
		"by the log":           {log, []keys.Public{two.Public}},
		"none":                 {operator, nil},
		"classic":              {operator, []keys.Public{log.Public}},
	} {
		if err := change(c.signer, KeyChange{Number: 1, Log: c.keys}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := change(operator, KeyChange{Number: 1, Log: []keys.Public{two.Public}, Enrol: []keys.Public{newKey(t, "a").Public}}); err != nil {
		t.Fatal(err)
	}
	list := ring.LogKeys()
	if len(list) != 3 || list[0].Key.String() != log.Public.String() || list[1].Key.String() != one.Public.String() || list[2].Key.String() != two.Public.String() || list[2].Index != 10 {
		t.Errorf("keys of the log: %v", list)
	}
	if k, ok := ring.LogKey(two.ID()); !ok || k.Index != 10 {
		t.Errorf("the second key: %v, %v", k, ok)
	}
	if _, ok := ring.LogKey(other.ID()); ok {
		t.Error("another log's key is this one's")
	}
}

// TestMisspeltLogKeys: lines in another order, or keys of another kind, are no
// genesis, whoever signs them.
func TestMisspeltLogKeys(t *testing.T) {
	const origin = "example.com/log"
	operator, log := newKey(t, "example.com/operator"), newKey(t, origin)
	one, two, other := newQuantumKey(t, origin), newQuantumKey(t, origin), newQuantumKey(t, "example.com/other")
	l := func(k *keys.Private) string { return "log " + k.Public.String() }
	const header, created = "sealtap/genesis/v1", "created 2026-01-02T03:04:05Z"
	op := "operator " + operator.Public.String()
	sign := func(lines ...string) error {
		entry, err := signStatement(KindGenesis, operator, lines...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Parse(entry)
		return err
	}
	if err := sign(header, l(log), l(one), op, created); err != nil {
		t.Fatal(err)
	}
	for name, lines := range map[string][]string{
		"the other order":    {header, l(one), l(log), op, created},
		"two classic ones":   {header, l(log), l(newKey(t, origin)), op, created},
		"two of the kind":    {header, l(one), l(two), op, created},
		"three":              {header, l(log), l(one), l(two), op, created},
		"another name":       {header, l(log), l(other), op, created},
		"after the operator": {header, l(log), op, l(one), created},
		"at the end":         {header, l(log), op, created, l(one)},
		"half a key":         {header, l(log), l(one)[:1000], op, created},
		"a blank more":       {header, l(log), "log  " + one.Public.String(), op, created},
		"no operator":        {header, l(log), l(one), created},
	} {
		if err := sign(lines...); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// And no key change has a key of the log that is not one.
	for _, line := range []string{l(log), l(other), "log " + origin, l(one)[:500], "log  " + one.Public.String()} {
		entry, err := signStatement(KindKeyChange, operator, "sealtap/key-change/v1", "log "+origin, "number 1", line)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(entry); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.60s: %v", line, err)
		}
	}
}

// FuzzLogKeys reads statements about keys of the log. Who signed them is checked
// elsewhere: here the text is the fuzzer's, and the signature good.
func FuzzLogKeys(f *testing.F) {
	const origin = "example.com/log"
	operator, log, one := newKey(f, "example.com/operator"), newKey(f, origin), newQuantumKey(f, origin)
	genesis, _ := NewGenesis(log.Public, operator, time.Unix(1, 0), one.Public)
	change, _ := NewKeyChange(KeyChange{Origin: origin, Number: 1, Log: []keys.Public{one.Public}, Enrol: []keys.Public{log.Public}}, operator)
	for _, e := range [][]byte{genesis, change} {
		text, _, _ := bytes.Cut(e[2:], []byte("\n\n"))
		f.Add(e[1], string(text)+"\n")
	}
	signer, err := operator.Signer()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kind byte, text string) {
		signed, err := note.Sign(&note.Note{Text: text}, signer)
		if err != nil || len(signed) > MaxEntry-2 {
			return
		}
		e, err := Parse(append([]byte{Version, kind % 2}, signed...))
		if err != nil {
			return
		}
		var again []byte
		switch {
		case e.Genesis != nil && e.Genesis.PostQuantum != nil:
			again, err = NewGenesis(e.Genesis.Log, operator, e.Genesis.Created, *e.Genesis.PostQuantum)
		case e.Genesis != nil:
			again, err = NewGenesis(e.Genesis.Log, operator, e.Genesis.Created)
		case strings.Contains(text, "\nlog ") && len(e.KeyChange.Enrol)+len(e.KeyChange.Revoke) == 0:
			again, err = NewKeyChange(*e.KeyChange, operator)
		default:
			return // in another order than we would write
		}
		if err != nil || !bytes.HasPrefix(again[2:], []byte(text+"\n")) {
			t.Errorf("%q is a statement, and is written %q, %v", text, again, err)
		}
	})
}
