package http1

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// net/http answers some requests of HTTP/2 without a word to its handler: what is
// malformed, too large, or one stream too many. So the frames of a connection are
// looked at from outside, by their headers alone: a request that was begun and did
// not reach the handler was one of those. Which one it was is not known.

// The frames of HTTP/2 that matter here (RFC 9113, section 6).
const (
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameGoAway       = 0x7
	frameContinuation = 0x9
	flagEndHeaders    = 0x4

	frameHead = 9 // bytes
)

// grace is how long the beginning of a handler may take after what was decided
// with it. Only then is a request one that does not reach the handler.
const grace = time.Second

// maxReasons is how many kinds of refusals of a connection are named at a time.
const maxReasons = 4

// frames watches what is said on one connection of HTTP/2.
type frames struct {
	srv     *Server
	cut     func() // closes the connection
	request func() *http.Request
	in, out scanner

	opened  atomic.Int64 // requests
	entered atomic.Int64 // of them the handler's

	mu      sync.Mutex // guards what follows
	last    uint32     // stream that was opened
	headers bool       // the last frame that began is one of headers
	block   bool       // a header block has begun, and its last frame has not
	timer   *time.Timer
	late    *time.Timer // while something of a header block is awaited
	told    int64
	reasons []string
}

// scanner finds the frames in what passes in one direction.
type scanner struct {
	head [frameHead + 8]byte // of a frame, with the beginning of some payloads
	n    int                 // bytes in head
	want int                 // of them that are needed; 0 means those of the head
	skip int                 // bytes ahead of the next frame
}

// scan calls f for each frame, once its head is there.
func (s *scanner) scan(p []byte, f func(kind, flags byte, stream uint32, begin []byte)) {
	for len(p) > 0 {
		if s.skip > 0 {
			n := min(s.skip, len(p))
			s.skip -= n
			p = p[n:]
			continue
		}
		n := copy(s.head[s.n:max(s.want, frameHead)], p)
		s.n += n
		p = p[n:]
		if s.n < max(s.want, frameHead) {
			return
		}
		length := int(s.head[0])<<16 | int(s.head[1])<<8 | int(s.head[2])
		kind := s.head[3]
		if s.want == 0 && (kind == frameReset || kind == frameGoAway) && length > 0 {
			s.want = frameHead + min(length, 8)
			continue
		}
		f(kind, s.head[4], binary.BigEndian.Uint32(s.head[5:])&^(1<<31), s.head[frameHead:s.n])
		s.skip = length - (s.n - frameHead)
		s.n, s.want = 0, 0
	}
}

// came looks at what was read.
func (w *frames) came(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.in.scan(p, func(kind, flags byte, stream uint32, _ []byte) {
		w.headers = kind == frameHeaders || kind == frameContinuation
		if w.headers {
			w.block = flags&flagEndHeaders == 0
		}
		if kind == frameHeaders && stream%2 == 1 && stream > w.last {
			w.last = stream
			w.opened.Add(1)
		}
	})
	// A payload of another frame may take as long as it does: it is some body's.
	awaited := w.block || w.in.n > 0 || w.headers && w.in.skip > 0
	switch {
	case !awaited && w.late != nil:
		w.late.Stop()
		w.late = nil
	case awaited && w.late == nil:
		w.late = time.AfterFunc(w.srv.limits.Load().HeaderTimeout, w.tooLate)
	}
}

// tooLate ends a connection whose client does not come to the end of its headers.
func (w *frames) tooLate() {
	w.mu.Lock()
	awaited := w.late != nil
	if awaited {
		w.reason("the header block did not arrive in time")
	}
	w.mu.Unlock()
	if awaited {
		w.cut()
	}
}

// said looks at what is written.
func (w *frames) said(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out.scan(p, func(kind, _ byte, _ uint32, begin []byte) {
		code := uint32(0)
		switch {
		case kind == frameReset && len(begin) >= 4:
			code = binary.BigEndian.Uint32(begin)
		case kind == frameGoAway && len(begin) >= 8:
			code = binary.BigEndian.Uint32(begin[4:])
		case kind != frameHeaders:
			return
		}
		if w.opened.Load() == w.entered.Load()+w.told {
			return
		}
		if code != 0 {
			w.reason(codeName(code))
		}
		w.look()
	})
}

// look sees after a while what has become of the requests so far, but for one whose
// header block is not there yet. It is called with mu held.
func (w *frames) look() {
	sofar := w.opened.Load()
	if w.block {
		sofar--
	}
	if w.timer == nil {
		w.timer = time.AfterFunc(grace, func() { w.settle(sofar) })
	}
}

// reason notes why requests may have been refused. It is called with mu held.
func (w *frames) reason(text string) {
	if len(w.reasons) < maxReasons && !slices.Contains(w.reasons, text) {
		w.reasons = append(w.reasons, text)
	}
}

// ended is called when the connection is closed.
func (w *frames) ended() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.late != nil {
		w.late.Stop()
		w.late = nil
	}
	if w.opened.Load() == w.entered.Load()+w.told {
		return
	}
	sofar := w.opened.Load()
	if w.srv.closing.Load() {
		go w.settle(sofar) // there may be no later
		return
	}
	time.AfterFunc(grace, func() { w.settle(sofar) })
}

// settle tells of the requests, of the first so many, that did not reach the
// handler. Of those that came since some may have, so it can be too few for now,
// but never too many.
func (w *frames) settle(sofar int64) {
	w.mu.Lock()
	w.timer = nil
	n := max(sofar-w.entered.Load()-w.told, 0)
	if w.told += n; w.opened.Load() > w.entered.Load()+w.told {
		w.look() // one that came later has reached it in the place of one that did not, say
	}
	if n == 0 {
		w.mu.Unlock()
		return
	}
	reasons := w.reasons
	w.reasons = nil
	w.mu.Unlock()
	why := "of HTTP/2, not taken: malformed, too large, or given up by the client before it was looked at"
	if n > 1 {
		why = strconv.FormatInt(n, 10) + " requests " + why
	} else {
		why = "a request " + why
	}
	if len(reasons) > 0 {
		why += " (" + strings.Join(reasons, ", ") + ")"
	}
	w.srv.cfg.Attempted(w.request(), why)
}

// codeName is the name of an error code (RFC 9113, section 7).
func codeName(code uint32) string {
	names := [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
		"REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"}
	if int64(code) < int64(len(names)) {
		return names[code]
	}
	return fmt.Sprintf("error 0x%x", code)
}

// watch has the frames of a connection looked at, if anybody wants to know.
func (c *handed) watch(s *Server) {
	if s.cfg.Attempted == nil {
		return
	}
	c.frames = &frames{srv: s, cut: func() { _ = c.Close() }, request: func() *http.Request {
		r := &http.Request{Proto: "HTTP/2.0", ProtoMajor: 2, URL: new(url.URL), Header: make(http.Header), Body: http.NoBody, ContentLength: -1,
			RemoteAddr: c.RemoteAddr().String(), TLS: c.tls}
		return r.WithContext(c.ctx)
	}}
	c.frames.in.skip = len(preface)
}
