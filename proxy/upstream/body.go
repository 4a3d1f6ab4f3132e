package upstream

import (
	"io"
	"net/http"
	"sync/atomic"
)

// maxExtensions bounds the chunk extensions of one answer.
const maxExtensions = 8 << 10

// body is the body of an answer. At its end it gives its connection back.
type body struct {
	c     *conn // nil where there is none to give back
	in    *reader
	res   *http.Response
	kind  bodyKind
	keep  bool
	limit int // of trailers

	left  int64 // of the body, or of the chunk
	stage stage
	extra int

	err  error        // of the reader's, once there is one
	over atomic.Int32 // 1 once the connection was given back or closed
}

// stage is what comes next of a chunked body.
type stage uint8

const (
	stageSize stage = iota
	stageData
	stageEnd
	stageTrailers
	stageOver
)

// Read implements io.Reader. It returns the end together with the last bytes
// where it can: who passes the body on can then send both at once.
func (b *body) Read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.over.Load() != 0 {
		return 0, http.ErrBodyReadAfterClose
	}
	switch {
	case b.kind == bodyChunked:
		n, err = b.readChunks(p)
	case len(p) == 0:
		return 0, nil
	case b.kind == bodyLength:
		n, err = b.in.read(p[:min(int64(len(p)), b.left)])
		if b.left -= int64(n); b.left == 0 {
			err = io.EOF
		} else if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	default:
		if n, err = b.in.read(p); err == io.EOF && b.c != nil && b.c.sendingFailed() {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		b.err = err
		b.done(err == io.EOF && b.keep)
	}
	return n, err
}

// Close closes the connection if the body is not at its end. It can be called
// beside Read, and ends it.
func (b *body) Close() error {
	b.done(false)
	return nil
}

func (b *body) done(keep bool) {
	if b.over.CompareAndSwap(0, 1) && b.c != nil {
		b.c.finish(keep)
	}
}

// readChunks takes chunks as far as they are there, and waits only where it has
// nothing to return.
func (b *body) readChunks(p []byte) (n int, err error) {
	for {
		switch b.stage {
		case stageSize:
			if n > 0 && !b.in.hasLine() {
				return n, nil
			}
			var extra int
			if b.left, extra, err = b.in.chunkSize(); err != nil {
				return n, cut(err)
			}
			if b.extra += extra; b.extra > maxExtensions {
				return n, malformed("there are too many chunk extensions")
			}
			if b.stage = stageData; b.left == 0 {
				b.stage = stageTrailers
			}
		case stageData:
			if len(p) == n || n > 0 && b.in.buffered() == 0 {
				return n, nil
			}
			m, err := b.in.read(p[n : n+int(min(int64(len(p)-n), b.left))])
			n += m
			if b.left -= int64(m); b.left == 0 {
				b.stage = stageEnd
			} else if err != nil {
				return n, cut(err)
			}
		case stageEnd:
			if n > 0 && b.in.buffered() < 2 {
				return n, nil
			}
			if err := b.in.crlf(); err != nil {
				return n, cut(err)
			}
			b.stage = stageSize
		case stageTrailers:
			if n > 0 && !b.trailersThere() {
				return n, nil
			}
			if err := b.takeTrailers(); err != nil {
				return n, cut(err)
			}
			b.stage = stageOver
		default:
			return n, io.EOF
		}
	}
}

// cut says that a body has ended where it must not.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// trailersThere reports whether reading the trailers, or their error, needs no
// waiting.
func (b *body) trailersThere() bool {
	r := *b.in // whose notes of what it has seen must not be kept
	size, _, err := r.section(b.limit)
	return size > 0 || err != nil
}

// takeTrailers reads the trailers (RFC 9112, section 7.1.2). Which of them go on
// is for the reader of the answer to say.
func (b *body) takeTrailers() error {
	text, lines, err := b.in.lines(b.limit)
	if err != nil || lines == 0 {
		return err
	}
	h, err := parseFields(text, lines, nil)
	if err != nil {
		return err
	}
	if b.res.Trailer == nil {
		b.res.Trailer = h
		return nil
	}
	for name, values := range h {
		b.res.Trailer[name] = values
	}
	return nil
}
