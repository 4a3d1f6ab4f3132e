package tlog_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// countingBundles counts the bundles that are read.
type countingBundles struct {
	storage.Log
	read *atomic.Int64
}

func (c countingBundles) Bundle(ctx context.Context, n uint64) ([]byte, error) {
	c.read.Add(1)
	return c.Log.Bundle(ctx, n)
}

// TestGzippedBundlesAreKept: a complete bundle is read and compressed once, as long
// as there is memory for it, and is the same each time.
func TestGzippedBundlesAreKept(t *testing.T) {
	f := newFixture(t).start()
	p := f.producer("proxy-1")
	f.mustSubmit(p.batch(300)...)
	f.published(303)
	for cacheBytes, want := range map[int]int64{0: 1, 1000: 4} {
		read := new(atomic.Int64)
		f.config = func(c *tlog.Config) { c.CacheBytes, c.Storage = cacheBytes, countingBundles{c.Storage, read} }
		f.restart() // the newest bundles are not in memory after that
		url := f.serve().URL + "/tile/entries/000"
		_, plain := call(t, "GET", url, nil, "Accept-Encoding: identity")
		before := read.Load()
		var first []byte
		for i := range 4 {
			resp, body := call(t, "GET", url, nil, "Accept-Encoding: gzip")
			if i == 0 {
				first = body
			}
			if resp.StatusCode != 200 || resp.Header.Get("Content-Encoding") != "gzip" || !bytes.Equal(body, first) || !bytes.Equal(decoded(t, resp, body), plain) {
				t.Errorf("time %d: %s %v, %d bytes", i, resp.Status, resp.Header, len(body))
			}
			checkImmutable(t, resp, body, "Accept-Encoding: gzip")
		}
		// checkImmutable asks again.
		if n := read.Load() - before; want == 1 && n != 1 || want > 1 && n < want {
			t.Errorf("with %d bytes of cache the bundle was read %d times", cacheBytes, n)
		}
	}
}

// BenchmarkTile serves complete tiles to connections that wait for each answer, as
// the command does, and the same tiles as files by http.FileServer.
func BenchmarkTile(b *testing.B) {
	f := newFixture(b).start()
	p := f.producer("proxy-1")
	for range 30 {
		f.mustSubmit(p.batch(1000)...)
	}
	f.published(f.log.Size())
	n, url, dir := f.log.Size()/tiles.Width, f.listen(), b.TempDir()
	for i := range n {
		path := tiles.Path{N: i, Width: tiles.Width}.String()
		resp, err := http.Get(url + "/" + path)
		if err != nil {
			b.Fatal(err)
		}
		tile, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, path), tile, 0o600)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	files := &http.Server{Handler: http.FileServer(http.Dir(dir))}
	go files.Serve(ln)
	b.Cleanup(func() { files.Close() })
	b.Run("log", func(b *testing.B) { getTiles(b, url[len("http://"):], n) })
	b.Run("files", func(b *testing.B) { getTiles(b, ln.Addr().String(), n) })
}

func getTiles(b *testing.B, addr string, n uint64) {
	b.SetParallelism(8)
	b.ReportAllocs() // the client makes none but its first ones
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		var list [][]byte
		for range 256 {
			list = append(list, fmt.Appendf(nil, "GET /%s HTTP/1.1\r\nHost: %s\r\n\r\n", tiles.Path{N: rand.Uint64N(n), Width: tiles.Width}, addr))
		}
		r := bufio.NewReaderSize(conn, 16<<10)
		for i := 0; pb.Next(); i++ {
			if _, err = conn.Write(list[i%len(list)]); err != nil {
				break
			}
			for line := []byte(nil); err == nil && len(line) != 2; { // the headers
				line, err = r.ReadSlice('\n')
			}
			if err == nil {
				_, err = r.Discard(tiles.Size)
			}
			if err != nil {
				break
			}
		}
		if err != nil {
			b.Error(err)
		}
	})
}
