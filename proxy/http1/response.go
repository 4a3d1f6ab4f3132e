package http1

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// response is the http.ResponseWriter of a request. What is written is held
// until it does not fit, is flushed, or the handler returns: so a small answer
// is one write, head and body.
type response struct {
	c      *conn
	r      *http.Request
	header http.Header
	doubt  *body // of which the client may still be sending much, or wait

	status   int      // 0 until the head of the answer is made
	sealed   bool     // the head says how the body ends
	head     int      // length of the head in out, until it is sealed
	length   int64    // of the body, -1 if it is not known
	written  int64    // of the body
	empty    bool     // there is no body to this request or status
	chunked  bool     // it is sent in chunks
	close    bool     // the connection ends with this answer
	trailers []string // that were announced
	err      error    // of writing

	out    []byte // what is held
	room   [4 << 10]byte
	keys   []string
	vector [3][]byte
	bufs   net.Buffers

	mu    sync.Mutex // held while 100 Continue, or an answer in its place, is sent
	moot  bool       // 100 Continue must not be sent any more
	asked bool       // it may be
}

func newResponse() *response { return &response{header: make(http.Header)} }

func (w *response) begin(c *conn, r *http.Request) {
	w.c, w.r = c, r
	w.status, w.sealed, w.head, w.length, w.written = 0, false, 0, -1, 0
	w.empty, w.chunked, w.close, w.err = false, false, r.Close, nil
	w.trailers, w.doubt = w.trailers[:0], nil
	w.out = w.room[:0]
	w.moot, w.asked = false, len(r.Header["Expect"]) > 0
}

// release lets the response be used for another request.
func (w *response) release() {
	if len(w.header) > 64 {
		w.header = make(http.Header)
	}
	clear(w.header)
	clear(w.keys[:cap(w.keys)])
	s := w.c.srv
	w.c, w.r, w.doubt = nil, nil, nil
	clear(w.trailers[:cap(w.trailers)])
	s.responses.Put(w)
}

func (w *response) Header() http.Header { return w.header }

// EnableFullDuplex is how it always is.
func (w *response) EnableFullDuplex() error { return nil }

func (w *response) SetReadDeadline(t time.Time) error  { return w.c.SetReadDeadline(t) }
func (w *response) SetWriteDeadline(t time.Time) error { return w.c.SetWriteDeadline(t) }

// Hijack takes the connection from the server, with what the client sent behind
// its request in the reader.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c := w.c
	if c.taken {
		return nil, nil, http.ErrHijacked
	}
	c.endWatch()
	c.taken = true
	c.srv.forget(c)
	c.mon.stop()
	ahead := bytes.Clone(c.in.b[c.in.r:c.in.w])
	c.in.r = c.in.w
	// A reader of the bytes alone ends at their end, so they are all there.
	r := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(ahead), c.Conn), max(len(ahead), 4<<10))
	if len(ahead) > 0 {
		_, _ = r.Peek(len(ahead))
	}
	return c.Conn, bufio.NewReadWriter(r, bufio.NewWriter(c.Conn)), nil
}

