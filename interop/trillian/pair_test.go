package trillian

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	api "github.com/google/trillian"
	"github.com/google/trillian/types"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/interop/internal/cluster"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/storage/trillian"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// pair is two logs that are given the same, and what both should hold.
type pair struct {
	t            *testing.T
	c            *cluster.Cluster
	file, shared string // URLs: of the log in a file, of the one on Trillian
	origin       string
	operator     *keys.Private
	keys         []*keys.Private // of the producers
	rand         *rand.Rand
	oneOf        int // what is looked at

	leaves [][]byte
	roots  [][]byte // roots[n] is that of the first n leaves
	edge   *compact.Range
}

func newPair(t *testing.T, c *cluster.Cluster) *pair {
	t.Helper()
	p := &pair{t: t, c: c, file: c.Twin.URL, shared: c.Logs[0].URL, origin: c.Policy.Logs[0].Key.Name,
		roots: [][]byte{rfc6962.DefaultHasher.EmptyRoot()}, edge: (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)}
	var err error
	p.operator, err = c.Key("operator")
	p.check(err)
	text, err := os.ReadFile(filepath.Join(c.Dir, "genesis.txt"))
	p.check(err)
	genesis, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	p.check(err)
	p.append(genesis)
	return p
}

func (p *pair) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) size() uint64 { return uint64(len(p.leaves)) }

func (p *pair) append(entry []byte) {
	p.t.Helper()
	leaf := rfc6962.DefaultHasher.HashLeaf(entry)
	p.check(p.edge.Append(leaf, nil))
	root, err := p.edge.GetRootHash(nil)
	p.check(err)
	p.leaves, p.roots = append(p.leaves, leaf), append(p.roots, root)
}

// answer is what a log answers, as far as it must not depend on where the log is kept.
type answer struct {
	status            int
	kind, tag, coding string
	body              string
}

func (a answer) String() string {
	return fmt.Sprintf("%d %s %s %s %.300q", a.status, a.kind, a.tag, a.coding, a.body)
}

func (p *pair) do(r *http.Request) answer {
	p.t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{body: err.Error()} // a server that is on its way up
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{body: err.Error()}
	}
	h := resp.Header
	return answer{resp.StatusCode, h.Get("Content-Type"), h.Get("Etag"), h.Get("Content-Encoding"), string(body)}
}

// get asks for a path. Behind a space it may name a content coding.
func (p *pair) get(url, path string) answer {
	p.t.Helper()
	path, coding, _ := strings.Cut(path, " ")
	r, err := http.NewRequest(http.MethodGet, url+path, nil)
	p.check(err)
	if coding == "" {
		coding = "identity"
	}
	r.Header.Set("Accept-Encoding", coding)
	return p.do(r)
}

func (p *pair) post(url string, req *sealtapv1.SubmitRequest) answer {
	p.t.Helper()
	body, err := proto.Marshal(req)
	p.check(err)
	r, err := http.NewRequest(http.MethodPost, url+"/v1/entries", bytes.NewReader(body))
	p.check(err)
	r.Header.Set("Content-Type", "application/x-protobuf")
	return p.do(r)
}

// submit has both logs take the same. They have to say the same of it.
func (p *pair) submit(req *sealtapv1.SubmitRequest) *sealtapv1.SubmitResponse {
	p.t.Helper()
	file, shared := p.post(p.file, req), p.post(p.shared, req)
	if file != shared || file.status != http.StatusOK {
		p.t.Fatalf("at %d entries, of the same submission:\nthe log in a file says %s\nthe one on Trillian %s", p.size(), file, shared)
	}
	response := new(sealtapv1.SubmitResponse)
	p.check(proto.Unmarshal([]byte(file.body), response))
	for _, r := range response.Runs {
		for i := range r.Count {
			entry, index := req.Items[r.FirstItem+i].Entry, r.FirstIndex+i
			switch {
			case index == p.size():
				p.append(entry)
			case index > p.size() || !bytes.Equal(p.leaves[index], rfc6962.DefaultHasher.HashLeaf(entry)):
				p.t.Fatalf("an entry is said to stand at %d, of %d entries", index, p.size())
			}
		}
	}
	return response
}

// same asks both logs for each path, and fails unless they answer the same.
func (p *pair) same(paths []string) {
	p.t.Helper()
	work := make(chan string)
	errs := make(chan error, len(paths))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for path := range work {
				if file, shared := p.get(p.file, path), p.get(p.shared, path); file != shared || file.status == 0 {
					errs <- fmt.Errorf("%s\nof the log in a file: %s\nof the one on Trillian: %s", path, file, shared)
				}
			}
		})
	}
	for _, path := range paths {
		work <- path
	}
	close(work)
	wg.Wait()
	close(errs)
	n := 0
	for err := range errs {
		if n++; n <= 5 {
			p.t.Error(err)
		}
	}
	if n > 0 {
		p.t.Fatalf("%d of %d answers differ", n, len(paths))
	}
}

