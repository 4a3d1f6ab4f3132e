package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	logclient "github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// stage is what a log of one size did.
type stage struct {
	size    uint64
	append  float64 // records a second
	proofs  loadResult
	search  map[string]loadResult
	entries float64 // bytes of disk an entry, with the tree
	index   float64
	memory  int64         // resident, after all this
	ready   time.Duration // from the start of the process to its readiness
}

// searches are those of the design's goal, newest first.
var searches = map[string]string{
	"who": "who=user-17", "service": "service=shop-3", "status": "status=5xx", "time": "until=",
}

// growthRows fills a log and measures at sizes that grow tenfold.
func (b *bench) growthRows(ctx context.Context) (err error) {
	f, err := newFleet(b.bin, filepath.Join(b.dir, "growth"), "http://"+b.upstream)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	var stages []stage
	for size := b.largest / 100; size <= b.largest; size *= 10 {
		if err := b.fillTo(ctx, f, size); err != nil {
			return err
		}
		s, err := b.stage(ctx, f)
		if err != nil {
			return fmt.Errorf("at %d entries: %w", size, err)
		}
		b.say("at %s entries: append %s, proofs %s (p50 %s), disk %.0f + %.0f B an entry, memory %d MiB, ready in %d ms", number(float64(s.size), ""),
			perSecond(s.append), perSecond(s.proofs.rate()), micros(s.proofs.P50), s.entries, s.index, s.memory>>20, s.ready.Milliseconds())
		stages = append(stages, s)
	}
	b.addGrowth(stages)
	return nil
}

func (b *bench) addGrowth(stages []stage) {
	first, last := stages[0], stages[len(stages)-1]
	at := fmt.Sprintf("at %s entries", number(float64(last.size), ""))
	small := fmt.Sprintf("%s at %s", perSecond(first.append), number(float64(first.size), ""))
	b.add(
		row{what: "append rate " + at, ours: perSecond(last.append), peer: small, result: []float64{last.append / first.append}, goal: 0.9},
		row{what: "inclusion proofs over HTTP " + at, ours: perSecond(last.proofs.rate()), peer: perSecond(first.proofs.rate()), result: []float64{last.proofs.rate()}, unit: "/s", goal: 30_000},
		row{what: "disk an entry, entries and tree", ours: number(last.entries, "B"), peer: "–", result: []float64{last.entries}, unit: "B", goal: 140, most: true},
		row{what: "disk an entry, search index", ours: number(last.index, "B"), peer: "–", result: []float64{last.index}, unit: "B", goal: 100, most: true},
		row{what: "memory of the log " + at, ours: fmt.Sprintf("%d MiB", last.memory>>20), peer: "–", result: []float64{float64(last.memory >> 20)}, unit: "MiB", goal: 256, most: true},
		row{what: "log ready after its start", ours: fmt.Sprintf("%d ms", last.ready.Milliseconds()), peer: "–", result: []float64{float64(last.ready.Milliseconds())}, unit: "ms", goal: 300, most: true},
	)
	for name := range searches {
		p99 := float64(last.search[name].P99) / float64(time.Millisecond)
		b.add(row{what: "newest 100 by " + name + ", p99", ours: number(p99, "ms"), peer: number(float64(first.search[name].P99)/float64(time.Millisecond), "ms"), result: []float64{p99}, unit: "ms", goal: 20, most: true})
	}
}

// fillTo brings the log to a size.
func (b *bench) fillTo(ctx context.Context, f *fleet, size uint64) error {
	for {
		now, err := f.published(ctx)
		if err != nil || now+now/100 >= size {
			return err
		}
		b.say("filling the log: %s of %s entries", number(float64(now), ""), number(float64(size), ""))
		if _, err := ask[appendResult](roleFill, f.fillSpec(int(min(size-now, 1_000_000)))); err != nil {
			return err
		}
		if _, _, err := f.settle(ctx); err != nil {
			return err
		}
	}
}

func (f *fleet) fillSpec(records int) appendSpec {
	return appendSpec{Entries: records, InFlight: 512, Batch: 64, URL: f.logURL(), Dir: f.dir, Policy: f.policy.String()}
}

// stage measures the log as it is.
func (b *bench) stage(ctx context.Context, f *fleet) (s stage, err error) {
	var rates []float64
	for range b.rounds {
		r, err := ask[appendResult](roleFill, f.fillSpec(b.entries))
		if err != nil {
			return s, err
		}
		rates = append(rates, r.rate())
		if _, s.size, err = f.settle(ctx); err != nil {
			return s, err
		}
	}
	s.append = median(rates)
	if s.proofs, err = ask[loadResult](roleLoad, loadSpec{Addr: f.conf.Log.Listen, Conns: 64, Tree: s.size, Warmup: b.warm, Duration: b.load / 2}); err != nil {
		return s, err
	}
	s.search = make(map[string]loadResult)
	for name, query := range searches {
		if name == "time" {
			query += time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
		}
		s.search[name], err = ask[loadResult](roleLoad, loadSpec{Addr: f.conf.Log.Listen, Conns: 1, Path: "/v1/records?limit=100&" + query, Warmup: b.warm, Duration: b.load / 2})
		if err != nil {
			return s, err
		}
	}
	if s.memory, err = memory(f.log.PID(), "VmRSS:"); err != nil {
		return s, err
	}
	if s.ready, err = f.restartLog(ctx); err != nil {
		return s, err
	}
	// After a stop nothing is left in the WAL.
	s.entries, err = perEntry(string(f.conf.Log.Database), s.size)
	if err == nil {
		s.index, err = perEntry(string(f.conf.Log.Database)+".index", s.size)
	}
	return s, err
}

