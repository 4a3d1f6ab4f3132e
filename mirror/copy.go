package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// parallel is how many bundles are fetched at a time.
const parallel = 8

// copying brings a directory from one size to another.
type copying struct {
	mirror *Mirror
	tree   *client.Tree // of the new head
	from   uint64       // entries that the directory's checkpoint covers
	size   uint64       // of the new head
	done   atomic.Uint64
}

func (c *copying) run(ctx context.Context) error {
	first := c.from / tileWidth
	if c.from == 0 {
		minimum, err := c.mirror.begin(ctx, c)
		if err != nil {
			return err
		}
		first = minimum / tileWidth
	}
	full := c.size / tileWidth
	c.done.Store(first * tileWidth)
	c.progress()
	for begin := first; begin < full; {
		end := min(begin-begin%tileWidth+tileWidth, full) // the bundles under one tile of level 1
		nodes, err := c.tree.Nodes(ctx, tileLevels, begin, end)
		if err != nil {
			return err
		}
		if err := c.bundles(ctx, begin, nodes); err != nil {
			return err
		}
		begin = end
	}
	if err := c.rest(ctx); err != nil {
		return err
	}
	return c.above(ctx)
}

func (c *copying) progress() {
	if f := c.mirror.cfg.Progress; f != nil {
		f(c.done.Load(), c.size)
	}
}

// bundles copies complete bundles, each of which hashes to the node that was
// proven for it.
func (c *copying) bundles(ctx context.Context, first uint64, nodes []record.Hash) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, want := range nodes {
		g.Go(func() error {
			err := c.bundle(ctx, first+uint64(i), want)
			if err == nil {
				c.done.Add(tileWidth)
			}
			return err
		})
		if ctx.Err() != nil {
			break
		}
		c.progress()
	}
	err := g.Wait()
	c.progress()
	return err
}

// bundle copies a complete bundle with the tile of its leaf hashes. What a former
// attempt left is used if it is right.
func (c *copying) bundle(ctx context.Context, n uint64, want record.Hash) error {
	m, name := c.mirror, client.TilePath("entries", n, tileWidth)
	raw, err := readRegular(m.path(name))
	if err == nil {
		if _, leaves, err := client.BundleLeaves(raw, tileWidth); err == nil && client.Subtree(leaves) == want {
			return m.write(client.TilePath("0", n, tileWidth), join(leaves))
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading mirror: %w", err)
	}
	if raw, err = m.src.Bundle(ctx, n, tileWidth); err != nil {
		return err
	}
	_, leaves, err := client.BundleLeaves(raw, tileWidth)
	if err == nil && client.Subtree(leaves) != want {
		err = fmt.Errorf("%w: its entries do not hash to what stands under the checkpoint", client.ErrVerification)
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", name, m.cfg.Source, err)
	}
	return errors.Join(m.write(name, raw), m.write(client.TilePath("0", n, tileWidth), join(leaves)))
}

// rest copies the bundle that is not complete.
func (c *copying) rest(ctx context.Context) error {
	n, width := c.size/tileWidth, int(c.size%tileWidth)
	if width == 0 {
		return nil
	}
	want, err := c.tree.Leaves(ctx, n*tileWidth, c.size)
	if err != nil {
		return err
	}
	m, name := c.mirror, client.TilePath("entries", n, width)
	raw, err := m.src.Bundle(ctx, n, width)
	if err != nil {
		return err
	}
	_, leaves, err := client.BundleLeaves(raw, width)
	for i := range leaves {
		if err == nil && leaves[i] != want[i] {
			err = fmt.Errorf("%w: entry %d does not hash to what stands under the checkpoint", client.ErrVerification, n*tileWidth+uint64(i))
		}
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", name, m.cfg.Source, err)
	}
	c.done.Add(uint64(width))
	c.progress()
	return errors.Join(m.write(name, raw), m.write(client.TilePath("0", n, width), join(leaves)))
}

// above writes the tiles of the levels above the leaves that have grown.
func (c *copying) above(ctx context.Context) error {
	for level := uint(1); c.size>>(tileLevels*level) > 0; level++ {
		nodes := c.size >> (tileLevels * level)
		for n := (c.from >> (tileLevels * level)) / tileWidth; n*tileWidth < nodes; n++ {
			end := min((n+1)*tileWidth, nodes)
			hashes, err := c.tree.Nodes(ctx, tileLevels*level, n*tileWidth, end)
			if err != nil {
				return err
			}
			if err := c.mirror.write(client.TilePath(strconv.Itoa(int(level)), n, int(end-n*tileWidth)), join(hashes)); err != nil {
				return err
			}
		}
	}
	return nil
}

// tidy removes the partial tiles of tiles that are complete by now, as the
// format allows (tlog-tiles, "Partial Tiles"). Smaller ones of a tile that still
// grows stay, for those who read under an older checkpoint.
func (c *copying) tidy() {
	for level := uint(0); c.size>>(tileLevels*level) > 0; level++ {
		n := (c.from >> (tileLevels * level)) / tileWidth
		if (n+1)*tileWidth > c.size>>(tileLevels*level) {
			continue
		}
		names := []string{strconv.Itoa(int(level))}
		if level == 0 {
			names = append(names, "entries")
		}
		for _, name := range names {
			_ = os.RemoveAll(c.mirror.path(client.TilePath(name, n, tileWidth) + ".p")) // it takes a little room if it stays
		}
	}
}

func join(hashes []record.Hash) []byte {
	b := make([]byte, 0, len(hashes)*len(record.Hash{}))
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return b
}

// write puts a file in its place, whole or not at all. It is durable once syncFS
// returns.
func (m *Mirror) write(name string, data []byte) error {
	to := m.path(name)
	if old, err := readRegular(to); err == nil && bytes.Equal(old, data) {
		return nil
	}
	part := filepath.Join(filepath.Dir(to), ".new-"+path.Base(name))
	err := os.WriteFile(part, data, 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(to), 0o755); err == nil {
			err = os.WriteFile(part, data, 0o644)
		}
	}
	if err == nil {
		err = os.Rename(part, to)
	}
	if err != nil {
		_ = os.Remove(part)
		return fmt.Errorf("writing mirror: %w", err)
	}
	return nil
}

// syncFS makes everything durable that was written to the file system of the
// directory: thousands of files at once, which costs less than one at a time.
func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("writing mirror: %w", err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("making the mirror durable: %w", err)
	}
	return nil
}
