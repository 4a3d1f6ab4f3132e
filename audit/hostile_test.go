package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
)

// longLog has more than one bundle, and a tile above level 0.
func longLog(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	p := w.producer("p")
	for i := range 600 {
		p.request(fmt.Sprintf("/%d", i))
	}
	p.stop()
	p.seal()
	return w
}

// auditURL audits over HTTP, giving up early.
func auditURL(t testing.TB, w *world, h http.Handler) *audit.Report {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	src, err := client.Open(server.URL, client.WithRetries(2, time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	r, err := audit.Run(t.Context(), src, audit.Options{Policy: w.policy})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestGarbage: what comes and cannot be right is a finding, whatever it is;
// what does not come concludes nothing.
func TestGarbage(t *testing.T) {
	w := longLog(t)
	good := w.publish()
	garbage := map[string]func(b []byte) []byte{
		"nothing":       func([]byte) []byte { return nil },
		"a byte":        func([]byte) []byte { return []byte{0} },
		"a byte less":   func(b []byte) []byte { return b[:len(b)-1] },
		"a hash less":   func(b []byte) []byte { return b[:max(len(b)-32, 0)] },
		"a byte more":   func(b []byte) []byte { return append(bytes.Clone(b), 0) },
		"a hash more":   func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, 32)...) },
		"twice":         func(b []byte) []byte { return append(bytes.Clone(b), b...) },
		"a page":        func([]byte) []byte { return []byte("<!DOCTYPE html><title>Sign in</title>\n\n— \n") },
		"zeroes":        func(b []byte) []byte { return make([]byte, len(b)) },
		"far too much":  func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, 17<<20)...) },
		"another of it": func(b []byte) []byte { c := bytes.Clone(b); c[len(c)/2] ^= 0x10; return c },
	}
	for path := range good {
		for name, do := range garbage {
			files := good.Clone()
			files[path] = do(files[path])
			if r := auditURL(t, w, files); r.Verdict != audit.Fail || len(r.Findings) == 0 {
				t.Errorf("%s for %s: %s", name, path, r.Text())
			}
		}
	}
}

// TestBrokenNetwork breaks each request in turn, in each way.
func TestBrokenNetwork(t *testing.T) {
	w := longLog(t)
	good := w.publish()
	hijack := func(w http.ResponseWriter, answer string) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = conn.Write([]byte(answer)) // then the connection ends
		_ = conn.Close()
	}
	for name, fail := range map[string]func(http.ResponseWriter){
		"reset": func(w http.ResponseWriter) { hijack(w, "") },
		"cut":   func(w http.ResponseWriter) { hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: 8192\r\n\r\nabc") },
		"cut chunks": func(w http.ResponseWriter) {
			hijack(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")
		},
		"not HTTP":            func(w http.ResponseWriter) { hijack(w, "SSH-2.0-x\r\n") },
		"an error":            func(w http.ResponseWriter) { http.Error(w, "no", http.StatusInternalServerError) },
		"too many":            func(w http.ResponseWriter) { http.Error(w, "no", http.StatusTooManyRequests) },
		"forbidden":           func(w http.ResponseWriter) { http.Error(w, "no", http.StatusForbidden) },
		"no content":          func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) },
		"partial content":     func(w http.ResponseWriter) { w.WriteHeader(http.StatusPartialContent); _, _ = w.Write([]byte("x")) },
		"gone":                func(w http.ResponseWriter) { http.Error(w, "no", http.StatusGone) },
		"a loop of redirects": func(w http.ResponseWriter) { w.Header().Set("Location", "/loop"); w.WriteHeader(http.StatusFound) },
	} {
		for path := range good {
			r := auditURL(t, w, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if p := strings.TrimPrefix(r.URL.Path, "/"); p == path || p == "loop" {
					fail(w)
					return
				}
				good.ServeHTTP(w, r)
			}))
			if r.Verdict != audit.Incomplete || len(r.Unfinished) == 0 || len(r.Findings) > 0 {
				t.Errorf("%s at %s: %s", name, path, r.Text())
			}
		}
	}
}

// growing is a log that has moved on by the time that its tiles are read: partial
// ones of the old size are gone where there is a full one, and the others stand
// beside larger ones. (tlog-tiles, "Partial Tiles")
type growing struct {
	old, now clienttest.Files
	reads    atomic.Int64
}

func (g *growing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	if path == "checkpoint" && g.reads.Add(1) == 1 {
		g.old.ServeHTTP(w, r)
		return
	}
	full, _, partial := strings.Cut(path, ".p/")
	if _, ok := g.now[full]; partial && !ok {
		g.old.ServeHTTP(w, r)
		return
	}
	g.now.ServeHTTP(w, r)
}