func perEntry(path string, size uint64) (float64, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return float64(st.Size()) / float64(size), nil
}

// restartLog returns how long the log takes from its start until it is ready.
func (f *fleet) restartLog(ctx context.Context) (time.Duration, error) {
	if err := f.log.Stop(); err != nil {
		return 0, err
	}
	begin := time.Now()
	var err error
	if f.log, err = stack.Start(nil, f.bin, "log", "--config", f.confPath()); err != nil {
		return 0, err
	}
	for time.Since(begin) < time.Minute {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.logURL()+"/readyz", nil)
		if err != nil {
			return 0, err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return time.Since(begin), nil
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	return 0, fmt.Errorf("the log is not ready: %s", f.log.Output())
}

// fill submits the records of exchanges, as a proxy makes them.
func fill(s appendSpec) (appendResult, error) {
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
	share := s.Entries / workers
	begin := time.Now()
	took, err := together(workers, func(int) ([]time.Duration, error) {
		g, err := newGenerator(key)
		if err != nil {
			return nil, err
		}
		var took []time.Duration
		for n := 0; n < share; n += s.Batch - 1 {
			batch, err := g.batch(s.Batch - 1)
			if err != nil {
				return nil, err
			}
			start := time.Now()
			if _, err := c.Submit(context.Background(), batch); err != nil {
				return nil, err
			}
			took = append(took, time.Since(start))
		}
		return took, nil
	})
	return appendResult{workers * share, time.Since(begin).Seconds(), median(took)}, err
}

// generator makes the records of one stream.
type generator struct {
	st     record.Stream
	signer note.Signer
	tree   *record.Tree
	seq    uint64
	last   *sealtapv1.Record // the request that has no response yet
}

func newGenerator(key *keys.Private) (*generator, error) {
	signer, err := key.Signer()
	return &generator{st: record.NewStream(key.ID()), signer: signer, tree: record.NewTree()}, err
}

func (g *generator) batch(n int) (*sealtapv1.SubmitRequest, error) {
	req := new(sealtapv1.SubmitRequest)
	for range n {
		e, err := record.Encode(g.record())
		if err != nil {
			return nil, err
		}
		g.tree.Append(record.LeafHash(e), nil)
		g.seq++
		req.Items = append(req.Items, &sealtapv1.Item{Entry: e})
	}
	seal, err := record.NewSeal(g.st, g.seq, g.tree.Root(), g.signer)
	req.Items = append(req.Items, &sealtapv1.Item{Entry: seal})
	return req, err
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// record returns the next record: a start, then requests and their responses in
// turn, with what differs from one exchange to the next in reality.
func (g *generator) record() *sealtapv1.Record {
	r := &sealtapv1.Record{Producer: g.st.Producer[:], Incarnation: g.st.Incarnation[:], Sequence: g.seq, Time: time.Now().UnixNano()}
	sealed := func(names ...string) {
		for _, name := range names {
			r.Sealed = append(r.Sealed, &sealtapv1.SealedField{Field: name, Commitment: random(32)})
		}
	}
	body := func() *sealtapv1.Body { return &sealtapv1.Body{Size: mathrand.Uint64N(4096), Sha256: random(32)} }
	header := func(name string) *sealtapv1.Header { return &sealtapv1.Header{Name: name} }
	switch {
	case g.seq == 0:
		r.About = &sealtapv1.Record_Start{Start: &sealtapv1.Start{Version: "bench", HeartbeatNs: uint64(10 * time.Second)}}
	case g.last == nil:
		id := random(16)
		binary.BigEndian.PutUint64(id, uint64(time.Now().UnixMilli())<<16|0x7000|uint64(id[6])<<4)
		r.Exchange = id
		sealed("source", "headers")
		q := &sealtapv1.Request{
			Trace: random(16), Who: &sealtapv1.Who{Id: fmt.Sprint("user-", mathrand.IntN(5000)), How: "jwt", Verified: true},
			Service: fmt.Sprint("shop-", mathrand.IntN(8)), Method: "GET", Scheme: "http", Authority: "shop.example",
			Path: fmt.Sprintf("/orders/%d", mathrand.IntN(2000)), Protocol: "HTTP/1.1",
			Headers: []*sealtapv1.Header{header("accept"), header("content-type"), header("user-agent")},
		}
		if mathrand.IntN(2) == 0 {
			q.Method, q.Body = "POST", body()
		}
		r.About = &sealtapv1.Record_Request{Request: q}
		g.last = r
	default:
		r.Exchange = g.last.GetExchange()
		sealed("headers")
		same := body()
		r.About = &sealtapv1.Record_Response{Response: &sealtapv1.Response{
			Status: []uint32{200, 200, 200, 200, 201, 404, 500}[mathrand.IntN(7)], Headers: []*sealtapv1.Header{header("content-type")},
			Received: same, Sent: same, DurationNs: mathrand.Uint64N(1e8), Outcome: sealtapv1.Outcome_OUTCOME_COMPLETE,
		}}
		g.last = nil
	}
	return r
}
