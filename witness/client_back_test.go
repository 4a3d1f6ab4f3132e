package witness_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

// A witness that says when to come again is left alone until then, but not for long.
func TestCosignRetryAfter(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	var asked atomic.Int32
	w := handler(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Retry-After", "30")
		http.Error(w, "too many", http.StatusTooManyRequests)
	})
	c := newClient(t, witness.ClientConfig{Policy: newPolicy(t, l, 1, w), MinBackoff: time.Nanosecond, MaxBackoff: time.Nanosecond})
	for i, want := range []string{"429", "left alone for"} {
		if _, err := c.Cosign(t.Context(), l.checkpoint(t, 5), l.consistency(5)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if s := c.Status()[0]; asked.Load() != 1 || s.Failures != 1 {
		t.Errorf("asked %d times, %+v", asked.Load(), s)
	}
}

// A witness that has gone back is shown what it has cosigned, also what it cosigned
// before the client was made. Ours stops; another is asked as it wants to be.
func TestCosignWentBack(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	for name, test := range map[string]struct{ ours, remembered bool }{
		"ours":                 {true, false},
		"ours, from before":    {true, true},
		"another's":            {false, false},
		"another, from before": {false, true},
	} {
		first := newServer(t, l)
		again := startServer(t, first.key, openStore(t, filepath.Join(t.TempDir(), "w.db")), l) // with an empty store
		again.add(t, l.request(t, 0, 3))
		var now atomic.Pointer[server]
		now.Store(first)
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			if !test.ours && strings.Count(string(body), "\n— ") > 1 {
				http.Error(w, "the proof is wrong", http.StatusUnprocessableEntity)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			now.Load().Handler().ServeHTTP(w, r)
		}))
		t.Cleanup(h.Close)
		p := newPolicy(t, l, 1, policy.Witness{Key: first.key.Public, URL: h.URL})
		c := newClient(t, witness.ClientConfig{Policy: p})
		cosigned, err := c.Cosign(t.Context(), l.checkpoint(t, 5), l.consistency(5))
		if err != nil {
			t.Fatal(err)
		}
		if test.remembered {
			c = newClient(t, witness.ClientConfig{Policy: p})
			c.Remember([]byte("nonsense"))
			c.Remember(cosigned)
			if s := c.Status()[0]; s.Size != 5 {
				t.Errorf("%s: status %+v", name, s)
			}
		}
		now.Store(again)
		cosigned, err = c.Cosign(t.Context(), l.checkpoint(t, 7), l.consistency(7))
		if test.ours && (err == nil || !strings.Contains(err.Error(), "it has gone back from size 5, which it cosigned, to 3")) {
			t.Errorf("%s: %v", name, err)
		}
		if !test.ours && (err != nil || cosigners(t, p, cosigned) != "w0") {
			t.Errorf("%s: %v", name, err)
		}
		if s := c.Status()[0]; s.WentBack != 1 {
			t.Errorf("%s: status %+v", name, s)
		}
		want := 200
		if test.ours {
			want = 503
		}
		if a := do(t, "GET", again.http.URL+"/readyz", ""); a.status != want {
			t.Errorf("%s: %+v", name, a)
		}
	}
}
