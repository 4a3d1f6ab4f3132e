package query

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

const origin = "log.example/test"

// memLog is a log in memory with real entries, signatures and proofs.
type memLog struct {
	t             testing.TB
	key, operator *keys.Private

	mu        sync.Mutex
	entries   [][]byte
	tree      *testonly.Tree
	published uint64
	grown     chan struct{}
	fail      error // of Bundle
	numbers   uint64
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newMemLog(t testing.TB) *memLog {
	l := &memLog{t: t, tree: testonly.New(rfc6962.DefaultHasher), grown: make(chan struct{})}
	l.key = must(keys.Generate(origin, keys.Ed25519))
	l.operator = must(keys.Generate("operator", keys.Ed25519))
	l.add(must(record.NewGenesis(l.key.Public, l.operator, time.Unix(1_790_000_000, 0))))
	return l
}

func (l *memLog) add(entries ...[]byte) (first uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first = uint64(len(l.entries))
	for _, e := range entries {
		l.entries = append(l.entries, e)
		l.tree.AppendData(e)
	}
	close(l.grown)
	l.grown = make(chan struct{})
	return first
}

func (l *memLog) publish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.published = uint64(len(l.entries))
}

func (l *memLog) enrol(names ...string) []*producer {
	var list []*producer
	c := record.KeyChange{Origin: origin}
	for _, name := range names {
		p := &producer{log: l, key: must(keys.Generate(name, keys.Ed25519))}
		p.restart()
		c.Enrol = append(c.Enrol, p.key.Public)
		list = append(list, p)
	}
	l.change(c)
	return list
}

func (l *memLog) change(c record.KeyChange) uint64 {
	l.numbers++
	c.Origin, c.Number = origin, l.numbers
	return l.add(must(record.NewKeyChange(c, l.operator)))
}

func (l *memLog) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.entries))
}

func (l *memLog) Published() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.published
}

func (l *memLog) Bundle(_ context.Context, n uint64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return nil, l.fail
	}
	var b []byte
	for _, e := range l.entries[min(n*256, uint64(len(l.entries))):min((n+1)*256, uint64(len(l.entries)))] {
		b = storage.AppendEntry(b, e)
	}
	return b, nil
}

func (l *memLog) Wait(ctx context.Context, size uint64) error {
	for {
		l.mu.Lock()
		n, grown := uint64(len(l.entries)), l.grown
		l.mu.Unlock()
		if n > size {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *memLog) Checkpoint() ([]byte, checkpoint.Body, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.published == 0 {
		return nil, checkpoint.Body{}, false
	}
	b := checkpoint.Body{Origin: origin, Size: l.published, Root: record.Hash(l.tree.HashAt(l.published))}
	signed := must(note.Sign(&note.Note{Text: string(b.Marshal())}, must(l.key.Signer())))
	return signed, b, true
}

func (l *memLog) InclusionProof(_ context.Context, index, size uint64) ([]record.Hash, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	raw, err := l.tree.InclusionProof(index, size)
	list := make([]record.Hash, len(raw))
	for i := range raw {
		list[i] = record.Hash(raw[i])
	}
	return list, err
}

// producer writes the records of one producer into the log.
type producer struct {
	log    *memLog
	key    *keys.Private
	stream record.Stream
	tree   *record.Tree
	now    int64
}

func (p *producer) restart() {
	p.stream, p.tree = record.NewStream(p.key.ID()), record.NewTree()
	if p.now == 0 {
		p.now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC).UnixNano()
	}
}

// make makes a record without adding it to the log.
func (p *producer) make(r *sealtapv1.Record) []byte {
	p.now += int64(time.Second)
	r.Producer, r.Incarnation, r.Sequence = p.stream.Producer[:], p.stream.Incarnation[:], p.tree.Size()
	if r.Time == 0 {
		r.Time = p.now
	}
	entry := must(record.Encode(r))
	p.tree.Append(record.LeafHash(entry), nil)
	return entry
}

func (p *producer) add(r *sealtapv1.Record) uint64 { return p.log.add(p.make(r)) }

func (p *producer) seal() uint64 {
	return p.log.add(must(record.NewSeal(p.stream, p.tree.Size(), p.tree.Root(), must(p.key.Signer()))))
}

// id makes an exchange id that is a UUIDv7 in the order of n.
func id(n int) []byte {
	b := make([]byte, 16)
	binary.BigEndian.PutUint64(b, uint64(1_790_000_000_000+n)<<16|0x7000)
	binary.BigEndian.PutUint64(b[8:], 0x8000_0000_0000_0000|uint64(n)*0x9e3779b97f4a7c15>>2)
	return b
}

func request(n int, who, service, method, path string) *sealtapv1.Record {
	q := &sealtapv1.Request{Service: service, Method: method, Path: path, Trace: id(n / 2)}
	if who != "" {
		q.Who = &sealtapv1.Who{Id: who, How: "header"}
	}
	return &sealtapv1.Record{Exchange: id(n), About: &sealtapv1.Record_Request{Request: q}}
}

func response(n int, status uint32) *sealtapv1.Record {
	return &sealtapv1.Record{Exchange: id(n), About: &sealtapv1.Record_Response{Response: &sealtapv1.Response{
		Status: status, Outcome: sealtapv1.Outcome_OUTCOME_COMPLETE,
	}}}
}

func beacon(checkpoint []byte) *sealtapv1.Record {
	return &sealtapv1.Record{About: &sealtapv1.Record_Beacon{Beacon: &sealtapv1.Beacon{Checkpoint: checkpoint}}}
}

// follow runs an index until the test ends or stop is called.
func follow(t testing.TB, path string, src Source, cfg Config) (ix *Index, stop func()) {
	t.Helper()
	ix, err := Open(path, src, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ix.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := ix.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	t.Cleanup(stop)
	return ix, stop
}

func caughtUp(t testing.TB, ix *Index) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ix.Indexed() < ix.src.Size(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("indexed %d of %d entries", ix.Indexed(), ix.src.Size())
		}
	}
}

