package tlog_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/formats/proof"
	sumdb "golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/witness/policy"
)

// call makes one request; header lines are "Name: value".
func call(t *testing.T, method, url string, body []byte, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, got
}

// checkProblem checks that an answer is an RFC 9457 error.
func checkProblem(t *testing.T, resp *http.Response, body []byte, status int) map[string]any {
	t.Helper()
	var p map[string]any
	if err := json.Unmarshal(body, &p); err != nil || resp.StatusCode != status ||
		resp.Header.Get("Content-Type") != "application/problem+json" || p["status"] != float64(status) || p["detail"] == "" || p["title"] == "" {
		t.Errorf("%s %s: %s %s, want a problem with status %d", resp.Request.Method, resp.Request.URL, resp.Status, body, status)
	}
	return p
}

// httpTiles reads tiles with the code of the Go checksum database: a client
// that is not ours.
type httpTiles struct {
	t   *testing.T
	url string
}

func (h httpTiles) Height() int                      { return 8 }
func (h httpTiles) SaveTiles([]sumdb.Tile, [][]byte) {}
func (h httpTiles) ReadTiles(list []sumdb.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range list {
		// The checksum database has a directory for the height in its paths.
		path := "tile" + strings.TrimPrefix(tile.Path(), "tile/8")
		resp, body := call(h.t, "GET", h.url+"/"+path, nil)
		if resp.StatusCode != http.StatusOK || len(body) != tile.W*32 || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
			h.t.Errorf("%s: %s, %d bytes, %v", path, resp.Status, len(body), resp.Header)
			return nil, fmt.Errorf("reading tile")
		}
		data = append(data, body)
	}
	return data, nil
}

func TestForeignClientFollows(t *testing.T) {
	f := newFixture(t).start()
	server := f.serve()
	p := f.producer("proxy-1")
	var old *sumdb.Tree
	for _, n := range []int{1, 200, 52, 1, 255, 400, 3} {
		f.mustSubmit(p.batch(n)...)
		f.published(f.log.Size())
		resp, signed := call(t, "GET", server.URL+"/checkpoint", nil)
		cp, err := f.policy.Verify(signed)
		if err != nil || resp.Header.Get("Cache-Control") != "no-store" || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
			t.Fatalf("checkpoint: %v, %v", err, resp.Header)
		}
		tree := sumdb.Tree{N: int64(cp.Size), Hash: sumdb.Hash(cp.Root)}
		reader := sumdb.TileHashReader(tree, httpTiles{t, server.URL})
		for index := int64(0); index < tree.N; index += 1 + tree.N/40 {
			leaf := leafOf(t, server.URL, index, tree.N)
			path, err := sumdb.ProveRecord(tree.N, index, reader)
			if err != nil {
				t.Fatal(err)
			}
			if err := sumdb.CheckRecord(path, tree.N, tree.Hash, index, leaf); err != nil {
				t.Errorf("entry %d of %d: %v", index, tree.N, err)
			}
			checkInclusion(t, server.URL, tree, index, leaf)
		}
		if old != nil {
			checkConsistency(t, server.URL, *old, tree)
		}
		old = &tree
	}
}

// leafOf reads an entry from its bundle.
func leafOf(t *testing.T, url string, index, size int64) sumdb.Hash {
	t.Helper()
	path := fmt.Sprintf("/tile/entries/%03d", index/256)
	if index/256 == size/256 {
		path += fmt.Sprintf(".p/%d", size%256)
	}
	resp, bundle := call(t, "GET", url+path, nil)
	if resp.StatusCode != http.StatusOK || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	for range index % 256 {
		bundle = bundle[2+int(bundle[0])<<8+int(bundle[1]):]
	}
	return sumdb.RecordHash(bundle[2 : 2+int(bundle[0])<<8+int(bundle[1])])
}

