package upstream

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"testing"
	"testing/iotest"
)

// FuzzResponse: whatever comes, the parser does not panic; what it takes for an
// answer net/http takes for the same one, body, trailers and what follows
// included; and it does not matter in which pieces it comes.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		ok,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5;a=b\r\nhello\r\n00A\r\n0123456789\r\n0\r\nX-Sum: 7\r\n\r\n" + ok,
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\nhello" + ok,
		"HTTP/1.0 200 OK\r\nContent-Type:text/plain\t\r\n\r\nuntil the end",
		"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok,
		"HTTP/1.1 200\r\nConnection: keep-alive, close\r\nPragma: no-cache\r\nX: \xff\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length : 5\r\n folded\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\n0\r\n\r\n",
	} {
		f.Add([]byte(s), "GET")
		f.Add([]byte(s), "HEAD")
	}
	f.Fuzz(func(t *testing.T, b []byte, method string) {
		if method != "HEAD" {
			method = "GET"
		}
		ours := readOurs(bytes.NewReader(b), method)
		if again := readOurs(iotest.OneByteReader(bytes.NewReader(b)), method); !reflect.DeepEqual(ours, again) {
			t.Fatalf("at once %+v, byte by byte %+v", ours, again)
		}
		if !ours.headed {
			return
		}
		theirs := readTheirs(b, method, ours.header)
		if !theirs.headed || ours.whole && !theirs.whole {
			t.Fatalf("we read %+v, net/http %+v", ours, theirs)
		}
		if !ours.whole {
			ours.trailer, ours.rest, theirs.trailer, theirs.rest, theirs.whole = nil, "", nil, "", false
			if len(ours.body) <= len(theirs.body) {
				theirs.body = theirs.body[:len(ours.body)] // we stopped earlier
			}
		}
		if !reflect.DeepEqual(ours, theirs) {
			t.Fatalf("we read\n%+v, net/http\n%+v", ours, theirs)
		}
	})
}

// seen is what a reader makes of an answer.
type seen struct {
	headed, whole, close bool
	status               int
	text, proto, body    string
	length               int64
	header, trailer      http.Header
	rest                 string // behind the answer
}

func see(res *http.Response, rest io.Reader) seen {
	s := seen{headed: true, close: res.Close, status: res.StatusCode, text: res.Status, proto: res.Proto, length: res.ContentLength, header: res.Header}
	body, err := io.ReadAll(res.Body)
	s.body, s.whole = string(body), err == nil
	if s.trailer = res.Trailer; len(s.trailer) == 0 {
		s.trailer = nil
	}
	if s.whole {
		b, _ := io.ReadAll(rest)
		s.rest = string(b)
	}
	return s
}

func readOurs(src io.Reader, method string) seen {
	in := &reader{src: src, buf: make([]byte, 64)}
	a, kind, _, err := readHead(in, 64<<10, method)
	if err != nil {
		return seen{}
	}
	if kind == bodyNone {
		a.res.Body = http.NoBody
	} else {
		a.body = body{in: in, res: &a.res, kind: kind, limit: 64 << 10, left: max(a.res.ContentLength, 0)}
		a.res.Body = &a.body
	}
	return see(&a.res, restOf{in})
}

type restOf struct{ *reader }

func (r restOf) Read(p []byte) (int, error) { return r.read(p) }

func readTheirs(b []byte, method string, ours http.Header) seen {
	buf := bufio.NewReader(bytes.NewReader(b))
	res, err := http.ReadResponse(buf, &http.Request{Method: method})
	if err != nil {
		return seen{}
	}
	if p := res.Header["Pragma"]; len(p) > 0 && p[0] == "no-cache" && !bytes.Contains(bytes.ToLower(b), []byte("cache-control")) {
		delete(res.Header, "Cache-Control") // which net/http adds
	}
	s := see(res, buf)
	if s.header["Connection"] == nil && s.close {
		delete(ours, "Connection") // which net/http takes away, with the names that it holds
	}
	return s
}
