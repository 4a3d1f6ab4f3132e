package witness_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

func TestLatest(t *testing.T) {
	log := newLog(t, newKey(t, "log.example/one", keys.Ed25519), "leaf", 20)
	other := newLog(t, newKey(t, "log.example/other", keys.Ed25519), "leaf", 20)
	w := newServer(t, log, other)
	add := func(body string) {
		t.Helper()
		if got := w.add(t, body); got.status != http.StatusOK {
			t.Fatal(got)
		}
	}
	var answer func(http.ResponseWriter)
	lying := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { answer(rw) }))
	defer lying.Close()
	p, err := policy.New([]policy.Log{{Key: log.key.Public}, {Key: other.key.Public}}, []policy.Witness{
		{Name: "good", Key: w.key.Public, URL: w.http.URL + "/"},
		{Name: "silent", Key: newKey(t, "silent.example", keys.Cosignature).Public},
		{Name: "lying", Key: newKey(t, "lying.example", keys.Cosignature).Public, URL: lying.URL},
	}, nil, policy.None, nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() []witness.View {
		t.Helper()
		views := witness.Latest(context.Background(), p, log.origin, nil, time.Minute)
		if len(views) != 3 || views[0].Err != nil || views[1].Err == nil || views[1].Checkpoint != nil {
			t.Fatalf("views %+v", views)
		}
		return views
	}
	answer = func(rw http.ResponseWriter) { http.NotFound(rw, nil) }
	if v := ask(); v[0].Checkpoint != nil || v[2].Err != nil || v[2].Checkpoint != nil {
		t.Errorf("before anything was cosigned: %+v", v)
	}
	add(log.request(t, 0, 7))
	add(other.request(t, 0, 20))
	add(log.request(t, 7, 12))
	if v := ask(); v[0].Checkpoint == nil || v[0].Checkpoint.Size != 12 || v[0].Checkpoint.Origin != log.origin || len(v[0].Checkpoint.Cosignatures) != 1 {
		t.Errorf("after 12 entries: %+v", v[0])
	}
	for name, c := range map[string]struct {
		answer string
		status int
		signed bool // by the log, at least
	}{
		"no cosignature":     {string(log.checkpoint(t, 9)), 200, true},
		"another log":        {string(other.checkpoint(t, 9)), 200, false},
		"no signature":       {"log.example/one\n9\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n", 200, false},
		"an error":           {string(log.checkpoint(t, 9)), 500, false},
		"an endless answer":  {string(log.checkpoint(t, 9)) + strings.Repeat("x", 100<<10), 200, false},
		"a page of the wall": {"<html>log in</html>", 200, false},
	} {
		answer = func(rw http.ResponseWriter) {
			rw.WriteHeader(c.status)
			_, _ = rw.Write([]byte(c.answer))
		}
		if v := ask()[2]; v.Err == nil || (v.Checkpoint != nil) != c.signed {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// A witness whose state may be old says so to those who ask what it has seen.
func TestLatestInDoubt(t *testing.T) {
	log := newLog(t, newKey(t, "log.example/one", keys.Ed25519), "leaf", 20)
	w := newServer(t, log)
	p, err := policy.New([]policy.Log{{Key: log.key.Public}}, []policy.Witness{{Name: "w", Key: w.key.Public, URL: w.http.URL}}, nil, policy.None, nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := w.key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(size uint64) {
		t.Helper()
		v := witness.Latest(t.Context(), p, log.origin, nil, time.Minute)[0]
		if !errors.Is(v.Err, witness.ErrInDoubt) || (v.Checkpoint != nil) != (size > 0) || size > 0 && v.Checkpoint.Size != size {
			t.Errorf("at size %d: %+v", size, v)
		}
	}
	if a := w.add(t, body("0", nil, log.sign(t, string(log.body(9).Marshal()), signer))); a.status != 503 {
		t.Fatal(a)
	}
	ask(0)
	w = newServer(t, log)
	w.add(t, log.request(t, 0, 7))
	if signer, err = w.key.Signer(); err != nil {
		t.Fatal(err)
	}
	w.add(t, body("7", nil, log.sign(t, string(log.body(9).Marshal()), signer)))
	if p, err = policy.New([]policy.Log{{Key: log.key.Public}}, []policy.Witness{{Name: "w", Key: w.key.Public, URL: w.http.URL}}, nil, policy.None, nil); err != nil {
		t.Fatal(err)
	}
	ask(7)
}
