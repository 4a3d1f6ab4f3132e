package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// tilePath is where complete tile n of level 0 stands.
func tilePath(n uint64) string { return tiles.Path{N: n, Width: tiles.Width}.String() }

// tilesRow compares the log's tiles with the same tiles as files.
func (b *bench) tilesRow(ctx context.Context) (err error) {
	size, err := b.fill(ctx)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "tiles")
	complete := size / tiles.Width
	for n := range complete {
		tile, err := stack.Fetch(ctx, b.ledger.logURL()+"/"+tilePath(n))
		if err != nil {
			return err
		}
		path := filepath.Join(dir, tilePath(n))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, tile, 0o644); err != nil {
			return err
		}
	}
	files, addr, err := start(roleFiles, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, files.Stop()) }()
	var ours, theirs, ratios []float64
	for round := range b.rounds {
		var got [2]float64
		for i := range 2 {
			i = (i + round) % 2
			s := loadSpec{Addr: []string{b.ledger.conf.Log.Listen, addr}[i], Conns: 64, Tiles: complete, Warmup: b.warm, Duration: b.load / 2}
			r, err := ask[loadResult](roleLoad, s)
			if err != nil {
				return err
			}
			got[i] = r.rate()
		}
		ours, theirs, ratios = append(ours, got[0]), append(theirs, got[1]), append(ratios, got[0]/got[1])
		b.say("tiles, round %d: sealtap %s, files %s", round+1, perSecond(got[0]), perSecond(got[1]))
	}
	b.add(row{what: "tiles over HTTP, vs Go FileServer", ours: perSecond(median(ours)), peer: perSecond(median(theirs)), result: ratios, goal: 1.5})
	return nil
}

// serveFiles is the file server that tiles are compared with.
func serveFiles(ln net.Listener, dir string) error {
	srv := &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: 10 * time.Second}
	return srv.Serve(ln)
}
