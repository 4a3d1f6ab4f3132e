package proxy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
)

// bodyKind says how the body of a request passes.
type bodyKind uint8

const (
	bodyNone     bodyKind = iota
	bodyBuffered          // whole, before the request record
	bodyStreamed          // while it is hashed
)

// requestBody is the body of a request on its way.
type requestBody struct {
	kind     bodyKind
	size     uint64
	sum      [sha256.Size]byte // of a body that is not streamed
	messages uint64            // in a buffered one
	data     []byte            // of a buffered one, or what arrived of a broken one
	ahead    *lookahead        // of a chunked one that turned out to be streamed
	stream   *streamBody
	from     *http.Request // as the server knows it: it gets its trailers there, on the goroutine that comes to the end
}

// none is the body of a request that has none.
func (b *requestBody) none() { b.kind, b.size, b.sum = bodyNone, 0, emptySum() }

// broken turns a body that did not arrive whole into one of which the response
// record says what was seen.
func (b *requestBody) broken() {
	s := new(streamBody)
	if b.data != nil {
		s.seen.add(b.data)
		b.data = nil
	}
	b.kind, b.stream = bodyStreamed, s
}

func (b *requestBody) release() {
	if b.stream != nil {
		b.stream.stop()
	}
}

// pending reports whether the client may still be sending the body, so that its
// connection is of no further use once the answer is given.
func (b *requestBody) pending() bool { return b.stream != nil && !b.stream.finished() }

// takeBody reads a small body whole, and prepares a large one to be streamed.
func (x *exchange) takeBody() error {
	r, b := x.r, &x.body
	limit := x.p.cfg.BufferLimit
	switch {
	case r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0:
		b.none()
		return nil
	case r.ContentLength > 0 && r.ContentLength <= int64(limit):
		data := make([]byte, r.ContentLength+1)
		x.readDeadline(true)
		n, err := readAll(r.Body, data)
		if b.data = data[:n]; err != nil {
			return err
		}
		x.readDeadline(false)
		b.buffered(x.r)
		return nil
	case r.ContentLength > 0 || strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
		x.streamed(r.Body)
		return nil
	}
	return x.takeChunked()
}

// takeChunked waits for a moment whether a body of unknown length ends within
// the limit. It must not wait longer: the client may wait for the answer before
// it goes on.
func (x *exchange) takeChunked() error {
	b := &x.body
	x.readDeadline(true)
	a := newLookahead(x.r.Body, x.p.large.Get().(*buffer))
	x.comeApart()
	go a.fill()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-a.done:
	case <-t.C:
	}
	n, err, whole := a.result()
	switch {
	case whole:
		x.readDeadline(false)
		x.r = b.from
		b.data = bytes.Clone(a.data.b[:n])
		a.data.put()
		b.buffered(x.r)
		return nil
	case err != nil:
		x.r = b.from
		b.data = bytes.Clone(a.data.b[:n])
		a.data.put()
		return err
	}
	b.ahead = a
	if x.r.ProtoMajor != 1 {
		x.readDeadline(false) // it would end the body however much of it comes
	}
	x.streamed(a)
	return nil
}

// comeApart gives the exchange a request of its own. The server's changes while
// its body is read: the end of the body sets the trailers, in HTTP/2 in the very
// map that names those that were announced.
func (x *exchange) comeApart() {
	own := *x.r
	own.Trailer = maps.Clone(x.r.Trailer)
	x.body.from, x.r = x.r, &own
}

func (b *requestBody) buffered(r *http.Request) {
	b.kind, b.size = bodyBuffered, uint64(len(b.data))
	b.sum = sha256.Sum256(b.data)
	if f := framingOf(r.Header.Get("Content-Type")); f != framingNone {
		m := messages{kind: f}
		m.feed(b.data)
		b.messages = m.count
	}
}

func (x *exchange) streamed(src io.Reader) {
	s := &streamBody{src: src, from: x.r}
	if x.body.from != nil {
		s.from = x.body.from
	}
	s.messages.reset(framingOf(x.r.Header.Get("Content-Type")))
	s.stall, s.rate = x.waits().body, x.waits().rate
	if x.r.ProtoMajor != 1 {
		s.watchSilence(x)
	} else {
		s.conn = x.conn
		// Else the server swallows the rest of the body before it lets an early
		// answer pass.
		_ = http.NewResponseController(x.w).EnableFullDuplex()
	}
	x.body.kind, x.body.stream = bodyStreamed, s
}

// readAll reads until the end of the body; b has room for one byte more than
// there should be.
func readAll(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) {
		var m int
		m, err = r.Read(b[n:])
		n += m
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return n, errors.New("the body is longer than its length")
}

// digest hashes bytes as they pass.
type digest struct {
	h    hash.Hash
	size uint64
	once bool // the bytes came at once, and this is their sum:
	all  [sha256.Size]byte
}

func (d *digest) reset() {
	d.size, d.once = 0, false
	if d.h != nil {
		d.h.Reset()
	}
}

func (d *digest) add(p []byte) {
	if d.h == nil {
		d.h = sha256.New()
	}
	d.h.Write(p)
	d.size += uint64(len(p))
}

// set makes the digest that of the same bytes as another one's.
func (d *digest) set(from *digest) {
	d.size, d.once, d.all = from.size, from.once, from.all
	d.h = nil
	if from.h != nil && !from.once {
		h, err := from.h.(hash.Cloner).Clone()
		if err != nil {
			panic("proxy: copying a digest: " + err.Error()) // never: it is the standard library's
		}
		d.h = h
	}
}

