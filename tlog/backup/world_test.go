package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/backup"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

// world is a log with two witnesses, one producer, and what is made of them.
type world struct {
	t             testing.TB
	dir           string // of the log
	db            string
	key, operator *keys.Private
	policy        *policy.Policy
	witnesses     []*witnessServer

	log  *tlog.Log
	stop func()

	producer *keys.Private
	signer   note.Signer
	stream   record.Stream
	tree     *record.Tree
	sealer   *record.OpeningSealer
}

type witnessServer struct {
	*httptest.Server
	key  *keys.Private
	down atomic.Bool
}

func newKey(t testing.TB, name string, typ keys.Type) *keys.Private {
	t.Helper()
	k, err := keys.Generate(name, typ)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), key: newKey(t, "log.example/one", keys.Ed25519), operator: newKey(t, "operator", keys.Ed25519)}
	w.db = filepath.Join(w.dir, "log.db")
	var list []policy.Witness
	for i := range 2 {
		s := w.startWitness(fmt.Sprintf("witness-%d.example", i))
		w.witnesses = append(w.witnesses, s)
		list = append(list, policy.Witness{Name: fmt.Sprint("w", i), Key: s.key.Public, URL: s.URL})
	}
	group := policy.Group{Name: "both", K: 2, Members: []string{"w0", "w1"}}
	var err error
	w.policy, err = policy.New([]policy.Log{{Key: w.key.Public}}, list, []policy.Group{group}, "both", &w.operator.Public)
	w.check(err)
	w.producer = newKey(t, "proxy", keys.Ed25519)
	w.signer, err = w.producer.Signer()
	w.check(err)
	w.stream, w.tree = record.NewStream(w.producer.ID()), record.NewTree()
	identity, err := age.GenerateX25519Identity()
	w.check(err)
	w.sealer, err = record.NewOpeningSealer(identity.Recipient())
	w.check(err)
	w.start()
	w.change(1, record.KeyChange{Enrol: []keys.Public{w.producer.Public}})
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) startWitness(name string) *witnessServer {
	s := &witnessServer{key: newKey(w.t, name, keys.Cosignature)}
	store, err := sqlite.OpenWitness(context.Background(), filepath.Join(w.t.TempDir(), "witness.db"))
	w.check(err)
	server, err := witness.New(context.Background(), witness.Config{
		Key: s.key, Logs: map[string][]keys.Public{w.key.Name: {w.key.Public}}, Store: store})
	w.check(err)
	handler := server.Handler()
	s.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			http.Error(rw, "down", http.StatusBadGateway)
			return
		}
		handler.ServeHTTP(rw, r)
	}))
	w.t.Cleanup(func() {
		s.Close()
		store.Close()
	})
	return s
}

// open starts the log, or says why it does not start.
func (w *world) open() error {
	ctx := context.Background()
	s, err := sqlite.OpenLog(ctx, w.db)
	if err != nil {
		return err
	}
	o, err := sqlite.OpenOpenings(ctx, w.db+".openings")
	if err != nil {
		return errors.Join(err, s.Close())
	}
	cosigner, err := witness.NewClient(witness.ClientConfig{Policy: w.policy, MinBackoff: 5 * time.Millisecond, MaxBackoff: 20 * time.Millisecond})
	w.check(err)
	closeAll := func() { w.check(errors.Join(cosigner.Close(), s.Close(), o.Close())) }
	w.log, err = tlog.Open(ctx, tlog.Config{Key: w.key, Operator: w.operator, Storage: s, Openings: o, Policy: w.policy,
		Cosigner: cosigner, CheckpointInterval: time.Millisecond, PruneInterval: 5 * time.Millisecond})
	if err != nil {
		closeAll()
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	log := w.log
	running.Go(func() { _ = log.Run(ctx) })
	w.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		closeAll()
	})
	w.t.Cleanup(w.stop)
	return nil
}

func (w *world) start() {
	w.t.Helper()
	w.check(w.open())
}

func (w *world) submit(items []*sealtapv1.Item, keys ...*sealtapv1.WrappedKey) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := w.log.Submit(ctx, &sealtapv1.SubmitRequest{Items: items, Keys: keys})
	w.check(err)
}

func (w *world) change(number uint64, c record.KeyChange) {
	w.t.Helper()
	c.Origin, c.Number = w.key.Name, number
	entry, err := record.NewKeyChange(c, w.operator)
	w.check(err)
	w.submit([]*sealtapv1.Item{{Entry: entry}})
}

