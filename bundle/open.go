package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Is reports whether there is what looks like a bundle at a path: an archive whose
// first member is the manifest, or a directory with one in it.
func Is(path string) bool {
	st, err := os.Stat(path)
	if err != nil {
		return false
	}
	if st.IsDir() {
		st, err := os.Lstat(filepath.Join(path, ManifestName))
		return err == nil && !st.IsDir()
	}
	if !st.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	start := make([]byte, len(ManifestName)+1)
	_, err = io.ReadFull(f, start)
	return err == nil && string(start) == ManifestName+"\x00"
}

// files gives the members of a bundle, in the order of its manifest. Nothing is ever
// written anywhere, and no name in a bundle is used for more than to compare it.
type files interface {
	// manifest returns the bytes of the manifest.
	manifest() ([]byte, error)
	// next opens the member that comes next, of which the manifest says this much.
	next(m Member) (io.Reader, error)
	// end checks that there is nothing else.
	end(m *Manifest) error
	io.Closer
}

func open(path string) (files, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		root, err := os.OpenRoot(path)
		if err != nil {
			return nil, err
		}
		return &directory{root: root}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &archive{r: f, close: f.Close}, nil
}

// directory is a bundle that lies unpacked.
type directory struct {
	root *os.Root
	last *os.File // the member that was opened last
}

func (d *directory) manifest() ([]byte, error) {
	r, size, err := d.open(ManifestName)
	if err != nil {
		return nil, err
	}
	if size > maxManifest {
		return nil, fmt.Errorf("%w: the manifest has %d bytes", ErrMalformed, size)
	}
	return io.ReadAll(io.LimitReader(r, maxManifest+1))
}

// open opens a regular file in the directory, and neither a link nor a pipe that
// never opens.
func (d *directory) open(name string) (io.Reader, int64, error) {
	_ = d.release()
	st, err := d.root.Lstat(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, fmt.Errorf("%w: %s is missing", ErrMalformed, name)
	}
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%w: %s is no regular file", ErrMalformed, name)
	}
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, err
	}
	d.last = f
	if st, err = f.Stat(); err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is no regular file", ErrMalformed, name)
	}
	if err != nil {
		return nil, 0, err
	}
	return f, st.Size(), nil
}

func (d *directory) next(m Member) (io.Reader, error) {
	r, size, err := d.open(m.Name)
	if err == nil && size != m.Size {
		err = fmt.Errorf("%w: %s has %d bytes, the manifest says %d", ErrMalformed, m.Name, size, m.Size)
	}
	return r, err
}

func (d *directory) end(m *Manifest) error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	list, err := f.ReadDir(len(m.Members) + 2) // one more than there should be
	if err != nil && err != io.EOF {
		return err
	}
	for _, e := range list {
		if e.Name() != ManifestName && !m.has(e.Name()) {
			return fmt.Errorf("%w: there is a file %.80q that the manifest does not list", ErrMalformed, e.Name())
		}
	}
	return nil
}

// release closes the member that was opened last.
func (d *directory) release() error {
	f := d.last
	d.last = nil
	if f == nil {
		return nil
	}
	return f.Close()
}

// Close implements [io.Closer].
func (d *directory) Close() error { return errors.Join(d.release(), d.root.Close()) }

// archive is a bundle in one file, read once from its beginning to its end.
type archive struct {
	r     io.Reader
	close func() error
	rest  *io.LimitedReader // what of the member before was not read; nil at first
	pad   int64             // zeroes behind it
}

func (a *archive) manifest() ([]byte, error) {
	h := make([]byte, block)
	if _, err := io.ReadFull(a.r, h); err != nil {
		return nil, fmt.Errorf("%w: the archive ends in its first header", ErrMalformed)
	}
	// The size stands in octal digits; what else it could be is not what header makes.
	size, err := strconv.ParseInt(strings.TrimRight(string(h[124:136]), "\x00 "), 8, 64)
	if err != nil || size < 0 || size > maxManifest {
		return nil, fmt.Errorf("%w: the first header of the archive names no size of a manifest", ErrMalformed)
	}
	if want, err := header(ManifestName, size); err != nil || !bytes.Equal(h, want) {
		return nil, fmt.Errorf("%w: the first header of the archive is not that of a manifest", ErrMalformed)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(a.r, b); err != nil {
		return nil, fmt.Errorf("%w: the archive ends within its manifest", ErrMalformed)
	}
	a.rest, a.pad = &io.LimitedReader{R: a.r}, padding(size)
	return b, nil
}

// skip goes on behind the member before.
func (a *archive) skip() error {
	if _, err := io.Copy(io.Discard, a.rest); err != nil || a.rest.N > 0 {
		return errors.Join(fmt.Errorf("%w: the archive ends within a member", ErrMalformed), err)
	}
	return a.zeroes(a.pad)
}

// zeroes reads as many zeroes.
func (a *archive) zeroes(n int64) error {
	b := make([]byte, n)
	if _, err := io.ReadFull(a.r, b); err != nil {
		return fmt.Errorf("%w: the archive ends too early", ErrMalformed)
	}
	if len(bytes.Trim(b, "\x00")) > 0 {
		return fmt.Errorf("%w: between two members there is what should not be", ErrMalformed)
	}
	return nil
}

func (a *archive) next(m Member) (io.Reader, error) {
	if err := a.skip(); err != nil {
		return nil, err
	}
	want, err := header(m.Name, m.Size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	h := make([]byte, block)
	if _, err := io.ReadFull(a.r, h); err != nil {
		return nil, fmt.Errorf("%w: the archive ends before %s", ErrMalformed, m.Name)
	}
	if !bytes.Equal(h, want) {
		return nil, fmt.Errorf("%w: the header in the place of %s is not the one that the manifest asks for", ErrMalformed, m.Name)
	}
	a.rest, a.pad = &io.LimitedReader{R: a.r, N: m.Size}, padding(m.Size)
	return a.rest, nil
}

func (a *archive) end(*Manifest) error {
	if err := a.skip(); err != nil {
		return err
	}
	if err := a.zeroes(2 * block); err != nil {
		return err
	}
	if n, _ := io.ReadFull(a.r, make([]byte, 1)); n > 0 {
		return fmt.Errorf("%w: something follows the end of the archive", ErrMalformed)
	}
	return nil
}

// Close implements [io.Closer].
func (a *archive) Close() error { return a.close() }

// hashed is a member that is hashed while it is read.
type hashed struct {
	r   io.Reader
	sum hash.Hash
}

func newHashed(r io.Reader) *hashed { return &hashed{r, sha256.New()} }

// Read implements [io.Reader].
func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.sum.Write(p[:n])
	return n, err
}

// finish reads what was left, and compares with what the manifest says.
func (h *hashed) finish(m Member) error {
	if _, err := io.Copy(io.Discard, h); err != nil {
		return err
	}
	if hex.EncodeToString(h.sum.Sum(nil)) != m.SHA256 {
		return fmt.Errorf("%w: %s is damaged: its digest is not the one in the manifest", ErrMalformed, m.Name)
	}
	return nil
}

// lacks returns the members that the bundle should have, by its manifest, and has not.
func (m *Manifest) lacks() []string {
	need := []string{readme, policyFile, headFile, keysFile, reportJSON, reportHTML}
	if m.Records > 0 {
		need = append(need, recordsFile)
	}
	if m.Gaps > 0 {
		need = append(need, gapsFile)
	}
	if m.Range != nil {
		need = append(need, rangeFile, leavesFile)
	}
	if m.has(olderFile) || m.has(consistent) {
		need = append(need, olderFile, consistent)
	}
	return slices.DeleteFunc(need, m.has)
}
