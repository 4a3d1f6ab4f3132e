package tiles_test

import (
	"context"
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

func raw(hs []record.Hash) [][]byte {
	list := make([][]byte, len(hs))
	for i := range hs {
		list[i] = hs[i][:]
	}
	return list
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
	if want := newNaive(ls).root(0, n); w.Root() != want {
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
	m, _ := grown(300)
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
