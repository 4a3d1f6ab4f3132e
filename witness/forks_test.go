package witness_test

import (
	"encoding/base64"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/fork"
)

// evidenceOf gets the evidence that a witness serves of a log, and judges it with
// the log's key and nothing else.
func (s *server) evidenceOf(t *testing.T, l *testLog) (list []*fork.Judgement, files []*fork.Evidence) {
	t.Helper()
	a := do(t, "GET", s.http.URL+"/"+witness.OriginHash(l.origin)+"/forks", "")
	var index struct {
		Origin string
		Forks  []struct {
			Kind         fork.Kind
			Proven       bool
			Older, Newer uint64
			Path         string
		}
	}
	if err := json.Unmarshal([]byte(a.body), &index); err != nil || a.status != 200 || a.contentType != "application/json" || index.Origin != l.origin {
		t.Fatalf("list of forks: %+v, %v", a, err)
	}
	v, err := l.key.Verifier()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range index.Forks {
		a := do(t, "GET", s.http.URL+f.Path, "")
		e, err := fork.Parse([]byte(a.body))
		if err != nil || a.status != 200 {
			t.Fatalf("%s: %+v, %v", f.Path, a, err)
		}
		j, err := e.Judge(note.VerifierList(v))
		if err != nil || j.Kind != f.Kind || j.Kind.Proven() != f.Proven || j.Older.Size != f.Older || j.Newer.Size != f.Newer {
			t.Fatalf("%s is listed as %+v, and judged as %+v, %v", f.Path, f, j, err)
		}
		list, files = append(list, j), append(files, e)
	}
	return list, files
}

