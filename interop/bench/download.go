package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The paths of the source of long answers, with the bytes that they have behind it.
const (
	pathKnown   = "/length/"
	pathChunked = "/chunked/"
)

const (
	pieceSize = 1 << 20  // that the source sends again and again
	chunkSize = 32 << 10 // as Go's servers make them
)

// source gives long answers, and costs little: the kernel sends the same pieces from
// memory again and again.
type source struct {
	plain, chunked *os.File
	chunkedSize    int64 // of the piece with its chunks
}

// serveSource is the upstream of downloads.
func serveSource(ln net.Listener) error {
	s, err := newSource()
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := s.serve(c.(*net.TCPConn)); err != nil {
				fmt.Fprintln(os.Stderr, "source:", err)
			}
		}()
	}
}

func newSource() (*source, error) {
	piece := make([]byte, pieceSize)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(piece) // never fails
	var framed bytes.Buffer
	for at := 0; at < pieceSize; at += chunkSize {
		fmt.Fprintf(&framed, "%x\r\n%s\r\n", chunkSize, piece[at:at+chunkSize])
	}
	s := &source{chunkedSize: int64(framed.Len())}
	for to, data := range map[**os.File][]byte{&s.plain: piece, &s.chunked: framed.Bytes()} {
		fd, err := unix.MemfdCreate("source", 0)
		if err != nil {
			return nil, fmt.Errorf("making a file in memory: %w", err)
		}
		*to = os.NewFile(uintptr(fd), "source")
		if _, err := (*to).Write(data); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *source) serve(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil // the proxy closed the connection
		}
		if err := skipMessage(r); err != nil {
			return err
		}
		_, path, _ := strings.Cut(line, " ")
		path, _, _ = strings.Cut(path, " ")
		kind, text := path[:strings.LastIndexByte(path, '/')+1], path[strings.LastIndexByte(path, '/')+1:]
		size, err := strconv.ParseInt(text, 10, 64)
		if err != nil || size%pieceSize != 0 {
			return fmt.Errorf("%s is not a multiple of %d", text, pieceSize)
		}
		head, file, piece, end := "Content-Length: "+text, s.plain, int64(pieceSize), ""
		if kind == pathChunked {
			head, file, piece, end = "Transfer-Encoding: chunked", s.chunked, s.chunkedSize, "0\r\n\r\n"
		}
		if _, err := c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n" + head + "\r\n\r\n")); err != nil {
			return err
		}
		for range size / pieceSize {
			if err := sendFile(raw, file, piece); err != nil {
				return err
			}
		}
		if _, err := c.Write([]byte(end)); err != nil {
			return err
		}
	}
}

// sendFile sends the first n bytes of a file.
func sendFile(raw syscall.RawConn, f *os.File, n int64) error {
	off := int64(0)
	var failed error
	err := raw.Write(func(fd uintptr) bool {
		for off < n {
			_, err := unix.Sendfile(int(fd), int(f.Fd()), &off, int(n-off))
			switch err {
			case nil, unix.EINTR:
			case unix.EAGAIN:
				return false
			default:
				failed = err
				return true
			}
		}
		return true
	})
	if failed != nil {
		return failed
	}
	return err
}

// downloadSpec says what to fetch.
type downloadSpec struct {
	Addr    string
	Size    int64
	Chunked bool
}

type downloadResult struct {
	Bytes   int64
	Seconds float64
}

// rate is in megabytes a second.
func (r downloadResult) rate() float64 { return float64(r.Bytes) / r.Seconds / 1e6 }

// download fetches an answer, of which all has to come.
func download(s downloadSpec) (downloadResult, error) {
	c, err := net.Dial("tcp", s.Addr)
	if err != nil {
		return downloadResult{}, err
	}
	defer c.Close()
	path := pathKnown
	if s.Chunked {
		path = pathChunked
	}
	begin := time.Now()
	if _, err := fmt.Fprintf(c, "GET %s%d HTTP/1.1\r\nHost: %s\r\n\r\n", path, s.Size, s.Addr); err != nil {
		return downloadResult{}, err
	}
	r := bufio.NewReaderSize(c, 256<<10)
	line, err := r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 200 ") {
		return downloadResult{}, fmt.Errorf("answer %q: %w", line, err)
	}
	length, chunked := int64(-1), false
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return downloadResult{}, err
		}
		if len(line) <= 2 {
			break
		}
		if v, ok := header(line, "content-length"); ok {
			length, _ = strconv.ParseInt(string(v), 10, 64) // it is compared below
		}
		if v, ok := header(line, "transfer-encoding"); ok {
			chunked = string(v) == "chunked"
		}
	}
	var n int64
	switch {
	case chunked:
		n, err = skipChunks(r)
	case length == s.Size:
		n, err = discard(c.(*net.TCPConn), r, length)
	default:
		err = fmt.Errorf("the answer has a length of %d", length)
	}
	if err == nil && (n != s.Size || chunked != s.Chunked) {
		err = fmt.Errorf("%d of %d bytes came, chunked: %t", n, s.Size, chunked)
	}
	return downloadResult{n, time.Since(begin).Seconds()}, err
}

// skipChunks reads a body in chunks and returns how long it was.
func skipChunks(r *bufio.Reader) (n int64, err error) {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return n, err
		}
		size, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 31)
		if err != nil {
			return n, err
		}
		if _, err := r.Discard(int(size) + 2); err != nil || size == 0 {
			return n, err
		}
		n += int64(size)
	}
}

// discard has the kernel drop the rest of a body, without copying it.
func discard(c *net.TCPConn, r *bufio.Reader, length int64) (int64, error) {
	n := min(int64(r.Buffered()), length)
	if _, err := r.Discard(int(n)); err != nil {
		return 0, err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return n, err
	}
	room := make([]byte, 1<<20) // nothing is written to it
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		for n < length {
			m, _, err := unix.Recvfrom(int(fd), room[:min(int64(len(room)), length-n)], unix.MSG_TRUNC)
			switch {
			case err == unix.EAGAIN:
				return false
			case err == unix.EINTR:
			case err != nil:
				failed = err
				return true
			case m == 0:
				failed = io.ErrUnexpectedEOF
				return true
			}
			n += int64(max(m, 0))
		}
		return true
	})
	if failed != nil {
		err = failed
	}
	return n, err
}
