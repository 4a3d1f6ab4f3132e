package tlog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/storage/storagetest"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

func newKey(t testing.TB, name string, typ keys.Type) *keys.Private {
	t.Helper()
	k, err := keys.Generate(name, typ)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// fixture is a log on SQLite, and what surrounds it.
type fixture struct {
	t        testing.TB
	dir      string
	key      *keys.Private
	operator *keys.Private
	policy   *policy.Policy
	config   func(*tlog.Config) // changes the configuration of the next start

	log      *tlog.Log
	storage  *storagetest.Faulty
	openings *sqlite.Openings
	changes  uint64 // key changes made
	stop     func()
}

func newFixture(t testing.TB) *fixture {
	f := &fixture{t: t, dir: t.TempDir(), key: newKey(t, "log.example/one", keys.Ed25519), operator: newKey(t, "operator", keys.Ed25519)}
	f.policy = f.newPolicy(nil, policy.None)
	return f
}

func (f *fixture) newPolicy(witnesses []policy.Witness, quorum string, groups ...policy.Group) *policy.Policy {
	f.t.Helper()
	p, err := policy.New([]policy.Log{{Key: f.key.Public}}, witnesses, groups, quorum, &f.operator.Public)
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// open opens the log without running it.
func (f *fixture) open() error {
	f.t.Helper()
	ctx := context.Background()
	s, err := sqlite.OpenLog(ctx, filepath.Join(f.dir, "log.db"))
	if err != nil {
		return err
	}
	o, err := sqlite.OpenOpenings(ctx, filepath.Join(f.dir, "openings.db"))
	if err != nil {
		return errors.Join(err, s.Close())
	}
	f.storage, f.openings = storagetest.NewFaulty(s), o
	c := tlog.Config{Key: f.key, Operator: f.operator, Storage: f.storage, Openings: o, Policy: f.policy, CheckpointInterval: time.Millisecond}
	if f.config != nil {
		f.config(&c)
	}
	f.stop = func() {
		if err := errors.Join(s.Close(), o.Close()); err != nil {
			f.t.Error(err)
		}
	}
	if f.log, err = tlog.Open(ctx, c); err != nil {
		f.stop()
	}
	return err
}

// start opens the log and runs it until stop, or the end of the test.
func (f *fixture) start() *fixture {
	f.t.Helper()
	if err := f.open(); err != nil {
		f.t.Fatal(err)
	}
	f.run()
	return f
}

// run runs the open log until stop, or the end of the test.
func (f *fixture) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	log, closeAll := f.log, f.stop
	go func() {
		defer close(done)
		if err := log.Run(ctx); err != nil {
			f.t.Error(err)
		}
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		closeAll()
	})
	f.t.Cleanup(f.stop)
}

func (f *fixture) restart() {
	f.t.Helper()
	f.stop()
	f.start()
}

func (f *fixture) serve() *httptest.Server {
	server := httptest.NewServer(f.log.Handler())
	f.t.Cleanup(server.Close)
	return server
}

// submit submits entries.
func (f *fixture) submit(entries ...[]byte) (*sealtapv1.SubmitResponse, error) {
	req := new(sealtapv1.SubmitRequest)
	for _, e := range entries {
		req.Items = append(req.Items, &sealtapv1.Item{Entry: e})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return f.log.Submit(ctx, req)
}

func (f *fixture) mustSubmit(entries ...[]byte) *sealtapv1.SubmitResponse {
	f.t.Helper()
	resp, err := f.submit(entries...)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp
}

// change submits a key change.
func (f *fixture) change(c record.KeyChange) ([]byte, *sealtapv1.SubmitResponse) {
	f.t.Helper()
	c.Origin, c.Number = f.key.Name, f.changes+1
	entry, err := record.NewKeyChange(c, f.operator)
	if err != nil {
		f.t.Fatal(err)
	}
	resp := f.mustSubmit(entry)
	f.changes++
	return entry, resp
}

// producer returns an enrolled producer.
func (f *fixture) producer(name string) *producer {
	f.t.Helper()
	p := newProducer(f.t, newKey(f.t, name, keys.Ed25519))
	f.change(record.KeyChange{Enrol: []keys.Public{p.key.Public}})
	return p
}

// published waits until the log has published at least this size.
func (f *fixture) published(size uint64) {
	f.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); f.log.Published() < size; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("published %d entries of %d, waiting for %d: %v", f.log.Published(), f.log.Size(), size, f.log.Ready())
		}
	}
}

// producer is one incarnation of a producer.
type producer struct {
	t      testing.TB
	key    *keys.Private
	signer note.Signer
	stream record.Stream
	tree   *record.Tree
}

func newProducer(t testing.TB, key *keys.Private) *producer {
	t.Helper()
	signer, err := key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	return &producer{t: t, key: key, signer: signer, stream: record.NewStream(key.ID()), tree: record.NewTree()}
}

