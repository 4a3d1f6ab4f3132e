package query

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"filippo.io/age"
	tlogproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// verify checks a proof against nothing but a key.
func verify(t *testing.T, p tlogproof.TLogProof, entry []byte, key keys.Public, origin string) checkpoint.Body {
	t.Helper()
	body, _, err := checkpoint.Open(p.Checkpoint, note.VerifierList(must(key.Verifier())))
	if err != nil || body.Origin != origin {
		t.Fatalf("checkpoint of %q, want %q: %v", body.Origin, origin, err)
	}
	hashes := make([][]byte, len(p.Hashes))
	for i := range p.Hashes {
		hashes[i] = p.Hashes[i][:]
	}
	leaf := record.LeafHash(entry)
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, p.Index, body.Size, leaf[:], hashes, body.Root[:]); err != nil {
		t.Fatal(err)
	}
	return body
}

func evidenceOf(t *testing.T, h http.Handler, index uint64) *record.Evidence {
	t.Helper()
	w := get(h, fmt.Sprintf("/v1/records/%d/evidence", index))
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Fatalf("evidence of %d: %d %s", index, w.Code, w.Body)
	}
	list, err := record.ParseEvidence(w.Body.Bytes())
	if err != nil || len(list) != 1 {
		t.Fatalf("evidence of %d: %v", index, err)
	}
	return list[0]
}

func TestEvidence(t *testing.T) {
	l := newMemLog(t)
	ps := l.enrol("edge-a", "edge-b")
	type sealed struct{ index, seq, seal uint64 }
	var records []sealed
	beacons := map[uint64]uint64{} // sequence of edge-a -> index
	n := 0
	// Trees of several tiles, and two streams that take turns.
	for range 90 {
		var open []sealed
		for range 3 + n%9 {
			for i, p := range ps {
				seq := p.tree.Size()
				index := p.add(request(n, "ann", "pay", "GET", "/"))
				if i == 0 {
					open = append(open, sealed{index: index, seq: seq})
				}
				n++
			}
		}
		if n%4 == 0 {
			seq := ps[0].tree.Size()
			beacons[seq] = ps[0].add(beacon([]byte(fmt.Sprintf("checkpoint %d", n))))
		} else {
			ps[0].add(beacon(nil)) // proves life, but no time
		}
		seal := ps[0].seal()
		ps[1].seal()
		for _, s := range open {
			records = append(records, sealed{s.index, s.seq, seal})
		}
	}
	l.publish()
	path := indexFile(t)
	for round := range 2 {
		ix, stop := follow(t, path, l, small())
		caughtUp(t, ix)
		h := ix.Handler(HandlerConfig{Proofs: l})
		for i, s := range records {
			if i%11 != round && i > 20 && i < len(records)-20 {
				continue
			}
			ev := evidenceOf(t, h, s.index)
			if !bytes.Equal(ev.Entry, l.entries[s.index]) || ev.Log.Index != s.index || ev.Producer.Index != s.seq {
				t.Fatalf("evidence of %d is about index %d, sequence %d", s.index, ev.Log.Index, ev.Producer.Index)
			}
			body := verify(t, ev.Log, ev.Entry, l.key.Public, origin)
			if body.Size != l.Published() {
				t.Errorf("the log's proof is for size %d", body.Size)
			}
			verify(t, *ev.Producer, ev.Entry, ps[0].key.Public, ps[0].stream.Origin())
			_, note, _ := record.Split(l.entries[s.seal])
			if !bytes.Equal(ev.Producer.Checkpoint, note) {
				t.Errorf("record %d is not proven under the first seal over it", s.seq)
			}
			checkBeacon(t, l, ps[0], ev, beacons, s.seq)
			for index, p := range map[uint64]*record.Proven{0: ev.Genesis, 1: ev.KeyChange} {
				if verify(t, p.Proof, p.Entry, l.key.Public, origin); p.Proof.Index != index || !bytes.Equal(p.Entry, l.entries[index]) {
					t.Errorf("statement %d is proven at %d", index, p.Proof.Index)
				}
			}
		}
		stop()
	}
}

