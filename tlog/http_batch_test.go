package tlog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog"
)

// inclusions is the answer to a POST for proofs.
type inclusions struct {
	Size       uint64
	Checkpoint *string
	Proofs     []struct {
		Index    uint64
		LeafHash []byte `json:"leaf_hash"`
		Hashes   [][]byte
	}
}

const proofURL = "/v1/proof/inclusion"

// ask posts a request for proofs, and has transparency-dev/merkle verify them
// against the checkpoint that came along.
func ask(t *testing.T, f *fixture, url string, request map[string]any) inclusions {
	t.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	resp, text := call(t, "POST", url+proofURL, body, "Content-Type: application/json")
	var a inclusions
	if err := json.Unmarshal(text, &a); err != nil || resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s: %s %.300s: %v", body, resp.Status, text, err)
	}
	if a.Checkpoint == nil {
		return a
	}
	cp, err := f.policy.Verify([]byte(*a.Checkpoint))
	if err != nil || cp.Size != a.Size {
		t.Fatalf("size %d comes with %v, %v", a.Size, cp, err)
	}
	for _, p := range a.Proofs {
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, p.Index, a.Size, p.LeafHash, p.Hashes, cp.Root[:]); err != nil {
			t.Fatalf("%d of %d: %v", p.Index, a.Size, err)
		}
	}
	return a
}

// TestBatchInclusion: the proofs of one answer are of one tree, while the log
// grows.
func TestBatchInclusion(t *testing.T) {
	f := newFixture(t)
	var mu sync.Mutex
	leaves := make(map[record.Hash]uint64)
	f.config = func(c *tlog.Config) {
		c.LeafIndex = func(_ context.Context, h record.Hash) (uint64, bool, error) {
			mu.Lock()
			defer mu.Unlock()
			i, ok := leaves[h]
			return i, ok, nil
		}
	}
	f.start()
	server := f.serve()
	p := f.producer("proxy-1")
	b := p.batch(300)
	first := f.mustSubmit(b...).Runs[0].FirstIndex
	f.published(f.log.Size())
	mu.Lock()
	for i, e := range b {
		leaves[record.LeafHash(e)] = first + uint64(i)
	}
	mu.Unlock()

	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 40 {
			if _, err := f.submit(p.batch(1 + rand.IntN(30))...); err != nil {
				t.Error(err)
			}
		}
	}()
	var last uint64
	for growing := true; growing; {
		select {
		case <-done:
			growing = false
		default:
		}
		var indices []uint64
		for range 50 {
			indices = append(indices, rand.Uint64N(f.log.Published()))
		}
		hash := record.LeafHash(b[7])
		a := ask(t, f, server.URL, map[string]any{"indices": indices, "leaves": [][]byte{hash[:]}})
		if len(a.Proofs) != 51 || a.Proofs[50].Index != first+7 || !bytes.Equal(a.Proofs[50].LeafHash, hash[:]) || a.Size < last || a.Checkpoint == nil {
			t.Fatalf("%d proofs of size %d after %d", len(a.Proofs), a.Size, last)
		}
		for i := range indices {
			if a.Proofs[i].Index != indices[i] {
				t.Fatalf("proof %d is of %d, asked for was %d", i, a.Proofs[i].Index, indices[i])
			}
		}
		last = a.Size
	}

	// As many as may be, and the same as one by one; an older size has no checkpoint.
	many := make([]uint64, 1000)
	for i := range many {
		many[i] = rand.Uint64N(200)
	}
	a := ask(t, f, server.URL, map[string]any{"indices": many, "size": 200})
	if a.Size != 200 || a.Checkpoint != nil || len(a.Proofs) != 1000 {
		t.Errorf("size %d, %d proofs, checkpoint %v", a.Size, len(a.Proofs), a.Checkpoint)
	}
	for i := 0; i < 1000; i += 90 {
		_, body := call(t, "GET", fmt.Sprintf("%s%s?index=%d&size=200", server.URL, proofURL, many[i]), nil)
		var one struct {
			Size     uint64
			LeafHash []byte `json:"leaf_hash"`
			Hashes   [][]byte
		}
		if err := json.Unmarshal(body, &one); err != nil || one.Size != 200 || fmt.Sprint(one.Hashes, one.LeafHash) != fmt.Sprint(a.Proofs[i].Hashes, a.Proofs[i].LeafHash) {
			t.Errorf("one by one: %s, %v", body, err)
		}
	}
	if a := ask(t, f, server.URL, map[string]any{"indices": []int{0}, "size": 1}); len(a.Proofs) != 1 || a.Proofs[0].Hashes == nil {
		t.Errorf("the only leaf of a tree: %+v", a)
	}
}