// whole digests everything there is.
func (d *digest) whole(p []byte) {
	d.size, d.once, d.all = uint64(len(p)), true, sha256.Sum256(p)
}

func (d *digest) sum() (sum [sha256.Size]byte) {
	switch {
	case d.once:
		return d.all
	case d.size == 0:
		return emptySum()
	}
	d.h.Sum(sum[:0])
	return sum
}

// streamBody hashes the body of a request as the transport takes it.
type streamBody struct {
	src   io.Reader
	from  *http.Request // gets its trailers at the end of the body
	conn  *clientConn
	stall time.Duration
	rate  int64 // bytes a second, on average, beyond stall; 0: any
	// trailer, if set, is called at the end of the body.
	trailer func()

	mu       sync.Mutex
	seen     digest
	messages messages
	progress *progress
	ended    bool        // whole
	trailers http.Header // what came behind it
	stopped  bool        // the exchange is over, or its record made
	reading  bool
	began    time.Time     // of the reading
	waited   time.Duration // of all readings
	slow     bool          // the deadline of the reading is that of the rate
	moved    time.Time     // when something passed
	answered bool          // the answer has begun, and its silence counts
	silence  *time.Timer   // where the connection has no deadlines of its own; else nil
	deadline time.Time     // of the reading
	err      error         // that is the client's doing
}

func (s *streamBody) Read(p []byte) (int, error) {
	s.mu.Lock()
	s.reading, s.began = true, time.Now()
	if !s.stopped && s.conn != nil && s.conn.Conn != nil {
		var left time.Duration
		left, s.slow = s.grace()
		s.deadline = s.began.Add(left)
		_ = s.conn.SetReadDeadline(s.deadline)
	}
	s.mu.Unlock()
	n, err := s.src.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.reading, s.waited = false, s.waited+now.Sub(s.began)
	if s.stopped {
		// What is not in the record does not pass.
		return 0, http.ErrBodyReadAfterClose
	}
	if n > 0 {
		s.moved = now
	}
	s.seen.add(p[:n])
	s.messages.feed(p[:n])
	s.progress.moved(n)
	switch {
	case err == io.EOF:
		s.ended, s.trailers = true, s.from.Trailer
		if s.trailer != nil {
			s.trailer()
		}
		if s.conn != nil && s.conn.Conn != nil {
			_ = s.conn.SetReadDeadline(time.Time{})
		}
	case err != nil && s.err == nil:
		s.err = err
	}
	return n, err
}

// Close is for the transport; the body belongs to the server.
func (s *streamBody) Close() error { return nil }

// stop lets no more bytes pass.
func (s *streamBody) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.silence != nil {
		s.silence.Stop()
	}
}

// finished reports whether the body has come to its end.
func (s *streamBody) finished() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// snapshot stops the body and returns what passed of it.
func (s *streamBody) snapshot() (uint64, [sha256.Size]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	return s.seen.size, s.seen.sum()
}

// look returns what has passed so far.
func (s *streamBody) look() passed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return passed{s.seen.size, s.seen.sum(), s.messages.count}
}

// watch lets the body tell of what passes.
func (s *streamBody) watch(g *progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress = g
}

// failed returns the error by which the client ended its body early, and reports
// whether the client kept the body waiting for too long.
func (s *streamBody) failed() (err error, stalled bool) {
	if s == nil {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The server ends the context before the error is here.
	late := s.reading && !s.deadline.IsZero() && !time.Now().Before(s.deadline)
	return s.err, late || isTimeout(s.err)
}

// lookahead reads the beginning of a body on a goroutine of its own, until it is
// told to stop, and then hands the body on.
type lookahead struct {
	src  io.Reader
	data *buffer
	done chan struct{}

	mu      sync.Mutex
	cond    *sync.Cond
	n       int // bytes in data
	off     int // of them taken
	err     error
	stopped bool
	running bool
}

func newLookahead(src io.Reader, data *buffer) *lookahead {
	a := &lookahead{src: src, data: data, done: make(chan struct{}), running: true}
	a.cond = sync.NewCond(&a.mu)
	return a
}

func (a *lookahead) fill() {
	defer close(a.done)
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.stopped && a.err == nil && a.n < len(a.data.b) {
		room := a.data.b[a.n:]
		a.mu.Unlock()
		n, err := a.src.Read(room)
		a.mu.Lock()
		a.n += n
		a.err = err
		a.cond.Broadcast()
	}
	a.running = false
	a.cond.Broadcast()
}

// result stops the reading. It returns how many bytes are there, the error that
// ended them, and whether they are the whole body.
func (a *lookahead) result() (n int, err error, whole bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	if a.err == io.EOF && a.n < len(a.data.b) {
		return a.n, nil, true
	}
	if a.err == io.EOF {
		return a.n, nil, false
	}
	return a.n, a.err, false
}

func (a *lookahead) Read(p []byte) (int, error) {
	a.mu.Lock()
	for a.off == a.n && a.running {
		a.cond.Wait()
	}
	if a.off < a.n {
		n := copy(p, a.data.b[a.off:a.n])
		a.off += n
		a.mu.Unlock()
		return n, nil
	}
	err := a.err
	a.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return a.src.Read(p)
}
