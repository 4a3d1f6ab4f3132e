package upstream

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// TestResetWhileSending: an answer that is to last to the end of its connection is not
// whole where the upstream has reset that, whoever of those who send and read is told.
func TestResetWhileSending(t *testing.T) {
	settled(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				in := bufio.NewReader(c)
				for line := "."; line != "\r\n" && line != ""; {
					line, _ = in.ReadString('\n')
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\npart")
				time.Sleep(5 * time.Millisecond) // the request fills what room there is
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}()
		}
	}()
	tr := newTransport(t, nil)
	for range 60 {
		const size = 32 << 20
		res, err := tr.RoundTrip(streaming(t, "http://"+l.Addr().String(), bytes.NewReader(make([]byte, size)), size))
		if err != nil {
			continue // it was told before the answer was read
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err == nil {
			t.Fatalf("an answer that was cut counts as whole, with %q", b)
		}
	}
}
