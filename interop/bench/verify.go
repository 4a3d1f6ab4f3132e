package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"k8s.io/klog/v2"

	"github.com/sealtap/sealtap/audit"
	logclient "github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// parallel is how many bundles either verifier fetches at a time.
const parallel = 8

// verifySpec is a log that is served.
type verifySpec struct {
	URL, Policy string
	Dir         string        // of a mirror
	Size        uint64        // of the tree, for proofs
	Duration    time.Duration // for proofs
}

// verifyResult counts entries verified, or proofs made.
type verifyResult struct {
	Count   uint64
	Seconds float64
	Verdict string // of the audit
}

func (r verifyResult) rate() float64 { return float64(r.Count) / r.Seconds }

// auditOurs is everything that sealtap audit does, treeOurs what it does with --tree.
func auditOurs(s verifySpec) (verifyResult, error) { return audited(s, false) }

func treeOurs(s verifySpec) (verifyResult, error) { return audited(s, true) }

func audited(s verifySpec, tree bool) (verifyResult, error) {
	p, err := policy.Parse([]byte(s.Policy))
	if err != nil {
		return verifyResult{}, err
	}
	src, err := logclient.Open(s.URL)
	if err != nil {
		return verifyResult{}, err
	}
	begin := time.Now()
	r, err := audit.Run(context.Background(), src, audit.Options{Policy: p, Parallel: parallel, TreeOnly: tree})
	if err != nil {
		return verifyResult{}, err
	}
	if r.Verdict != audit.Pass {
		return verifyResult{}, fmt.Errorf("audit does not pass:\n%s", r.Text())
	}
	return verifyResult{r.Checked.Entries, time.Since(begin).Seconds(), string(r.Verdict)}, nil
}

// fetcher reads a log over HTTP, with as many connections as there are workers.
func fetcher(base string) (*client.HTTPFetcher, error) {
	u, err := url.Parse(base + "/")
	if err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true // on one machine it would only cost
	t.MaxIdleConnsPerHost = 4 * parallel
	return client.NewHTTPFetcher(u, &http.Client{Transport: t})
}

// fsckTheirs recomputes the tree of our log with Tessera's fsck.
func fsckTheirs(s verifySpec) (verifyResult, error) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	p, err := policy.Parse([]byte(s.Policy))
	if err != nil {
		return verifyResult{}, err
	}
	v, err := note.NewVerifier(p.Logs[0].Key.String())
	if err != nil {
		return verifyResult{}, err
	}
	f, err := fetcher(s.URL)
	if err != nil {
		return verifyResult{}, err
	}
	count := uint64(0)
	hash := func(b []byte) ([][]byte, error) {
		var bundle api.EntryBundle
		if err := bundle.UnmarshalText(b); err != nil {
			return nil, err
		}
		for i, e := range bundle.Entries {
			bundle.Entries[i] = rfc6962.DefaultHasher.HashLeaf(e)
		}
		count += uint64(len(bundle.Entries)) // fsck hashes one bundle after the other
		return bundle.Entries, nil
	}
	begin := time.Now()
	done := make(chan error, 1)
	go func() { done <- fsck.New(v.Name(), v, f, hash, fsck.Opts{N: parallel}).Check(context.Background()) }()
	select {
	case err := <-done:
		return verifyResult{count, time.Since(begin).Seconds(), ""}, err
	case <-time.After(5 * time.Minute):
		// It waits for ever where it finds something wrong.
		return verifyResult{}, errors.New("tessera fsck did not end within 5 minutes")
	}
}

// buildProofs makes inclusion proofs out of our tiles with Tessera's ProofBuilder,
// which keeps the tiles that it has fetched.
func buildProofs(s verifySpec) (verifyResult, error) {
	f, err := fetcher(s.URL)
	if err != nil {
		return verifyResult{}, err
	}
	b, err := client.NewProofBuilder(context.Background(), s.Size, f.ReadTile)
	if err != nil {
		return verifyResult{}, err
	}
	begin := time.Now()
	r := verifyResult{}
	for ; time.Since(begin) < s.Duration; r.Count++ {
		if _, err := b.InclusionProof(context.Background(), rand.Uint64N(s.Size)); err != nil {
			return r, err
		}
	}
	r.Seconds = time.Since(begin).Seconds()
	return r, nil
}
