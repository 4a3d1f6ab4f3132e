package http1

import (
	"bytes"
	"errors"
	"io"
)

// buffer holds what was read of a connection and not used yet: b[r:w].
type buffer struct {
	b     []byte
	r, w  int
	lines []int // scratch of a head
	fixed [4 << 10]byte
}

func (c *conn) takeBuffer() {
	c.in = c.srv.buffers.Get().(*buffer)
	c.in.b, c.in.r, c.in.w = c.in.fixed[:], 0, 0
}

func (c *conn) dropBuffer() {
	if c.in != nil {
		c.in.b = nil // it may have grown
		c.srv.buffers.Put(c.in)
		c.in = nil
	}
}

// firstBytes reads what is there of a request, once something is.
func (c *conn) firstBytes() error {
	if c.in != nil {
		c.in.b, c.in.r, c.in.w = c.in.fixed[:], 0, 0
	}
	c.mon.set(&c.mon.read, c.srv.now()+c.srv.limits.Load().IdleTimeout)
	if c.ready == nil {
		if c.in == nil {
			c.takeBuffer()
		}
		return c.fill()
	}
	if err := c.ready.Read(c.try); err != nil {
		return err
	}
	if c.tried == nil && c.in.w == 0 {
		return io.EOF
	}
	return c.tried
}

// fill reads more behind what is there, for which it makes room.
func (c *conn) fill() error {
	in := c.in
	switch {
	case in.r == in.w:
		in.r, in.w = 0, 0
	case in.w < len(in.b):
	case in.r > 0:
		in.w = copy(in.b, in.b[in.r:in.w])
		in.r = 0
	default:
		b := make([]byte, 2*len(in.b))
		in.w = copy(b, in.b[:in.w])
		in.b = b
	}
	for range 100 {
		n, err := c.Conn.Read(in.b[in.w:])
		if in.w += n; n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// readInto reads at least a byte, from what is there or else straight into p.
func (c *conn) readInto(p []byte) (int, error) {
	if in := c.in; in.r < in.w {
		n := copy(p, in.b[in.r:in.w])
		in.r += n
		return n, nil
	}
	if len(p) >= len(c.in.fixed) {
		return c.Conn.Read(p)
	}
	if err := c.fill(); err != nil {
		return 0, err
	}
	return c.readInto(p)
}

var (
	errBareLF   = bad("a line ends with LF alone")
	errLongLine = bad("a line of the body's coding is too long")
)

// line reads a line of up to limit bytes that ends with CRLF, and returns it
// without that. It is valid until more is read.
func (c *conn) line(limit int) ([]byte, error) {
	for off := 0; ; {
		rest := c.in.b[c.in.r:c.in.w]
		if i := bytes.IndexByte(rest[off:], '\n'); i >= 0 {
			switch i += off; {
			case i == 0 || rest[i-1] != '\r':
				return nil, errBareLF
			case i > limit:
				return nil, errLongLine
			}
			c.in.r += i + 1
			return rest[:i-1], nil
		}
		if off = len(rest); off > limit {
			return nil, errLongLine
		}
		if err := c.fill(); errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		} else if err != nil {
			return nil, err
		}
	}
}
