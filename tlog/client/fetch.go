package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultAttempts = 5
	defaultBackoff  = 200 * time.Millisecond
	defaultTimeout  = 30 * time.Second
	maxPause        = 10 * time.Second // between two attempts, whatever the server asks for
	maxProblem      = 64 << 10
)

// fetcher gets the bytes of one resource of a log, at most limit of them. It may use
// the memory of a buffer.
type fetcher interface {
	fetch(ctx context.Context, path string, limit int64, buf []byte) ([]byte, error)
}

// directory is a log on disk.
type directory string

// fetch implements [fetcher]. Paths are made by this package only.
func (d directory) fetch(ctx context.Context, path string, limit int64, buf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	// Whoever made the directory could have put a pipe there that never opens.
	f, err := os.OpenFile(filepath.Join(string(d), filepath.FromSlash(path)), os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %w: %w", ErrUnavailable, ErrNotFound, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: it is no regular file", path, ErrUnavailable)
	}
	b, err := readLimited(f, limit, info.Size(), buf)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

// web is a log behind a URL.
type web struct {
	base *url.URL
	set  settings
}

// request describes one HTTP request to the log.
type request struct {
	method      string
	path        string // relative to the base URL
	query       url.Values
	contentType string
	body        []byte
	limit       int64  // of the answer
	buf         []byte // whose memory the answer may have
	once        bool   // no second attempt
}

// fetch implements [fetcher].
func (w *web) fetch(ctx context.Context, path string, limit int64, buf []byte) ([]byte, error) {
	b, err := w.do(ctx, request{method: http.MethodGet, path: path, limit: limit, buf: buf})
	var p *Problem
	if errors.As(err, &p) && !errors.Is(err, ErrUnavailable) {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err) // a tile that is refused cannot be had
	}
	return b, err
}

// do makes the request, again and again where another attempt may help, and
// returns the body of the answer. An answer other than 200 is a [*Problem].
func (w *web) do(ctx context.Context, r request) ([]byte, error) {
	attempts := w.set.attempts
	if r.once {
		attempts = 1
	}
	for i := 0; ; i++ {
		b, err := w.attempt(ctx, r)
		var p *Problem
		if err == nil || i+1 >= attempts || ctx.Err() != nil || !errors.Is(err, ErrUnavailable) || errors.As(err, &p) && !p.temporary() {
			return b, err
		}
		pause := w.pause(i, err)
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}

// pause returns how long to wait after attempt i: at least what the server asks
// for, and never in step with other clients.
func (w *web) pause(i int, err error) time.Duration {
	d := w.set.backoff << min(i, 16)
	d = d/2 + rand.N(d/2+1)
	var p *Problem
	if errors.As(err, &p) {
		d = max(d, p.RetryAfter)
	}
	return min(d, maxPause)
}

func (w *web) attempt(ctx context.Context, r request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, w.set.timeout)
	defer cancel()
	u := w.base.JoinPath(r.path)
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	req.Header.Set("User-Agent", "sealtap")
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if w.set.token != "" {
		req.Header.Set("Authorization", "Bearer "+w.set.token)
	}
	resp, err := w.set.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, readProblem(resp)
	}
	b, err := readLimited(resp.Body, r.limit, resp.ContentLength, r.buf)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, u.Redacted(), err)
	}
	return b, nil
}

// readLimited reads everything, which is about size bytes if size is above 0. A
// longer answer than anything good can be is an error of verification: it came,
// and is not what was promised.
func readLimited(r io.Reader, limit, size int64, buf []byte) ([]byte, error) {
	b := bytes.NewBuffer(buf[:0])
	if size > 0 && size <= limit {
		b.Grow(int(size) + bytes.MinRead) // or else it grows once more to see the end
	}
	if _, err := b.ReadFrom(io.LimitReader(r, limit+1)); err != nil {
		return nil, fmt.Errorf("%w: reading answer: %w", ErrUnavailable, err)
	}
	if int64(b.Len()) > limit {
		return nil, fmt.Errorf("%w: the answer is longer than %d bytes", ErrVerification, limit)
	}
	return b.Bytes(), nil
}

// retryAfter reads the header field in its form of seconds.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}
