package upstream

import (
	"io"
	"net"
	"syscall"
)

// shot is one request and the first bytes of its answer, as one visit of the
// poller: the connection is read to see that it is silent, the request is
// written, and only when something has come it is read again. The usual way,
// read, sleep, read, costs one more system call without the first of these.
type shot struct {
	visit func(fd uintptr) bool // c.visit; a method value is made once
	stage uint8
	wait  bool
	b     []byte
	sent  int
	n     int
	err   error
}

const (
	shotPeek uint8 = iota
	shotWrite
	shotRead
)

// rawConn returns what to visit, or nil.
func (c *conn) rawConn() syscall.RawConn {
	switch c.link.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil // of a wrapped one the wrapper would not see what passes
	}
	rc, err := c.link.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	c.shot.visit = c.visit
	return rc
}

// shoot sends b as far as it goes without waiting, and, if it all went and wait is
// true, reads what comes first to the reader's buffer. shot.sent says how much
// went; nothing did if the error is errStale.
func (c *conn) shoot(b []byte, wait bool) (n int, err error) {
	c.shot = shot{visit: c.shot.visit, wait: wait, b: b}
	err = c.raw.Read(c.shot.visit)
	c.shot.b = nil
	if c.shot.err != nil {
		err = c.shot.err
	}
	return c.shot.n, err
}

// peek reports whether there is nothing to read.
func (c *conn) peek() bool {
	c.shot = shot{visit: c.shot.visit}
	return c.raw.Read(c.shot.visit) == nil && c.shot.err == nil
}

// visit is called with the file descriptor, and once more whenever it may be read
// after it returned false.
func (c *conn) visit(fd uintptr) bool {
	s := &c.shot
	if s.stage == shotPeek {
		p := c.in.buf
		if len(p) == 0 {
			p = make([]byte, 1)
		}
		if n, err := again(syscall.Read, fd, p); n >= 0 || err != syscall.EAGAIN {
			s.err = errStale
			return true
		}
		if s.b == nil {
			return true
		}
		s.stage = shotWrite
	}
	if s.stage == shotWrite {
		n, err := again(syscall.Write, fd, s.b)
		s.sent = max(n, 0)
		if err != nil && err != syscall.EAGAIN {
			s.err = err
		}
		if s.err != nil || s.sent < len(s.b) || !s.wait {
			return true
		}
		s.stage = shotRead
		return false // an answer cannot be there yet, or wakes the poller
	}
	n, err := again(syscall.Read, fd, c.in.buf)
	switch {
	case err == syscall.EAGAIN:
		return false
	case err != nil:
		s.err = err
	case n == 0:
		s.err = io.EOF
	}
	s.n = max(n, 0)
	return true
}

// again makes a system call until no signal comes between.
func again(call func(int, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := call(int(fd), p)
		if err != syscall.EINTR {
			return n, err
		}
	}
}