// edges compares the head, and what is new under it: the right edge of the tree. With
// more it asks for some proofs too.
func (p *pair) edges(more bool) {
	p.t.Helper()
	size := p.size()
	paths := []string{"/checkpoint"}
	for level := uint(0); size>>(8*level) > 0; level++ {
		nodes := size >> (8 * level)
		for n := (nodes - 1) / 256; ; n-- {
			paths = append(paths, "/"+tiles.Path{Level: level, N: n, Width: int(min(256, nodes-n*256))}.String())
			if n == 0 || n+2 < (nodes-1)/256 {
				break
			}
		}
	}
	n := (size - 1) / 256
	paths = append(paths, "/"+tiles.Path{Entries: true, N: n, Width: int(size - n*256)}.String())
	for range 5 {
		if more {
			paths = append(paths, inclusion(p.rand.Uint64N(size), size), consistency(p.rand.Uint64N(size), size))
		}
	}
	p.same(paths)
	if head := strings.Split(p.get(p.shared, "/checkpoint").body, "\n"); len(head) < 3 || head[2] != base64.StdEncoding.EncodeToString(p.roots[size]) {
		p.t.Fatalf("of %d entries the logs show root %q; transparency-dev/merkle gives %x", size, head, p.roots[size])
	}
}

func inclusion(index, size uint64) string {
	return fmt.Sprintf("/v1/proof/inclusion?index=%d&size=%d", index, size)
}

func consistency(from, to uint64) string {
	return fmt.Sprintf("/v1/proof/consistency?from=%d&to=%d", from, to)
}

func (p *pair) byLeaf(index uint64) string {
	return "/v1/proof/inclusion?leaf=" + base64.RawURLEncoding.EncodeToString(p.leaves[index])
}

// everything compares all that readers can ask of logs that begin at an entry, and
// verifies it: one of so many widths and indices. Under which head the logs decided to
// prune is left out: they look when they do.
func (p *pair) everything(minimum uint64, oneOf int) {
	p.t.Helper()
	p.oneOf = oneOf
	size := p.size()
	lists := []string{"/v1/producers", "/v1/records?limit=1000", "/v1/records?stage=request"}
	p.await("search to find the same", func() bool { // it follows a moment later
		for _, path := range lists {
			if p.get(p.file, path) != p.get(p.shared, path) {
				return false
			}
		}
		return true
	})
	paths := append([]string{"/checkpoint", "/v1/statements", "/v1/retention/streams"}, p.tiles()...)
	for _, i := range p.some(size) {
		paths = append(paths, inclusion(i, size), consistency(i, size))
	}
	for range 300 {
		to := 1 + p.rand.Uint64N(size)
		paths = append(paths, inclusion(p.rand.Uint64N(to), to), consistency(p.rand.Uint64N(to+1), to))
	}
	for range 60 {
		i := p.rand.Uint64N(size)
		paths = append(paths, fmt.Sprintf("/v1/records/%d", i), fmt.Sprintf("/v1/records/%d/proof", i), fmt.Sprintf("/v1/records/%d/evidence", i))
		if i >= minimum {
			paths = append(paths, p.byLeaf(i))
		}
	}
	p.same(paths)
	p.verify(minimum)
}

// tiles are the paths of all tiles and bundles, of every width.
func (p *pair) tiles() (paths []string) {
	size := p.size()
	for level := uint(0); size>>(8*level) > 0; level++ {
		nodes := size >> (8 * level)
		for n := uint64(0); n*256 < nodes; n++ {
			full := int(min(256, nodes-n*256))
			for width := 1; width <= full; width++ {
				if width < full && p.rand.IntN(p.oneOf) > 0 {
					continue
				}
				// Of logs that are large, not each width of each.
				if width < full && size > 4000 && p.rand.IntN(64) > 0 && n+2 < nodes/256 {
					continue
				}
				path := tiles.Path{Level: level, N: n, Width: width}
				paths = append(paths, "/"+path.String())
				if path.Entries = true; level == 0 {
					paths = append(paths, "/"+path.String())
				}
			}
			if path := (tiles.Path{Entries: true, N: n, Width: full}); level == 0 {
				paths = append(paths, "/"+path.String()+" zstd", "/"+path.String()+" gzip")
			}
		}
	}
	return append(paths, "/"+tiles.Path{N: size / 256, Width: 256}.String()) // there is none
}

// some are indices, of all if they are not many.
func (p *pair) some(size uint64) (list []uint64) {
	for i := range size {
		if p.rand.IntN(p.oneOf) == 0 && (size <= 4000 || p.rand.Uint64N(size) < 4000) {
			list = append(list, i)
		}
	}
	return list
}