func checkBeacon(t *testing.T, l *memLog, p *producer, ev *record.Evidence, beacons map[uint64]uint64, seq uint64) {
	t.Helper()
	want, found := uint64(0), false
	for b := range beacons {
		if b < seq && (!found || b > want) {
			want, found = b, true
		}
	}
	if !found {
		if ev.Beacon != nil {
			t.Error("a beacon where there is none")
		}
		return
	}
	if ev.Beacon == nil || ev.Beacon.Proof.Index != want || !bytes.Equal(ev.Beacon.Entry, l.entries[beacons[want]]) {
		t.Fatalf("record %d: want beacon %d, got %+v", seq, want, ev.Beacon)
	}
	verify(t, ev.Beacon.Proof, ev.Beacon.Entry, p.key.Public, p.stream.Origin())
	if !bytes.Equal(ev.Beacon.Proof.Checkpoint, ev.Producer.Checkpoint) {
		t.Error("the beacon is proven under another seal")
	}
}

func TestEvidenceOfOtherEntries(t *testing.T) {
	l := newMemLog(t)
	p := l.enrol("edge")[0]
	rec := p.add(request(1, "ann", "pay", "GET", "/"))
	l.publish()
	ix, _ := follow(t, indexFile(t), l, small())
	caughtUp(t, ix)
	h := ix.Handler(HandlerConfig{Proofs: l})
	// The seal is there, but no published checkpoint covers it.
	seal := p.seal()
	caughtUp(t, ix)
	if w := get(h, fmt.Sprintf("/v1/records/%d/evidence", rec)); w.Code != 404 {
		t.Errorf("evidence without a published seal: %d %s", w.Code, w.Body)
	}
	l.publish()
	evidenceOf(t, h, rec)
	for index, keyChange := range map[uint64]bool{0: false, 1: false, seal: true} {
		ev := evidenceOf(t, h, index)
		verify(t, ev.Log, l.entries[index], l.key.Public, origin)
		if ev.Producer != nil || ev.Beacon != nil || ev.Genesis == nil || (ev.KeyChange != nil) != keyChange {
			t.Errorf("evidence of entry %d: %+v", index, ev)
		}
	}
}

func TestProducers(t *testing.T) {
	l := newMemLog(t)
	ps := l.enrol("edge-a", "edge-b")
	first := ps[0].add(request(1, "ann", "pay", "GET", "/"))
	ps[0].add(response(1, 200))
	seal := ps[0].seal()
	last := ps[0].add(beacon(nil))
	old := ps[0].stream.Incarnation
	ps[0].restart()
	ps[0].add(beacon(nil))
	next := must(keys.Generate("edge-b", keys.Ed25519))
	rotation := l.change(record.KeyChange{Revoke: []record.Revocation{{Key: ps[1].key.Public}}, Enrol: []keys.Public{next.Public}})
	l.publish()
	ps[0].add(beacon(nil)) // not published
	ix, _ := follow(t, indexFile(t), l, small())
	caughtUp(t, ix)
	h := ix.Handler(HandlerConfig{Proofs: l})
	type answer struct {
		Producers []producerView
		Next      string
	}
	var a, b answer
	w := get(h, "/v1/producers?limit=2")
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || len(a.Producers) != 2 || a.Next == "" {
		t.Fatalf("%v: %s", err, w.Body)
	}
	w = get(h, "/v1/producers?cursor="+a.Next)
	if err := json.Unmarshal(w.Body.Bytes(), &b); err != nil || len(b.Producers) != 1 || b.Next != "" {
		t.Fatalf("%v: %s", err, w.Body)
	}
	p := a.Producers[0]
	if p.Name != "edge-a" || p.KeyID != ps[0].key.ID().String() || p.VKey != ps[0].key.Public.String() || p.Enrolled != 1 || p.Revoked != nil || len(p.Incarnations) != 2 {
		t.Fatalf("%+v", p)
	}
	i := p.Incarnations[0]
	if i.Incarnation != old.String() || i.Records != 3 || i.Sealed != 2 || i.First.Index != first || i.Last.Index != last || i.Last.Sequence != 2 ||
		i.LastSeal == nil || *i.LastSeal != seal || i.First.Time != "2026-11-01T12:00:01.000000000Z" {
		t.Errorf("%+v", i)
	}
	if i := p.Incarnations[1]; i.Records != 1 || i.Sealed != 0 || i.LastSeal != nil || i.Last.Sequence != 0 {
		t.Errorf("%+v", i)
	}
	if q := a.Producers[1]; q.Name != "edge-b" || q.Revoked == nil || *q.Revoked != rotation || len(q.Incarnations) != 0 {
		t.Errorf("%+v", q)
	}
	if q := b.Producers[0]; q.KeyID != next.ID().String() || q.Enrolled != rotation || q.Revoked != nil {
		t.Errorf("%+v", q)
	}
}

