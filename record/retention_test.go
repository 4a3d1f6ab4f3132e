package record

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
)

func TestRetention(t *testing.T) {
	log, operator, stranger := newKey(t, "log.example/one"), newKey(t, "operator"), newKey(t, "operator")
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
	parse := func(entry []byte, err error) *Statement {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		e, err := Parse(entry)
		if err != nil || e.Statement == nil || e.Kind != KindStatement {
			t.Fatalf("%+v, %v", e, err)
		}
		return e.Statement
	}
	year := Retention{Keep: 9600 * time.Hour, Entries: 1000}
	if s := parse(NewRetention(log.Name, 1, year, operator)); *s.Retention != year || s.Number != 1 || s.Origin != log.Name {
		t.Errorf("%+v is not what was said", s)
	}
	for name, s := range map[string]*Statement{
		"of another operator": parse(NewRetention(log.Name, 1, year, stranger)),
		"for another log":     parse(NewRetention("log.example/two", 1, year, operator)),
		"out of turn":         parse(NewRetention(log.Name, 2, year, operator)),
	} {
		if err := ring.ApplyStatement(s, 5); !errors.Is(err, ErrStatement) {
			t.Errorf("a statement %s: %v", name, err)
		}
	}
	if err := ring.ApplyStatement(parse(NewRetention(log.Name, 1, year, operator)), 5); err != nil {
		t.Fatal(err)
	}
	// Key changes and statements share one numbering.
	enrol, err := NewKeyChange(KeyChange{Origin: log.Name, Number: 2, Enrol: []keys.Public{newKey(t, "p").Public}}, operator)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(enrol)
	if err == nil {
		err = ring.Apply(c.KeyChange, 7)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.ApplyStatement(parse(NewRetention(log.Name, 3, Retention{Forever: true}, operator)), 9); err != nil {
		t.Fatal(err)
	}
	for size, want := range map[uint64]string{5: "false", 6: year.String(), 9: year.String(), 10: "entries stay for ever"} {
		r, ok := ring.Retention(size)
		if got := r.Policy.String(); ok && got != want || !ok && want != "false" {
			t.Errorf("in force at size %d: %s, %v; want %s", size, got, ok, want)
		}
	}
	for r, want := range map[Retention]string{
		year:                     "entries stay for 9600h after they were published, and while they are among the newest 1000",
		{Keep: 10 * time.Minute}: "entries stay for 10m after they were published",
		{Keep: 90 * time.Second}: "entries stay for 1m30s after they were published",
		{Entries: 7}:             "entries stay while they are among the newest 7",
	} {
		if r.String() != want {
			t.Errorf("%q, want %q", r, want)
		}
	}
}

func TestRetentionRefused(t *testing.T) {
	operator := newKey(t, "operator")
	for _, r := range []Retention{{}, {Keep: time.Millisecond}, {Keep: -time.Second}, {Forever: true, Entries: 1}} {
		if _, err := NewRetention("log", 1, r, operator); err == nil {
			t.Errorf("%+v was stated", r)
		}
	}
	statement := func(lines ...string) []byte {
		entry, err := signStatement(KindStatement, operator, lines...)
		if err != nil {
			t.Fatal(err)
		}
		return entry
	}
	const log, number = "log l", "number 1"
	if _, err := Parse(statement(retentionHeader, log, number, "keep 5", "keep-entries 6")); err != nil {
		t.Fatal(err)
	}
	for _, lines := range [][]string{
		{retentionHeader, log, number},
		{retentionHeader, log, "number 0", "keep 5"},
		{retentionHeader, log, "number 01", "keep 5"},
		{retentionHeader, "log ", number, "keep 5"},
		{retentionHeader, number, log, "keep 5"},
		{retentionHeader, log, number, "keep 0"},
		{retentionHeader, log, number, "keep 05"},
		{retentionHeader, log, number, "keep +5"},
		{retentionHeader, log, number, "keep 5s"},
		{retentionHeader, log, number, "keep -5"},
		{retentionHeader, log, number, "keep  5"},
		{retentionHeader, log, number, "keep 9223372037"}, // seconds that a duration does not hold
		{retentionHeader, log, number, "keep 5", "keep 5"},
		{retentionHeader, log, number, "keep 5", "keep 6"},
		{retentionHeader, log, number, "keep-entries 6", "keep 5"},
		{retentionHeader, log, number, "keep-entries 0"},
		{retentionHeader, log, number, "keep-entries 18446744073709551616"},
		{retentionHeader, log, number, "keep forever", "keep 5"},
		{retentionHeader, log, number, "keep forever", "keep forever"},
		{retentionHeader, log, number, "keep 5", ""},
		{"sealtap/retention/v2", log, number, "keep 5"},
		{keyChangeHeader, log, number, "keep 5"},
	} {
		if _, err := Parse(statement(lines...)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", strings.Join(lines, "|"), err)
		}
	}
}
