package interop

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/torchwood"
	flog "github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// batchAnswer is the answer to a POST for inclusion proofs.
type batchAnswer struct {
	Size       uint64 `json:"size"`
	Checkpoint string `json:"checkpoint"`
	Proofs     []struct {
		Index    uint64   `json:"index"`
		LeafHash []byte   `json:"leaf_hash"`
		Hashes   [][]byte `json:"hashes"`
	} `json:"proofs"`
}

// batch asks for the inclusion proofs of every entry of a tree of a size.
func batch(t *testing.T, s *stack.Stack, size uint64) batchAnswer {
	t.Helper()
	var all batchAnswer
	for from := uint64(0); from < size; from += 1000 {
		indices := make([]uint64, 0, 1000)
		for i := from; i < min(size, from+1000); i++ {
			indices = append(indices, i)
		}
		body, err := json.Marshal(map[string]any{"indices": indices, "size": size})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Post(s.Log+"/v1/proof/inclusion", "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var a batchAnswer
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || resp.StatusCode != 200 || a.Size != size || len(a.Proofs) != len(indices) {
			t.Fatalf("%s: size %d, %d proofs: %v", resp.Status, a.Size, len(a.Proofs), err)
		}
		all.Size, all.Checkpoint, all.Proofs = a.Size, a.Checkpoint, append(all.Proofs, a.Proofs...)
	}
	return all
}

// publishedHead is a published checkpoint as formats reads it.
type publishedHead struct {
	raw []byte
	cp  *flog.Checkpoint
}

func headOf(t *testing.T, s *stack.Stack) publishedHead {
	t.Helper()
	raw, err := s.Get(t.Context(), "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	cp, _, _, err := flog.ParseCheckpoint(raw, s.Origin(), logVerifier(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return publishedHead{raw, cp}
}

// While a log grows, at each of many published sizes: all inclusion proofs in
// batches and some by themselves, and consistency with every size before, verified
// by transparency-dev/merkle; the same proofs made by tessera's client out of the
// tiles of that size; and entries read by torchwood's. The tiles of former sizes
// stay.
func TestProofsAtManySizes(t *testing.T) {
	upstream := newUpstream()
	defer upstream.Close()
	s, err := stack.Up(world.bin, filepath.Join(t.TempDir(), "data"), upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
	var heads []publishedHead
	rounds := 24
	if testing.Short() {
		rounds = 6
	}
	for round := range rounds {
		if err := traffic(s, 1+round*round%17); err != nil {
			t.Fatal(err)
		}
		h := headOf(t, s)
		checkHead(t, s, h, heads)
		heads = append(heads, h)
	}
	for _, h := range heads {
		builderProofs(t, s, h, batch(t, s, h.cp.Size))
	}
	if last := heads[len(heads)-1].cp.Size; last < 256 && !testing.Short() {
		t.Errorf("only %d entries: no tile was completed", last)
	}
}

func checkHead(t *testing.T, s *stack.Stack, h publishedHead, before []publishedHead) {
	t.Helper()
	size, hasher := h.cp.Size, rfc6962.DefaultHasher
	all := batch(t, s, size)
	if all.Checkpoint != "" && !strings.HasPrefix(all.Checkpoint, string(h.raw[:bytes.Index(h.raw, []byte("\n\n"))+2])) {
		t.Errorf("size %d comes with another checkpoint: %s", size, all.Checkpoint)
	}
	for i, p := range all.Proofs {
		if p.Index != uint64(i) {
			t.Fatalf("proof %d is of entry %d", i, p.Index)
		}
		if err := proof.VerifyInclusion(hasher, p.Index, size, p.LeafHash, p.Hashes, h.cp.Hash); err != nil {
			t.Fatalf("batch, %d of %d: %v", i, size, err)
		}
	}
	for i := uint64(0); i < size; i += 1 + size/9 {
		raw, err := s.Get(t.Context(), fmt.Sprintf("/v1/proof/inclusion?index=%d&size=%d", i, size))
		var one inclusionAnswer
		if err == nil {
			err = json.Unmarshal(raw, &one)
		}
		if err == nil {
			err = proof.VerifyInclusion(hasher, i, size, one.LeafHash, one.Hashes, h.cp.Hash)
		}
		if err != nil {
			t.Fatalf("%d of %d: %v", i, size, err)
		}
	}
	for _, b := range before {
		raw, err := s.Get(t.Context(), fmt.Sprintf("/v1/proof/consistency?from=%d&to=%d", b.cp.Size, size))
		var c consistencyAnswer
		if err == nil {
			err = json.Unmarshal(raw, &c)
		}
		if err == nil {
			err = proof.VerifyConsistency(hasher, b.cp.Size, size, c.Hashes, b.cp.Hash, h.cp.Hash)
		}
		if err != nil {
			t.Fatalf("%d to %d: %v", b.cp.Size, size, err)
		}
	}
	builderProofs(t, s, h, all)
	torchwoodEntries(t, s, h, all)
}

// builderProofs makes the proofs with tessera's client, and compares.
func builderProofs(t *testing.T, s *stack.Stack, h publishedHead, ours batchAnswer) {
	t.Helper()
	b, err := client.NewProofBuilder(t.Context(), h.cp.Size, fetcher(t, s.Log).ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range ours.Proofs {
		theirs, err := b.InclusionProof(t.Context(), uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprintf("inclusion of %d in %d", i, h.cp.Size), p.Hashes, theirs)
	}
}

// torchwoodEntries reads all entries, each checked against the tree of the size.
func torchwoodEntries(t *testing.T, s *stack.Stack, h publishedHead, ours batchAnswer) {
	t.Helper()
	f, err := torchwood.NewTileFetcher(s.Log)
	if err != nil {
		t.Fatal(err)
	}
	c, err := torchwood.NewClient(f)
	if err != nil {
		t.Fatal(err)
	}
	cp, _, err := torchwood.VerifyCheckpoint(h.raw, torchPolicy(t, s.PolicyTx))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, e := range c.AllEntries(t.Context(), cp.Tree, 0) {
		if !bytes.Equal(rfc6962.DefaultHasher.HashLeaf(e), ours.Proofs[i].LeafHash) {
			t.Fatalf("entry %d of %d has another leaf hash", i, cp.N)
		}
		n++
	}
	if err := c.Err(); err != nil || int64(n) != cp.N {
		t.Fatalf("torchwood read %d of %d entries: %v", n, cp.N, err)
	}
}

// curl gets the same entries in every coding, and is told when it has them.
func TestCurlTiles(t *testing.T) {
	for _, path := range []string{"/tile/entries/000", "/tile/entries/000.p/77", "/tile/0/000", "/tile/0/000.p/77"} {
		url := world.log.Log + path
		plainHeader, plain := curl(t, "-H", "Accept-Encoding: identity", url)
		if coding := plainHeader.Get("Content-Encoding"); coding != "" {
			t.Errorf("%s: asked for identity, got %q", path, coding)
		}
		header, body := curl(t, "--compressed", url)
		if !bytes.Equal(body, plain) {
			t.Errorf("curl --compressed %s: other bytes, coding %q", path, header.Get("Content-Encoding"))
		}
		bundle := strings.HasPrefix(path, "/tile/entries/")
		gz, body := curl(t, "-H", "Accept-Encoding: gzip", url)
		if got := gz.Get("Content-Encoding"); bundle != (got == "gzip") {
			t.Errorf("%s as gzip: coding %q", path, got)
		}
		if bundle {
			r, err := gzip.NewReader(bytes.NewReader(body))
			if err == nil {
				body, err = io.ReadAll(r)
			}
			if err != nil || !bytes.Equal(body, plain) {
				t.Errorf("%s as gzip: other bytes, %v", path, err)
			}
			if gz.Get("Etag") == plainHeader.Get("Etag") || gz.Get("Vary") != "Accept-Encoding" {
				t.Errorf("%s: %v and %v", path, gz, plainHeader)
			}
		}
		if !strings.Contains(plainHeader.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: Cache-Control %q", path, plainHeader.Get("Cache-Control"))
		}

		tag := filepath.Join(t.TempDir(), "etag")
		curl(t, "--etag-save", tag, "-H", "Accept-Encoding: gzip", url)
		_, code := curl(t, "--etag-compare", tag, "-H", "Accept-Encoding: gzip", "--write-out", "%{http_code} %{size_download}", url)
		if string(code) != "304 0" {
			t.Errorf("%s again with its tag: %s", path, code)
		}
		head, _ := curl(t, "--head", "-H", "Accept-Encoding: identity", url)
		if head.Get("Content-Length") != fmt.Sprint(len(plain)) || head.Get("Etag") != plainHeader.Get("Etag") {
			t.Errorf("HEAD %s: %v, GET: %v", path, head, plainHeader)
		}
	}
	header, _ := curl(t, world.log.Log+"/checkpoint")
	if header.Get("Cache-Control") != "no-store" || !strings.HasPrefix(header.Get("Content-Type"), "text/plain") || header.Get("Etag") != "" {
		t.Errorf("checkpoint: %v", header)
	}
	header, body := curl(t, "--no-fail", world.log.Log+"/tile/0/999")
	if !strings.HasPrefix(header.Get("Content-Type"), "application/problem+json") || header.Get("Cache-Control") != "no-store" {
		t.Errorf("a tile that is not there: %v %s", header, body)
	}
}

// A log gets a second, post-quantum key. litewitness and torchwood take its heads
// as before, and transparency-dev/formats verifies the second line.
func TestPostQuantumLog(t *testing.T) {
	bin, err := stack.BuildForeign(t.TempDir(), "filippo.io/torchwood/cmd/litewitness")
	if err != nil {
		skip(t, "litewitness cannot be built: "+err.Error())
	}
	upstream := newUpstream()
	defer upstream.Close()
	dir := filepath.Join(t.TempDir(), "data")
	s, err := stack.Up(world.bin, dir, upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(traffic(s, 5), s.Stop()); err != nil {
		t.Fatal(err)
	}
	vkey, err := exec.Command(world.bin, "keygen", "--post-quantum", s.Origin(), "--out", filepath.Join(dir, "keys", "quantum.key")).Output()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.yaml")
	config, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	config = bytes.Replace(config, []byte("  key: keys/log.key\n"), []byte("  key: keys/log.key\n  post_quantum_key: keys/quantum.key\n"), 1)
	w := startLitewitness(t, bin, s.Origin(), s.LogKey())
	three := addWitness(t, string(s.PolicyTx), w.vkey, w.url)
	if err := errors.Join(os.WriteFile(path, config, 0o600), os.WriteFile(filepath.Join(dir, "policy.txt"), []byte(three), 0o644)); err != nil {
		t.Fatal(err)
	}
	if s, err = stack.Up(world.bin, dir, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := traffic(s, 5); err != nil {
		t.Fatal(err)
	}
	cosigned(t, s, three, w)
	h := headOf(t, s)
	v, err := fnote.NewMLDSAVerifier(strings.TrimSpace(string(vkey)))
	if err != nil {
		t.Fatal(err)
	}
	cp, _, n, err := flog.ParseCheckpoint(h.raw, s.Origin(), v)
	if err != nil || len(n.Sigs) != 1 || cp.Size != h.cp.Size {
		t.Fatalf("the post-quantum line: %v\n%s", err, h.raw)
	}
	at := bytes.Index(h.raw, []byte(n.Sigs[0].Base64)) + 1000
	h.raw[at] ^= 1
	if _, err := note.Open(h.raw, note.VerifierList(v)); err == nil {
		t.Error("a flipped bit of the post-quantum line is not noticed")
	}

	// An auditor who trusts that key alone.
	pq := strings.Replace(three, s.LogKey(), strings.TrimSpace(string(vkey)), 1)
	policyFile := filepath.Join(t.TempDir(), "quantum.txt")
	if err := os.WriteFile(policyFile, []byte(pq), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(world.bin, "audit", s.Log, "--policy", policyFile, "--state", "none").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("audit with the post-quantum key: %v\n%s", err, out)
	}
}