// verify verifies what the log on Trillian serves with transparency-dev/merkle: leaf
// hashes and entries, that the root of each size is what the leaves give, and proofs.
func (p *pair) verify(minimum uint64) {
	p.t.Helper()
	size, hasher := p.size(), rfc6962.DefaultHasher
	for n := minimum / 256; n*256 < size; n++ {
		width := int(min(256, size-n*256))
		bundle := p.get(p.shared, "/"+tiles.Path{Entries: true, N: n, Width: width}.String())
		leaves, err := hashes([]byte(bundle.body))
		p.check(err)
		tile := p.get(p.shared, "/"+tiles.Path{N: n, Width: width}.String())
		want := bytes.Join(p.leaves[n*256:n*256+uint64(width)], nil)
		if !bytes.Equal(bytes.Join(leaves, nil), want) || tile.body != string(want) {
			p.t.Fatalf("bundle %d, or the tile over it, is not what was submitted", n)
		}
	}
	for _, i := range p.some(size) {
		if i >= minimum {
			one := p.proof(inclusion(i, size))
			p.check(proof.VerifyInclusion(hasher, i, size, p.leaves[i], one.Hashes, p.roots[size]))
		}
		if i > 0 && (i >= minimum || i%256 == 0) {
			p.check(proof.VerifyConsistency(hasher, i, size, p.proof(consistency(i, size)).Hashes, p.roots[i], p.roots[size]))
		}
	}
}

type proofAnswer struct {
	LeafHash []byte   `json:"leaf_hash"`
	Hashes   [][]byte `json:"hashes"`
}

func (p *pair) proof(path string) (a proofAnswer) {
	p.t.Helper()
	got := p.get(p.shared, path)
	if err := json.Unmarshal([]byte(got.body), &a); err != nil || got.status != http.StatusOK {
		p.t.Fatalf("%s: %s: %v", path, got, err)
	}
	return a
}

// trillian compares with what Trillian itself says: root, leaf hashes, and its proofs
// against those of the log in a file.
func (p *pair) trillian() {
	p.t.Helper()
	ctx, cancel := p.context()
	defer cancel()
	conn, err := trillian.Connect(p.c.Tree())
	p.check(err)
	defer conn.Close()
	server, id, size := api.NewTrillianLogClient(conn), p.c.Tree().TreeID, p.size()
	signed, err := server.GetLatestSignedLogRoot(ctx, &api.GetLatestSignedLogRootRequest{LogId: id})
	p.check(err)
	var root types.LogRootV1
	p.check(root.UnmarshalBinary(signed.GetSignedLogRoot().GetLogRoot()))
	if root.TreeSize != size || !bytes.Equal(root.RootHash, p.roots[size]) {
		p.t.Fatalf("Trillian has %d entries with root %x, the logs have %d with %x", root.TreeSize, root.RootHash, size, p.roots[size])
	}
	for next := uint64(0); next < size; {
		leaves, err := server.GetLeavesByRange(ctx, &api.GetLeavesByRangeRequest{LogId: id, StartIndex: int64(next), Count: 1000})
		p.check(err)
		if len(leaves.Leaves) == 0 {
			p.t.Fatalf("Trillian has no leaf %d of %d", next, size)
		}
		for _, l := range leaves.Leaves {
			if uint64(l.LeafIndex) != next || !bytes.Equal(l.MerkleLeafHash, p.leaves[next]) || !bytes.Equal(rfc6962.DefaultHasher.HashLeaf(l.LeafValue), p.leaves[next]) {
				p.t.Fatalf("Trillian's leaf %d is another one", next)
			}
			next++
		}
	}
	for range 200 {
		to := 1 + p.rand.Uint64N(size)
		index, from := p.rand.Uint64N(to), 1+p.rand.Uint64N(to)
		in, err := server.GetInclusionProof(ctx, &api.GetInclusionProofRequest{LogId: id, LeafIndex: int64(index), TreeSize: int64(to)})
		p.check(err)
		between, err := server.GetConsistencyProof(ctx, &api.GetConsistencyProofRequest{LogId: id, FirstTreeSize: int64(from), SecondTreeSize: int64(to)})
		p.check(err)
		p.sameProof(inclusion(index, to), in.GetProof().GetHashes())
		p.sameProof(consistency(from, to), between.GetProof().GetHashes())
	}
}

// sameProof compares a proof with the log's own, which may have been pruned.
func (p *pair) sameProof(path string, want [][]byte) {
	p.t.Helper()
	if p.get(p.shared, path).status == http.StatusOK {
		if a := p.proof(path); !bytes.Equal(bytes.Join(a.Hashes, nil), bytes.Join(want, nil)) {
			p.t.Fatalf("%s: Trillian proves it with %x, the log with %x", path, want, a.Hashes)
		}
	}
}