func checkInclusion(t *testing.T, url string, tree sumdb.Tree, index int64, leaf sumdb.Hash) {
	t.Helper()
	_, body := call(t, "GET", fmt.Sprintf("%s/v1/proof/inclusion?index=%d", url, index), nil)
	var answer struct {
		Index, Size int64
		LeafHash    []byte `json:"leaf_hash"`
		Hashes      []sumdb.Hash
		Checkpoint  string
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if answer.Index != index || answer.Size != tree.N || sumdb.Hash(answer.LeafHash) != leaf || !strings.HasPrefix(answer.Checkpoint, "log.example/one\n") {
		t.Errorf("inclusion of %d: %s", index, body)
	}
	if err := sumdb.CheckRecord(answer.Hashes, tree.N, tree.Hash, index, leaf); err != nil {
		t.Errorf("inclusion of %d: %v", index, err)
	}
	// The same as a tlog-proof.
	_, body = call(t, "GET", fmt.Sprintf("%s/v1/records/%d/proof", url, index), nil)
	var p proof.TLogProof
	if err := p.Unmarshal(body); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	var hashes []sumdb.Hash
	for _, h := range p.Hashes {
		hashes = append(hashes, h)
	}
	if fmt.Sprint(hashes) != fmt.Sprint(answer.Hashes) || p.Index != uint64(index) || string(p.Checkpoint) != answer.Checkpoint {
		t.Errorf("tlog-proof of %d:\n%s", index, body)
	}
}

func checkConsistency(t *testing.T, url string, old, tree sumdb.Tree) {
	t.Helper()
	_, body := call(t, "GET", fmt.Sprintf("%s/v1/proof/consistency?from=%d&to=%d", url, old.N, tree.N), nil)
	var answer struct {
		From, To int64
		Hashes   []sumdb.Hash
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.From != old.N || answer.To != tree.N {
		t.Fatalf("%s: %v", body, err)
	}
	if err := sumdb.CheckTree(answer.Hashes, tree.N, tree.Hash, old.N, old.Hash); err != nil {
		t.Errorf("consistency of %d and %d: %v", old.N, tree.N, err)
	}
}

func TestReadErrors(t *testing.T) {
	f := newFixture(t)
	var known record.Hash
	f.config = func(c *tlog.Config) {
		c.LeafIndex = func(_ context.Context, h record.Hash) (uint64, bool, error) { return 2, h == known, nil }
	}
	f.start()
	server := f.serve()
	p := f.producer("proxy-1")
	b := p.batch(297)
	f.mustSubmit(b...)
	f.published(300)
	known = record.LeafHash(b[0])
	leaf := base64.RawURLEncoding.EncodeToString(known[:])
	unknown := record.LeafHash([]byte("in no log"))
	other := base64.RawURLEncoding.EncodeToString(unknown[:])
	for path, status := range map[string]int{
		"/":                404,
		"/nothing":         404,
		"/tile/0/000":      200,
		"/tile/0/000.p/7":  200,
		"/tile/0/001.p/44": 200,
		"/tile/0/001.p/45": 404,
		"/tile/0/001":      404,
		"/tile/1/000.p/1":  200,
		"/tile/1/000.p/2":  404,
		"/tile/1/000":      404,
		"/tile/2/000.p/1":  404,
		"/tile/63/000.p/1": 404,
		"/tile/0/x018/x446/x744/x073/x709/x551/615": 404,
		"/tile/0/x072/x057/x594/x037/x927/x936":     404,
		"/tile/entries/000":                         200,
		"/tile/entries/000.p/3":                     200,
		"/tile/entries/001.p/44":                    200,
		"/tile/entries/001.p/45":                    404,
		"/tile/entries/002.p/1":                     404,
		"/tile/0/0":                                 404,
		"/tile/0/000.p/0":                           404,
		"/tile/0/000.p/256":                         404,
		"/tile/0/%30%30%30":                         200,
		"/v1/proof/inclusion?index=299":             200,
		"/v1/proof/inclusion?index=300":             404,
		"/v1/proof/inclusion?index=5&size=6":        200,
		"/v1/proof/inclusion?index=5&size=5":        404,
		"/v1/proof/inclusion?index=5&size=301":      404,
		"/v1/proof/inclusion?index=05":              400,
		"/v1/proof/inclusion?index=-1":              400,
		"/v1/proof/inclusion?index=1&index=2":       400,
		"/v1/proof/inclusion?index=1&sise=2":        400,
		"/v1/proof/inclusion":                       400,
		"/v1/proof/inclusion?leaf=" + leaf:          200,
		"/v1/proof/inclusion?leaf=" + leaf + "=":    200,
		"/v1/proof/inclusion?leaf=" + leaf[1:]:      400,
		"/v1/proof/inclusion?leaf=" + other:         404,
		"/v1/proof/inclusion?index=2&leaf=" + leaf:  400,
		"/v1/proof/consistency?from=1&to=300":       200,
		"/v1/proof/consistency?from=0&to=0":         200,
		"/v1/proof/consistency?from=2&to=1":         400,
		"/v1/proof/consistency?from=1&to=301":       404,
		"/v1/proof/consistency?from=1":              400,
		"/v1/records/299/proof":                     200,
		"/v1/records/300/proof":                     404,
		"/v1/records/x/proof":                       400,
		"/v1/witnesses":                             200,
		"/healthz":                                  200,
		"/readyz":                                   200,
		"/metrics":                                  200,
	} {
		resp, body := call(t, "GET", server.URL+path, nil)
		if status != 200 {
			checkProblem(t, resp, body, status)
		} else if resp.StatusCode != 200 {
			t.Errorf("GET %s: %s %s", path, resp.Status, body)
		}
		head, nothing := call(t, "HEAD", server.URL+path, nil)
		if head.StatusCode != resp.StatusCode || len(nothing) > 0 || head.Header.Get("Content-Type") != resp.Header.Get("Content-Type") {
			t.Errorf("HEAD %s: %s, GET: %s", path, head.Status, resp.Status)
		}
		if path != "/" && path != "/nothing" {
			resp, body = call(t, "DELETE", server.URL+path, nil)
			checkProblem(t, resp, body, 405)
		}
	}
	for _, path := range []string{"/v1/entries", "/sealtap.v1.LogService/Submit"} {
		resp, body := call(t, "GET", server.URL+path, nil)
		checkProblem(t, resp, body, 405)
		if resp.Header.Get("Allow") != "POST" {
			t.Errorf("allowed: %q", resp.Header.Get("Allow"))
		}
	}
	_, metrics := call(t, "GET", server.URL+"/metrics", nil)
	for _, want := range []string{"sealtap_log_size 300\n", "sealtap_log_published_size 300\n", `sealtap_log_submissions_total{result="stored"} 2`} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("metrics lack %q", want)
		}
	}
}

