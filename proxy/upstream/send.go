package upstream

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// partSize is how much of a body is sent at once; room for the framing of a chunk
// lies around it.
const (
	partSize  = 32 << 10
	chunkHead = 10
	chunkTail = 2
)

// sender sends what does not go out at once, while the round trip waits for the
// answer: the answer may come before the end of the request.
type sender struct {
	c       *conn
	rest    []byte
	body    io.ReadCloser // nil if rest is all
	length  int64
	trailer http.Header
	goOn    chan bool     // what the upstream said to Expect; nil if it was not asked
	done    chan struct{} // closed at the end
	ending  atomic.Bool   // only the last of it is left to write
	whole   bool          // it was all sent; to be read after done
}

func newSender(c *conn, out *outbound) *sender {
	s := &sender{c: c, rest: out.b[c.sent:], body: out.body, length: out.length, trailer: out.trailer, done: make(chan struct{})}
	if out.expect {
		s.goOn = make(chan bool, 1)
	}
	return s
}

// bodyError says that a body could not be read.
type bodyError struct{ error }

func (e bodyError) Unwrap() error { return e.error }

func (s *sender) run() {
	defer close(s.done)
	err := s.write()
	if s.body != nil {
		if e := s.body.Close(); err == nil && e != nil {
			err = bodyError{e}
		}
	}
	switch c := s.c; {
	case err == errUnwanted:
	case err == nil:
		s.whole = true
		_ = c.sentAll() // or reading fails too
	default:
		c.mu.Lock()
		c.failure = err
		var own bodyError
		if errors.As(err, &own) {
			c.failure = own.error
			_ = c.link.Close() // so that the upstream does not take it for whole
		} else if !c.headed {
			// Who takes no more may have said why.
			_ = c.nc.SetReadDeadline(time.Now().Add(lateness))
		}
		c.mu.Unlock()
	}
}

// errUnwanted says that the upstream has answered and does not want the body.
var errUnwanted = errors.New("the body is not wanted")

func (s *sender) write() error {
	if s.body == nil {
		s.ending.Store(true)
	}
	if len(s.rest) > 0 {
		if _, err := s.c.nc.Write(s.rest); err != nil {
			return err
		}
	}
	if s.body == nil {
		return nil
	}
	if s.goOn != nil && !s.wanted() {
		return errUnwanted
	}
	if s.length >= 0 {
		return s.writeLength()
	}
	return s.writeChunks()
}

// wanted waits for what the upstream says to Expect, but not for long.
func (s *sender) wanted() bool {
	t := time.NewTimer(continueWait)
	defer t.Stop()
	select {
	case yes := <-s.goOn:
		return yes
	case <-t.C:
		return true
	case <-s.c.ctx.Done():
		return false
	}
}

// proceed tells what the upstream said; only the first word counts.
func (s *sender) proceed(yes bool) {
	select {
	case s.goOn <- yes:
	default:
	}
}

func (s *sender) writeLength() error {
	b := s.c.t.parts.Get().(*[]byte)
	defer s.c.t.parts.Put(b)
	for left := s.length; ; {
		n, err := s.body.Read((*b)[:min(int64(partSize), max(left, 1))])
		switch left -= int64(n); {
		case left < 0 || err == io.EOF && left > 0:
			return bodyError{errLength}
		case err != nil && err != io.EOF:
			return bodyError{err}
		}
		if left == 0 && n > 0 {
			// The upstream may answer as soon as it has this.
			s.ending.Store(true)
		}
		if n > 0 {
			if _, err := s.c.nc.Write((*b)[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

func (s *sender) writeChunks() error {
	b := s.c.t.parts.Get().(*[]byte)
	defer s.c.t.parts.Put(b)
	for {
		n, err := s.body.Read((*b)[chunkHead : partSize-chunkTail])
		if err != nil && err != io.EOF {
			return bodyError{err}
		}
		var p []byte
		if n > 0 {
			p = chunk(*b, n)
		}
		if err == io.EOF {
			s.ending.Store(true)
			var bad error
			if p, bad = appendLast(p, s.trailer); bad != nil {
				return bodyError{bad}
			}
		}
		if len(p) > 0 {
			if _, err := s.c.nc.Write(p); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// chunk frames n bytes that lie in b behind the room for it.
func chunk(b []byte, n int) []byte {
	var head [chunkHead]byte
	h := append(strconv.AppendInt(head[:0], int64(n), 16), "\r\n"...)
	from := chunkHead - len(h)
	copy(b[from:], h)
	return append(b[from:chunkHead+n], "\r\n"...)
}

// settled reports whether all was sent, after the answer is over. An upstream
// can be faster than the goroutine that hears that the last write is done.
func (s *sender) settled() bool {
	select {
	case <-s.done:
		return s.whole
	default:
	}
	if !s.ending.Load() {
		return false
	}
	t := time.NewTimer(settling)
	defer t.Stop()
	select {
	case <-s.done:
		return s.whole
	case <-t.C:
		return false
	}
}