func TestGrowingLog(t *testing.T) {
	for _, more := range []int{1, 200, 700} {
		w := longLog(t)
		old, size := w.publish(), uint64(len(w.entries))
		q := w.producer("q")
		for range more {
			q.request("/later")
		}
		q.stop()
		q.seal()
		if r := auditURL(t, w, &growing{old: old, now: w.publish()}); r.Verdict != audit.Pass || len(r.Findings) > 0 || r.Size != size {
			t.Errorf("%d more: %s", more, r.Text())
		}
	}
}

// TestCopiedDirectory: a copy made while the log ran has tiles older or newer
// than its checkpoint. It lacks something or it does not, and it accuses nobody.
func TestCopiedDirectory(t *testing.T) {
	w := longLog(t)
	old := w.publish()
	q := w.producer("q")
	for range 300 {
		q.request("/later")
	}
	q.stop()
	q.seal()
	now := w.publish()
	run := func(files ...clienttest.Files) *audit.Report {
		dir := t.TempDir()
		for _, f := range files {
			if err := f.WriteTo(dir); err != nil {
				t.Fatal(err)
			}
		}
		src, err := client.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		r, err := audit.Run(t.Context(), src, audit.Options{Policy: w.policy, State: filepath.Join(dir, "state")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "state")); (err == nil) != (r.Verdict == audit.Pass) {
			t.Errorf("state after %s: %v", r.Verdict, err)
		}
		return r
	}
	head := clienttest.Files{"checkpoint": now["checkpoint"]}
	if r := run(old, head); r.Verdict != audit.Incomplete || len(r.Findings) > 0 {
		t.Errorf("the checkpoint copied last: %s", r.Text())
	}
	head["checkpoint"] = old["checkpoint"]
	if r := run(old, now, head); r.Verdict != audit.Pass || len(r.Findings) > 0 {
		t.Errorf("the checkpoint copied first: %s", r.Text())
	}
	if r := run(old, now); r.Verdict != audit.Pass || len(r.Findings) > 0 {
		t.Errorf("old and new partial tiles side by side: %s", r.Text())
	}
}

// TestCrowdedOut: notices, which anyone who may write can make many of, do not
// keep findings of the same code out of the report.
func TestCrowdedOut(t *testing.T) {
	w, p := shop(t)
	for range 250 {
		p.seal() // again
	}
	index := uint64(w.put(w.entries[6], nil))
	r := w.audit(w.publish(), audit.Options{})
	if codes(r) != "record-duplicated" || *r.Findings[0].Index != index || r.Omitted[audit.RecordDuplicated] != 50 || len(r.Findings) != 201 {
		t.Error(r.Text())
	}
}

// TestTerminal: what producers write does not steer a terminal.
func TestTerminal(t *testing.T) {
	w, p := shop(t)
	p.write(&sealtapv1.Record{About: &sealtapv1.Record_Gap{Gap: &sealtapv1.Gap{Reason: "a\x1b[2Jb\u202ec\u200bd\u061ce\rf\u2028g"}}})
	p.stop()
	p.seal()
	if text := w.audit(w.publish(), audit.Options{}).Text(); !strings.Contains(text, "a [2Jb c d e f g") {
		t.Errorf("%q", text)
	}
}

// TestExtremes: sizes and sequences near the ends of their ranges end in a
// verdict, soon, and not in an endless loop or in a pass.
func TestExtremes(t *testing.T) {
	for _, size := range []uint64{1<<56 + 1, 1<<62 - 1, 1<<63 - 1, 1 << 63, 1<<63 + 5, 1<<64 - 256, 1<<64 - 255, 1<<64 - 1} {
		w, p := shop(t)
		files := w.publish()
		files["checkpoint"] = w.sign(checkpoint.Body{Origin: origin, Size: size, Root: [32]byte{1}}, w.witnesses...)
		if r := w.audit(files, audit.Options{}); r.Verdict == audit.Pass {
			t.Errorf("a head of %d entries: %s", size, r.Text())
		}
		p.write(beacon(files["checkpoint"]))
		w.put(p.sealWith(p.key, size, record.Hash{}), nil)
		p.seq = size
		p.request("/")
		p.request("/")
		p.start(p.head())
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r, err := audit.Run(ctx, w.publish().Source(), audit.Options{Policy: w.policy})
		if err != nil || r.Verdict != audit.Fail || len(r.Unfinished) > 0 {
			t.Errorf("entries about %d: %v %s", size, err, r.Text())
		}
		x := newExhibit(t)
		x.proven.Log.Index = size
		var e *audit.EvidenceError
		if _, err := audit.VerifyEvidence(x.proven.Marshal(), x.policy, nil); !errors.As(err, &e) {
			t.Errorf("evidence at index %d: %v", size, err)
		}
	}
}
