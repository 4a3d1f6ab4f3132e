package record

import (
	"encoding/base64"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
)

// headOf returns a signed checkpoint of a log.
func headOf(t *testing.T, log *keys.Private, size uint64) []byte {
	t.Helper()
	signer, err := log.Signer()
	if err != nil {
		t.Fatal(err)
	}
	body := checkpoint.Body{Origin: log.Name, Size: size, Root: Hash{1}}
	signed, err := note.Sign(&note.Note{Text: string(body.Marshal())}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// The genesis of a successor with two keys has five lines: its second key comes
// before, and the predecessor after, those that each genesis has.
func TestSuccessorWithTwoKeys(t *testing.T) {
	log, operator := newKey(t, "example.com/log/2027"), newKey(t, "operator")
	quantum := newQuantumKey(t, log.Name)
	head := headOf(t, newKey(t, "example.com/log/2026"), 7)
	entry, err := NewSuccessor(log.Public, operator, time.Unix(1, 0), head, quantum.Public)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Parse(entry)
	if err != nil || e.Genesis == nil || string(e.Genesis.Predecessor) != string(head) ||
		e.Genesis.PostQuantum == nil || e.Genesis.PostQuantum.ID() != quantum.Public.ID() {
		t.Fatalf("%+v, %v", e, err)
	}
	lines := genesisLines(log.Public, operator, time.Unix(1, 0), []keys.Public{quantum.Public})
	predecessor := "predecessor " + base64.StdEncoding.EncodeToString(head)
	for _, bad := range [][]string{
		{lines[0], lines[1], predecessor, lines[2], lines[3], lines[4]},
		append(slices.Clone(lines), predecessor, predecessor),
		append(slices.Clone(lines[:3]), append([]string{lines[2]}, append(slices.Clone(lines[3:]), predecessor)...)...),
	} {
		entry, err := signStatement(KindGenesis, operator, bad...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(entry); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad[1:], err)
		}
	}
}

func TestSuccessor(t *testing.T) {
	before, log, operator := newKey(t, "example.com/log/2026"), newKey(t, "example.com/log/2027"), newKey(t, "operator")
	head := headOf(t, before, 7)
	entry, err := NewSuccessor(log.Public, operator, time.Unix(1, 0), head)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Parse(entry)
	if err != nil || e.Genesis == nil || string(e.Genesis.Predecessor) != string(head) {
		t.Fatalf("%+v, %v", e, err)
	}
	if p, ok := e.Genesis.PredecessorHead(); !ok || p != (checkpoint.Body{Origin: before.Name, Size: 7, Root: Hash{1}}) {
		t.Errorf("predecessor %+v, %v", p, ok)
	}
	for name, bad := range map[string][]byte{
		"the log itself": headOf(t, log, 7),
		"an empty log":   headOf(t, before, 0),
		"nothing":        {},
		"no checkpoint":  []byte("something\n\nelse"),
	} {
		if _, err := NewSuccessor(log.Public, operator, time.Unix(1, 0), bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("going on from %s: %v", name, err)
		}
	}
	lines := []string{genesisHeader, "log " + log.Public.String(), "operator " + operator.Public.String(), "created 1970-01-01T00:00:01Z"}
	text := base64.StdEncoding.EncodeToString(head)
	for _, bad := range []string{"", "predecessor", "predecessor ", "predecessor " + text[:len(text)-1], "Predecessor " + text, "predecessor " + text + " ", "predecessor  " + text} {
		entry, err := signStatement(KindGenesis, operator, append(lines, bad)...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(entry); !errors.Is(err, ErrMalformed) {
			t.Errorf("a line %.30q: %v", bad, err)
		}
	}
	twice, err := signStatement(KindGenesis, operator, append(lines, "predecessor "+text, "predecessor "+text)...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(twice); !errors.Is(err, ErrMalformed) {
		t.Errorf("two predecessors: %v", err)
	}
}

func TestClose(t *testing.T) {
	log, next, operator := newKey(t, "example.com/log/2026"), newKey(t, "example.com/log/2027"), newKey(t, "operator")
	genesis, err := NewGenesis(log.Public, operator, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	g, err := Parse(genesis)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := NewKeyring(g.Genesis, nil)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := NewClose(log.Name, 1, next.Public, operator)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Parse(entry)
	if err != nil || e.Statement == nil || e.Statement.Close == nil || e.Statement.Close.Successor.String() != next.Public.String() {
		t.Fatalf("%+v, %v", e, err)
	}
	if err := ring.ApplyStatement(e.Statement, 4); err != nil || ring.Closed() == nil || ring.Closed().Index != 4 {
		t.Fatalf("closed %+v, %v", ring.Closed(), err)
	}
	// Nothing comes behind it.
	enrol, err := NewKeyChange(KeyChange{Origin: log.Name, Number: 2, Enrol: []keys.Public{newKey(t, "p").Public}}, operator)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(enrol)
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Apply(c.KeyChange, 5); !errors.Is(err, ErrStatement) {
		t.Errorf("a key change behind the end: %v", err)
	}
	keep, err := NewRetention(log.Name, 2, Retention{Forever: true}, operator)
	if err != nil {
		t.Fatal(err)
	}
	if e, err = Parse(keep); err != nil {
		t.Fatal(err)
	}
	if err := ring.ApplyStatement(e.Statement, 5); !errors.Is(err, ErrStatement) {
		t.Errorf("a statement behind the end: %v", err)
	}
	if _, err := NewClose(log.Name, 1, log.Public, operator); err == nil {
		t.Error("a log that goes on from itself was stated")
	}
	for _, lines := range [][]string{
		{closeHeader, "log " + log.Name, "number 1"},
		{closeHeader, "log " + log.Name, "number 1", "successor "},
		{closeHeader, "log " + log.Name, "number 1", "successor " + log.Public.String()},
		{closeHeader, "log " + log.Name, "number 1", "successor " + next.Public.String(), "keep 5"},
	} {
		entry, err := signStatement(KindStatement, operator, lines...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(entry); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", lines, err)
		}
	}
}
