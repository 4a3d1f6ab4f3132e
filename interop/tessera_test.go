package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
)

func fetcher(t *testing.T, base string) *client.HTTPFetcher {
	t.Helper()
	u, err := url.Parse(base + "/")
	if err != nil {
		t.Fatal(err)
	}
	f, err := client.NewHTTPFetcher(u, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// unbundle cuts a bundle into entries with tessera's parser.
func unbundle(b []byte) ([][]byte, error) {
	var bundle api.EntryBundle
	err := bundle.UnmarshalText(b)
	return bundle.Entries, err
}

func hashBundle(b []byte) ([][]byte, error) {
	entries, err := unbundle(b)
	for i, e := range entries {
		entries[i] = rfc6962.DefaultHasher.HashLeaf(e)
	}
	return entries, err
}

// foreignTree is the log as tessera's client and merkle see it.
type foreignTree struct {
	cp     *log.Checkpoint
	leaves [][]byte
	roots  [][]byte // roots[n] is that of the first n leaves
}

func follow(t *testing.T) *foreignTree {
	t.Helper()
	f := fetcher(t, world.log.Log)
	cp, _, _, err := client.FetchCheckpoint(t.Context(), f.ReadCheckpoint, logVerifier(t, world.log), world.log.Origin())
	if err != nil {
		t.Fatal(err)
	}
	size := func(context.Context) (uint64, error) { return cp.Size, nil }
	r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	tree := &foreignTree{cp: cp, roots: [][]byte{rfc6962.DefaultHasher.EmptyRoot()}}
	for e, err := range client.Entries(client.EntryBundles(t.Context(), 4, size, f.ReadEntryBundle, 0, cp.Size), unbundle) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Index != uint64(len(tree.leaves)) {
			t.Fatalf("entry %d comes after %d", e.Index, len(tree.leaves)-1)
		}
		leaf := rfc6962.DefaultHasher.HashLeaf(e.Entry)
		if err := r.Append(leaf, nil); err != nil {
			t.Fatal(err)
		}
		root, err := r.GetRootHash(nil)
		if err != nil {
			t.Fatal(err)
		}
		tree.leaves, tree.roots = append(tree.leaves, leaf), append(tree.roots, root)
		if r.End() == cp.Size {
			break
		}
	}
	return tree
}

// Tessera's client reads the checkpoint and all entries; the root over them, by
// transparency-dev/merkle, is the checkpoint's.
func TestTesseraClientRecomputesRoot(t *testing.T) {
	tree := follow(t)
	if n := uint64(len(tree.leaves)); n != tree.cp.Size || n < 600 {
		t.Fatalf("read %d entries of %d, and at least 600 records were made", n, tree.cp.Size)
	}
	if !bytes.Equal(tree.roots[tree.cp.Size], tree.cp.Hash) {
		t.Fatalf("root over all entries is %x, the checkpoint says %x", tree.roots[tree.cp.Size], tree.cp.Hash)
	}
	hashes, err := client.FetchLeafHashes(t.Context(), fetcher(t, world.log.Log).ReadTile, 0, tree.cp.Size, tree.cp.Size)
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range hashes {
		if !bytes.Equal(h, tree.leaves[i]) {
			t.Fatalf("leaf %d in the tiles is %x, over the entry %x", i, h, tree.leaves[i])
		}
	}
}

// Tessera's ProofBuilder makes proofs out of our tiles; they verify with
// transparency-dev/merkle, and are those that our own calls give.
func TestTesseraProofBuilder(t *testing.T) {
	tree := follow(t)
	size, h := tree.cp.Size, rfc6962.DefaultHasher
	b, err := client.NewProofBuilder(t.Context(), size, fetcher(t, world.log.Log).ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	for i := range size {
		p, err := b.InclusionProof(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyInclusion(h, i, size, tree.leaves[i], p, tree.cp.Hash); err != nil {
			t.Fatalf("inclusion of %d: %v", i, err)
		}
		if i%37 == 0 {
			var a inclusionAnswer
			call(t, fmt.Sprintf("/v1/proof/inclusion?index=%d&size=%d", i, size), &a)
			same(t, fmt.Sprintf("inclusion of %d", i), a.Hashes, p)
		}
	}
	for from := uint64(1); from <= size; from += 1 + from/4 {
		p, err := b.ConsistencyProof(t.Context(), from, size)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyConsistency(h, from, size, p, tree.roots[from], tree.cp.Hash); err != nil {
			t.Fatalf("consistency from %d: %v", from, err)
		}
		var a consistencyAnswer
		call(t, fmt.Sprintf("/v1/proof/consistency?from=%d&to=%d", from, size), &a)
		same(t, fmt.Sprintf("consistency from %d", from), a.Hashes, p)
	}
}

func same(t *testing.T, what string, ours, theirs [][]byte) {
	t.Helper()
	if len(ours) != len(theirs) {
		t.Fatalf("%s: %d hashes, tessera has %d", what, len(ours), len(theirs))
	}
	for i := range ours {
		if !bytes.Equal(ours[i], theirs[i]) {
			t.Fatalf("%s: hash %d is %x, tessera's %x", what, i, ours[i], theirs[i])
		}
	}
}

// Tessera's tracker follows the log as it grows, with consistency proofs that it
// makes itself.
func TestTesseraTrackerFollowsGrowth(t *testing.T) {
	f := fetcher(t, world.log.Log)
	v := logVerifier(t, world.log)
	tr, err := client.NewLogStateTracker(t.Context(), f.ReadTile, newest(t), v, v.Name(), client.UnilateralConsensus(f.ReadCheckpoint))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		before := tr.Latest().Size
		if err := world.exchanges(5); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := tr.Update(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := tr.Latest().Size; after < before+10 {
			t.Fatalf("tracker went from %d to %d over 5 exchanges", before, after)
		}
	}
}

// errDeadline says that fsck came to no end. After it finds some kinds of damage
// it waits for ever for its own workers.
var errDeadline = errors.New("fsck did not end before the deadline")

func check(v note.Verifier, f *client.HTTPFetcher, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- fsck.New(v.Name(), v, f, hashBundle, fsck.Opts{N: 2}).Check(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errDeadline
	}
}

func TestTesseraFsckPasses(t *testing.T) {
	if err := check(logVerifier(t, world.log), fetcher(t, world.log.Log), 30*time.Second); err != nil {
		t.Fatal(err)
	}
}

// Tessera's fsck passes on our log through a relay that changes nothing, and on
// no copy of it that the relay changes.
func TestTesseraFsckFindsTampering(t *testing.T) {
	target, err := url.Parse(world.log.Log)
	if err != nil {
		t.Fatal(err)
	}
	// The log must stand still, or the relay would show another checkpoint later.
	frozen := newest(t)
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte {
			b = bytes.Clone(b)
			b[at%len(b)] ^= 1
			return b
		}
	}
	for _, tc := range []struct {
		name, prefix string
		change       func([]byte) []byte
		limit        time.Duration
		pass         bool
	}{
		{name: "nothing", prefix: "/tile/", change: bytes.Clone, limit: 10 * time.Second, pass: true},
		{name: "bit of an entry", prefix: "/tile/entries/001", change: flip(100), limit: 3 * time.Second},
		{name: "bit of the last entry", prefix: "/tile/entries/002", change: flip(40), limit: 3 * time.Second},
		{name: "bit of a leaf hash", prefix: "/tile/0/000", change: flip(32), limit: 3 * time.Second},
		{name: "bit of a node above", prefix: "/tile/1/000", change: flip(1), limit: 3 * time.Second},
		{name: "entries of another bundle", prefix: "/tile/entries/001", change: func([]byte) []byte {
			b, _ := world.log.Get(context.Background(), "/tile/entries/000")
			return b
		}, limit: 3 * time.Second},
		{name: "root of the checkpoint", prefix: "/checkpoint", change: func(b []byte) []byte {
			lines := bytes.SplitN(b, []byte("\n"), 4)
			lines[2] = []byte(strings.Repeat("A", 43) + "=")
			return bytes.Join(lines, []byte("\n"))
		}, limit: 3 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var touched atomic.Bool
			base := tamper(t, target, func(path string, body []byte) []byte {
				if path == "/checkpoint" {
					body = frozen
				}
				if !strings.HasPrefix(path, tc.prefix) {
					return body
				}
				touched.Store(true)
				return tc.change(body)
			})
			err := check(logVerifier(t, world.log), fetcher(t, base), tc.limit)
			if tc.pass != (err == nil) {
				t.Errorf("fsck: %v", err)
			}
			if !touched.Load() {
				t.Errorf("nothing under %s was fetched", tc.prefix)
			}
		})
	}
}

// tamper serves a log with its answers changed.
func tamper(t *testing.T, target *url.URL, change func(path string, body []byte) []byte) string {
	t.Helper()
	relay := httputil.NewSingleHostReverseProxy(target)
	relay.ModifyResponse = func(r *http.Response) error {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusOK {
			return err
		}
		body = change(r.Request.URL.Path, body)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return nil
	}
	srv := httptest.NewServer(relay)
	t.Cleanup(srv.CloseClientConnections) // not Close: an fsck that hangs keeps connections
	return srv.URL
}