// boxes keeps encrypted openings in memory.
type boxes struct {
	box map[uint64][]byte
	key map[record.KeyID][]byte
}

func (b boxes) Opening(_ context.Context, index uint64) ([]byte, bool, error) {
	x, ok := b.box[index]
	return x, ok, nil
}

func (b boxes) WrappedKey(_ context.Context, id record.KeyID) ([]byte, bool, error) {
	x, ok := b.key[id]
	return x, ok, nil
}

func TestOpenings(t *testing.T) {
	l := newMemLog(t)
	p := l.enrol("edge")[0]
	identity := must(age.GenerateX25519Identity())
	sealer := must(record.NewOpeningSealer(identity.Recipient()))
	good := record.NewOpening(record.FieldSource, record.TypeString, []byte("198.51.100.9:1234"))
	wrong := record.NewOpening(record.FieldQuery, record.TypeString, []byte("q=secret"))
	r := request(1, "ann", "pay", "GET", "/")
	commitment := record.Commitment(p.stream, 0, good)
	r.Sealed = []*sealtapv1.SealedField{
		{Field: record.FieldSource, Commitment: commitment[:]}, {Field: record.FieldQuery, Commitment: make([]byte, 32)},
	}
	index := p.add(r)
	p.seal()
	l.publish()
	box := must(sealer.Seal(record.LeafHash(l.entries[index]), []*sealtapv1.Opening{good, wrong}))
	id := must(record.BoxKey(box))
	store := boxes{map[uint64][]byte{index: box}, map[record.KeyID][]byte{id: sealer.WrappedKey().GetWrapped()}}
	ix, _ := follow(t, indexFile(t), l, small())
	caughtUp(t, ix)
	h := ix.Handler(HandlerConfig{Proofs: l, Openings: store, Identities: []age.Identity{identity},
		Readers: Readers{Tokens: [][32]byte{sha256.Sum256([]byte("sesame"))}}})
	reader := func(r *http.Request) { r.Header.Set("Authorization", "Bearer sesame") }
	record1 := fmt.Sprintf("/v1/records/%d", index)
	const secret = "198.51.100.9"

	if w := get(h, record1); w.Code != 200 || strings.Contains(w.Body.String(), secret) {
		t.Errorf("a stranger sees %d %s", w.Code, w.Body)
	}
	if w := get(h, record1, reader); !strings.Contains(w.Body.String(), secret) || strings.Contains(w.Body.String(), "q=secret") {
		t.Errorf("a reader sees %d %s", w.Code, w.Body)
	}
	if w := get(h, "/v1/records", reader); strings.Contains(w.Body.String(), secret) {
		t.Errorf("a search shows openings: %s", w.Body)
	}
	if w := get(h, record1+"/evidence", reader); w.Code != 200 || strings.Contains(w.Body.String(), "-- opening --") {
		t.Errorf("evidence discloses unasked: %d", w.Code)
	}
	if w := get(h, record1+"/evidence?openings=1"); w.Code != 403 {
		t.Errorf("a stranger asks for openings: %d", w.Code)
	}
	w := get(h, record1+"/evidence?openings=1", reader)
	list, err := record.ParseEvidence(w.Body.Bytes())
	if err != nil || len(list[0].Openings) != 1 || string(list[0].Openings[0].GetValue()) != "198.51.100.9:1234" {
		t.Errorf("a reader asks for openings: %d %v %s", w.Code, err, w.Body)
	}
	// What is erased is gone, although its key was in use.
	delete(store.key, id)
	if w := get(h, record1, reader); w.Code != 200 || strings.Contains(w.Body.String(), secret) {
		t.Errorf("after erasure a reader sees %d %s", w.Code, w.Body)
	}
}

