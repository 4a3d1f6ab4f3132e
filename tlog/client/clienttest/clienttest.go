// Package clienttest makes small logs in C2SP tlog-tiles form for tests, in
// which tests can then change any byte. Start with [Tiles].
package clienttest

import (
	"encoding/binary"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// Files are the resources of a log by their path, such as "tile/0/000.p/7".
type Files map[string][]byte

// Tiles returns the tiles and entry bundles of a log with these entries, of the
// widths that the last head needs and no others, and the root of its tree.
func Tiles(entries [][]byte) (Files, record.Hash) {
	files := make(Files)
	level := make([]record.Hash, len(entries))
	tree := record.NewTree()
	var bundle []byte
	for i, e := range entries {
		level[i] = record.LeafHash(e)
		tree.Append(level[i], nil)
		bundle = append(binary.BigEndian.AppendUint16(bundle, uint16(len(e))), e...)
		if width := i%client.TileWidth + 1; width == client.TileWidth || i == len(entries)-1 {
			files[client.TilePath("entries", uint64(i/client.TileWidth), width)] = bundle
			bundle = nil
		}
	}
	for l := 0; len(level) > 0; l++ {
		var above []record.Hash
		for n := 0; n < len(level); n += client.TileWidth {
			tile := level[n:min(n+client.TileWidth, len(level))]
			var raw []byte
			for _, h := range tile {
				raw = append(raw, h[:]...)
			}
			files[client.TilePath(strconv.Itoa(l), uint64(n/client.TileWidth), len(tile))] = raw
			if len(tile) == client.TileWidth {
				above = append(above, root(tile))
			}
		}
		level = above
	}
	return files, tree.Root()
}

func root(list []record.Hash) record.Hash {
	if len(list) == 1 {
		return list[0]
	}
	mid := len(list) / 2
	return record.Hash(tlog.NodeHash(tlog.Hash(root(list[:mid])), tlog.Hash(root(list[mid:]))))
}

// Clone returns a copy in which files can be exchanged.
func (f Files) Clone() Files { return maps.Clone(f) }

// ServeHTTP implements [http.Handler].
func (f Files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if b, ok := f[strings.TrimPrefix(r.URL.Path, "/")]; ok {
		_, _ = w.Write(b) // the client sees what is missing
		return
	}
	http.NotFound(w, r)
}

// RoundTrip implements [http.RoundTripper] without a socket.
func (f Files) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w.Result(), nil
}

// Source returns a source that reads the files through the HTTP client's code.
func (f Files) Source() *client.Source {
	s, err := client.Open("http://log.test", client.WithHTTPClient(&http.Client{Transport: f}), client.WithRetries(1, 0))
	if err != nil {
		panic(err) // never: the URL is good
	}
	return s
}

// WriteTo writes the files into a directory.
func (f Files) WriteTo(dir string) error {
	for path, b := range f {
		path = filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, b, fs.FileMode(0o644)); err != nil {
			return err
		}
	}
	return nil
}