// small has many segments of few entries.
func small() Config { return Config{segment: 256} }

func indexFile(t testing.TB) string { return filepath.Join(t.TempDir(), "index.db") }

// get calls a handler as a program on another host would.
func get(h http.Handler, url string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, url, nil)
	r.RemoteAddr, r.Host = "192.0.2.7:4711", "log.example"
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// shop fills the log with exchanges of two producers and returns what each
// record should be found by.
type row struct {
	index                      uint64
	who, service, method, path string
	operation                  string
	status                     uint32
	producer, stage            string
	exchange                   int
	time                       int64
}

func shop(l *memLog, ps []*producer, n int) []row {
	var rows []row
	var open []row
	answer := func(r row, p *producer) {
		for i := range rows {
			if rows[i].exchange == r.exchange {
				rows[i].status = r.status
			}
		}
		r.index = p.add(response(r.exchange, r.status))
		r.stage, r.time = "response", p.now
		rows = append(rows, r)
	}
	for i := range n {
		p := ps[i%len(ps)]
		r := row{
			who: fmt.Sprintf("user-%d", i%7), service: []string{"cart", "pay"}[i%2], method: []string{"GET", "POST", "PUT"}[i%3],
			path: fmt.Sprintf("/%s/%d", []string{"items", "item", "orders"}[i%3], i%50), producer: p.key.Name, stage: "request", exchange: i,
		}
		rec := request(i, r.who, r.service, r.method, r.path)
		if i%4 != 3 {
			r.operation = fmt.Sprintf("shop.v1.Orders/Op%d", i%4)
			rec.GetRequest().Operation = &sealtapv1.Operation{Protocol: "grpc", Name: r.operation, Target: "x"}
		}
		r.index = p.add(rec)
		r.time = p.now
		rows = append(rows, r)
		r.status = []uint32{200, 200, 404, 500, 204, 503}[i%6]
		if i%10 == 9 {
			open = append(open, r) // answered much later, in another segment
		} else {
			answer(r, p)
		}
		if i%25 == 24 {
			p.seal()
		}
	}
	for _, r := range open {
		answer(r, ps[r.exchange%len(ps)])
	}
	for _, p := range ps {
		p.seal()
	}
	return rows
}
