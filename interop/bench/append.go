package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"k8s.io/klog/v2"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	logclient "github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

const entrySize = 1024

// appendSpec is the same amount of work for either log.
type appendSpec struct {
	Entries  int // of entrySize bytes
	InFlight int

	URL, Dir string // ours: of the log, and of the fleet whose proxy key is enrolled
	Policy   string
	Batch    int // ours: entries of a submission, its seal among them

	BatchSize uint          // tessera: 0 for its default
	BatchAge  time.Duration // tessera
}

type appendResult struct {
	Entries int
	Seconds float64
	P50     time.Duration // of one submission, or of one Add
}

func (r appendResult) rate() float64 { return float64(r.Entries) / r.Seconds }

// appendOurs submits records with their seals over HTTP. The batches are made
// beforehand. Seals are entries as well, but only records are counted.
func appendOurs(s appendSpec) (appendResult, error) {
	key, err := keys.Load(filepath.Join(s.Dir, "keys", "proxy.key"))
	if err != nil {
		return appendResult{}, err
	}
	p, err := policy.Parse([]byte(s.Policy))
	if err != nil {
		return appendResult{}, err
	}
	c, err := logclient.New(s.URL, p)
	if err != nil {
		return appendResult{}, err
	}
	workers := max(1, s.InFlight/s.Batch)
	queues := make([][]*sealtapv1.SubmitRequest, workers)
	records := 0
	for i := range queues {
		q, err := batches(key, max(2, s.Batch), s.Entries/workers)
		if err != nil {
			return appendResult{}, err
		}
		queues[i] = q
		for _, b := range q {
			records += len(b.Items) - 1
		}
	}
	begin := time.Now()
	took, err := together(workers, func(i int) (took []time.Duration, err error) {
		for _, b := range queues[i] {
			start := time.Now()
			if _, err := c.Submit(context.Background(), b); err != nil {
				return nil, err
			}
			took = append(took, time.Since(start))
		}
		return took, nil
	})
	return appendResult{records, time.Since(begin).Seconds(), median(took)}, err
}

// batches makes n records of a new incarnation in submissions of size items.
func batches(key *keys.Private, size, n int) ([]*sealtapv1.SubmitRequest, error) {
	id := key.ID()
	st := record.Stream{Producer: id}
	_, _ = rand.Read(st.Incarnation[:])
	signer, err := key.Signer()
	if err != nil {
		return nil, err
	}
	tree := record.NewTree()
	var list []*sealtapv1.SubmitRequest
	for seq := uint64(0); seq < uint64(n); {
		req := new(sealtapv1.SubmitRequest)
		for range size - 1 {
			e, err := newEntry(st, seq)
			if err != nil {
				return nil, err
			}
			tree.Append(record.LeafHash(e), nil)
			req.Items = append(req.Items, &sealtapv1.Item{Entry: e})
			seq++
		}
		seal, err := record.NewSeal(st, seq, tree.Root(), signer)
		if err != nil {
			return nil, err
		}
		req.Items = append(req.Items, &sealtapv1.Item{Entry: seal})
		list = append(list, req)
	}
	return list, nil
}

// newEntry makes a record of entrySize bytes that do not compress well.
func newEntry(st record.Stream, seq uint64) ([]byte, error) {
	filler := make([]byte, entrySize)
	_, _ = rand.Read(filler)
	r := &sealtapv1.Record{Producer: st.Producer[:], Incarnation: st.Incarnation[:], Sequence: seq, Time: time.Now().UnixNano()}
	text := base64.RawStdEncoding.EncodeToString(filler)
	// The length of the rest changes with the sequence: try, and correct.
	path := text[:entrySize-100]
	for range 4 {
		r.About = &sealtapv1.Record_Request{Request: &sealtapv1.Request{Method: "POST", Path: path}}
		if seq == 0 {
			r.About = &sealtapv1.Record_Start{Start: &sealtapv1.Start{Version: path}}
		}
		e, err := record.Encode(r)
		if err != nil || len(e) == entrySize {
			return e, err
		}
		path = text[:len(path)+entrySize-len(e)]
	}
	return nil, fmt.Errorf("making an entry of %d bytes: no length fits", entrySize)
}

// appendTessera adds entries to a new Tessera POSIX log in this process, and waits
// for each to have its index.
func appendTessera(s appendSpec) (appendResult, error) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	skey, _, err := note.GenerateKey(rand.Reader, "bench.example/tessera")
	if err != nil {
		return appendResult{}, err
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return appendResult{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	driver, err := posix.New(ctx, posix.Config{Path: s.Dir})
	if err != nil {
		return appendResult{}, err
	}
	o := tessera.NewAppendOptions().WithCheckpointSigner(signer)
	if s.BatchSize > 0 {
		o = o.WithBatching(s.BatchSize, s.BatchAge).WithPushback(2 * uint(s.InFlight))
	}
	// Its shutdown would wait for the next checkpoint; the process ends instead.
	a, _, _, err := tessera.NewAppender(ctx, driver, o)
	if err != nil {
		return appendResult{}, err
	}
	entries := make([][]byte, s.Entries)
	for i := range entries {
		entries[i] = make([]byte, entrySize)
		_, _ = rand.Read(entries[i])
	}
	begin := time.Now()
	took, err := together(s.InFlight, func(w int) (took []time.Duration, err error) {
		for i := w; i < len(entries); i += s.InFlight {
			start := time.Now()
			if _, err := a.Add(ctx, tessera.NewEntry(entries[i]))(); err != nil {
				return nil, err
			}
			took = append(took, time.Since(start))
		}
		return took, nil
	})
	return appendResult{len(entries), time.Since(begin).Seconds(), median(took)}, err
}

// together runs workers and gathers how long their steps took.
func together(n int, run func(i int) ([]time.Duration, error)) ([]time.Duration, error) {
	type part struct {
		took []time.Duration
		err  error
	}
	parts := make(chan part, n)
	for i := range n {
		go func() {
			took, err := run(i)
			parts <- part{took, err}
		}()
	}
	var all []time.Duration
	var err error
	for range n {
		p := <-parts
		all, err = append(all, p.took...), errors.Join(err, p.err)
	}
	return all, err
}

func median[T int | int64 | float64 | time.Duration](list []T) T {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}