func TestNothingPublished(t *testing.T) {
	f := newFixture(t)
	if err := f.open(); err != nil { // it does not run
		t.Fatal(err)
	}
	defer f.stop()
	server := f.serve()
	for path, status := range map[string]int{"/checkpoint": 404, "/tile/0/000.p/1": 404, "/tile/entries/000.p/1": 404, "/v1/proof/inclusion?index=0": 404,
		"/v1/proof/consistency?from=0&to=0": 404, "/v1/records/0/proof": 404, "/readyz": 503} {
		resp, body := call(t, "GET", server.URL+path, nil)
		checkProblem(t, resp, body, status)
	}
	if resp, _ := call(t, "GET", server.URL+"/healthz", nil); resp.StatusCode != 200 {
		t.Errorf("health: %s", resp.Status)
	}
}

func TestSubmitOverHTTP(t *testing.T) {
	f := newFixture(t)
	f.config = func(c *tlog.Config) { c.MaxBatchBytes, c.MaxBatchEntries = 10_000, 100 }
	f.start()
	server := f.serve()
	p := f.producer("proxy-1")
	url := server.URL + "/v1/entries"
	encode := func(m proto.Message, err error) []byte {
		t.Helper()
		b, err2 := proto.Marshal(m)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		return b
	}
	start := p.clone()
	b := p.batch(2)
	const pb, js = "Content-Type: application/x-protobuf", "Content-Type: application/json; charset=utf-8"

	resp, body := call(t, "POST", url, encode(request(b...), nil), pb)
	var answer sealtapv1.SubmitResponse
	if err := proto.Unmarshal(body, &answer); err != nil || resp.StatusCode != 200 || len(answer.Runs) != 1 || answer.Runs[0].FirstIndex != 2 {
		t.Fatalf("%s %q", resp.Status, body)
	}
	text, err := protojson.Marshal(request(b...))
	if err != nil {
		t.Fatal(err)
	}
	resp, body = call(t, "POST", url, text, js)
	var again sealtapv1.SubmitResponse
	if err := protojson.Unmarshal(body, &again); err != nil || resp.StatusCode != 200 || !proto.Equal(&answer, &again) {
		t.Errorf("as JSON: %s %s", resp.Status, body)
	}

	resp, body = call(t, "POST", url, encode(request(b...), nil))
	checkProblem(t, resp, body, 415)
	resp, body = call(t, "POST", url, []byte("\xff\xff"), pb)
	checkProblem(t, resp, body, 400)
	resp, body = call(t, "POST", url, []byte(`{"itemz": []}`), js)
	checkProblem(t, resp, body, 400)
	resp, body = call(t, "POST", url, make([]byte, 100_000), pb)
	checkProblem(t, resp, body, 413)
	resp, body = call(t, "POST", url, encode(request(newProducer(t, newKey(t, "stranger", 1)).batch(1)...), nil), pb)
	checkProblem(t, resp, body, 403)
	fork := append([][]byte{start.record("another")}, start.batch(2)...)
	resp, body = call(t, "POST", url, encode(request(fork...), nil), pb)
	if p := checkProblem(t, resp, body, 409); p["fork"] != true || p["index"] != 2.0 {
		t.Errorf("fork: %s", body)
	}
	ahead := p.clone()
	ahead.batch(5)
	resp, body = call(t, "POST", url, encode(request(ahead.batch(1)...), nil), pb)
	if p := checkProblem(t, resp, body, 409); p["expected"] != 2.0 || p["fork"] != nil {
		t.Errorf("hole: %s", body)
	}
	f.stop()
	resp, body = call(t, "POST", url, encode(request(b...), nil), pb)
	checkProblem(t, resp, body, 503)
	if resp.Header.Get("Retry-After") == "" {
		t.Error("503 does not say when to come again")
	}
}

