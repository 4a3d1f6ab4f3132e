package tiles_test

import (
	"context"
	"crypto/sha256"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// naive is RFC 6962, section 2.1, word for word, but for the roots of ranges that
// it has computed before.
type naive struct {
	leaves []record.Hash
	memo   map[[2]int]record.Hash
}

func newNaive(leaves []record.Hash) *naive {
	return &naive{leaves, make(map[[2]int]record.Hash)}
}

// root is MTH(D[from:to]).
func (n *naive) root(from, to int) record.Hash {
	switch to - from {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return n.leaves[from]
	}
	if h, ok := n.memo[[2]int{from, to}]; ok {
		return h
	}
	k := split(to - from)
	left, right := n.root(from, from+k), n.root(from+k, to)
	h := record.Hash(sha256.Sum256(slices.Concat([]byte{1}, left[:], right[:])))
	n.memo[[2]int{from, to}] = h
	return h
}

// inclusion is PATH(m, D[from:to]), section 2.1.1.
func (n *naive) inclusion(path []record.Hash, m, from, to int) []record.Hash {
	if to-from == 1 {
		return path
	}
	if k := split(to - from); m < k {
		return append(n.inclusion(path, m, from, from+k), n.root(from+k, to))
	} else {
		return append(n.inclusion(path, m-k, from+k, to), n.root(from, from+k))
	}
}

// consistency is SUBPROOF(m, D[from:to], whole), section 2.1.2.
func (n *naive) consistency(path []record.Hash, m, from, to int, whole bool) []record.Hash {
	if m == to-from {
		if whole {
			return path
		}
		return append(path, n.root(from, to))
	}
	if k := split(to - from); m <= k {
		return append(n.consistency(path, m, from, from+k, whole), n.root(from+k, to))
	} else {
		return append(n.consistency(path, m-k, from+k, to, false), n.root(from, from+k))
	}
}

// grown returns the tiles of a tree, and the tree for comparison.
func grown(n int) (memoryTiles, *naive) {
	m, w, ls := memoryTiles{}, tiles.NewWriter(), leaves(n)
	for _, l := range ls {
		w.Append(l)
	}
	m.save(w)
	return m, newNaive(ls)
}

// TestProofsExhaustive compares every proof of every tree up to a size, whatever
// the proofs are read from: the tiles, a cache that has room, and one that has not.
func TestProofsExhaustive(t *testing.T) {
	for name, c := range map[string]struct {
		size, every int
		reader      func(tiles.Reader) tiles.Reader
	}{
		"cache":       {2100, 1, func(r tiles.Reader) tiles.Reader { return tiles.NewCache(r, 100) }},
		"small cache": {600, 1, func(r tiles.Reader) tiles.Reader { return tiles.NewCache(r, 2) }},
		"plain":       {600, 31, func(r tiles.Reader) tiles.Reader { return r }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if raceEnabled || testing.Short() {
				c.every += 58
			}
			m, n := grown(c.size)
			r := c.reader(m)
			for size := 1; size <= c.size; size++ {
				if size > 70 && size%c.every != 0 {
					continue
				}
				root, err := tiles.Root(context.Background(), r, uint64(size))
				if err != nil || root != n.root(0, size) {
					t.Fatalf("root of %d = %v, %v; want %v", size, root, err, n.root(0, size))
				}
				for i := range size {
					checkProofs(t, r, n, i, size)
				}
			}
		})
	}
}

// checkProofs compares the proof of a leaf and that of a smaller tree.
func checkProofs(t testing.TB, r tiles.Reader, n *naive, i, size int) {
	t.Helper()
	var room [64]record.Hash
	p, err := tiles.InclusionProof(context.Background(), r, uint64(i), uint64(size))
	if want := n.inclusion(room[:0], i, 0, size); err != nil || !slices.Equal(p, want) {
		t.Fatalf("inclusion of %d in %d: %v, %v; want %v", i, size, p, err, want)
	}
	p, err = tiles.ConsistencyProof(context.Background(), r, uint64(i), uint64(size))
	want := room[:0]
	if i > 0 {
		want = n.consistency(want, i, 0, size, true)
	}
	if err != nil || !slices.Equal(p, want) {
		t.Fatalf("consistency of %d and %d: %v, %v; want %v", i, size, p, err, want)
	}
}

