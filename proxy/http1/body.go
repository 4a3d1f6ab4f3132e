package http1

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// drainTime is how long the rest of a body that the handler did not want may
// take.
const drainTime = 500 * time.Millisecond

// body is the body of a request on its way in (RFC 9112, sections 6 and 7).
// Another goroutine than the handler's may read it, even when the handler has
// returned: then it gets nothing any more.
type body struct {
	c *conn
	r *http.Request
	w *response

	over atomic.Bool // nothing passes any more
	done atomic.Bool // all of it was read, and the connection is at the next request

	mu      sync.Mutex // held while it is read; guards what follows
	chunked bool
	expect  bool  // the client waits for 100 Continue
	left    int64 // of the body, or of a chunk
	inside  bool  // a chunk was begun, and its CRLF is to come
	excess  int   // bytes that were neither data nor needed around it
	err     error // how it ended; io.EOF if it is whole
}

func (b *body) Read(p []byte) (int, error) {
	if b.over.Load() {
		return 0, errBodyOver
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over.Load() {
		return 0, errBodyOver
	}
	return b.read(p)
}

// Close lets nothing more pass. What is left is the connection's business.
func (b *body) Close() error {
	b.over.Store(true)
	return nil
}

func (b *body) read(p []byte) (n int, err error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	if b.expect {
		b.expect = false
		b.w.sayContinue()
	}
	if b.chunked {
		n, err = b.readChunked(p)
	} else {
		n, err = b.c.readInto(p[:min(int64(len(p)), b.left)])
		if b.left -= int64(n); b.left == 0 {
			err = io.EOF
		} else if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	}
	if b.err = err; err == io.EOF {
		b.done.Store(true)
	}
	return n, err
}

func (b *body) readChunked(p []byte) (int, error) {
	for b.left == 0 {
		if err := b.nextChunk(); err != nil {
			return 0, err
		}
	}
	n, err := b.c.readInto(p[:min(int64(len(p)), b.left)])
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	b.left -= int64(n)
	const end = "\r\n0\r\n\r\n"
	if in := b.c.in; b.left == 0 && err == nil && bytes.HasPrefix(in.b[in.r:in.w], []byte(end)) {
		in.r += len(end)
		return n, b.end(nil) // at once, so that nobody need ask for it
	}
	return n, err
}

// nextChunk reads up to the data of the next chunk. The last one, with the
// trailers, is io.EOF.
func (b *body) nextChunk() error {
	if b.inside {
		line, err := b.c.line(2)
		if err == errLongLine || err == errBareLF || err == nil && len(line) > 0 {
			return bad("a chunk is longer than its size")
		}
		if err != nil {
			return err
		}
		b.inside = false
	}
	line, err := b.c.line(maxChunkLine)
	if err != nil {
		return err
	}
	size, needed, bad := parseChunk(line)
	if bad != nil {
		return bad
	}
	if b.excess += len(line) - needed; b.excess > maxChunkExcess {
		return errExcess
	}
	if size == 0 {
		return b.trailers()
	}
	b.left, b.inside = size, true
	return nil
}

var errExcess = bad("the chunks of the body are more than their data")

// parseChunk reads the size of a chunk, and how many digits it needs. Extensions
// mean nothing to us, and end here (RFC 9112, section 7.1.1).
func parseChunk(line []byte) (size int64, needed int, err *Error) {
	const most = 15 // digits; more might not fit
	i := 0
	for ; i < len(line); i++ {
		v := hexValue(line[i])
		if v < 0 {
			break
		}
		if size > 0 || v > 0 {
			needed++
		}
		if needed > most || i >= 16 {
			return 0, 0, bad("the size of a chunk has too many digits")
		}
		size = size<<4 | int64(v)
	}
	switch {
	case i == 0:
		return 0, 0, bad("the size of a chunk is not a hexadecimal number")
	case i < len(line) && line[i] != ';':
		return 0, 0, bad("the size of a chunk is followed by something else than an extension")
	case i < len(line) && !validValue(string(line[i:])):
		return 0, 0, bad("a character is not allowed in a chunk's extension")
	}
	return size, needed, nil
}

func hexValue(c byte) int {
	switch {
	case digit(c):
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c | 0x20 - 'a' + 10)
	}
	return -1
}

// trailers reads what stands behind the last chunk.
func (b *body) trailers() error {
	var t http.Header
	for size, n := 0, 0; ; n++ {
		line, err := b.c.line(maxTrailerBytes)
		if err == errLongLine {
			return errTrailers
		}
		if err != nil {
			return err
		}
		if len(line) == 0 {
			return b.end(t)
		}
		if size += len(line) + 2; size > maxTrailerBytes || n == MaxTrailers {
			return errTrailers
		}
		name, value, bad := parseField(string(line))
		if bad == nil {
			bad = checkTrailer(name)
		}
		if bad != nil {
			return bad
		}
		if t == nil {
			t = make(http.Header)
		}
		t[name] = append(t[name], value)
	}
}

var errTrailers = &Error{http.StatusRequestHeaderFieldsTooLarge, "the trailers are too large"}

// end gives the request its trailers. The map is a new one: somebody may be
// looking through that which names the announced ones.
func (b *body) end(t http.Header) error {
	if len(t) > 0 {
		all := make(http.Header, len(b.r.Trailer)+len(t))
		maps.Copy(all, b.r.Trailer)
		maps.Copy(all, t)
		b.r.Trailer = all
	}
	return io.EOF
}

// finish ends all reading and reports whether the connection is at the next
// request. If need be it swallows a little of what nobody wanted.
func (b *body) finish(drain bool) (whole bool) {
	b.over.Store(true)
	if !b.mu.TryLock() {
		b.c.mon.interrupt()
		b.mu.Lock()
		b.c.mon.set(&b.c.mon.read, 0)
	}
	defer b.mu.Unlock()
	if b.err != nil || !drain || b.expect || !b.chunked && b.left > maxDrain {
		return b.err == io.EOF
	}
	b.c.mon.set(&b.c.mon.read, b.c.srv.now()+drainTime)
	var scratch [1 << 10]byte
	for n := 0; b.err == nil && n < maxDrain; {
		m, _ := b.read(scratch[:])
		n += m
	}
	b.c.mon.set(&b.c.mon.read, 0)
	return b.err == io.EOF
}
