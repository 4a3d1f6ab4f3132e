package witness_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness"
)

// The life of a log from its empty tree on, clause by clause of tlog-witness,
// "add-checkpoint".
func TestSizes(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	s := newServer(t, l)
	hash := "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
	size, text := "text/x.tlog.size", "text/plain; charset=utf-8"
	for i, step := range []struct {
		why         string
		body        string
		status      int
		contentType string
		answer      string // exactly; empty for any
	}{
		{"never cosigned, so the size is zero", l.request(t, 3, 9), 409, size, "0\n"},
		{"the empty tree is consistent with any: no proof", body("0", []string{hash}, l.checkpoint(t, 0)), 422, text, ""},
		{"size zero has the root of the empty string", body("0", nil, l.sign(t, string(checkpoint.Body{Origin: origin, Root: l.body(1).Root}.Marshal()))), 422, text, ""},
		{"size zero", l.request(t, 0, 0), 200, text, ""},
		{"equal sizes of zero", l.request(t, 0, 0), 200, text, ""},
		{"from zero without a proof", l.request(t, 0, 9), 200, text, ""},
		{"zero is not the size any more", l.request(t, 0, 10), 409, size, "9\n"},
		{"nor is it for size zero", l.request(t, 0, 0), 409, size, "9\n"},
		{"equal sizes, equal roots", l.request(t, 9, 9), 200, text, ""},
		{"equal sizes, a proof", body("9", []string{hash}, l.checkpoint(t, 9)), 422, text, ""},
		{"larger", l.request(t, 9, 12), 200, text, ""},
		{"a proof that does not verify", body("12", []string{hash}, l.checkpoint(t, 13)), 422, text, ""},
		{"the same again", l.request(t, 12, 12), 200, text, ""},
		{"old above new", body("13", nil, l.checkpoint(t, 12)), 400, text, ""},
		{"an older one, as it was then", l.request(t, 9, 9), 409, size, "12\n"},
	} {
		a := s.add(t, step.body)
		if a.status != step.status || a.contentType != step.contentType || step.answer != "" && a.body != step.answer {
			t.Errorf("step %d, %s: %+v", i, step.why, a)
		}
		if a.status == 200 {
			checkLines(t, s, a.body)
			if latest := s.latest(t, origin); latest.contentType != text || !strings.HasSuffix(latest.body, a.body) {
				t.Errorf("step %d: monitors see %+v", i, latest)
			}
		}
	}
	for _, other := range []string{"log.example/never", "log.example/unknown"} {
		if a := s.latest(t, other); a.status != 404 {
			t.Errorf("%s: %+v", other, a)
		}
	}
}

// checkLines wants signature lines of the witness, each with a time that is not zero.
func checkLines(t *testing.T, s *server, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		b64, ok := strings.CutPrefix(line, "— "+s.key.Name+" ")
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(b64, "\n"))
		if !ok || !strings.HasSuffix(line, "\n") || err != nil || len(raw) != 4+8+64 || binary.BigEndian.Uint32(raw) != s.key.KeyID() || binary.BigEndian.Uint64(raw[4:]) == 0 {
			t.Errorf("line %q", line)
		}
	}
}

// "The submitted checkpoint MAY include multiple signatures": those by unknown keys
// are ignored, and none in the name of a trusted one may be false.
func TestSignatures(t *testing.T) {
	first, second := newKey(t, origin, keys.Ed25519), newKey(t, origin, keys.MLDSA44)
	l := newLog(t, first, "a", 20)
	signer2, err := second.Signer()
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := newKey(t, origin, keys.Ed25519).Signer()
	if err != nil {
		t.Fatal(err)
	}
	text := string(l.body(7).Marshal())
	sign := func(by ...note.Signer) []byte {
		t.Helper()
		signed, err := note.Sign(&note.Note{Text: text}, by...)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	var crowd []note.Signer
	for i := range 15 { // signed-note asks verifiers to accept 16
		s, err := newKey(t, fmt.Sprintf("w%d.example", i), keys.MLDSA44).Signer()
		if err != nil {
			t.Fatal(err)
		}
		crowd = append(crowd, s)
	}
	for name, test := range map[string]struct {
		signed []byte
		status int
		kept   int // signatures that monitors see, with ours
	}{
		"the first key":           {sign(l.signer), 200, 2},
		"the second key":          {sign(signer2), 200, 2},
		"both":                    {sign(l.signer, signer2), 200, 3},
		"and an unknown one":      {sign(unknown, l.signer), 200, 2},
		"sixteen":                 {sign(append(crowd, l.signer)...), 200, 2},
		"an unknown one only":     {sign(unknown), 403, 0},
		"one of both is false":    {damage(sign(l.signer, signer2)), 403, 0},
		"the other of both":       {damage(sign(signer2, l.signer)), 403, 0},
		"a false one, an unknown": {append(damage(sign(l.signer)), strings.SplitAfter(string(sign(unknown)), "\n\n")[1]...), 403, 0},
	} {
		store := openStore(t, filepath.Join(t.TempDir(), "w.db"))
		w, err := witness.New(t.Context(), witness.Config{Key: newKey(t, "witness.example/w", keys.Cosignature), Store: store,
			Logs: map[string][]keys.Public{origin: {first.Public, second.Public}}})
		if err != nil {
			t.Fatal(err)
		}
		s := serveWitness(t, w, nil, store)
		if a := s.add(t, body("0", nil, test.signed)); a.status != test.status {
			t.Errorf("%s: %+v", name, a)
		}
		if n := strings.Count(s.latest(t, origin).body, "\n— "); n != test.kept {
			t.Errorf("%s: %d signatures on\n%s", name, n, s.latest(t, origin).body)
		}
	}
}

// Clients that send slowly, or never end, keep nobody else from the log.
func TestSlowBytes(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 20)
	s := newServer(t, l)
	request := l.request(t, 0, 7)
	for range 20 {
		c, err := net.Dial("tcp", s.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n%s", len(request), request[:len(request)-1])
	}
	for i := range uint64(5) {
		if a := s.add(t, l.request(t, i, i+1)); a.status != 200 {
			t.Errorf("size %d: %+v", i+1, a)
		}
	}
}
