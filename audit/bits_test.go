package audit_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// flip returns a copy with one bit changed.
func flip(b []byte, bit int) []byte {
	b = append([]byte(nil), b...)
	b[bit/8] ^= 1 << (bit % 8)
	return b
}

// stride is how far apart flipped bits are: each bit in the long tests; in the
// short ones one in every byte, another one each time.
func stride() int {
	if testing.Short() {
		return 9
	}
	return 1
}

// parallel calls fn with 0 to n-1, on a few goroutines.
func parallel(n int, fn func(i int)) {
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			for i := k; i < n; i += 4 {
				fn(i)
			}
		})
	}
	wg.Wait()
}

// TestEveryBit flips the bits of everything that a small log serves.
func TestEveryBit(t *testing.T) {
	w := newWorld(t)
	p := w.producer("p")
	p.request("/a")
	p.stop()
	p.seal()
	good := w.publish()
	for path, b := range good {
		parallel(len(b)*8/stride(), func(i int) {
			bit := i * stride()
			files := good.Clone()
			files[path] = flip(b, bit)
			if r := w.audit(files, audit.Options{}); r.Verdict != audit.Fail {
				t.Errorf("%s, bit %d of byte %d: %s", path, bit%8, bit/8, r.Text())
			}
		})
	}
}

// TestAlteredPlaces: what was altered is named, and nothing else is accused.
func TestAlteredPlaces(t *testing.T) {
	w := newWorld(t)
	p := w.producer("p")
	for i := range 700 {
		p.request(fmt.Sprintf("/%d", i))
		if i%100 == 99 {
			p.seal()
		}
	}
	p.stop()
	p.seal()
	good := w.publish()
	for index, e := range w.entries {
		kind, _, _ := record.Split(e)
		if index%37 != 0 && kind == record.KindRecord || index < 2 {
			continue
		}
		n := uint64(index / client.TileWidth)
		path := bundlePath(n, len(w.entries))
		at := 0 // of the entry in its bundle
		for _, before := range w.entries[n*client.TileWidth : index] {
			at += 2 + len(before)
		}
		files := good.Clone()
		files[path] = flip(good[path], 8*(at+2+len(e)-1)) // the last byte of the entry
		r := w.audit(files, audit.Options{})
		if codes(r) != "entry-altered" || *r.Findings[0].Index != uint64(index) {
			t.Fatalf("entry %d (%s): %s", index, kind, r.Text())
		}
		if kind == record.KindRecord {
			parsed, err := record.Parse(e)
			if err != nil {
				t.Fatal(err)
			}
			x := r.Findings[0]
			if x.Producer != "p" || x.Sequence == nil || *x.Sequence != parsed.Record.GetSequence() || !strings.Contains(x.Detail, "it was the record") {
				t.Errorf("entry %d: %s", index, r.Text())
			}
		}
	}
	for _, path := range []string{"tile/0/000", "tile/0/001", "tile/0/002" + partial(len(w.entries)), "tile/1/000.p/2"} {
		files := good.Clone()
		files[path] = flip(good[path], 300)
		if r := w.audit(files, audit.Options{}); codes(r) != "tile-altered" {
			t.Errorf("%s: %s", path, r.Text())
		}
	}
	// An entry and its tile altered to match each other.
	files := good.Clone()
	files["tile/entries/001"] = flip(good["tile/entries/001"], 8*40)
	entries, err := client.SplitBundle(files["tile/entries/001"], client.TileWidth)
	if err != nil {
		t.Fatal(err)
	}
	h := record.LeafHash(entries[0])
	files["tile/0/001"] = append(h[:], good["tile/0/001"][len(h):]...)
	if r := w.audit(files, audit.Options{}); !strings.HasPrefix(codes(r), "root-mismatch") || !strings.Contains(r.Text(), "256 to 511") {
		t.Error(r.Text())
	}
	// Bytes behind the last entry of a bundle.
	files = good.Clone()
	files["tile/entries/001"] = append(slices.Clone(good["tile/entries/001"]), 0)
	if r := w.audit(files, audit.Options{}); codes(r) != "entry-altered" || !strings.Contains(r.Text(), "tile/entries/001 has been altered") {
		t.Error(r.Text())
	}
	// A length that swallows the rest of its bundle.
	files = good.Clone()
	files["tile/entries/001"] = flip(good["tile/entries/001"], 7)
	if r := w.audit(files, audit.Options{}); r.Verdict != audit.Fail || r.Findings[0].Code != audit.EntryAltered || *r.Findings[0].Index != 256 {
		t.Error(r.Text())
	}
}

func partial(size int) string {
	if w := size % client.TileWidth; w > 0 {
		return fmt.Sprintf(".p/%d", w)
	}
	return ""
}

func bundlePath(n uint64, size int) string {
	return client.TilePath("entries", n, min(client.TileWidth, size-int(n)*client.TileWidth))
}

// TestHighTiles: a log of two levels of full tiles and a third one.
func TestHighTiles(t *testing.T) {
	if testing.Short() {
		t.Skip("66,000 records")
	}
	w := newWorld(t)
	p := w.producer("p")
	for range 66_000 {
		p.request("/")
	}
	p.stop()
	p.seal()
	good := w.publish()
	if r := w.audit(good, audit.Options{}); r.Verdict != audit.Pass || len(r.Findings) > 0 || r.Checked.Tiles != 258+3 {
		t.Fatalf("%s\n%+v", r.Text(), r.Checked)
	}
	for path, want := range map[string]string{"tile/1/000": "entries 256 to 511", "tile/1/001.p/1": "entries 65536 to 65791", "tile/2/000.p/1": "entries 0 to 65535"} {
		files := good.Clone()
		bit := 0
		if path == "tile/1/000" {
			bit = 8 * 33
		}
		files[path] = flip(good[path], bit)
		if r := w.audit(files, audit.Options{}); codes(r) != "tile-altered" || !strings.Contains(r.Text(), want) {
			t.Errorf("%s: %s", path, r.Text())
		}
	}
	// A hole wider than what can wait for it.
	w.without(100)
	r := w.audit(w.publish(), audit.Options{})
	if codes(r) != "record-missing" || *r.Findings[0].Sequence != 98 {
		t.Error(r.Text())
	}
}

// TestAlteredKeys: where a statement about keys cannot be read, those whom it
// may have enrolled are not accused.
func TestAlteredKeys(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"p", "q"} {
		p := w.producer(name)
		p.request("/")
		p.stop()
		p.seal()
	}
	good := w.publish()
	path, at := bundlePath(0, len(w.entries)), 0
	for index, e := range w.entries {
		at += 2 + len(e)
		if kind, _, _ := record.Split(e); kind != record.KindGenesis && kind != record.KindKeyChange {
			continue
		}
		files := good.Clone()
		files[path] = flip(good[path], 8*(at-20))
		if r := w.audit(files, audit.Options{}); codes(r) != "entry-altered" || *r.Findings[0].Index != uint64(index) {
			t.Errorf("entry %d: %s", index, r.Text())
		}
	}
}
