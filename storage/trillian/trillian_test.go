package trillian_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	api "github.com/google/trillian"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/postgres"
	"github.com/sealtap/sealtap/storage/postgres/pgtest"
	"github.com/sealtap/sealtap/storage/storagetest"
	"github.com/sealtap/sealtap/storage/trillian"
	"github.com/sealtap/sealtap/storage/trillian/trilliantest"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// place is one log: a tree of Trillian and a database.
type place struct {
	config trillian.Config
	url    string
	dir    string
}

func newPlace(t *testing.T, server *pgtest.Server, c *trilliantest.Cluster) place {
	t.Helper()
	config := trillian.Config{Address: c.Address}
	var err error
	if config.TreeID, err = trillian.CreateTree(context.Background(), config, "storage.example/test"); err != nil {
		t.Fatal(err)
	}
	return place{config, server.Database(t), t.TempDir()}
}

// open opens the log as its writer. The function gives everything back.
func (p place) open(t *testing.T) (*trillian.Log, func()) {
	t.Helper()
	ctx := context.Background()
	db, err := postgres.Open(ctx, postgres.Config{URL: p.url})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := db.Acquire(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	inner, err := db.Log(filepath.Join(p.dir, "signed"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := trillian.Open(ctx, p.config, inner)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = l.HandOver(lease.Context); close(done) }()
	return l, func() {
		err := lease.Release(ctx)
		<-done
		if err := errors.Join(err, l.Close()); err != nil {
			t.Error(err)
		}
		db.Close()
	}
}

func TestContract(t *testing.T) {
	server := pgtest.Start(t)
	cluster := trilliantest.Start(t, server)
	places := make(map[*testing.T]place)
	open := func(t *testing.T) (storage.Log, func()) {
		p, ok := places[t]
		if !ok {
			p = newPlace(t, server, cluster)
			places[t] = p
		}
		return p.open(t)
	}
	storagetest.Log(t, open)
	storagetest.Pruner(t, open)
}

func run(t *testing.T, p *trilliantest.Process) {
	t.Helper()
	if err := p.Run(); err != nil {
		t.Fatal(err)
	}
}

// grow commits entries, some of them equal, and returns the head.
func grow(t *testing.T, l storage.Log, tree *tiles.Writer, n int) storage.Head {
	t.Helper()
	b := &storage.Batch{First: tree.Size()}
	for i := range n {
		e := fmt.Appendf(nil, "entry %d", i/2)
		b.Entries = append(b.Entries, e)
		tree.Append(record.LeafHash(e))
	}
	for _, tile := range append(tree.Complete(), tree.Partial()...) {
		b.Tiles = append(b.Tiles, storage.Tile(tile))
	}
	b.Root = tree.Root()
	if err := l.Commit(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	body := checkpoint.Body{Origin: "storage.example/test", Size: tree.Size(), Root: tree.Root()}
	return storage.Head{Size: body.Size, Root: tree.Root(), Note: append(body.Marshal(), "\n— x AAAA\n"...)}
}

// Servers of Trillian and connections fail while entries are handed over: Trillian has
// each entry once, in its place.
func TestTrillianFails(t *testing.T) {
	server := pgtest.Start(t)
	cluster := trilliantest.Start(t, server)
	p := newPlace(t, server, cluster)
	l, closeIt := p.open(t)
	tree := tiles.NewWriter()
	ctx := context.Background()
	for i := range 6 {
		head := grow(t, l, tree, 1500)
		switch i % 3 {
		case 0:
			cluster.Server.Kill()
			head = grow(t, l, tree, 700) // taken meanwhile
			run(t, cluster.Server)
		case 1:
			cluster.Signer.Kill()
			run(t, cluster.Signer)
		case 2:
			closeIt() // and another writer goes on, in the middle
			l, closeIt = p.open(t)
		}
		signed := false
		for end := time.Now().Add(60 * time.Second); !signed && time.Now().Before(end); {
			err := l.SetSigned(ctx, head)
			if signed = err == nil; err != nil && !errors.Is(err, trillian.ErrLags) {
				t.Fatal(err)
			}
		}
		if !signed || l.Taken() < head.Size {
			t.Fatalf("round %d: Trillian has taken %d of %d entries", i, l.Taken(), head.Size)
		}
	}
	closeIt()
}

// Entries that Trillian holds otherwise than PostgreSQL stop the signing, loudly.
func TestTrillianDiffers(t *testing.T) {
	server := pgtest.Start(t)
	cluster := trilliantest.Start(t, server)
	ctx := context.Background()
	for name, order := range map[string][2]int{"another entry": {300, 300}, "more entries": {300, 200}} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, server, cluster)
			l, closeIt := p.open(t)
			tree := tiles.NewWriter()
			if err := l.SetSigned(ctx, grow(t, l, tree, order[0])); err != nil {
				t.Fatal(err)
			}
			closeIt()
			other := p
			other.url, other.dir = server.Database(t), t.TempDir() // an older copy, or another log
			db, err := postgres.Open(ctx, postgres.Config{URL: other.url})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			lease, err := db.Acquire(ctx, "")
			if err != nil {
				t.Fatal(err)
			}
			inner, err := db.Log(filepath.Join(other.dir, "signed"))
			if err != nil {
				t.Fatal(err)
			}
			tree = tiles.NewWriter()
			grow(t, inner, tree, order[1]/2) // the first half is the same only where batches are
			grow(t, inner, tree, order[1]/2)
			if err := lease.Release(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := trillian.Open(ctx, other.config, inner); !errors.Is(err, trillian.ErrDiffers) {
				t.Errorf("opening: %v", err)
			}
		})
	}
}