// TestProofsVerify has transparency-dev/merkle verify proofs, around the sizes
// where tiles and levels begin and in between.
func TestProofsVerify(t *testing.T) {
	const most = 256*256 + 300
	m, n := grown(most)
	cache := tiles.NewCache(m, 300)
	sizes := []int{1, 2, 3, 255, 256, 257, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, 65791, 65792, 65793, most}
	for range 40 {
		sizes = append(sizes, 1+rand.IntN(most))
	}
	for _, size := range sizes {
		var indices []uint64
		for _, i := range []int{0, 1, 255, 256, size / 2, size - 257, size - 256, size - 2, size - 1, rand.IntN(size), rand.IntN(size)} {
			if i >= 0 && i < size {
				indices = append(indices, uint64(i))
			}
		}
		all, err := tiles.InclusionProofs(context.Background(), cache, indices, uint64(size))
		if err != nil {
			t.Fatal(err)
		}
		for j, i := range indices {
			verify(t, m, n, all[j], i, uint64(size))
		}
	}
}

func verify(t *testing.T, m memoryTiles, n *naive, in tiles.Inclusion, i, size uint64) {
	t.Helper()
	root := n.root(0, int(size))
	if in.Index != i || in.Leaf != n.leaves[i] {
		t.Fatalf("inclusion of %d in %d is of %d, %v", i, size, in.Index, in.Leaf)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, size, in.Leaf[:], raw(in.Path), root[:]); err != nil {
		t.Fatalf("inclusion of %d in %d: %v", i, size, err)
	}
	p, err := tiles.ConsistencyProof(context.Background(), m, i+1, size)
	older := n.root(0, int(i+1))
	if err == nil {
		err = proof.VerifyConsistency(rfc6962.DefaultHasher, i+1, size, raw(p), older[:], root[:])
	}
	if err != nil {
		t.Fatalf("consistency of %d and %d: %v", i+1, size, err)
	}
}

// FuzzProofs compares proofs of trees of up to 2^17 leaves with the naive tree,
// through one cache: its order of use is the fuzzer's too.
func FuzzProofs(f *testing.F) {
	const most = 1 << 17
	m, n := grown(most)
	var mu sync.Mutex // of the memo
	cache := tiles.NewCache(m, 9)
	for _, seed := range [][2]uint32{{0, 1}, {255, 256}, {256, 257}, {65535, 65536}, {65536, 65537}, {65792, 65793}, {most - 1, most}, {77777, 99999}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, i, size uint32) {
		if size > most || i >= size {
			_, err1 := tiles.InclusionProof(context.Background(), cache, uint64(i), uint64(size))
			if size <= i && err1 == nil {
				t.Fatalf("a proof of %d in %d", i, size)
			}
			return
		}
		mu.Lock()
		defer mu.Unlock()
		checkProofs(t, cache, n, int(i), int(size))
	})
}

// slowTiles counts what is read.
type slowTiles struct {
	tiles.Reader
	reads atomic.Int64
}

func (s *slowTiles) Tile(ctx context.Context, level uint, n uint64) ([]byte, error) {
	s.reads.Add(1)
	return s.Reader.Tile(ctx, level, n)
}

