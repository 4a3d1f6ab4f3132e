package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/sealtap/sealtap/record"
)

const (
	// TileWidth is the number of hashes in a full tile, and of entries in a full
	// bundle. (tlog-tiles, "Merkle Tree")
	TileWidth = 256

	maxCheckpoint = 1 << 20
	maxTile       = TileWidth * len(record.Hash{})
	maxBundle     = TileWidth * (2 + record.MaxEntry)

	// maxSize bounds tree sizes, so that arithmetic on them cannot overflow.
	maxSize = 1 << 56
)

// Reader gives what a log serves, unverified. *[Source] implements it. An error
// that does not wrap [ErrVerification] says that something could not be had. It
// may be called from several goroutines.
type Reader interface {
	// Checkpoint returns the newest signed checkpoint.
	Checkpoint(ctx context.Context) ([]byte, error)
	// Tile returns the first width hashes of tile n of a level.
	Tile(ctx context.Context, level uint, n uint64, width int) ([]byte, error)
	// Bundle returns the first width entries of bundle n, each behind its length.
	Bundle(ctx context.Context, n uint64, width int) ([]byte, error)
}

// Source reads a log without verifying anything.
type Source struct {
	location string
	fetcher  fetcher
	web      *web // nil if the log is a directory
	set      settings
}

// Open returns the source at location: an http or https URL, else the path of a
// directory. It does not contact the log.
func Open(location string, opts ...Option) (*Source, error) {
	s := &Source{location: location, set: settings{attempts: defaultAttempts, backoff: defaultBackoff, timeout: defaultTimeout}}
	for _, o := range opts {
		o(&s.set)
	}
	if !strings.Contains(location, "://") {
		if info, err := os.Stat(location); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("%w: %q is neither a URL nor a directory", ErrConfig, location)
		}
		s.fetcher = directory(location)
		return s, nil
	}
	u, err := url.Parse(location)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%w: %q is not the http or https URL of a log", ErrConfig, location)
	}
	if s.set.http == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 32
		// On one machine to compress costs more than to pass on.
		t.DisableCompression = u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
		s.set.http = &http.Client{Transport: t}
	}
	s.location = u.Redacted()
	s.web = &web{base: u, set: s.set}
	s.fetcher = s.web
	return s, nil
}

// String returns where the log is.
func (s *Source) String() string { return s.location }

// Checkpoint implements [Reader].
func (s *Source) Checkpoint(ctx context.Context) ([]byte, error) {
	b, err := s.fetcher.fetch(ctx, "checkpoint", maxCheckpoint, nil)
	if err != nil {
		return nil, fmt.Errorf("fetching checkpoint of %s: %w", s, err)
	}
	return b, nil
}

// Tile implements [Reader].
func (s *Source) Tile(ctx context.Context, level uint, n uint64, width int) ([]byte, error) {
	return s.TileInto(ctx, level, n, width, nil)
}

// TileInto is Tile with the memory of a buffer, if that is large enough.
func (s *Source) TileInto(ctx context.Context, level uint, n uint64, width int, buf []byte) ([]byte, error) {
	want := width * len(record.Hash{})
	b, full, err := s.fetch(ctx, strconv.FormatUint(uint64(level), 10), n, width, int64(maxTile), buf)
	if err == nil && full && len(b) > want {
		b = b[:want]
	}
	if err == nil && len(b) != want {
		err = fmt.Errorf("%w: it has %d bytes, not %d", ErrVerification, len(b), want)
	}
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", TilePath(fmt.Sprint(level), n, width), err)
	}
	return b, nil
}

// Bundle implements [Reader]. It cuts a full bundle down to the width, but does
// not otherwise look at what it got: see [SplitBundle].
func (s *Source) Bundle(ctx context.Context, n uint64, width int) ([]byte, error) {
	return s.BundleInto(ctx, n, width, nil)
}

// BundleInto is Bundle with the memory of a buffer, if that is large enough.
func (s *Source) BundleInto(ctx context.Context, n uint64, width int, buf []byte) ([]byte, error) {
	b, full, err := s.fetch(ctx, "entries", n, width, int64(maxBundle), buf)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", TilePath("entries", n, width), err)
	}
	if full && width < TileWidth {
		b = cutBundle(b, width)
	}
	return b, nil
}

// fetch gets a tile or bundle of at least the given width, and reports whether
// it got a full one: a server may delete partial ones once there is a full one.
// (tlog-tiles, "Partial Tiles")
func (s *Source) fetch(ctx context.Context, level string, n uint64, width int, limit int64, buf []byte) (b []byte, full bool, err error) {
	b, err = s.fetcher.fetch(ctx, TilePath(level, n, width), limit, buf)
	if width == TileWidth || !errors.Is(err, ErrNotFound) {
		return b, width == TileWidth, err
	}
	b, err = s.fetcher.fetch(ctx, TilePath(level, n, TileWidth), limit, buf)
	return b, true, err
}

// TilePath is the path of a tile: level is a number, or "entries".
// (tlog-tiles, "Merkle Tree")
func TilePath(level string, n uint64, width int) string {
	path := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	path = "tile/" + level + "/" + path
	if width != TileWidth {
		path += fmt.Sprintf(".p/%d", width)
	}
	return path
}

// SplitBundle cuts a bundle of width entries apart without copying. Where it is
// not one it returns the entries before the damage, and an error that wraps
// [ErrVerification]. (tlog-tiles, "Log Entries")
func SplitBundle(b []byte, width int) ([][]byte, error) {
	return SplitBundleInto(make([][]byte, 0, width), b, width)
}

// SplitBundleInto is SplitBundle with the memory of a slice that is there.
func SplitBundleInto(entries [][]byte, b []byte, width int) ([][]byte, error) {
	entries = entries[:0]
	for len(entries) < width {
		if len(b) < 2 {
			return entries, fmt.Errorf("%w: the bundle ends after %d of %d entries", ErrVerification, len(entries), width)
		}
		n := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+n {
			return entries, fmt.Errorf("%w: the bundle ends within entry %d of %d", ErrVerification, len(entries)+1, width)
		}
		entries = append(entries, b[2:2+n:2+n])
		b = b[2+n:]
	}
	if len(b) > 0 {
		return entries, fmt.Errorf("%w: %d bytes follow the %d entries of the bundle", ErrVerification, len(b), width)
	}
	return entries, nil
}

func cutBundle(b []byte, width int) []byte {
	end := 0
	for range width {
		if len(b) < end+2 {
			return b
		}
		end += 2 + int(binary.BigEndian.Uint16(b[end:]))
	}
	return b[:min(end, len(b))]
}

// width is the number of entries of bundle n in a tree of the given size.
func width(n, size uint64) int { return int(min(TileWidth, size-n*TileWidth)) }