// grow has n records with sealed fields, and their seal, stored.
func (w *world) grow(n int) {
	w.t.Helper()
	var items []*sealtapv1.Item
	for range n {
		o := record.NewOpening(record.FieldQuery, record.TypeString, []byte("q=1"))
		c := record.Commitment(w.stream, w.tree.Size(), o)
		entry, err := record.Encode(&sealtapv1.Record{Producer: w.stream.Producer[:], Incarnation: w.stream.Incarnation[:], Sequence: w.tree.Size(),
			Sealed: []*sealtapv1.SealedField{{Field: record.FieldQuery, Commitment: c[:]}},
			About:  &sealtapv1.Record_Request{Request: &sealtapv1.Request{Method: "GET"}}})
		w.check(err)
		w.tree.Append(record.LeafHash(entry), nil)
		box, err := w.sealer.Seal(record.LeafHash(entry), []*sealtapv1.Opening{o})
		w.check(err)
		items = append(items, &sealtapv1.Item{Entry: entry, Openings: box})
	}
	seal, err := record.NewSeal(w.stream, w.tree.Size(), w.tree.Root(), w.signer)
	w.check(err)
	w.submit(append(items, &sealtapv1.Item{Entry: seal}), w.sealer.WrappedKey())
}

// settle waits until all is published.
func (w *world) settle() uint64 {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); w.log.Published() < w.log.Size(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("published %d of %d: %v", w.log.Published(), w.log.Size(), w.log.Ready())
		}
	}
	return w.log.Size()
}

// lose stops the log and moves everything away that it has.
func (w *world) lose() string {
	w.t.Helper()
	w.stop()
	to := w.t.TempDir()
	names, err := filepath.Glob(w.db + "*")
	w.check(err)
	for _, name := range names {
		w.check(os.Rename(name, filepath.Join(to, filepath.Base(name))))
	}
	return filepath.Join(to, "log.db")
}

func (w *world) backup(dir string) *backup.Manifest {
	w.t.Helper()
	m, err := backup.Write(context.Background(), backup.WriteConfig{Database: w.db, Policy: w.policy}, dir)
	w.check(err)
	return m
}

func (w *world) config(from ...backup.Copy) backup.RestoreConfig {
	return backup.RestoreConfig{Database: w.db, Key: w.key, Policy: w.policy, From: from,
		Witnesses: witness.Latest(context.Background(), w.policy, w.key.Name, nil, time.Minute)}
}

// mirror is the log as it is read over HTTP. It goes on when the log is lost.
func (w *world) mirror() backup.Copy {
	w.t.Helper()
	s := httptest.NewServer(w.log.Handler())
	w.t.Cleanup(s.Close)
	src, err := client.Open(s.URL, client.WithRetries(1, 0))
	w.check(err)
	files := make(cached)
	files.take(w.t, src)
	return backup.Copy{Where: "mirror", Reader: files}
}

// nothing wants nothing of the log to be in place.
func (w *world) nothing() {
	w.t.Helper()
	names, err := filepath.Glob(w.db + "*")
	w.check(err)
	for _, name := range names {
		if filepath.Base(name) != "log.db.lock" {
			w.t.Errorf("%s has been put in place", name)
		}
	}
}

// audit wants the log to be whole, and to be published as far as it goes.
func (w *world) audit(size uint64) {
	w.t.Helper()
	if got := w.settle(); got < size {
		w.t.Fatalf("the log has %d entries, it had %d", got, size)
	}
	dir := filepath.Join(w.t.TempDir(), "audit")
	m := w.backup(dir) // which verifies everything
	if m.Size < size || m.Published < size {
		w.t.Errorf("audited %d entries, %d published, of %d", m.Size, m.Published, size)
	}
}

// cached is a copy of the tiles of a log, of the widths of one head.
type cached map[string][]byte

func (c cached) take(t testing.TB, src *client.Source) {
	t.Helper()
	ctx := context.Background()
	keep := func(key string, b []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		c[key] = b
	}
	signed, err := src.Checkpoint(ctx)
	keep("checkpoint", signed, err)
	var size uint64
	if _, err := fmt.Sscanf(string(signed), "log.example/one\n%d\n", &size); err != nil {
		t.Fatal(err)
	}
	for level := uint(0); size>>(8*level) > 0; level++ {
		nodes := size >> (8 * level)
		for n := uint64(0); n*256 < nodes; n++ {
			width := int(min(256, nodes-n*256))
			tile, err := src.Tile(ctx, level, n, width)
			keep(fmt.Sprint(level, n, width), tile, err)
			if level == 0 {
				bundle, err := src.Bundle(ctx, n, width)
				keep(fmt.Sprint("entries", n, width), bundle, err)
			}
		}
	}
}

func (c cached) get(key string) ([]byte, error) {
	if b, ok := c[key]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("%w: %w: %s", client.ErrUnavailable, fs.ErrNotExist, key)
}

func (c cached) Checkpoint(context.Context) ([]byte, error) { return c.get("checkpoint") }

func (c cached) Tile(_ context.Context, level uint, n uint64, width int) ([]byte, error) {
	return c.get(fmt.Sprint(level, n, width))
}

func (c cached) Bundle(_ context.Context, n uint64, width int) ([]byte, error) {
	return c.get(fmt.Sprint("entries", n, width))
}

// alone is the policy of the same log without witnesses.
func (w *world) alone() *policy.Policy {
	w.t.Helper()
	p, err := policy.New([]policy.Log{{Key: w.key.Public}}, nil, nil, policy.None, &w.operator.Public)
	w.check(err)
	return p
}
