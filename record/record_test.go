package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"github.com/transparency-dev/formats/proof"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

func newKey(t testing.TB, name string) *keys.Private {
	t.Helper()
	k, err := keys.Generate(name, keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestVectors compares with values that scripts/vectors.py computed from the
// documentation.
func TestVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Producer, Incarnation, Salt []byte
		Origin                      string
		KeyIDs                      []struct {
			Type byte
			Key  []byte
			ID   string
		} `json:"key_ids"`
		Commitments []struct {
			Name, Field, Type string
			Sequence          uint64
			Value, Commitment []byte
		}
		Tree []struct{ Entry, Leaf, Root []byte }
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	s := Stream{Producer: keys.ID(v.Producer), Incarnation: Incarnation(v.Incarnation)}
	if s.Origin() != v.Origin {
		t.Errorf("origin %q, want %q", s.Origin(), v.Origin)
	}
	for _, k := range v.KeyIDs {
		if id := (keys.Public{Name: "any", Type: keys.Type(k.Type), Key: k.Key}).ID(); id.String() != k.ID {
			t.Errorf("key of type %d: id %s, want %s", k.Type, id, k.ID)
		}
	}
	seen := make(map[Hash]string)
	for _, c := range v.Commitments {
		got := Commitment(s, c.Sequence, &sealtapv1.Opening{Field: c.Field, Type: c.Type, Salt: v.Salt, Value: c.Value})
		if got != Hash(c.Commitment) {
			t.Errorf("commitment %q: %s", c.Name, got)
		}
		if seen[got] != "" {
			t.Errorf("%q and %q have one commitment", c.Name, seen[got])
		}
		seen[got] = c.Name
	}
	tree := NewTree()
	for i, n := range v.Tree {
		if LeafHash(n.Entry) != Hash(n.Leaf) {
			t.Errorf("leaf %d differs", i)
		}
		tree.Append(Hash(n.Leaf), nil)
		if tree.Root() != Hash(n.Root) || tree.Clone().Root() != Hash(n.Root) {
			t.Errorf("root of %d leaves differs", i+1)
		}
	}
	if len(v.Commitments) == 0 || len(v.Tree) == 0 || len(v.KeyIDs) == 0 {
		t.Error("the vectors are empty")
	}
}

func sample(s Stream) *sealtapv1.Record {
	return &sealtapv1.Record{
		Producer: s.Producer[:], Incarnation: s.Incarnation[:], Sequence: 7, Time: 1_700_000_000_123_456_789,
		Exchange: bytes.Repeat([]byte{0xab}, 16),
		About: &sealtapv1.Record_Request{Request: &sealtapv1.Request{
			Who: &sealtapv1.Who{Id: "alice", How: "basic"}, Method: "GET", Path: "/a", Service: "shop",
			Headers: []*sealtapv1.Header{{Name: "accept", Value: "*/*"}, {Name: "x-a", Sealed: true}, {Name: "x-b", Sealed: true}, {Name: "x-a", Sealed: true}},
			Body:    &sealtapv1.Body{Size: 3, Sha256: make([]byte, 32)},
		}},
	}
}

// sealed adds a commitment and returns the opening.
func sealed(r *sealtapv1.Record, s Stream, field, typ string, value []byte) *sealtapv1.Opening {
	o := NewOpening(field, typ, value)
	c := Commitment(s, r.Sequence, o)
	r.Sealed = append(r.Sealed, &sealtapv1.SealedField{Field: field, Commitment: c[:]})
	return o
}

func TestSealedFields(t *testing.T) {
	s := NewStream(newKey(t, "p").ID())
	r := sample(s)
	list := AppendList(AppendList(AppendList(nil, "one"), ""), "three")
	opening, headers := sealed(r, s, FieldQuery, TypeString, []byte("q=1")), sealed(r, s, FieldHeaders, TypeList, list)
	entry, err := Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Parse(entry)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, e.Record.Record, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	if err := CheckOpening(*e.Record, opening); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(o *sealtapv1.Opening){
		"value": func(o *sealtapv1.Opening) { o.Value = []byte("q=2") },
		"salt":  func(o *sealtapv1.Opening) { o.Salt = bytes.Repeat([]byte{1}, SaltSize) },
		"short": func(o *sealtapv1.Opening) { o.Salt = nil },
		"field": func(o *sealtapv1.Opening) { o.Field = FieldHeaders },
		"other": func(o *sealtapv1.Opening) { o.Field = "no such" },
		"type":  func(o *sealtapv1.Opening) { o.Type = TypeList },
	} {
		o := &sealtapv1.Opening{Field: opening.Field, Type: opening.Type, Salt: opening.Salt, Value: opening.Value}
		change(o)
		if CheckOpening(*e.Record, o) == nil {
			t.Errorf("an opening with another %s is accepted", name)
		}
	}

	show := func(openings ...*sealtapv1.Opening) string {
		b, err := json.Marshal(NewView(e, 5, func(keys.ID) string { return "proxy" }, openings))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if closed := show(); strings.Contains(closed, "q=1") || strings.Contains(closed, "three") || !strings.Contains(closed, `"query":{"sealed":"`) {
		t.Errorf("without openings: %s", closed)
	}
	open := show(opening, headers)
	for _, want := range []string{`"value":"q=1"`, `"accept":"*/*"`, `"value":"three"`, `"sequence":7`, `"index":5`, `"stage":"request"`,
		`"time":"2023-11-14T22:13:20.123456789Z"`, `"exchange":"abababab-abab-abab-abab-abababababab"`, `"who":{"id":"alice","how":"basic","verified":false}`} {
		if !strings.Contains(open, want) {
			t.Errorf("%s is not in %s", want, open)
		}
	}
}

func TestOpeningBox(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := NewOpeningSealer(id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	leaf := LeafHash([]byte("entry"))
	secret := NewOpening(FieldQuery, TypeString, []byte("a very secret value"))
	box, err := sealer.Seal(leaf, []*sealtapv1.Opening{secret})
	if err != nil {
		t.Fatal(err)
	}
	again, _ := sealer.Seal(leaf, []*sealtapv1.Opening{secret})
	if bytes.Contains(box, secret.Value) || bytes.Equal(box, again) {
		t.Error("the box shows its content")
	}
	key, err := UnwrapKey(sealer.WrappedKey(), id)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenBox(box, leaf, key)
	if err != nil || len(got) != 1 || !bytes.Equal(got[0].Value, secret.Value) {
		t.Fatalf("opened %v, %v", got, err)
	}
	if _, err := OpenBox(box, LeafHash([]byte("other")), key); err == nil {
		t.Error("a box opens for another record")
	}
	for i := range box {
		box[i] ^= 0x10
		if k, err := BoxKey(box); err == nil && k == sealer.id {
			if _, err := OpenBox(box, leaf, key); err == nil {
				t.Errorf("a box with byte %d changed opens", i)
			}
		}
		box[i] ^= 0x10
	}
	other, _ := age.GenerateX25519Identity()
	if _, err := UnwrapKey(sealer.WrappedKey(), other); err == nil {
		t.Error("somebody else unwraps the data key")
	}
	w := sealer.WrappedKey()
	w.Id = make([]byte, 16)
	if _, err := UnwrapKey(w, id); err == nil {
		t.Error("a wrapped key passes under another name")
	}
}

func TestSeal(t *testing.T) {
	key := newKey(t, "example.com/p")
	signer, err := key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	s := NewStream(key.ID())
	entry, err := NewSeal(s, 3, Hash{1}, signer)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Parse(entry)
	if err != nil {
		t.Fatal(err)
	}
	if e.Seal.Stream != s || e.Seal.Size != 3 || e.Seal.Root != (Hash{1}) {
		t.Errorf("parsed %+v", e.Seal)
	}
	if err := e.Seal.Verify(key.Public); err != nil {
		t.Error(err)
	}
	if e.Seal.Verify(newKey(t, "example.com/p").Public) == nil {
		t.Error("somebody else's key verifies the seal")
	}
	for i := headerSize; i < len(entry); i++ {
		for bit := range 8 {
			entry[i] ^= 1 << bit
			if e, err := Parse(entry); err == nil && e.Seal.Verify(key.Public) == nil {
				t.Errorf("flipping bit %d of byte %d goes unnoticed", bit, i)
			}
			entry[i] ^= 1 << bit
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, entry := range map[string][]byte{
		"empty":           nil,
		"version only":    {1},
		"other version":   {2, 2},
		"too long":        make([]byte, MaxEntry+1),
		"no producer":     {1, 2},
		"not protobuf":    {1, 2, 0xff, 0xff, 0xff},
		"seal not a note": append([]byte{1, 3}, "hello"...),
		"genesis":         append([]byte{1, 0}, "sealtap/genesis/v1\n\n— x aaaa\n"...),
	} {
		if _, err := Parse(entry); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error %v, want ErrMalformed", name, err)
		}
	}
	e, err := Parse([]byte{1, 0x77, 1, 2, 3})
	if err != nil || e.Kind != 0x77 || e.Record != nil || e.Leaf != LeafHash([]byte{1, 0x77, 1, 2, 3}) {
		t.Errorf("an entry of a kind to come: %+v, %v", e, err)
	}
}

func TestKeyring(t *testing.T) {
	operator, log := newKey(t, "example.com/operator"), newKey(t, "example.com/log")
	a, a2, b := newKey(t, "a"), newKey(t, "a"), newKey(t, "b")
	entry, err := NewGenesis(log.Public, operator, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	e, err := Parse(entry)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewKeyring(e.Genesis, &log.Public); !errors.Is(err, ErrStatement) {
		t.Errorf("another operator than the pinned one: %v", err)
	}
	ring, err := NewKeyring(e.Genesis, &operator.Public)
	if err != nil {
		t.Fatal(err)
	}
	change := func(signer *keys.Private, c KeyChange) error {
		entry, err := NewKeyChange(c, signer)
		if err != nil {
			return err
		}
		e, err := Parse(entry)
		if err != nil {
			return err
		}
		return ring.Apply(e.KeyChange, 10+ring.Number)
	}
	origin := log.Name
	sa := NewStream(a.ID())
	if _, err := ring.Admit(sa, 0); !errors.Is(err, ErrUnknownProducer) {
		t.Errorf("before enrolment: %v", err)
	}
	if err := change(operator, KeyChange{Origin: origin, Number: 1, Enrol: []keys.Public{a.Public}}); err != nil {
		t.Fatal(err)
	}
	if k, err := ring.Admit(sa, 99); err != nil || k.Name != "a" {
		t.Errorf("enrolled: %v, %v", k, err)
	}
	for name, c := range map[string]struct {
		signer *keys.Private
		KeyChange
	}{
		"not the operator":   {log, KeyChange{Origin: origin, Number: 2, Enrol: []keys.Public{b.Public}}},
		"another log":        {operator, KeyChange{Origin: "example.com/other", Number: 2, Enrol: []keys.Public{b.Public}}},
		"replayed":           {operator, KeyChange{Origin: origin, Number: 1, Enrol: []keys.Public{b.Public}}},
		"skipped":            {operator, KeyChange{Origin: origin, Number: 3, Enrol: []keys.Public{b.Public}}},
		"name taken":         {operator, KeyChange{Origin: origin, Number: 2, Enrol: []keys.Public{a2.Public}}},
		"key enrolled":       {operator, KeyChange{Origin: origin, Number: 2, Enrol: []keys.Public{a.Public}}},
		"twice in one":       {operator, KeyChange{Origin: origin, Number: 2, Enrol: []keys.Public{b.Public, b.Public}}},
		"the log's key":      {operator, KeyChange{Origin: origin, Number: 2, Enrol: []keys.Public{log.Public}}},
		"revoking a unknown": {operator, KeyChange{Origin: origin, Number: 2, Revoke: []Revocation{{Key: b.Public}}}},
		"says nothing":       {operator, KeyChange{Origin: origin, Number: 2}},
	} {
		if err := change(c.signer, c.KeyChange); !errors.Is(err, ErrStatement) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	rotate := KeyChange{Origin: origin, Number: 2, Enrol: []keys.Public{a2.Public}, Revoke: []Revocation{{Key: a.Public, Last: []LastSequence{{sa.Incarnation, 41}}}}}
	if err := change(operator, rotate); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Admit(sa, 41); err != nil {
		t.Errorf("the last admissible record: %v", err)
	}
	if _, err := ring.Admit(sa, 42); !errors.Is(err, ErrRevoked) {
		t.Errorf("after the last admissible record: %v", err)
	}
	if _, err := ring.Admit(NewStream(a.ID()), 0); !errors.Is(err, ErrRevoked) {
		t.Errorf("another incarnation of a revoked key: %v", err)
	}
	if p := ring.Producers(); len(p) != 2 || p[0].ID() != a.ID() || p[1].ID() != a2.ID() {
		t.Errorf("producers %v", p)
	}
}

func sampleEvidence() *Evidence {
	tp := func(i uint64) proof.TLogProof {
		return proof.TLogProof{Index: i, Hashes: [][32]byte{{1}, {2}}, Checkpoint: []byte("example.com/log\n3\nAAAA\n\n— x AAAA\n")}
	}
	p := tp(1)
	return &Evidence{
		Entry: []byte{1, 2, 3}, Openings: []*sealtapv1.Opening{{Field: "query", Type: "string", Salt: make([]byte, 32), Value: []byte("q")}, {Field: "source", Type: "string", Salt: make([]byte, 32)}},
		Log: tp(9), Producer: &p, Beacon: &Proven{[]byte{7}, tp(0)}, KeyChange: &Proven{[]byte{8}, tp(1)}, LogKey: &Proven{[]byte{6}, tp(5)}, Genesis: &Proven{[]byte{9}, tp(0)},
	}
}

func TestEvidenceText(t *testing.T) {
	one, two := sampleEvidence(), &Evidence{Entry: []byte{5}, Log: sampleEvidence().Log}
	text := append(one.Marshal(), two.Marshal()...)
	got, err := ParseEvidence(text)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]*Evidence{one, two}, got, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{
		"", "hello", evidenceHeader + "\n\n",
		strings.Replace(string(text), "-- entry --", "-- entri --", 1),
		strings.Replace(string(text), "-- beacon --", "-- genesis --", 1),
		strings.Replace(string(text), "index 9", "index 09", 1),
		strings.Replace(string(text), "\n", "\r\n", 1),
	} {
		if _, err := ParseEvidence([]byte(bad)); err == nil {
			t.Errorf("accepted: %.60q", bad)
		}
	}
}

func FuzzEvidence(f *testing.F) {
	f.Add(sampleEvidence().Marshal())
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := ParseEvidence(text)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range list {
			again = append(again, e.Marshal()...)
		}
		if !bytes.Equal(again, text) {
			t.Error("evidence with two spellings")
		}
	})
}

func FuzzParse(f *testing.F) {
	key := newKey(f, "p")
	signer, _ := key.Signer()
	s := NewStream(key.ID())
	seal, _ := NewSeal(s, 1, Hash{}, signer)
	genesis, _ := NewGenesis(key.Public, newKey(f, "o"), time.Unix(1, 0))
	change, _ := NewKeyChange(KeyChange{Origin: "o", Number: 1, Enrol: []keys.Public{key.Public}, Revoke: []Revocation{{key.Public, []LastSequence{{s.Incarnation, 4}}}}}, key)
	quantum := newQuantumKey(f, "p")
	genesis2, _ := NewGenesis(key.Public, newKey(f, "o"), time.Unix(1, 0), quantum.Public)
	change2, _ := NewKeyChange(KeyChange{Origin: "p", Number: 1, Log: []keys.Public{quantum.Public}}, key)
	rec, _ := Encode(sample(s))
	keep, _ := NewRetention("o", 2, Retention{Keep: time.Hour, Entries: 5}, key)
	forever, _ := NewRetention("o", 3, Retention{Forever: true}, key)
	for _, e := range [][]byte{seal, genesis, change, genesis2, change2, rec, keep, forever} {
		f.Add(e)
	}
	f.Fuzz(func(t *testing.T, entry []byte) {
		e, err := Parse(entry)
		if err != nil {
			return
		}
		if _, err := json.Marshal(NewView(e, 0, keys.ID.String, nil)); err != nil {
			t.Error(err)
		}
	})
}

func FuzzSplitList(f *testing.F) {
	f.Add(AppendList(AppendList(nil, "a"), ""))
	f.Fuzz(func(t *testing.T, value []byte) {
		list, err := SplitList(value)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range list {
			again = AppendList(again, e)
		}
		if !bytes.Equal(again, value) {
			t.Error("a list with two spellings")
		}
	})
}

func TestUUID(t *testing.T) {
	id := [16]byte{1, 2, 3, 4, 5, 6, 0x77, 8, 0x89}
	s := FormatUUID(id[:])
	if got, err := ParseUUID(s); err != nil || got != id {
		t.Errorf("%s: %v, %v", s, got, err)
	}
	for _, bad := range []string{"", "1", strings.ReplaceAll(s, "-", ""), strings.Replace(s, "-", "0", 1), s + "0", strings.Replace(s, "0", "g", 1)} {
		if _, err := ParseUUID(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}
