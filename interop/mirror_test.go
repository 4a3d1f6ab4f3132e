package interop

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	sealtap "github.com/sealtap/sealtap/tlog/client"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/mirror"
	"github.com/sealtap/sealtap/witness/policy"
)

// mirrored copies a log and serves the copy.
func mirrored(t *testing.T, location string, p *policy.Policy) (url string, size uint64) {
	t.Helper()
	src, err := sealtap.Open(location)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	m, err := mirror.Open(mirror.Config{Source: src, Policy: p, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	head, err := m.Update(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(mirror.Handler(dir))
	t.Cleanup(srv.Close)
	return srv.URL, head.Size
}

// Tessera's fsck passes on our mirror of our log.
func TestMirrorOfOurs(t *testing.T) {
	v := logVerifier(t, world.log)
	p, err := policy.Parse([]byte("log " + world.log.LogKey() + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	url, size := mirrored(t, world.log.Log, p)
	if size == 0 {
		t.Fatal("the mirror is empty")
	}
	if err := check(v, fetcher(t, url), 30*time.Second); err != nil {
		t.Fatal(err)
	}
}

// And on our mirror of a log of Tessera's, which is nothing of ours.
func TestMirrorOfTesseras(t *testing.T) {
	const entries = 1500
	skey, vkey, err := note.GenerateKey(rand.Reader, "tessera.example/log")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := t.TempDir()
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	o := tessera.NewAppendOptions().WithCheckpointSigner(signer).WithBatching(entries, 100*time.Millisecond).WithCheckpointInterval(100 * time.Millisecond)
	a, stop, _, err := tessera.NewAppender(ctx, driver, o)
	if err != nil {
		t.Fatal(err)
	}
	var futures []tessera.IndexFuture
	for i := range entries {
		futures = append(futures, a.Add(ctx, tessera.NewEntry(fmt.Appendf(nil, "entry %d", i))))
	}
	for _, f := range futures {
		if _, err := f(); err != nil {
			t.Fatal(err)
		}
	}
	if err := stop(ctx); err != nil { // it waits for the checkpoint over all of them
		t.Fatal(err)
	}
	p, err := policy.Parse([]byte("log " + vkey + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	url, size := mirrored(t, dir, p)
	if size != entries {
		t.Fatalf("the mirror has %d entries of %d", size, entries)
	}
	audited(t, url, p, size)
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(v, fetcher(t, url), 30*time.Second); err != nil {
		t.Fatal(err)
	}
}

// audited audits the tree and the signatures of a log that is none of ours: its entries
// mean nothing to an audit, which says so, but they stand as they were signed.
func audited(t *testing.T, url string, p *policy.Policy, size uint64) {
	t.Helper()
	src, err := sealtap.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	r, err := audit.Run(t.Context(), src, audit.Options{Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	if r.Size != size || r.Checked.Entries != size || r.Checked.Tiles == 0 || len(r.Unfinished) > 0 {
		t.Errorf("%d of %d entries, %d tiles: %s", r.Checked.Entries, size, r.Checked.Tiles, r.Text())
	}
	for _, x := range r.Findings {
		switch x.Code {
		case audit.GenesisInvalid, audit.EntryMalformed, audit.OperatorNotPinned:
		default:
			t.Errorf("%s: %s", x.Code, x.Detail)
		}
	}
}