func TestBatchInclusionRefuses(t *testing.T) {
	f := newFixture(t).start()
	server := f.serve()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(10)...)
	f.published(13)
	leaf := `"` + strings.Repeat("A", 43) + `="`
	long := strings.Repeat("1,", 1000) + "1"
	for body, want := range map[string]struct {
		status int
		detail string
	}{
		``:                                 {400, "indices"},
		`{}`:                               {400, "give indices or leaves"},
		`[]`:                               {400, "reads"},
		`{"indices": []}`:                  {400, "give indices or leaves"},
		`{"indices": [1], "sise": 3}`:      {400, "unknown field"},
		`{"indices": [-1]}`:                {400, "reads"},
		`{"indices": [1.5]}`:               {400, "reads"},
		`{"indices": ["1"]}`:               {400, "reads"},
		`{"indices": [1]} {}`:              {400, "follows"},
		`{"indices": [1]} x`:               {400, "invalid character"},
		`{"indices": [13]}`:                {404, "entry 13, in a tree of size 13"},
		`{"indices": [3], "size": 3}`:      {404, "entry 3, in a tree of size 3"},
		`{"indices": [3], "size": 0}`:      {404, "entry 3, in a tree of size 0"},
		`{"indices": [3], "size": 14}`:     {404, "published are 13"},
		`{"indices": [` + long + `]}`:      {413, "1001 proofs"},
		`{"leaves": [` + leaf + `]}`:       {400, "by index only"},
		`{"leaves": ["AAAA"]}`:             {400, "leaf 0 has 3 bytes"},
		`{"leaves": ["*"]}`:                {400, "reads"},
		strings.Repeat(" ", 300_000) + `1`: {413, "too large"},
	} {
		resp, text := call(t, "POST", server.URL+proofURL, []byte(body), "Content-Type: application/json; charset=utf-8")
		if p := checkProblem(t, resp, text, want.status); !strings.Contains(fmt.Sprint(p["detail"]), want.detail) {
			t.Errorf("%.60s: %s, want %q", body, text, want.detail)
		}
	}
	resp, text := call(t, "POST", server.URL+proofURL, []byte(`{"indices": [`+long+`]}`), "Content-Type: application/json")
	checkLimit(t, resp, text, 413, "proofs", 1001, 1000)
	resp, text = call(t, "POST", server.URL+proofURL, bytes.Repeat([]byte(" "), 300_000), "Content-Type: application/json")
	checkLimit(t, resp, text, 413, "proof_request_bytes", 300_000, 256<<10)
	resp, text = call(t, "POST", server.URL+proofURL, []byte(`{"indices": [1]}`))
	checkProblem(t, resp, text, 415)
	resp, text = call(t, "POST", server.URL+proofURL+"?index=1", []byte(`{"indices": [1]}`), "Content-Type: application/json")
	checkProblem(t, resp, text, 400)
	resp, text = call(t, "PUT", server.URL+proofURL, nil)
	checkProblem(t, resp, text, 405)
	if allow := resp.Header.Get("Allow"); allow != "GET, HEAD, POST" {
		t.Errorf("allowed: %q", allow)
	}
	f.stop()
	g := newFixture(t)
	if err := g.open(); err != nil { // it does not run, so nothing is published
		t.Fatal(err)
	}
	defer g.stop()
	resp, text = call(t, "POST", g.serve().URL+proofURL, []byte(`{"indices": [0]}`), "Content-Type: application/json")
	checkProblem(t, resp, text, 404)
}

// TestAllConsistencies: over HTTP, every pair of sizes of a small log.
func TestAllConsistencies(t *testing.T) {
	f := newFixture(t).start()
	server := f.serve()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(28)...)
	f.published(31)
	a := ask(t, f, server.URL, map[string]any{"indices": []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30}})
	empty := record.Hash(checkpoint.EmptyRoot())
	roots := []record.Hash{empty}
	tree := record.NewTree()
	for _, p := range a.Proofs {
		tree.Append(record.Hash(p.LeafHash), nil)
		roots = append(roots, tree.Root())
	}
	for to := range uint64(32) {
		for from := range to + 1 {
			_, body := call(t, "GET", fmt.Sprintf("%s/v1/proof/consistency?from=%d&to=%d", server.URL, from, to), nil)
			var c struct {
				From, To uint64
				Hashes   [][]byte
			}
			err := json.Unmarshal(body, &c)
			if err == nil {
				err = proof.VerifyConsistency(rfc6962.DefaultHasher, from, to, c.Hashes, roots[from][:], roots[to][:])
			}
			if err != nil || c.From != from || c.To != to || c.Hashes == nil {
				t.Errorf("%d to %d: %s: %v", from, to, body, err)
			}
		}
	}
}

// BenchmarkServeInclusion serves one proof an operation, without the network.
func BenchmarkServeInclusion(b *testing.B) {
	f := newFixture(b).start()
	p := f.producer("proxy-1")
	for range 20 {
		f.mustSubmit(p.batch(1000)...)
	}
	size := f.log.Size()
	f.published(size)
	h := f.log.Handler()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", fmt.Sprint(proofURL, "?index=", rand.Uint64N(size)), nil))
			if w.Code != http.StatusOK {
				b.Error(w.Body)
			}
		}
	})
}