func TestWitnessesOverHTTP(t *testing.T) {
	f := newFixture(t)
	ws := f.witnesses(2)
	f.start()
	f.published(1)
	_, body := call(t, "GET", f.serve().URL+"/v1/witnesses", nil)
	var answer struct {
		Witnesses []struct {
			Name, Key, Time string
			Size            uint64
			Lag             *uint64
			Latency         int64 `json:"latency_ns"`
		}
		Published uint64
	}
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.Witnesses) != 2 || answer.Published != 1 {
		t.Fatalf("%s: %v", body, err)
	}
	for i, w := range answer.Witnesses {
		if w.Name != fmt.Sprint("w", i) || w.Key != ws[i].key.Public.String() || w.Size != 1 || w.Time == "" || w.Lag == nil || *w.Lag != 0 || w.Latency <= 0 {
			t.Errorf("%s", body)
		}
	}
}

// How far a witness is behind shows where people and programs look.
func TestWitnessLag(t *testing.T) {
	f := newFixture(t)
	ws := f.witnesses(2)
	f.policy = f.newPolicy(f.policy.Witnesses, "g", policy.Group{Name: "g", K: 1, Members: []string{"w0", "w1"}})
	f.start()
	f.published(1)
	url := f.serve().URL
	// Both have to have cosigned the first head before one goes down.
	lag := func() string { return string(second(call(t, "GET", url+"/v1/witnesses", nil))) }
	for end := time.Now().Add(20 * time.Second); strings.Count(lag(), `"lag":0`) != 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(lag())
		}
	}
	ws[1].down.Store(true)
	f.mustSubmit(f.producer("proxy-1").batch(3)...)
	size := f.log.Size()
	f.published(size)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		body := lag()
		metrics := string(second(call(t, "GET", url+"/metrics", nil)))
		if strings.Contains(body, fmt.Sprintf(`"lag":%d`, size-1)) && strings.Contains(body, "502") &&
			strings.Contains(metrics, fmt.Sprintf(`sealtap_log_witness_lag{witness="w1"} %d`, size-1)) && strings.Contains(metrics, `sealtap_log_witness_lag{witness="w0"} 0`) &&
			!strings.Contains(metrics, `sealtap_log_witness_failures_total{witness="w1"} 0`) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%s\n%s", body, metrics)
		}
	}
}

func second[A, B any](_ A, b B) B { return b }

// FuzzRead asks for any path: whatever is answered is what the published log
// holds, and no answer is an internal error.
func FuzzRead(f *testing.F) {
	log := newFixture(f).start()
	p := log.producer("proxy-1")
	log.mustSubmit(p.batch(297)...)
	log.published(300)
	handler := log.log.Handler()
	for _, path := range []string{"/checkpoint", "/tile/0/000", "/tile/0/001.p/44", "/tile/entries/001.p/44", "/tile/1/000.p/1", "/tile/0/x001/x234/067.p/8",
		"/v1/proof/inclusion?index=5&size=9", "/v1/proof/consistency?from=3&to=8", "/v1/records/7/proof", "/v1/entries", "/v1/proof/inclusion?leaf=AA", "//tile/0/000"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := http.NewRequest("GET", "http://log.example"+path, nil)
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, u)
		switch {
		case w.Code >= 500:
			t.Errorf("%q: %d %s", path, w.Code, w.Body)
		case w.Code >= 400 && w.Header().Get("Content-Type") != "application/problem+json":
			t.Errorf("%q: %d %s", path, w.Code, w.Body)
		case w.Code == 200 && strings.HasPrefix(u.URL.Path, "/tile/") && !strings.HasPrefix(u.URL.Path, "/tile/entries") && w.Body.Len()%32 != 0:
			t.Errorf("%q: %d bytes", path, w.Body.Len())
		}
	})
}