// TestCacheReads: what fits is read once, and what does not fit does not push out
// the tiles that every proof needs.
func TestCacheReads(t *testing.T) {
	const n = 1 << 15 // 128 tiles of leaves, one above them
	m, _ := grown(n)
	ctx := context.Background()
	s := &slowTiles{Reader: m}
	fits := tiles.NewCache(s, 1024)
	for range 3 {
		for i := uint64(0); i < n; i += 101 {
			if _, err := tiles.InclusionProof(ctx, fits, i, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := s.reads.Load(); got != 129 {
		t.Errorf("%d tiles were read, there are 129", got)
	}
	s = &slowTiles{Reader: m}
	small := tiles.NewCache(s, 4)
	for i := range uint64(128) {
		if _, err := tiles.InclusionProof(ctx, small, i*tiles.Width, n); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.reads.Load(); got != 129 {
		t.Errorf("%d tiles were read over 128 tiles of leaves: the one above them did not stay", got)
	}
}

// TestCacheFollows: a tile that has grown is read again once, and then stays.
func TestCacheFollows(t *testing.T) {
	const most = 700
	ls := leaves(most)
	n := newNaive(ls)
	g := new(growing)
	s := &slowTiles{Reader: g}
	cache := tiles.NewCache(s, 100)
	for size := 1; size <= most; size++ {
		g.append(ls[size-1 : size])
		checkProofs(t, cache, n, size-1, size)
		checkProofs(t, cache, n, size/2, size)
		before := s.reads.Load()
		checkProofs(t, cache, n, size-1, size)
		if again := s.reads.Load() - before; again != 0 {
			t.Fatalf("size %d: %d tiles are read again", size, again)
		}
	}
}

// TestCacheGrowth: a partial tile that has grown is read again, by many at once.
func TestCacheGrowth(t *testing.T) {
	const n = 3000
	ls := leaves(n)
	roots := make([]record.Hash, n+1)
	for want, i := newNaive(ls), 1; i <= n; i++ {
		roots[i] = want.root(0, i)
	}
	g := &growing{}
	g.append(ls[:1])
	cache := tiles.NewCache(g, 3)
	var size atomic.Int64
	size.Store(1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				s := int(size.Load())
				i := rand.IntN(s)
				p, err := tiles.InclusionProof(context.Background(), cache, uint64(i), uint64(s))
				if err == nil {
					root, leaf := roots[s], ls[i]
					err = proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i), uint64(s), leaf[:], raw(p), root[:])
				}
				if err != nil {
					t.Errorf("%d in %d: %v", i, s, err)
				}
				if s == n || err != nil {
					return
				}
			}
		})
	}
	for s := 1; s < n; {
		next := min(n, s+1+rand.IntN(40))
		g.append(ls[s:next])
		size.Store(int64(next))
		s = next
	}
	wg.Wait()
}

// growing is a tree that grows while it is read.
type growing struct {
	mu sync.Mutex
	w  *tiles.Writer
	m  memoryTiles
}

func (g *growing) append(ls []record.Hash) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.w == nil {
		g.w, g.m = tiles.NewWriter(), memoryTiles{}
	}
	for _, l := range ls {
		g.w.Append(l)
	}
	g.m.save(g.w)
}

func (g *growing) Tile(ctx context.Context, level uint, n uint64) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.m.Tile(ctx, level, n)
}

func benchmarkTree(b *testing.B, n int) *tiles.Cache {
	b.Helper()
	m, w := memoryTiles{}, tiles.NewWriter()
	for _, l := range leaves(n) {
		w.Append(l)
	}
	m.save(w)
	return tiles.NewCache(m, 1+2*n/tiles.Width)
}

const benchmarkSize = 1<<17 + 77

func BenchmarkInclusionProof(b *testing.B) {
	c := benchmarkTree(b, benchmarkSize)
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		var i uint64
		for b.Loop() {
			i = i*6364136223846793005 + 1442695040888963407
			if _, err := tiles.InclusionProof(context.Background(), c, i%benchmarkSize, benchmarkSize); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			i := rand.Uint64()
			for pb.Next() {
				i = i*6364136223846793005 + 1442695040888963407
				if _, err := tiles.InclusionProof(context.Background(), c, i%benchmarkSize, benchmarkSize); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// BenchmarkInclusionProofs makes a batch of 1000; an operation is one proof.
func BenchmarkInclusionProofs(b *testing.B) {
	c := benchmarkTree(b, benchmarkSize)
	indices := make([]uint64, 1000)
	b.ReportAllocs()
	for n := 0; n < b.N; n += len(indices) {
		for i := range indices {
			indices[i] = rand.Uint64N(benchmarkSize)
		}
		if _, err := tiles.InclusionProofs(context.Background(), c, indices, benchmarkSize); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkConsistencyProof(b *testing.B) {
	c := benchmarkTree(b, benchmarkSize)
	b.ReportAllocs()
	var i uint64
	for b.Loop() {
		i = i*6364136223846793005 + 1442695040888963407
		if _, err := tiles.ConsistencyProof(context.Background(), c, i%benchmarkSize, benchmarkSize); err != nil {
			b.Fatal(err)
		}
	}
}

// split is the largest power of two below n, which is above 1.
func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }
