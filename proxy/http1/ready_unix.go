//go:build unix

package http1

import (
	"net"
	"syscall"
)

// prepare lets the connection wait for requests without a buffer, if it is one
// of the system's: the buffer is there for the read itself only.
func (c *conn) prepare() {
	var s syscall.Conn
	switch n := c.Conn.(type) {
	case *net.TCPConn:
		s = n
	case *net.UnixConn:
		s = n
	default:
		return
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return
	}
	c.ready = raw
	c.try = func(fd uintptr) bool {
		if c.in == nil {
			c.takeBuffer()
		}
		for {
			n, err := syscall.Read(int(fd), c.in.b)
			switch err {
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				c.dropBuffer()
				return false
			}
			c.in.w, c.tried = max(n, 0), nil
			if err != nil {
				c.tried = err
			}
			return true
		}
	}
}
