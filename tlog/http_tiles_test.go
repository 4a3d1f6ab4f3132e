package tlog_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	sumdb "golang.org/x/mod/sumdb/tlog"

	"github.com/sealtap/sealtap/record"
)

// decoded returns a body without its coding, by decoders that are not ours.
func decoded(t *testing.T, resp *http.Response, body []byte) []byte {
	t.Helper()
	var r io.Reader
	var err error
	switch resp.Header.Get("Content-Encoding") {
	case "":
		return body
	case "zstd":
		r, err = zstd.NewReader(bytes.NewReader(body))
	case "gzip":
		r, err = gzip.NewReader(bytes.NewReader(body))
	default:
		t.Fatalf("coding %q", resp.Header.Get("Content-Encoding"))
	}
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// TestCodedBundles: the entries are the same in every coding, complete or not,
// and each answer can be validated by an entity tag of its own.
func TestCodedBundles(t *testing.T) {
	f := newFixture(t).start()
	server := f.serve()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(300)...)
	f.published(303)
	for _, path := range []string{"/tile/entries/000", "/tile/entries/000.p/1", "/tile/entries/000.p/255", "/tile/entries/001.p/5", "/tile/entries/001.p/47"} {
		_, plain := call(t, "GET", server.URL+path, nil, "Accept-Encoding: identity")
		tags := make(map[string]string)
		for accept, want := range map[string]string{"zstd": "zstd", "gzip, zstd;q=0.5": "gzip", "gzip": "gzip", "identity": "", "zstd;q=0": ""} {
			resp, body := call(t, "GET", server.URL+path, nil, "Accept-Encoding: "+accept)
			if got := resp.Header.Get("Content-Encoding"); resp.StatusCode != 200 || got != want || !bytes.Equal(decoded(t, resp, body), plain) {
				t.Errorf("%s as %s: %s, coding %q, or other entries", path, accept, resp.Status, got)
			}
			checkImmutable(t, resp, body, "Accept-Encoding: "+accept)
			if resp.Header.Get("Vary") != "Accept-Encoding" {
				t.Errorf("%s as %s varies with %q", path, accept, resp.Header.Get("Vary"))
			}
			if tag := resp.Header.Get("ETag"); tags[want] != "" && tags[want] != tag {
				t.Errorf("%s as %q has tags %s and %s", path, want, tag, tags[want])
			}
			tags[want] = resp.Header.Get("ETag")
		}
		if tags[""] == tags["gzip"] || tags[""] == tags["zstd"] || tags["gzip"] == tags["zstd"] {
			t.Errorf("%s: one tag for two codings: %v", path, tags)
		}
		// A tag of another coding is not what this one would be answered with.
		resp, _ := call(t, "GET", server.URL+path, nil, "Accept-Encoding: gzip", "If-None-Match: "+tags["zstd"])
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s for the tag of another coding", path, resp.Status)
		}
		resp, body := call(t, "GET", server.URL+path, nil, "Accept-Encoding: identity;q=0, br")
		checkProblem(t, resp, body, 406)
		checkNotKept(t, resp)
	}
	for _, path := range []string{"/tile/entries/001", "/tile/entries/009"} {
		for _, accept := range []string{"zstd", "gzip", "identity;q=0"} {
			resp, body := call(t, "GET", server.URL+path, nil, "Accept-Encoding: "+accept)
			checkProblem(t, resp, body, 404)
			checkNotKept(t, resp)
		}
	}
}

// checkImmutable checks the fields of an answer with a tile or a bundle, that HEAD
// has the same ones, and that its tag makes another request cheap.
func checkImmutable(t *testing.T, resp *http.Response, body []byte, header ...string) {
	t.Helper()
	url := resp.Request.URL.String()
	tag, cache := resp.Header.Get("ETag"), resp.Header.Get("Cache-Control")
	if !strings.HasPrefix(tag, `"`) || !strings.HasSuffix(tag, `"`) || len(tag) < 18 {
		t.Errorf("%s: ETag %s", url, tag)
	}
	if !strings.Contains(cache, "immutable") || !strings.Contains(cache, "max-age=31536000") || resp.ContentLength != int64(len(body)) {
		t.Errorf("%s: Cache-Control %q, Content-Length %d of %d", url, cache, resp.ContentLength, len(body))
	}
	head, nothing := call(t, "HEAD", url, nil, header...)
	head.Header.Del("Date")
	want := resp.Header.Clone()
	want.Del("Date")
	if len(nothing) > 0 || head.StatusCode != resp.StatusCode || fmt.Sprint(head.Header) != fmt.Sprint(want) {
		t.Errorf("HEAD %s: %s %v, GET: %v", url, head.Status, head.Header, want)
	}
	for _, method := range []string{"GET", "HEAD"} {
		for _, field := range []string{tag, "W/" + tag, `"other", ` + tag, "*"} {
			again, nothing := call(t, method, url, nil, append(header, "If-None-Match: "+field)...)
			if again.StatusCode != http.StatusNotModified || len(nothing) > 0 || again.Header.Get("ETag") != tag ||
				again.Header.Get("Cache-Control") != cache || again.Header.Get("Vary") != resp.Header.Get("Vary") {
				t.Errorf("%s %s with If-None-Match %s: %s %v", method, url, field, again.Status, again.Header)
			}
		}
	}
	if other, _ := call(t, "GET", url, nil, append(header, `If-None-Match: "other"`)...); other.StatusCode != http.StatusOK {
		t.Errorf("%s with another tag: %s", url, other.Status)
	}
}

