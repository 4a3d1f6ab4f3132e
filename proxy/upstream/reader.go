package upstream

import (
	"bytes"
	"fmt"
	"io"
)

// inSize is the size of a reader's buffer: headers and a small body fit.
const inSize = 8 << 10

// maxChunkLine bounds the line before a chunk, without its end.
const maxChunkLine = 256

func malformed(why string) error { return fmt.Errorf("%w: %s", ErrMalformed, why) }

// reader buffers what an upstream sends.
type reader struct {
	src  io.Reader
	buf  []byte
	r, w int // what is there and not taken is buf[r:w]
	seen int // of that, how much section has looked at
	n    int // lines it has seen
}

func (r *reader) buffered() int { return r.w - r.r }

func (r *reader) skip(n int) {
	if r.r += n; r.r == r.w {
		r.r, r.w = 0, 0
	}
}

// fill reads more. It makes room where there is none.
func (r *reader) fill() error {
	if r.w == len(r.buf) {
		if r.r == 0 {
			bigger := make([]byte, max(2*len(r.buf), inSize))
			copy(bigger, r.buf)
			r.buf = bigger
		} else {
			copy(r.buf, r.buf[r.r:r.w])
			r.r, r.w = 0, r.w-r.r
		}
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// read reads up to len(p) bytes, past the buffer where that is empty.
func (r *reader) read(p []byte) (int, error) {
	if r.r == r.w {
		return r.src.Read(p)
	}
	n := copy(p, r.buf[r.r:r.w])
	r.skip(n)
	return n, nil
}

// section looks for lines up to an empty one, all of them ended by CRLF
// (RFC 9112, section 2.2: a recipient may take a bare LF, but then it reads what
// others do not). It returns their length with that of the empty one, zero if
// they are not all there, and their number.
func (r *reader) section(limit int) (size, lines int, err error) {
	for {
		b := r.buf[r.r+r.seen : r.w]
		i := bytes.IndexByte(b, '\n')
		switch {
		case i < 0 && r.buffered() > limit || i >= 0 && r.seen+i > limit:
			return 0, 0, malformed("the headers are too long")
		case i < 0:
			return 0, 0, nil
		case i == 0 || b[i-1] != '\r':
			return 0, 0, malformed("a line ends with a bare LF")
		}
		r.seen += i + 1
		if i == 1 {
			size, lines = r.seen, r.n
			r.seen, r.n = 0, 0
			return size, lines, nil
		}
		if r.n++; r.n > maxLines {
			return 0, 0, malformed("there are too many headers")
		}
	}
}

// lines reads and takes a section. They are returned without the empty line.
func (r *reader) lines(limit int) (text string, n int, err error) {
	for {
		size, n, err := r.section(limit)
		if err != nil {
			return "", 0, err
		}
		if size > 0 {
			text = string(r.buf[r.r : r.r+size-2])
			r.skip(size)
			return text, n, nil
		}
		if err := r.fill(); err != nil {
			return "", 0, err
		}
	}
}

// hasLine reports whether a line is there.
func (r *reader) hasLine() bool { return bytes.IndexByte(r.buf[r.r:r.w], '\n') >= 0 }

// chunkSize reads the line before a chunk (RFC 9112, section 7.1). It returns how
// long its extension is, which is not looked at (section 7.1.1).
func (r *reader) chunkSize() (size int64, extra int, err error) {
	i := -1
	for {
		if i = bytes.IndexByte(r.buf[r.r:r.w], '\n'); i >= 0 {
			break
		}
		if r.buffered() > maxChunkLine {
			return 0, 0, malformed("the line before a chunk is too long")
		}
		if err := r.fill(); err != nil {
			return 0, 0, err
		}
	}
	line := r.buf[r.r : r.r+i]
	if i == 0 || line[i-1] != '\r' || i > maxChunkLine {
		return 0, 0, malformed("the line before a chunk does not end as it must")
	}
	size, digits := parseHex(line[:i-1])
	ext := line[digits : i-1]
	if digits == 0 || digits > 15 || len(ext) > 0 && (ext[0] != ';' || !validText(string(ext))) {
		return 0, 0, malformed("the size of a chunk is not one")
	}
	r.skip(i + 1)
	return size, len(ext), nil
}

// parseHex reads a number as far as it goes; it is right for up to 15 digits.
func parseHex(b []byte) (n int64, digits int) {
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return n, digits
		}
		n = n<<4 | int64(c)
		digits++
	}
	return n, digits
}

// crlf takes the end of a chunk.
func (r *reader) crlf() error {
	for r.buffered() < 2 {
		if err := r.fill(); err != nil {
			return err
		}
	}
	if r.buf[r.r] != '\r' || r.buf[r.r+1] != '\n' {
		return malformed("a chunk does not end where it says")
	}
	r.skip(2)
	return nil
}