// sayContinue tells the client to send its body (RFC 9110, section 10.1.1).
func (w *response) sayContinue() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.moot && !w.c.taken {
		w.put([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}
}

// WriteHeader sends an informational answer, or makes the head of the answer.
func (w *response) WriteHeader(status int) {
	if w.status != 0 || w.c.taken {
		return
	}
	if status < 100 || status > 999 {
		panic("http1: status " + strconv.Itoa(status)) // as net/http does: the handler is wrong
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		w.inform(status)
		return
	}
	if w.asked {
		w.mu.Lock()
		w.moot = true
		w.mu.Unlock()
	}
	w.status = status
	w.empty = status < 200 || status == http.StatusNoContent || status == http.StatusNotModified || w.r.Method == http.MethodHead
	w.writeHead()
	if w.length >= 0 || w.empty {
		w.seal(-1)
	}
}

// inform sends an informational answer. HTTP/1.0 knows none.
func (w *response) inform(status int) {
	if w.r.ProtoMinor == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if status == http.StatusContinue {
		if w.moot || !w.asked {
			return
		}
		w.moot = true
	}
	w.statusLine(status)
	for _, name := range w.sorted() {
		switch name {
		case "Content-Length", "Transfer-Encoding", "Connection", "Trailer":
		default:
			w.field(name, w.header[name])
		}
	}
	w.out = append(w.out, "\r\n"...)
	w.send()
}

func (w *response) sorted() []string {
	w.keys = w.keys[:0]
	for name := range w.header {
		w.keys = append(w.keys, name)
	}
	slices.Sort(w.keys)
	return w.keys
}

func (w *response) Write(p []byte) (int, error) { return write(w, p) }

func (w *response) WriteString(s string) (int, error) { return write(w, s) }

func write[T []byte | string](w *response, p T) (int, error) {
	if w.c.taken {
		return 0, http.ErrHijacked
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case len(p) == 0:
		return 0, nil
	case w.empty && w.r.Method != http.MethodHead:
		return 0, http.ErrBodyNotAllowed
	case w.length >= 0 && w.written+int64(len(p)) > w.length:
		return 0, http.ErrContentLength
	}
	w.written += int64(len(p))
	if w.empty {
		return len(p), nil
	}
	if !w.sealed {
		if len(w.out)+len(p) <= cap(w.out) {
			w.out = append(w.out, p...)
			return len(p), w.err
		}
		w.seal(-1)
	}
	if w.chunked {
		w.out = append(strconv.AppendInt(w.out, int64(len(p)), 16), "\r\n"...)
	}
	tail := ""
	if w.chunked {
		tail = "\r\n"
	}
	if len(w.out)+len(p)+len(tail) <= cap(w.out) {
		w.out = append(append(w.out, p...), tail...)
	} else {
		w.sendWith([]byte(p), tail)
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

func (w *response) Flush() { _ = w.FlushError() }

// FlushError sends what is held.
func (w *response) FlushError() error {
	if w.c.taken {
		return http.ErrHijacked
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.sealed {
		w.seal(-1)
	}
	w.send()
	return w.err
}

// send writes what is held.
func (w *response) send() {
	if len(w.out) == 0 {
		return
	}
	w.put(w.out)
	w.out = w.room[:0]
}

func (w *response) put(p []byte) {
	if w.err != nil {
		return
	}
	did := w.c.mon.bound()
	if _, err := w.c.Conn.Write(p); err != nil {
		w.broke(err)
	}
	w.c.mon.unbound(did)
}

// sendWith writes what is held, p, and the tail.
func (w *response) sendWith(p []byte, tail string) {
	if w.c.ready == nil { // what cannot wait cannot gather either
		n := copy(w.out[len(w.out):cap(w.out)], p)
		w.out = w.out[:len(w.out)+n]
		w.send()
		if p = p[n:]; len(p) >= cap(w.out) {
			w.put(p)
			p = nil
		}
		w.out = append(append(w.out, p...), tail...)
		return
	}
	if w.err == nil {
		w.vector = [3][]byte{w.out, p, []byte(tail)}
		w.bufs = w.vector[:]
		if tail == "" {
			w.bufs = w.vector[:2]
		}
		did := w.c.mon.bound()
		if _, err := w.bufs.WriteTo(w.c.Conn); err != nil {
			w.broke(err)
		}
		w.c.mon.unbound(did)
		w.vector = [3][]byte{}
	}
	w.out = w.room[:0]
}

// broke notes that the client cannot be written to any more.
func (w *response) broke(err error) {
	w.err = err
	w.c.cancel()
}

// finish ends the answer, and reports whether the client has all of it.
func (w *response) finish() bool {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.sealed {
		for name := range w.header {
			if strings.HasPrefix(name, http.TrailerPrefix) {
				w.trailers = append(w.trailers, name)
				break
			}
		}
		total := w.written
		if len(w.trailers) > 0 {
			total = -1
		}
		w.seal(total)
	}
	if w.chunked {
		w.out = append(w.out, "0\r\n"...)
		w.writeTrailers()
		w.out = append(w.out, "\r\n"...)
	}
	w.send()
	if w.length >= 0 && !w.empty && w.written < w.length {
		return false
	}
	return w.err == nil
}