func TestReaders(t *testing.T) {
	token := Readers{Tokens: [][32]byte{sha256.Sum256([]byte("other")), sha256.Sum256([]byte("sesame"))}}
	loopback := Readers{Loopback: true}
	for name, c := range map[string]struct {
		p      Readers
		peer   string
		host   string
		header string
		value  string
		want   bool
	}{
		"nobody by default":      {Readers{}, "127.0.0.1:1", "127.0.0.1", "", "", false},
		"loopback":               {loopback, "127.0.0.1:1", "127.0.0.1:8081", "", "", true},
		"loopback, other 127":    {loopback, "127.9.9.9:1", "127.0.0.2", "", "", true},
		"loopback, localhost":    {loopback, "127.0.0.1:1", "LOCALHOST:8081", "", "", true},
		"loopback, IPv6":         {loopback, "[::1]:1", "[::1]:8081", "", "", true},
		"loopback, IPv6 no port": {loopback, "[::1]:1", "[::1]", "", "", true},
		"loopback, mapped":       {loopback, "[::ffff:127.0.0.1]:1", "localhost", "", "", true},
		"another host":           {loopback, "192.0.2.1:1", "127.0.0.1:8081", "", "", false},
		"no peer":                {loopback, "@", "127.0.0.1:8081", "", "", false},
		"rebound name":           {loopback, "127.0.0.1:1", "attacker.example:8081", "", "", false},
		"name like loopback":     {loopback, "127.0.0.1:1", "127.0.0.1.attacker.example", "", "", false},
		"localhost subdomain":    {loopback, "127.0.0.1:1", "x.localhost", "", "", false},
		"no host":                {loopback, "127.0.0.1:1", "", "", "", false},
		"forwarded":              {loopback, "127.0.0.1:1", "localhost", "Forwarded", "for=192.0.2.1", false},
		"x-forwarded-for":        {loopback, "127.0.0.1:1", "localhost", "X-Forwarded-For", "127.0.0.1", false},
		"x-forwarded-for, empty": {loopback, "127.0.0.1:1", "localhost", "X-Forwarded-For", "", false},
		"via":                    {loopback, "127.0.0.1:1", "localhost", "Via", "1.1 proxy", false},
		"x-real-ip":              {loopback, "127.0.0.1:1", "localhost", "X-Real-IP", "127.0.0.1", false},
		"token":                  {token, "192.0.2.1:1", "log.example", "Authorization", "Bearer sesame", true},
		"token, case of scheme":  {token, "192.0.2.1:1", "log.example", "Authorization", "bearer sesame", true},
		"wrong token":            {token, "192.0.2.1:1", "log.example", "Authorization", "Bearer sesam", false},
		"no token":               {token, "192.0.2.1:1", "log.example", "Authorization", "Bearer ", false},
		"basic":                  {token, "192.0.2.1:1", "log.example", "Authorization", "Basic sesame", false},
		"token, loopback off":    {token, "127.0.0.1:1", "localhost", "", "", false},
		"token without tokens":   {loopback, "192.0.2.1:1", "localhost", "Authorization", "Bearer sesame", false},
	} {
		r, err := http.NewRequest(http.MethodGet, "http://log.example/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr, r.Host = c.peer, c.host
		if c.header != "" {
			r.Header.Set(c.header, c.value)
		}
		if got := c.p.Allowed(r); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
