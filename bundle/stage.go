package bundle

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// stage is a directory beside the place of a bundle, in which its members are made.
// The bundle is there whole or not at all.
type stage struct {
	dir     string
	out     string
	members map[string]Member
}

// Archived reports whether a bundle with this name is an archive.
func Archived(path string) bool { return strings.HasSuffix(path, ".tar") }

func newStage(out string) (*stage, error) {
	if _, err := os.Lstat(out); err == nil {
		return nil, fmt.Errorf("writing %s: %w", out, ErrExists)
	}
	dir, err := os.MkdirTemp(filepath.Dir(out), ".bundle-*")
	if err != nil {
		if pe := (*os.PathError)(nil); errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, fmt.Errorf("writing %s: %w", out, err)
	}
	return &stage{dir: dir, out: out, members: make(map[string]Member)}, nil
}

// drop removes what was made.
func (s *stage) drop() error { return os.RemoveAll(s.dir) }

// member is a file that is being written.
type member struct {
	*bufio.Writer
	s    *stage
	file *os.File
	name string
	size int64
	sum  interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func (s *stage) create(name string) (*member, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return nil, err
	}
	m := &member{s: s, file: f, name: name, sum: sha256.New()}
	m.Writer = bufio.NewWriterSize(counted{m}, 64<<10)
	return m, nil
}

type counted struct{ m *member }

func (c counted) Write(p []byte) (int, error) {
	n, err := c.m.file.Write(p)
	c.m.size += int64(n)
	_, _ = c.m.sum.Write(p[:n]) // hashes do not fail
	return n, err
}

// keep ends the member.
func (m *member) keep() error {
	err := errors.Join(m.Flush(), m.file.Sync(), m.file.Close())
	if err == nil && m.size > maxMember {
		err = fmt.Errorf("%w: %s would have %d bytes", ErrTooMany, m.name, m.size)
	}
	m.s.members[m.name] = Member{Name: m.name, Size: m.size, SHA256: hex.EncodeToString(m.sum.Sum(nil))}
	return err
}

// put writes a member at once.
func (s *stage) put(name string, content []byte) error {
	m, err := s.create(name)
	if err != nil {
		return err
	}
	_, err = m.Write(content)
	return errors.Join(err, m.keep())
}

// finish writes the manifest and puts the bundle into its place.
func (s *stage) finish(m Manifest) error {
	m.Format, m.Members = Format, nil
	for _, name := range order() {
		if x, ok := s.members[name]; ok {
			m.Members = append(m.Members, x)
		}
	}
	b, err := m.marshal()
	if err != nil {
		return err
	}
	if _, err := parseManifest(b); err != nil {
		return err
	}
	if err := s.put(ManifestName, b); err != nil {
		return err
	}
	if !Archived(s.out) {
		if err := os.Chmod(s.dir, 0o750); err != nil {
			return err
		}
		return os.Rename(s.dir, s.out)
	}
	if err := s.pack(m.Members); err != nil {
		return err
	}
	return s.drop()
}

// pack writes the archive: the same members give the same bytes.
func (s *stage) pack(list []Member) error {
	f, err := os.CreateTemp(filepath.Dir(s.out), ".bundle-*")
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 256<<10)
	err = s.packTo(w, append([]Member{s.members[ManifestName]}, list...))
	err = errors.Join(err, w.Flush(), f.Chmod(0o640), f.Sync(), f.Close())
	if err == nil {
		// Link refuses to replace what has come to be there meanwhile.
		err = os.Link(f.Name(), s.out)
	}
	return errors.Join(err, os.Remove(f.Name()))
}

func (s *stage) packTo(w io.Writer, list []Member) error {
	for _, m := range list {
		h, err := header(m.Name, m.Size)
		if err != nil {
			return err
		}
		if _, err := w.Write(h); err != nil {
			return err
		}
		f, err := os.Open(filepath.Join(s.dir, m.Name))
		if err != nil {
			return err
		}
		_, err = io.CopyN(w, f, m.Size)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		if _, err := w.Write(make([]byte, padding(m.Size))); err != nil {
			return err
		}
	}
	_, err := w.Write(make([]byte, 2*block))
	return err
}
