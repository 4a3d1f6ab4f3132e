package interop

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
)

// inputs are what a client could send over one connection: the requests of the
// front's own table, each with another request behind it, and n mutations of them,
// the same ones in every run.
func inputs(t *testing.T, n int) (list [][]byte) {
	t.Helper()
	text, err := os.ReadFile("../proxy/http1/testdata/requests.txt")
	if err != nil {
		t.Fatal(err)
	}
	var bases [][]byte
	for line := range strings.Lines(string(text)) {
		part := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(part) != 3 {
			continue
		}
		request, err := strconv.Unquote(part[2])
		if err != nil {
			t.Fatal(err)
		}
		one := []byte(request + "GET /next HTTP/1.1\r\nHost: next\r\n\r\n")
		list = append(list, one)
		if len(one) < 1000 {
			bases = append(bases, one)
			if part[1] == "200" { // mutations of what is right are more likely to be taken
				bases = append(bases, one, one, one, one, one)
			}
		}
	}
	if len(list) < 100 {
		t.Fatalf("there are %d requests only", len(list))
	}
	rnd := rand.New(rand.NewPCG(20, 26))
	for range n {
		b := bytes.Clone(bases[rnd.IntN(len(bases))])
		for range 1 + rnd.IntN(2) {
			b = mutate(rnd, b)
		}
		list = append(list, b)
	}
	return list
}

// lines and pieces are what requests are smuggled with.
var (
	mutantLines = []string{
		"Content-Length: 5\r\n", "Content-Length: 0\r\n", "content-length:3\r\n", "Content-Length : 5\r\n", "Content-Length: 5, 5\r\n", "Content_Length: 5\r\n", "X-Content-Length: 5\r\n",
		"Transfer-Encoding: chunked\r\n", "transfer-encoding:\tchunked\r\n", "Transfer-Encoding: identity\r\n", "Transfer-Encoding: gzip, chunked\r\n", "Transfer_Encoding: chunked\r\n",
		"Transfer-Encoding: xchunked\r\n", "Transfer-Encoding:\r\n", "Host: other\r\n", "Host:\r\n", "host: x\r\n", " folded: 1\r\n", "\tfolded\r\n", "Connection: close\r\n", "Connection: keep-alive\r\n",
		"Connection: Content-Length\r\n", "Connection: Transfer-Encoding, Host\r\n", "Expect: 100-continue\r\n", "Expect: x\r\n", "Upgrade: h2c\r\nConnection: Upgrade\r\n", "X-A: 1\r\n", "X-A: \x7f\r\n", "X-\xe9: 1\r\n",
		"Trailer: X-T\r\n", "Keep-Alive: timeout=1\r\n", "Proxy-Connection: close\r\n", "X-A:1\n", "X-A: 1\r", "\r\n", "\n", ": x\r\n", "X\r\n",
	}
	mutantPieces = []string{
		"\r\n", "\n", "\r", " ", "\t", "\x00", "\x0b", "\xa0", "\xff", ":", ",", ";", "0", "1", "+", "-", "0x", "%00", "%0d%0a", "%2f", "#", "?", "@", "//", "/../", "\\", "\"", "HTTP/1.0", "HTTP/1.1", "http://y", "*",
		"5\r\nhello\r\n", "0\r\n\r\n", "GET / HTTP/1.1\r\nHost: s\r\n\r\n",
	}
)

func mutate(rnd *rand.Rand, b []byte) []byte {
	at := rnd.IntN(len(b) + 1)
	// The beginning of a line.
	var starts []int
	for i := range b {
		if i == 0 || b[i-1] == '\n' {
			starts = append(starts, i)
		}
	}
	line := starts[rnd.IntN(len(starts))]
	end := line + len(b[line:])
	if i := bytes.IndexByte(b[line:], '\n'); i >= 0 {
		end = line + i + 1
	}
	insert := func(at int, s string) []byte { return append(append(bytes.Clone(b[:at]), s...), b[at:]...) }
	switch rnd.IntN(9) {
	case 0, 1, 2:
		return insert(line, mutantLines[rnd.IntN(len(mutantLines))])
	case 3:
		return insert(at, mutantPieces[rnd.IntN(len(mutantPieces))])
	case 4: // a line twice
		return insert(line, string(b[line:end]))
	case 5: // without some bytes
		return append(bytes.Clone(b[:at]), b[min(len(b), at+1+rnd.IntN(3)):]...)
	case 6: // in other letters
		c := bytes.Clone(b)
		copy(c[line:end], bytes.ToUpper(c[line:end]))
		return c
	case 7: // another number
		c := bytes.Clone(b)
		for i := at; i < len(c); i++ {
			if c[i] >= '0' && c[i] <= '9' {
				c[i] = '0' + byte(rnd.IntN(10))
				break
			}
		}
		return c
	default:
		if at == len(b) {
			return b
		}
		c := bytes.Clone(b)
		c[at] = byte(rnd.IntN(256))
		return c
	}
}
