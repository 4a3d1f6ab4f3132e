package witness_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

// newPolicy makes a policy of the log and of witnesses w0, w1, ..., given as
// their keys and URLs, of which k must cosign.
func newPolicy(t testing.TB, l *testLog, k int, ws ...policy.Witness) *policy.Policy {
	t.Helper()
	g := policy.Group{Name: "g", K: k}
	for i := range ws {
		ws[i].Name = fmt.Sprint("w", i)
		g.Members = append(g.Members, ws[i].Name)
	}
	p, err := policy.New([]policy.Log{{Key: l.key.Public}}, ws, []policy.Group{g}, "g", nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// at says how a server is reached.
func (s *server) at() policy.Witness { return policy.Witness{Key: s.key.Public, URL: s.http.URL} }

// handler is a witness that is not ours and answers as it likes.
func handler(t testing.TB, h http.HandlerFunc) policy.Witness {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return policy.Witness{Key: newKey(t, "witness.example/odd", keys.Cosignature).Public, URL: s.URL + "/"}
}

// newClient makes a client that is closed with the test.
func newClient(t testing.TB, c witness.ClientConfig) *witness.Client {
	t.Helper()
	cl, err := witness.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}

// cosigners returns the policy names of those who cosigned.
func cosigners(t testing.TB, p *policy.Policy, signed []byte) string {
	t.Helper()
	cp, err := p.VerifyLogOnly(signed)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range cp.Cosignatures {
		names = append(names, s.Witness)
	}
	if n := strings.Count(string(signed), "— "); n != len(names)+1 {
		t.Errorf("the note has %d signatures, %d of them valid cosignatures", n, len(names))
	}
	return strings.Join(names, " ")
}

func TestCosign(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 50)
	a, b := newServer(t, l), newServer(t, l)
	p := newPolicy(t, l, 2, a.at(), b.at(), policy.Witness{Key: newKey(t, "offline", keys.Cosignature).Public})
	c := newClient(t, witness.ClientConfig{Policy: p})
	// b is at a size that the client does not know of.
	b.add(t, l.request(t, 0, 3))
	for size := range uint64(50) {
		cosigned, err := c.Cosign(t.Context(), l.checkpoint(t, size+1), l.consistency(size+1))
		if size+1 < 3 { // b is ahead
			if !errors.Is(err, witness.ErrWitnessAhead) || !errors.Is(err, witness.ErrQuorum) || cosigners(t, p, cosigned) != "w0" {
				t.Errorf("size %d: %v", size+1, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Verify(cosigned); err != nil {
			t.Errorf("size %d: %v", size+1, err)
		}
	}
	for i, s := range c.Status() {
		if i == 2 {
			if s != (witness.WitnessStatus{Name: "w2", KeyID: p.Witnesses[2].Key.KeyID()}) {
				t.Errorf("status %+v", s)
			}
		} else if s.Size != 50 || s.LastError != "" || time.Since(s.LastSeen) > time.Minute || s.KeyID != p.Witnesses[i].Key.KeyID() {
			t.Errorf("status %+v", s)
		}
	}
	// One request each, but for the resync of b and its refusals before.
	if n := a.Counters(); n.Advanced != 50 || n.Conflict != 0 {
		t.Errorf("first witness: %+v", n)
	}
	// A note that is signed by others already comes out clean.
	junk := append(l.checkpoint(t, 50), "— junk.example AAAAAAAAAAAA\n"...)
	cosigned, err := c.Cosign(t.Context(), junk, l.consistency(50))
	if err != nil || cosigners(t, p, cosigned) == "" {
		t.Error(err)
	}
}

func TestCosignBelowQuorum(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	a, b := newServer(t, l), newServer(t) // b knows no log
	p := newPolicy(t, l, 2, a.at(), b.at())
	c := newClient(t, witness.ClientConfig{Policy: p})
	cosigned, err := c.Cosign(t.Context(), l.checkpoint(t, 5), l.consistency(5))
	if !errors.Is(err, witness.ErrQuorum) || !strings.Contains(err.Error(), "witness w1: it answered 404") {
		t.Errorf("Cosign: %v", err)
	}
	if got := cosigners(t, p, cosigned); got != "w0" {
		t.Errorf("cosigned by %q", got)
	}
	if s := c.Status()[1]; !strings.Contains(s.LastError, "404") || !s.LastSeen.IsZero() {
		t.Errorf("status %+v", s)
	}
	if _, err := c.Cosign(t.Context(), []byte("no checkpoint"), nil); !errors.Is(err, policy.ErrMalformed) {
		t.Errorf("malformed: %v", err)
	}
}

// A slow witness delays nobody, and still gets to cosign.
func TestCosignSlow(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	a, slow := newServer(t, l), newServer(t, l)
	release := make(chan struct{})
	delayed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-release
		slow.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(delayed.Close)
	p := newPolicy(t, l, 1, a.at(), policy.Witness{Key: slow.key.Public, URL: delayed.URL})
	c := newClient(t, witness.ClientConfig{Policy: p, Straggle: 20 * time.Millisecond})
	start := time.Now()
	cosigned, err := c.Cosign(t.Context(), l.checkpoint(t, 1), l.consistency(1))
	if d := time.Since(start); err != nil || cosigners(t, p, cosigned) != "w0" || d < 20*time.Millisecond {
		t.Fatalf("%v after %v", err, d)
	}
	// From then on it is known to be slow, and nobody waits for it at all.
	patient := newClient(t, witness.ClientConfig{Policy: p, Straggle: time.Hour, Timeout: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for patient.Status()[0].Size == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	for size := uint64(1); size <= 5; size++ {
		cosigned, err := patient.Cosign(ctx, l.checkpoint(t, size), l.consistency(size))
		if err != nil || cosigners(t, p, cosigned) != "w0" {
			t.Fatal(err)
		}
		ctx = t.Context()
	}
	close(release)
	for start := time.Now(); c.Status()[1].Size == 0; {
		if time.Since(start) > 10*time.Second {
			t.Fatal("the slow witness never cosigned")
		}
		time.Sleep(time.Millisecond)
	}
	cosigned, err = c.Cosign(t.Context(), l.checkpoint(t, 6), l.consistency(6))
	if err != nil || cosigners(t, p, cosigned) == "" {
		t.Error(err)
	}
}

// A dead witness is left alone for longer and longer, and comes back.
func TestCosignDead(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	real := newServer(t, l)
	var dead atomic.Bool
	var asked atomic.Int32
	dead.Store(true)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if dead.Load() {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		real.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	p := newPolicy(t, l, 1, policy.Witness{Key: real.key.Public, URL: h.URL})
	c := newClient(t, witness.ClientConfig{Policy: p, MinBackoff: 40 * time.Millisecond, MaxBackoff: 80 * time.Millisecond})
	cosign := func() error {
		_, err := c.Cosign(t.Context(), l.checkpoint(t, 5), l.consistency(5))
		return err
	}
	calls := int32(0)
	for start := time.Now(); time.Since(start) < 300*time.Millisecond; calls++ {
		if err := cosign(); !errors.Is(err, witness.ErrQuorum) || !strings.Contains(err.Error(), "503") {
			t.Fatal(err)
		}
	}
	// At least 20 ms lie between two requests, and at most 80.
	if n := asked.Load(); n < 3 || n > 16 || calls <= n {
		t.Errorf("%d calls made %d requests", calls, n)
	}
	dead.Store(false)
	for start := time.Now(); cosign() != nil; time.Sleep(time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatal("the witness does not come back")
		}
	}
	if s := c.Status()[0]; s.LastError != "" || s.Size != 5 {
		t.Errorf("status %+v", s)
	}
}

// What a witness answers cannot get anything into the note but its cosignature.
func TestCosignOdd(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	good := newServer(t, l)
	elsewhere := newServer(t, l)
	answerWith := func(status int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Location", elsewhere.http.URL+"/add-checkpoint")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	otherLine := newServer(t, l).add(t, l.request(t, 0, 5)).body
	for name, test := range map[string]struct {
		h   http.HandlerFunc
		err string
	}{
		"nothing":                {answerWith(200, "text/plain", ""), "no valid cosignature by witness.example/odd"},
		"no signature lines":     {answerWith(200, "text/html", "<h1>Welcome</h1>\n"), "not one of signature lines"},
		"somebody else's":        {answerWith(200, "text/plain", otherLine), "no valid cosignature"},
		"a second note":          {answerWith(200, "text/plain", "\nevil\n\n"+otherLine), "not one of signature lines"},
		"too much":               {answerWith(200, "text/plain", strings.Repeat(otherLine, 1000)), "longer than"},
		"a redirect":             {answerWith(307, "text/plain", ""), "307"},
		"409 by a proxy":         {answerWith(409, "text/html", "5\n"), "409"},
		"409 without size":       {answerWith(409, "text/x.tlog.size", "five\n"), "not a tree size"},
		"409 with the old size":  {answerWith(409, "text/x.tlog.size", "0\n"), "as the request said"},
		"409 above our size":     {answerWith(409, "text/x.tlog.size", "6\n"), "ahead of the log"},
		"409 again and again":    {flapping(), "changed with each"},
		"connection closed":      {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"409 with parameters ok": {answerWith(409, "text/x.tlog.size; charset=utf-8", "6\n"), "ahead of the log"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPolicy(t, l, 1, good.at(), handler(t, test.h))
			c := newClient(t, witness.ClientConfig{Policy: p, Straggle: 10 * time.Second})
			cosigned, err := c.Cosign(t.Context(), l.checkpoint(t, 5), l.consistency(5))
			if err != nil || cosigners(t, p, cosigned) != "w0" {
				t.Fatal(err)
			}
			if s := c.Status()[1]; !strings.Contains(s.LastError, test.err) {
				t.Errorf("status %+v, want %q", s, test.err)
			}
		})
	}
	if elsewhere.Counters() != (witness.Counters{}) {
		t.Error("a redirect was followed")
	}
}

// flapping is a witness whose size is never what was said.
func flapping() http.HandlerFunc {
	var n atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/x.tlog.size")
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintf(w, "%d\n", 1+n.Add(1)%2)
	}
}

// One operator with an Ed25519 and an ML-DSA-44 key behind one URL.
func TestCosignTwoKeys(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	skey, vkey, err := fnote.GenerateMLDSAKey("witness.example/pq")
	if err != nil {
		t.Fatal(err)
	}
	pq, err := fnote.NewSignerForCosignatureV1(skey)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := keys.ParsePublic(vkey)
	if err != nil {
		t.Fatal(err)
	}
	ed := newServer(t, l)
	var asked atomic.Int32
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		ed.Handler().ServeHTTP(w, r)
		signed, err := note.Sign(&note.Note{Text: string(l.body(5).Marshal())}, pq)
		if err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, strings.SplitAfter(string(signed), "\n\n")[1])
	}))
	t.Cleanup(h.Close)
	p := newPolicy(t, l, 2, policy.Witness{Key: ed.key.Public, URL: h.URL}, policy.Witness{Key: pub, URL: h.URL + "/"})
	c := newClient(t, witness.ClientConfig{Policy: p})
	cosigned, err := c.Cosign(t.Context(), l.checkpoint(t, 5), l.consistency(5))
	if err != nil || cosigners(t, p, cosigned) != "w0 w1" || asked.Load() != 1 {
		t.Errorf("%v after %d requests", err, asked.Load())
	}
}

func TestCosignKeepsConnections(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 30)
	a := newServer(t, l)
	var opened atomic.Int32
	h := httptest.NewUnstartedServer(a.Handler())
	h.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	h.Start()
	t.Cleanup(h.Close)
	c := newClient(t, witness.ClientConfig{Policy: newPolicy(t, l, 1, policy.Witness{Key: a.key.Public, URL: h.URL})})
	for size := uint64(1); size <= 30; size++ {
		if _, err := c.Cosign(t.Context(), l.checkpoint(t, size), l.consistency(size)); err != nil {
			t.Fatal(err)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections for 30 requests", n)
	}
}

func TestCosignConcurrent(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 40)
	a, b := newServer(t, l), newServer(t, l)
	p := newPolicy(t, l, 2, a.at(), b.at())
	c := newClient(t, witness.ClientConfig{Policy: p})
	var wg sync.WaitGroup
	for size := uint64(1); size <= 40; size++ {
		wg.Go(func() {
			cosigned, err := c.Cosign(t.Context(), l.checkpoint(t, size), l.consistency(size))
			if err == nil {
				_, err = p.Verify(cosigned)
			}
			// A larger checkpoint may have been faster.
			if err != nil && !errors.Is(err, witness.ErrWitnessAhead) {
				t.Error(err)
			}
			c.Status()
		})
	}
	wg.Wait()
	if _, err := c.Cosign(t.Context(), l.checkpoint(t, 40), l.consistency(40)); err != nil {
		t.Error(err)
	}
}

func TestCosignEnds(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	hang := make(chan struct{})
	p := newPolicy(t, l, 1, handler(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(hang) })
	c := newClient(t, witness.ClientConfig{Policy: p})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for range 2 { // the second time the request of the first is under way
		_, err := c.Cosign(ctx, l.checkpoint(t, 5), l.consistency(5))
		if !errors.Is(err, witness.ErrQuorum) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Cosign: %v", err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Cosign(t.Context(), l.checkpoint(t, 5), l.consistency(5)); !errors.Is(err, witness.ErrClosed) {
		t.Errorf("Cosign after Close: %v", err)
	}
}

func TestNewClient(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	w := newKey(t, "w.example", keys.Cosignature).Public
	for _, u := range []string{"ftp://w.example/", "unix:/run/w", "https:///x", "https://w.example/?q=1", "https://w.example/#f"} {
		p := newPolicy(t, l, 1, policy.Witness{Key: w, URL: u})
		if _, err := witness.NewClient(witness.ClientConfig{Policy: p}); err == nil {
			t.Errorf("NewClient with %s succeeds", u)
		}
	}
	if _, err := witness.NewClient(witness.ClientConfig{}); err == nil {
		t.Error("NewClient without a policy succeeds")
	}
	// Without witnesses there is nobody to wait for.
	p, err := policy.New([]policy.Log{{Key: l.key.Public}}, nil, nil, policy.None, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, witness.ClientConfig{Policy: p, Straggle: time.Hour})
	cosigned, err := c.Cosign(t.Context(), l.checkpoint(t, 5), l.consistency(5))
	if err != nil || string(cosigned) != string(l.checkpoint(t, 5)) {
		t.Errorf("quorum none: %v", err)
	}
}