// checkNotKept checks that nobody caches an error: what is not there yet will be.
func checkNotKept(t *testing.T, resp *http.Response) {
	t.Helper()
	if resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("ETag") != "" || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%s: %s with %v", resp.Request.URL, resp.Status, resp.Header)
	}
}

// sizedTiles reads the tiles of a tree of one size. What it fetched it knows.
type sizedTiles struct {
	httpTiles
	known map[string][]byte
}

func (s sizedTiles) ReadTiles(list []sumdb.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range list {
		if s.known[tile.Path()] == nil {
			data, err := s.httpTiles.ReadTiles([]sumdb.Tile{tile})
			if err != nil {
				return nil, err
			}
			s.known[tile.Path()] = data[0]
		}
		all = append(all, s.known[tile.Path()])
	}
	return all, nil
}

// TestEverySizeIsServed: the tiles of every size that could have been published
// are there, complete or not, and the Go checksum database's client finds the root
// of that size in them; the last entry of each is in its bundle.
func TestEverySizeIsServed(t *testing.T) {
	f := newFixture(t).start()
	server := f.serve()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(600)...)
	size := f.log.Size()
	f.published(size)
	known := make(map[string][]byte)
	tree := record.NewTree()
	var bundles [][]byte
	for n := uint64(0); n*256 < size; n++ {
		path := fmt.Sprintf("/tile/entries/%03d", n)
		if left := size - n*256; left < 256 {
			path += fmt.Sprintf(".p/%d", left)
		}
		_, b := call(t, "GET", server.URL+path, nil)
		bundles = append(bundles, b)
	}
	for i := range size {
		leaf := leafIn(bundles[i/256], i%256)
		tree.Append(record.Hash(leaf), nil)
		now := sumdb.Tree{N: int64(i + 1), Hash: sumdb.Hash(tree.Root())}
		reader := sumdb.TileHashReader(now, sizedTiles{httpTiles{t, server.URL}, known})
		hashes, err := reader.ReadHashes([]int64{sumdb.StoredHashIndex(0, int64(i))})
		if err != nil || hashes[0] != leaf {
			t.Fatalf("size %d: %v", now.N, err)
		}
		if width := (i + 1) % 256; width > 0 {
			resp, b := call(t, "GET", fmt.Sprintf("%s/tile/entries/%03d.p/%d", server.URL, i/256, width), nil, "Accept-Encoding: identity")
			if resp.StatusCode != 200 || !bytes.HasPrefix(bundles[i/256], b) || leafIn(b, i%256) != leaf {
				t.Fatalf("bundle of size %d: %s", now.N, resp.Status)
			}
		}
	}
	for _, path := range []string{
		fmt.Sprintf("tile/0/002.p/%d", size%256+1), "tile/0/002", "tile/0/003.p/1", "tile/1/000.p/3", "tile/1/000", "tile/2/000.p/1", "tile/7/000.p/1",
		"tile/8/000.p/1", "tile/63/000", "tile/64/000", "tile/0/000.p/256", "tile/0/000.p/0", "tile/0/000.p/-1", "tile/entries/000.p/257", "tile/0/x000/000",
		"tile/0/0000", "tile/-1/000", "tile/0", "tile/", "tile/entries/", "tile/0/000/", "tile/8/0/000", "tile/0/x018/x446/x744/x073/x709/x551/615",
	} {
		resp, body := call(t, "GET", server.URL+"/"+path, nil, "If-None-Match: *")
		checkProblem(t, resp, body, 404)
		checkNotKept(t, resp)
	}
	for _, path := range []string{"tile/0/000", "tile/0/000.p/9", "tile/1/000.p/1", "tile/1/000.p/2"} {
		resp, body := call(t, "GET", server.URL+"/"+path, nil)
		checkImmutable(t, resp, body)
		if resp.Header.Get("Content-Type") != "application/octet-stream" || resp.Header.Get("Vary") != "" {
			t.Errorf("%s: %v", path, resp.Header)
		}
	}
}

// leafIn is the leaf hash of an entry of a bundle, by the checksum database.
func leafIn(bundle []byte, i uint64) sumdb.Hash {
	for range i {
		bundle = bundle[2+int(bundle[0])<<8+int(bundle[1]):]
	}
	return sumdb.RecordHash(bundle[2 : 2+int(bundle[0])<<8+int(bundle[1])])
}
