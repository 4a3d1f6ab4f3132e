package tiles_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// memoryTiles is a tree kept as tiles in memory.
type memoryTiles map[[2]uint64][]byte

func (m memoryTiles) Tile(_ context.Context, level uint, n uint64) ([]byte, error) {
	t, ok := m[[2]uint64{uint64(level), n}]
	if !ok {
		return nil, fmt.Errorf("no tile %d/%d", level, n)
	}
	return t, nil
}

func (m memoryTiles) save(w *tiles.Writer) {
	for _, t := range append(w.Complete(), w.Partial()...) {
		m[[2]uint64{uint64(t.Level), t.N}] = t.Hashes
	}
}

func leaves(n int) []record.Hash {
	list := make([]record.Hash, n)
	for i := range list {
		list[i] = record.LeafHash(fmt.Append(nil, i))
	}
	return list
}

// naiveRoot is RFC 6962, section 2.1, word for word.
func naiveRoot(l []record.Hash) record.Hash {
	switch len(l) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return l[0]
	}
	k := split(len(l))
	left, right := naiveRoot(l[:k]), naiveRoot(l[k:])
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

// naivePath is RFC 6962, section 2.1.1, word for word.
func naivePath(m int, l []record.Hash) []record.Hash {
	if len(l) == 1 {
		return nil
	}
	if k := split(len(l)); m < k {
		return append(naivePath(m, l[:k]), naiveRoot(l[k:]))
	} else {
		return append(naivePath(m-k, l[k:]), naiveRoot(l[:k]))
	}
}

func split(n int) int {
	k := 1
	for 2*k < n {
		k *= 2
	}
	return k
}

func raw(hs []record.Hash) [][]byte {
	list := make([][]byte, len(hs))
	for i := range hs {
		list[i] = hs[i][:]
	}
	return list
}

// grown returns the tiles and the root of each size of one tree.
func grown(t *testing.T, n int) (memoryTiles, []record.Hash, []record.Hash) {
	t.Helper()
	m, w, ls := memoryTiles{}, tiles.NewWriter(), leaves(n)
	roots := []record.Hash{w.Root()}
	for _, l := range ls {
		w.Append(l)
		m.save(w)
		roots = append(roots, w.Root())
	}
	return m, ls, roots
}

func TestProofsExhaustive(t *testing.T) {
	const n = 600
	m, ls, roots := grown(t, n)
	for name, r := range map[string]tiles.Reader{"plain": m, "cache": tiles.NewCache(m, 100), "small cache": tiles.NewCache(m, 2)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for size := uint64(1); size <= n; size++ {
				// Every pair goes through the cache; the others, and the race
				// detector, are slower.
				if (name != "cache" || raceEnabled) && size > 70 && size%59 != 0 {
					continue
				}
				root, err := tiles.Root(context.Background(), r, size)
				if err != nil || root != roots[size] {
					t.Fatalf("root of %d = %v, %v; want %v", size, root, err, roots[size])
				}
				for i := range size {
					checkProofs(t, r, ls, roots, i, size)
				}
			}
		})
	}
}

// checkProofs checks the proof of a leaf, and that of a smaller tree.
func checkProofs(t *testing.T, r tiles.Reader, ls, roots []record.Hash, i, size uint64) {
	t.Helper()
	p, err := tiles.InclusionProof(context.Background(), r, i, size)
	if err == nil {
		err = proof.VerifyInclusion(rfc6962.DefaultHasher, i, size, ls[i][:], raw(p), roots[size][:])
	}
	if err != nil {
		t.Fatalf("inclusion of %d in %d: %v", i, size, err)
	}
	p, err = tiles.ConsistencyProof(context.Background(), r, i, size)
	if err == nil && i > 0 {
		err = proof.VerifyConsistency(rfc6962.DefaultHasher, i, size, raw(p), roots[i][:], roots[size][:])
	}
	if err != nil {
		t.Fatalf("consistency of %d and %d: %v", i, size, err)
	}
}

func TestAgainstNaiveTree(t *testing.T) {
	const n = 600
	m, ls, roots := grown(t, n)
	for _, size := range []int{0, 1, 2, 3, 5, 8, 127, 255, 256, 257, 300, 511, 512, 513, 600} {
		if want := naiveRoot(ls[:size]); roots[size] != want {
			t.Errorf("root of %d = %v, want %v", size, roots[size], want)
		}
		for i := 0; i < size; i += 1 + size/50 {
			p, err := tiles.InclusionProof(context.Background(), m, uint64(i), uint64(size))
			if want := naivePath(i, ls[:size]); err != nil || fmt.Sprint(p) != fmt.Sprint(want) {
				t.Errorf("path of %d in %d = %v, %v; want %v", i, size, p, err, want)
			}
		}
	}
}