// clone returns a producer that goes on from the same state on its own.
func (p *producer) clone() *producer {
	c := *p
	c.tree = p.tree.Clone()
	return &c
}

// record returns the next record.
func (p *producer) record(text string) []byte {
	p.t.Helper()
	r := &sealtapv1.Record{Producer: p.stream.Producer[:], Incarnation: p.stream.Incarnation[:], Sequence: p.tree.Size(),
		Time: time.Now().UnixNano(), About: &sealtapv1.Record_Stop{Stop: &sealtapv1.Stop{Reason: text}}}
	return p.encode(r)
}

func (p *producer) encode(r *sealtapv1.Record) []byte {
	p.t.Helper()
	entry, err := record.Encode(r)
	if err != nil {
		p.t.Fatal(err)
	}
	p.tree.Append(record.LeafHash(entry), nil)
	return entry
}

func (p *producer) seal() []byte { return p.sealOf(p.tree.Size(), p.tree.Root()) }

func (p *producer) sealOf(size uint64, root record.Hash) []byte {
	p.t.Helper()
	entry, err := record.NewSeal(p.stream, size, root, p.signer)
	if err != nil {
		p.t.Fatal(err)
	}
	return entry
}

// batch returns n records and their seal.
func (p *producer) batch(n int) [][]byte {
	var list [][]byte
	for range n {
		list = append(list, p.record(fmt.Sprintf("record %d", p.tree.Size())))
	}
	return append(list, p.seal())
}

func TestGenesis(t *testing.T) {
	f := newFixture(t).start()
	f.published(1)
	entry, err := f.log.Entry(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.Parse(entry)
	if err != nil || e.Genesis == nil || e.Genesis.Log.String() != f.key.Public.String() || e.Genesis.Operator.String() != f.operator.Public.String() {
		t.Fatalf("entry 0 is %+v, %v", e, err)
	}
	signed, body, ok := f.log.Checkpoint()
	cp, err := f.policy.Verify(signed)
	if err != nil || !ok || body.Size != 1 || cp.Root != [32]byte(record.LeafHash(entry)) {
		t.Errorf("checkpoint %+v, %v, %v", body, ok, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	empty := newFixture(t)
	empty.config = func(c *tlog.Config) { c.Operator = nil }
	if err := empty.open(); !errors.Is(err, tlog.ErrConfig) {
		t.Errorf("empty storage without an operator's key: %v", err)
	}

	seal := newFixture(t)
	seal.key = newKey(t, record.OriginPrefix+"x", keys.Ed25519)
	seal.policy = seal.newPolicy(nil, policy.None)
	if err := seal.open(); !errors.Is(err, tlog.ErrConfig) {
		t.Errorf("an origin like that of a seal: %v", err)
	}

	f := newFixture(t).start()
	f.published(1)
	f.stop()
	f.config = func(c *tlog.Config) { c.Operator = nil }
	if err := f.open(); err != nil {
		t.Errorf("reopening without the operator's key: %v", err)
	}
	f.stop()
	key, pol := f.key, f.policy
	f.key = newKey(t, f.key.Name, keys.Ed25519)
	if err := f.open(); !errors.Is(err, tlog.ErrConfig) {
		t.Errorf("a key that the policy does not name: %v", err)
	}
	f.policy = f.newPolicy(nil, policy.None)
	if err := f.open(); !errors.Is(err, tlog.ErrConfig) {
		t.Errorf("the storage of another log: %v", err)
	}
	f.key, f.policy, f.operator = key, pol, newKey(t, "operator", keys.Ed25519)
	f.policy = f.newPolicy(nil, policy.None)
	if err := f.open(); !errors.Is(err, record.ErrStatement) {
		t.Errorf("another operator than the one pinned: %v", err)
	}
}

func TestRestart(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	var batches [][][]byte
	var first []uint64
	for i := range 12 {
		b := p.batch(1 + 37*i%90)
		batches = append(batches, b)
		resp := f.mustSubmit(b...)
		if len(resp.Runs) != 1 || resp.Runs[0].Count != uint64(len(b)) {
			t.Fatalf("runs %v for a batch of %d", resp.Runs, len(b))
		}
		first = append(first, resp.Runs[0].FirstIndex)
		size := f.log.Size()
		f.published(size)
		before, _, _ := f.log.Checkpoint()
		f.restart()
		after, _, ok := f.log.Checkpoint()
		if f.log.Size() != size || !ok || string(after) != string(before) {
			t.Fatalf("after a restart: size %d, want %d; checkpoint\n%s\nwant\n%s", f.log.Size(), size, after, before)
		}
	}
	// What was stored before is known after.
	for i, b := range batches {
		resp := f.mustSubmit(b...)
		if len(resp.Runs) != 1 || resp.Runs[0].FirstIndex != first[i] || resp.Runs[0].Count != uint64(len(b)) {
			t.Errorf("batch %d again: runs %v, want index %d", i, resp.Runs, first[i])
		}
	}
	f.checkTree()
}

// checkTree compares the published root with one made from the entries alone.
func (f *fixture) checkTree() {
	f.t.Helper()
	f.published(f.log.Size())
	ctx := context.Background()
	signed, body, _ := f.log.Checkpoint()
	if _, err := f.policy.Verify(signed); err != nil {
		f.t.Fatal(err)
	}
	tree := record.NewTree()
	for n := uint64(0); n*256 < body.Size; n++ {
		bundle, err := f.log.Bundle(ctx, n)
		if err != nil {
			f.t.Fatal(err)
		}
		for entry, err := range storage.Entries(bundle) {
			if err != nil {
				f.t.Fatal(err)
			}
			if tree.Size() < body.Size {
				tree.Append(record.LeafHash(entry), nil)
			}
		}
	}
	if tree.Size() != body.Size || tree.Root() != record.Hash(body.Root) {
		f.t.Fatalf("the entries give size %d and root %s, published are %d and %s", tree.Size(), tree.Root(), body.Size, record.Hash(body.Root))
	}
}

// TestRollback puts an older copy of the database back.
func TestRollback(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	f.published(2)
	f.stop()
	old := copyFile(t, filepath.Join(f.dir, "log.db"))
	f.start()
	f.mustSubmit(p.batch(3)...)
	f.published(6)
	f.stop()
	old.restore()
	err := f.open()
	if !errors.Is(err, tlog.ErrBehind) {
		t.Fatalf("an older copy of the database: %v", err)
	}
	t.Log(err)
}

// TestDamage flips a bit of a stored hash.
func TestDamage(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(600)...)
	f.published(603)
	f.stop()
	db, err := sqlite.Open(context.Background(), filepath.Join(f.dir, "log.db"), sqlite.Schema{Kind: "log", ApplicationID: 0x53544c01, Migrations: make([]string, 2)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Writer.Exec(`UPDATE tile SET hashes = zeroblob(length(hashes)) WHERE id > 1`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.open(); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("a damaged right edge: %v", err)
	}
}

// TestAlteredEntry flips a bit of one of the newest entries: the log says so, and
// serves what it has, so that an audit finds the place.
func TestAlteredEntry(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(20)...)
	f.published(23)
	f.stop()
	db, err := sqlite.Open(context.Background(), filepath.Join(f.dir, "log.db"), sqlite.Schema{Kind: "log", ApplicationID: 0x53544c01, Migrations: make([]string, 2)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Writer.Exec(`UPDATE head SET data = CAST(substr(data, 1, length(data)-1) || iif(substr(data, length(data)) = x'00', x'01', x'00') AS BLOB) WHERE first = 2`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	config := f.config
	f.config = func(c *tlog.Config) {
		if config != nil {
			config(c)
		}
		c.Logger = slog.New(slog.NewTextHandler(&said, nil))
	}
	if err := f.open(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), "has been altered") || !strings.Contains(said.String(), "index=22") {
		t.Errorf("the log says %q", said.String())
	}
	leaf, err := f.log.LeafHash(context.Background(), 22)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := f.log.Entry(context.Background(), 22)
	if err != nil || record.LeafHash(entry) == leaf {
		t.Errorf("the altered entry hashes to its leaf, or is not served: %v", err)
	}
}

// witnesses starts real witnesses on loopback and makes a policy of all of them.
func (f *fixture) witnesses(n int) []*witnessServer {
	f.t.Helper()
	var servers []*witnessServer
	var list []policy.Witness
	group := policy.Group{Name: "all-of-them", K: n}
	for i := range n {
		s := startWitness(f.t, fmt.Sprintf("witness-%d.example", i), f.key.Public)
		servers = append(servers, s)
		list = append(list, policy.Witness{Name: fmt.Sprint("w", i), Key: s.key.Public, URL: s.server.URL})
		group.Members = append(group.Members, fmt.Sprint("w", i))
	}
	f.policy = f.newPolicy(list, group.Name, group)
	f.config = func(c *tlog.Config) {
		client, err := witness.NewClient(witness.ClientConfig{Policy: f.policy, MinBackoff: 5 * time.Millisecond, MaxBackoff: 20 * time.Millisecond})
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(func() { client.Close() })
		c.Cosigner = client
	}
	return servers
}

// unsound is a storage that says so.
type unsound struct{ storage.Log }

func (unsound) Health() error { return errors.New("the disk is failing") }

func TestReadyAsksTheStorage(t *testing.T) {
	f := newFixture(t)
	f.start()
	f.published(1)
	if err := f.log.Ready(); err != nil {
		t.Errorf("a sound log: %v", err)
	}
	f.stop()
	f.config = func(c *tlog.Config) { c.Storage = unsound{c.Storage} }
	f.start()
	f.published(1)
	if err := f.log.Ready(); err == nil || !strings.Contains(err.Error(), "failing") {
		t.Errorf("a log on a failing disk: %v", err)
	}
}