// A difference that comes while the log runs: somebody else writes into the tree.
func TestTrillianIsWrittenByAnother(t *testing.T) {
	server := pgtest.Start(t)
	cluster := trilliantest.Start(t, server)
	p := newPlace(t, server, cluster)
	ctx := context.Background()
	conn, err := trillian.Connect(p.config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l, closeIt := p.open(t)
	defer closeIt()
	tree := tiles.NewWriter()
	if err := l.SetSigned(ctx, grow(t, l, tree, 10)); err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256([]byte("stranger"))
	_, err = api.NewTrillianLogClient(conn).AddSequencedLeaves(ctx, &api.AddSequencedLeavesRequest{LogId: p.config.TreeID,
		Leaves: []*api.LogLeaf{{LeafIndex: 10, LeafValue: []byte("stranger"), LeafIdentityHash: id[:]}}})
	if err != nil {
		t.Fatal(err)
	}
	head := grow(t, l, tree, 10)
	if err := l.SetSigned(ctx, head); !errors.Is(err, trillian.ErrDiffers) {
		t.Errorf("signing: %v", err)
	}
	if l.Health() == nil {
		t.Error("nobody is told")
	}
}

func TestTreeOfAnotherKind(t *testing.T) {
	server := pgtest.Start(t)
	cluster := trilliantest.Start(t, server)
	p := newPlace(t, server, cluster)
	ctx := context.Background()
	conn, err := trillian.Connect(p.config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tree, err := api.NewTrillianAdminClient(conn).CreateTree(ctx, &api.CreateTreeRequest{Tree: &api.Tree{
		TreeState: api.TreeState_ACTIVE, TreeType: api.TreeType_LOG, MaxRootDuration: durationpb.New(0)}})
	if err != nil {
		t.Fatal(err)
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: p.url})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	inner, err := db.Log(filepath.Join(p.dir, "signed"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []int64{tree.TreeId, 12345} {
		config := p.config
		config.TreeID = id
		if _, err := trillian.Open(ctx, config, inner); !errors.Is(err, trillian.ErrTree) {
			t.Errorf("tree %d: %v", id, err)
		}
	}
}

// A log of which entries were let go cannot fill another tree, and says so at once.
func TestPrunedLogAndNewTree(t *testing.T) {
	server := pgtest.Start(t)
	cluster := trilliantest.Start(t, server)
	p := newPlace(t, server, cluster)
	ctx := context.Background()
	l, closeIt := p.open(t)
	head := grow(t, l, tiles.NewWriter(), 600)
	for _, err := range []error{l.SetSigned(ctx, head), l.SetPublished(ctx, head), l.SetPruned(ctx, storage.Pruned{Minimum: 256, At: head.Note}, nil)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	closeIt()
	_, closeIt = p.open(t) // in its own tree it goes on
	closeIt()
	other := p.config
	var err error
	// Trillian has room for 20 bytes of the name, which end within a letter.
	if other.TreeID, err = trillian.CreateTree(ctx, other, "xüüüüüüüüüüüü"); err != nil {
		t.Fatal(err)
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: p.url})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	inner, err := db.Log(filepath.Join(p.dir, "signed"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trillian.Open(ctx, other, inner); !errors.Is(err, trillian.ErrTree) {
		t.Errorf("an empty tree for a pruned log: %v", err)
	}
}