// A head that does not fit is never cosigned, whatever old size comes with it; both
// heads and the proof that failed are there for everybody.
func TestForkServed(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	other := newLog(t, l.key, "b", 20)
	s := newServer(t, l)
	if a := do(t, "GET", s.http.URL+"/"+witness.OriginHash(origin)+"/forks", ""); a.status != 200 || !strings.Contains(a.body, `"forks":[]`) {
		t.Errorf("before anything: %+v", a)
	}
	s.add(t, l.request(t, 0, 7))
	before := s.latest(t, origin)
	badEmpty := l.sign(t, string(checkpoint.Body{Origin: origin}.Marshal()))
	for range 3 {
		for i, test := range []struct {
			body   string
			status int
		}{
			{other.request(t, 0, 7), 409},
			{other.request(t, 7, 7), 422},
			{other.request(t, 7, 9), 422},
			{body("0", nil, badEmpty), 409},
			{l.request(t, 5, 5), 409},                         // smaller: proves nothing
			{body("7", nil, damage(l.checkpoint(t, 9))), 403}, // not the log's
		} {
			if a := s.add(t, test.body); a.status != test.status {
				t.Fatalf("request %d: %+v, want %d", i, a, test.status)
			}
		}
	}
	if after := s.latest(t, origin); after != before {
		t.Errorf("the cosigned head has become %q", after.body)
	}
	list, files := s.evidenceOf(t, l)
	if len(list) != 3 || list[0].Kind != fork.Root || list[1].Kind != fork.Prefix || list[2].Kind != fork.Empty {
		t.Fatalf("evidence is %+v", list)
	}
	for i, want := range []string{string(other.checkpoint(t, 7)), string(other.checkpoint(t, 9)), string(badEmpty)} {
		if string(files[i].Newer) != want {
			t.Errorf("evidence %d has the newer head %q", i, files[i].Newer)
		}
	}
	// The older head comes with our cosignature, which says since when it was known.
	if string(files[0].Older) != before.body || string(files[1].Older) != before.body || files[2].Older != nil {
		t.Errorf("the older heads are %q and %q", files[0].Older, files[1].Older)
	}
	if b := other.body(7); list[1].Older.Root == b.Root || files[1].Beginning == nil || *files[1].Beginning != b.Root {
		t.Errorf("the proof shows the beginning %v", files[1].Beginning)
	}
	metrics := do(t, "GET", s.http.URL+"/metrics", "").body
	for _, want := range []string{"sealtap_witness_forks_total 3\n", `sealtap_witness_forks_kept{kind="root"} 1`, `sealtap_witness_forks_kept{kind="prefix"} 1`,
		`sealtap_witness_forks_kept{kind="empty"} 1`, `sealtap_witness_forks_kept{kind="unproven"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %q:\n%s", want, metrics)
		}
	}
	for _, path := range []string{"/forks", "/" + witness.OriginHash("x") + "/forks", "/" + witness.OriginHash(origin) + "/forks/4", "/" + witness.OriginHash(origin) + "/forks/01"} {
		if a := do(t, "GET", s.http.URL+path, ""); a.status != 404 {
			t.Errorf("%s: %+v", path, a)
		}
	}
}

// Strangers can send good heads with wrong proofs. That is kept, is said to prove
// nothing, and goes once the head turns out to fit.
func TestForkUnproven(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 60)
	other := newLog(t, l.key, "b", 60)
	path := filepath.Join(t.TempDir(), "w.db")
	db := openStore(t, path)
	key := newKey(t, "witness.example/w", keys.Cosignature)
	s := startServer(t, key, db, l)
	s.add(t, l.request(t, 0, 7))
	wrong := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for i := range 40 { // they cannot fill the disk
		if a := s.add(t, body("7", []string{wrong, wrong}, l.checkpoint(t, uint64(8+i)))); a.status != 422 {
			t.Fatalf("wrong proof: %+v", a)
		}
	}
	list, _ := s.evidenceOf(t, l)
	if len(list) != 16 || list[0].Kind != fork.Unproven {
		t.Fatalf("%d pieces of evidence, the first %+v", len(list), list[0])
	}
	// Nor do they keep out what is proven.
	if a := s.add(t, other.request(t, 7, 8)); a.status != 422 {
		t.Fatal(a)
	}
	if list, _ = s.evidenceOf(t, l); len(list) != 17 || list[16].Kind != fork.Prefix {
		t.Fatalf("%d pieces of evidence", len(list))
	}
	s.http.Close()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s = startServer(t, key, openStore(t, path), l)
	if a := s.add(t, l.request(t, 7, 9)); a.status != 200 {
		t.Fatal(a)
	}
	list, _ = s.evidenceOf(t, l)
	for _, j := range list {
		if j.Kind == fork.Unproven && j.Newer.Size == 9 {
			t.Error("that head 9 was not proven to fit is still said")
		}
	}
	metrics := do(t, "GET", s.http.URL+"/metrics", "").body
	if len(list) != 16 || !strings.Contains(metrics, `sealtap_witness_forks_kept{kind="unproven"} 15`) {
		t.Errorf("%d pieces of evidence; metrics:\n%s", len(list), metrics)
	}
}

// What is kept outlives the key that signed the head before.
func TestForkAfterRotation(t *testing.T) {
	old, renewed := newKey(t, origin, keys.Ed25519), newKey(t, origin, keys.Ed25519)
	path := filepath.Join(t.TempDir(), "w.db")
	db := openStore(t, path)
	key := newKey(t, "witness.example/w", keys.Cosignature)
	s := startServer(t, key, db, newLog(t, old, "a", 20))
	s.add(t, newLog(t, old, "a", 20).request(t, 0, 7))
	s.http.Close()
	db.Close()
	fresh := newLog(t, renewed, "b", 20)
	s = startServer(t, key, openStore(t, path), fresh)
	s.add(t, fresh.request(t, 7, 7))
	s.add(t, fresh.request(t, 7, 9))
	forks, err := s.store.Forks(t.Context(), origin)
	if err != nil || len(forks) != 2 || forks[0].Kind != fork.Root || forks[1].Kind != fork.Prefix {
		t.Errorf("forks: %+v, %v", forks, err)
	}
}
