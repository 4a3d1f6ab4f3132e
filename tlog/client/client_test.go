package client_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
	"github.com/sealtap/sealtap/witness/policy"
)

const origin = "log.example/a"

// testLog is a log of n small entries, signed by a fresh key.
type testLog struct {
	files   clienttest.Files
	entries [][]byte
	policy  *policy.Policy
	roots   []record.Hash // at every size
}

func newLog(t *testing.T, n int) *testLog {
	t.Helper()
	key, err := keys.Generate(origin, keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	l := new(testLog)
	tree := record.NewTree()
	l.roots = append(l.roots, tree.Root())
	for i := range n {
		l.entries = append(l.entries, fmt.Appendf(nil, "entry %d of the log", i))
		tree.Append(record.LeafHash(l.entries[i]), nil)
		l.roots = append(l.roots, tree.Root())
	}
	var root record.Hash
	l.files, root = clienttest.Tiles(l.entries)
	if root != l.roots[n] {
		t.Fatal("two ways to compute the root differ")
	}
	signer, err := key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	body := checkpoint.Body{Origin: origin, Size: uint64(n), Root: root}
	if l.files["checkpoint"], err = note.Sign(&note.Note{Text: string(body.Marshal())}, signer); err != nil {
		t.Fatal(err)
	}
	if l.policy, err = policy.Parse([]byte("log " + key.Public.String() + "\nquorum none\n")); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *testLog) open(t *testing.T, location string, opts ...client.Option) (*client.Client, *client.Tree) {
	t.Helper()
	c, err := client.New(location, l.policy, append([]client.Option{client.WithRetries(3, time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := c.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c, c.Tree(cp)
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestTree(t *testing.T) {
	const n = 70_000 // two levels of full tiles, three of partial ones
	l := newLog(t, n)
	dir := t.TempDir()
	if err := l.files.WriteTo(dir); err != nil {
		t.Fatal(err)
	}
	for name, location := range map[string]string{"http": serve(t, l.files), "directory": dir} {
		t.Run(name, func(t *testing.T) {
			_, tree := l.open(t, location)
			picks := []uint64{n - 1, 0, 255, 256, 65535, 65536, 69_888, 69_887}
			got, err := tree.Entries(t.Context(), picks...)
			if err != nil {
				t.Fatal(err)
			}
			for i, index := range picks {
				if string(got[i]) != string(l.entries[index]) {
					t.Errorf("entry %d is %q", index, got[i])
				}
				checkInclusion(t, tree, index, l.entries[index])
			}
			next := uint64(65_280)
			for p, err := range tree.Scan(t.Context(), next) {
				if err != nil || p.Index != next || string(p.Entry) != string(l.entries[next]) || p.Leaf != record.LeafHash(p.Entry) {
					t.Fatalf("entry %d by scanning: %d %q %v", next, p.Index, p.Entry, err)
				}
				next++
			}
			if next != n {
				t.Errorf("scanning ended at %d", next)
			}
			for _, err := range tree.Scan(t.Context(), 0) {
				if err != nil {
					t.Fatal(err)
				}
				break // and nothing is left waiting
			}
			leaves, err := tree.Leaves(t.Context(), 65_000, 66_000)
			if err != nil {
				t.Fatal(err)
			}
			for i, h := range leaves {
				if h != record.LeafHash(l.entries[65_000+i]) {
					t.Fatalf("leaf %d is wrong", 65_000+i)
				}
			}
			for _, size := range []uint64{0, 1, 255, 256, 257, 65_536, 65_537, n - 1, n} {
				older := checkpoint.Body{Origin: origin, Size: size, Root: l.roots[size]}
				if err := tree.Consistent(t.Context(), older); err != nil {
					t.Errorf("size %d: %v", size, err)
				}
				older.Root[3] ^= 1
				if err := tree.Consistent(t.Context(), older); !errors.Is(err, client.ErrVerification) {
					t.Errorf("size %d with another root: %v", size, err)
				}
			}
			if err := tree.Consistent(t.Context(), checkpoint.Body{Size: n + 1}); !errors.Is(err, client.ErrVerification) {
				t.Errorf("a larger head is a prefix: %v", err)
			}
			if _, err := tree.Entry(t.Context(), n); !errors.Is(err, client.ErrNotFound) {
				t.Errorf("an entry beyond the head: %v", err)
			}
		})
	}
}

func checkInclusion(t *testing.T, tree *client.Tree, index uint64, entry []byte) {
	t.Helper()
	p, err := tree.InclusionProof(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	var path [][]byte
	for i := range p {
		path = append(path, p[i][:])
	}
	leaf, root := record.LeafHash(entry), tree.Root()
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, tree.Size(), leaf[:], path, root[:]); err != nil {
		t.Errorf("entry %d: %v", index, err)
	}
}

// TestAltered changes each byte of everything in turn: what comes back must be
// right, or an error of verification.
func TestAltered(t *testing.T) {
	l := newLog(t, 300)
	for path := range l.files {
		if path == "checkpoint" {
			continue
		}
		for i := 0; i < len(l.files[path]); i += 7 {
			files := l.files.Clone()
			files[path] = append([]byte(nil), files[path]...)
			files[path][i] ^= 1 << (i % 8)
			_, tree := l.open(t, "http://log.test", client.WithHTTPClient(&http.Client{Transport: files}))
			got, err := tree.Entries(t.Context(), 3, 255, 256, 299)
			switch {
			case err != nil && !errors.Is(err, client.ErrVerification):
				t.Fatalf("%s, byte %d: %v", path, i, err)
			case err == nil:
				for k, index := range []int{3, 255, 256, 299} {
					if string(got[k]) != string(l.entries[index]) {
						t.Fatalf("%s, byte %d: entry %d is %q", path, i, index, got[k])
					}
				}
			}
		}
	}
}

func TestCheckpoint(t *testing.T) {
	l, other := newLog(t, 5), newLog(t, 5)
	for name, test := range map[string]struct {
		files clienttest.Files
		opts  []client.Option
		want  error
	}{
		"absent":       {clienttest.Files{}, nil, client.ErrNotFound},
		"other key":    {other.files, nil, policy.ErrSignature},
		"not one":      {clienttest.Files{"checkpoint": []byte("hello\n")}, nil, policy.ErrMalformed},
		"too long":     {clienttest.Files{"checkpoint": make([]byte, 2<<20)}, nil, client.ErrVerification},
		"other origin": {l.files, []client.Option{client.WithOrigin("log.example/b")}, client.ErrVerification},
	} {
		c, err := client.New(serve(t, test.files), l.policy, test.opts...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Checkpoint(t.Context())
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if errors.Is(err, client.ErrVerification) == errors.Is(err, client.ErrUnavailable) {
			t.Errorf("%s: not of one kind: %v", name, err)
		}
	}
}

// TestPartial: a server may drop partial tiles once it has the full ones.
func TestPartial(t *testing.T) {
	l := newLog(t, 300)
	longer, _ := clienttest.Tiles(append(l.entries, make([][]byte, 212)...))
	for _, path := range []string{"checkpoint", "tile/1/000.p/1"} { // what a longer log has no full form of yet
		longer[path] = l.files[path]
	}
	_, tree := l.open(t, serve(t, longer))
	got, err := tree.Entry(t.Context(), 299)
	if err != nil || string(got) != string(l.entries[299]) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRetries(t *testing.T) {
	l := newLog(t, 5)
	var calls atomic.Int64
	status := http.StatusServiceUnavailable
	failing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1)%3 != 0 {
			w.WriteHeader(status)
			return
		}
		l.files.ServeHTTP(w, r)
	})
	_, tree := l.open(t, serve(t, failing))
	if _, err := tree.Entry(t.Context(), 2); err != nil {
		t.Error(err)
	}
	down := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { calls.Add(1); w.WriteHeader(status) }))
	c, err := client.New(down, l.policy, client.WithRetries(3, time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	calls.Store(0)
	if _, err := c.Checkpoint(t.Context()); !errors.Is(err, client.ErrUnavailable) || calls.Load() != 3 {
		t.Errorf("%d calls: %v", calls.Load(), err)
	}
	// What another attempt does not change is not attempted again.
	calls.Store(0)
	status = http.StatusForbidden
	if _, err := c.Checkpoint(t.Context()); !errors.Is(err, client.ErrUnavailable) || calls.Load() != 1 {
		t.Errorf("%d calls: %v", calls.Load(), err)
	}
}

func TestCancel(t *testing.T) {
	block := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	s, err := client.Open(block)
	if err != nil {
		t.Fatal(err)
	}
	tree := client.NewTree(s, 1000, sha256.Sum256(nil))
	if _, err := tree.Entries(ctx, 1, 500, 900); !errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrVerification) {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	l := newLog(t, 1)
	for _, location := range []string{"ftp://x", "http://", "https://log/?a=b", "no-such-directory", "http://[::1"} {
		if _, err := client.New(location, l.policy); !errors.Is(err, client.ErrConfig) {
			t.Errorf("%s: %v", location, err)
		}
	}
	if _, err := client.New("http://log", nil); !errors.Is(err, client.ErrConfig) {
		t.Error(err)
	}
	c, err := client.New(t.TempDir(), l.policy)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Search(t.Context(), nil); !errors.Is(err, client.ErrConfig) {
		t.Error(err)
	}
}

func TestSubmit(t *testing.T) {
	l := newLog(t, 1)
	var answer func(w http.ResponseWriter, r *http.Request)
	c, err := client.New(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) })), l.policy)
	if err != nil {
		t.Fatal(err)
	}
	batch := &sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{{Entry: []byte("x")}}}
	answer = func(w http.ResponseWriter, r *http.Request) {
		var got sealtapv1.SubmitRequest
		b, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPost || r.URL.Path != "/v1/entries" || proto.Unmarshal(b, &got) != nil || !proto.Equal(&got, batch) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		b, _ = proto.Marshal(&sealtapv1.SubmitResponse{Runs: []*sealtapv1.Run{{FirstIndex: 7, Count: 1}}})
		_, _ = w.Write(b)
	}
	got, err := c.Submit(t.Context(), batch)
	if err != nil || got.GetRuns()[0].GetFirstIndex() != 7 {
		t.Fatalf("%v, %v", got, err)
	}
	answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"type":"about:blank","title":"hole","detail":"5 comes next","expected":5}`)
	}
	_, err = c.Submit(t.Context(), batch)
	var p *client.Problem
	if !errors.As(err, &p) || p.Status != 409 || p.Expected != 5 || p.Fork || p.RetryAfter != 3*time.Second || errors.Is(err, client.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	answer = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	if _, err = c.Submit(t.Context(), batch); !errors.Is(err, client.ErrUnavailable) {
		t.Error(err)
	}
}

func TestSearch(t *testing.T) {
	l := newLog(t, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/records", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("who") != "a b" || r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, `{"records":[{"index":18446744073709551615,"stage":"request"}],"next":"c"}`)
	})
	mux.HandleFunc("GET /v1/records/8/evidence", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("openings") == "1" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, "text")
	})
	mux.HandleFunc("GET /v1/producers", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `[`) })
	c, err := client.New(serve(t, mux), l.policy, client.WithToken("secret"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := c.Search(t.Context(), url.Values{"who": {"a b"}})
	if err != nil || page.Next != "c" || len(page.Records) != 1 || page.Records[0].Index != 1<<64-1 {
		t.Fatalf("%+v, %v", page, err)
	}
	var view record.View
	if err := json.Unmarshal(page.Records[0].View, &view); err != nil || view.Stage != "request" {
		t.Errorf("%s: %v", page.Records[0].View, err)
	}
	var any struct{}
	if err := c.Get(t.Context(), "producers", nil, &any); !errors.Is(err, client.ErrUnavailable) {
		t.Error(err)
	}
	if text, err := c.Evidence(t.Context(), 8); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
	if list, err := c.Openings(t.Context(), 8, record.Record{}); err != nil || list != nil {
		t.Errorf("not a reader: %v, %v", list, err)
	}
	if _, err := c.Evidence(t.Context(), 4); !errors.Is(err, client.ErrNotFound) {
		t.Error(err)
	}
}

func FuzzSplitBundle(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00\x00"), 2)
	f.Fuzz(func(t *testing.T, b []byte, width int) {
		if width < 1 || width > client.TileWidth {
			return
		}
		entries, err := client.SplitBundle(b, width)
		if err == nil && len(entries) != width {
			t.Fatalf("%d entries of %d", len(entries), width)
		}
		total := 0
		for _, e := range entries {
			total += 2 + len(e)
		}
		if total > len(b) || err == nil && total != len(b) {
			t.Fatalf("%d bytes of %d", total, len(b))
		}
	})
}