func TestWriterRestoresAtEverySize(t *testing.T) {
	const n = 256*256 + 700 // three levels
	ctx := context.Background()
	ls := leaves(n)
	m, w := memoryTiles{}, tiles.NewWriter()
	for i, l := range ls {
		if i < 520 || i%256 < 2 && i > 256*255 || i%8191 == 0 {
			m.save(w)
			again, err := tiles.RestoreWriter(ctx, m, uint64(i))
			if err != nil {
				t.Fatalf("restoring at %d: %v", i, err)
			}
			if again.Root() != w.Root() || again.Size() != w.Size() || fmt.Sprint(again.Partial()) != fmt.Sprint(w.Partial()) {
				t.Fatalf("restored at %d: another tree", i)
			}
			w = again
		}
		w.Append(l)
	}
	m.save(w)
	if want := naiveRoot(ls); w.Root() != want {
		t.Errorf("root = %v, want %v", w.Root(), want)
	}
	for _, i := range []uint64{0, 255, 256, 65535, 65536, n - 1} {
		p, err := tiles.InclusionProof(ctx, m, i, n)
		if err != nil {
			t.Fatal(err)
		}
		root := w.Root()
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, n, ls[i][:], raw(p), root[:]); err != nil {
			t.Error(err)
		}
	}
}

func TestHandedOutTilesStay(t *testing.T) {
	w := tiles.NewWriter()
	ls := leaves(600)
	var seen []tiles.Tile
	var copies [][]byte
	for _, l := range ls {
		w.Append(l)
		for _, p := range w.Partial() {
			seen = append(seen, p)
			copies = append(copies, append([]byte(nil), p.Hashes...))
		}
	}
	for i := range seen {
		if string(seen[i].Hashes) != string(copies[i]) {
			t.Fatalf("tile %d/%d changed after it was handed out", seen[i].Level, seen[i].N)
		}
	}
}

func TestOutOfRange(t *testing.T) {
	m, _, _ := grown(t, 300)
	ctx := context.Background()
	if _, err := tiles.InclusionProof(ctx, m, 5, 5); !errors.Is(err, tiles.ErrRange) {
		t.Errorf("index = size: %v", err)
	}
	if _, err := tiles.ConsistencyProof(ctx, m, 6, 5); !errors.Is(err, tiles.ErrRange) {
		t.Errorf("from > to: %v", err)
	}
	for _, r := range []tiles.Reader{m, tiles.NewCache(m, 10)} {
		if _, err := tiles.InclusionProof(ctx, r, 290, 302); !errors.Is(err, tiles.ErrIncomplete) {
			t.Errorf("size beyond the tree: %v", err)
		}
	}
}

func TestPaths(t *testing.T) {
	for s, want := range map[string]tiles.Path{
		"tile/0/000":                               {Level: 0, N: 0, Width: 256},
		"tile/0/x001/x234/067":                     {Level: 0, N: 1234067, Width: 256},
		"tile/2/x001/x234/067.p/8":                 {Level: 2, N: 1234067, Width: 8},
		"tile/entries/x001/000.p/255":              {Entries: true, N: 1000, Width: 255},
		"tile/63/999":                              {Level: 63, N: 999, Width: 256},
		"tile/entries/x123/456":                    {Entries: true, N: 123456, Width: 256},
		"tile/1/x018/x446/x744/x073/x709/x551/615": {Level: 1, N: 18446744073709551615, Width: 256},
	} {
		got, err := tiles.ParsePath(s)
		if err != nil || got != want {
			t.Errorf("ParsePath(%q) = %+v, %v; want %+v", s, got, err, want)
		}
		if got.String() != s {
			t.Errorf("%+v is written %q, want %q", got, got.String(), s)
		}
	}
	for _, s := range []string{
		"", "tile", "tile/", "tile/0", "tile/0/", "tile/0/0", "tile/0/00", "tile/0/0000", "tile/00/000", "tile/64/000", "tile/-1/000", "tile/+1/000",
		"tile/0/x000/001", "tile/0/001/000", "tile/0/x001", "tile/0/x001/x000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/08",
		"tile/0/000.p/", "tile/0/000.p", "tile/0/000.p/+8", "tile/0/000/", "tile/0//000", "/tile/0/000", "tile/entries/000.p/1.p/1",
		"tile/0/x018/x446/x744/x073/x709/x551/616", "tile/data/000", "tile/0/0x0", "tile/0/00x", "tile/0/000.p/1 ", "tile/0/١٢٣",
	} {
		if p, err := tiles.ParsePath(s); !errors.Is(err, tiles.ErrPath) {
			t.Errorf("ParsePath(%q) = %+v, %v; want an error", s, p, err)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"tile/0/000", "tile/entries/x001/x234/067.p/8", "tile/0/x001", "tile/9/x18/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := tiles.ParsePath(s)
		if err == nil && (p.String() != s || p.Width < 1 || p.Width > 256 || p.Level > 63) {
			t.Errorf("ParsePath(%q) = %+v", s, p)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	w, l := tiles.NewWriter(), leaves(1)[0]
	for b.Loop() {
		w.Append(l)
		w.Complete()
	}
}

func BenchmarkInclusionProof(b *testing.B) {
	const n = 1 << 17
	m, w := memoryTiles{}, tiles.NewWriter()
	for _, l := range leaves(n + 77) {
		w.Append(l)
	}
	m.save(w)
	c := tiles.NewCache(m, 1024)
	var i uint64
	for b.Loop() {
		i = (i*6364136223846793005 + 1442695040888963407)
		if _, err := tiles.InclusionProof(context.Background(), c, i%n, n+77); err != nil {
			b.Fatal(err)
		}
	}
}
