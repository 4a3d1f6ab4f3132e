package upstream

import (
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestAnswers(t *testing.T) {
	settled(t)
	const none = "-"
	for name, tt := range map[string]struct {
		method, answer string
		status         int
		length         int64
		body           string
		kept           bool // the connection is
	}{
		"length":              {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, 5, "hello", true},
		"no phrase":           {"GET", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", 200, 5, "hello", true},
		"empty phrase":        {"GET", "HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n", 299, 0, none, true},
		"same length twice":   {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length:5\r\n\r\nhello", 200, 5, "hello", true},
		"chunked":             {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0A\r\n, to you..\r\n0\r\n\r\n", 200, -1, "hello, to you..", true},
		"chunk extensions":    {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b c\"\r\nhello\r\n000;x\r\n\r\n", 200, -1, "hello", true},
		"to the close":        {"GET", "HTTP/1.1 200 OK\r\n\r\nhello", 200, -1, "hello", false},
		"said to close":       {"GET", "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\nhello", 200, 5, "hello", false},
		"HTTP/1.0":            {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, 5, "hello", false},
		"HTTP/1.0 keep-alive": {"GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", 200, 5, "hello", false},
		"HTTP/1.0 to close":   {"GET", "HTTP/1.0 200 OK\r\n\r\nhello", 200, -1, "hello", false},
		"HEAD":                {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, 5, none, true},
		"HEAD chunked":        {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, -1, none, true},
		"HEAD without length": {"HEAD", "HTTP/1.1 200 OK\r\n\r\n", 200, -1, none, true},
		"204":                 {"GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, 0, none, true},
		"204 with zero":       {"GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, 0, none, true},
		"204 with a length":   {"GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, 0, none, false},
		"304":                 {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nEtag: \"x\"\r\n\r\n", 304, 0, none, true},
		"no body":             {"GET", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, 0, none, true},
		"early hints":         {"GET", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, 5, "hello", true},
		"status 999":          {"GET", "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", 999, 0, none, true},
	} {
		t.Run(name, func(t *testing.T) {
			closing := strings.Contains(name, "close") || strings.Contains(name, "1.0")
			up := listen(t, func(p *peer) {
				for {
					if r, _ := p.request(); r == nil {
						return
					}
					if p.send(tt.answer); closing {
						return
					}
				}
			})
			tr := newTransport(t, nil)
			for i := range int32(3) {
				res, err := tr.RoundTrip(newRequest(t, tt.method, up.url, ""))
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(res.Body)
				if err != nil || string(b) != strings.Trim(tt.body, none) || res.StatusCode != tt.status || res.ContentLength != tt.length {
					t.Errorf("%d, length %d, %q, %v", res.StatusCode, res.ContentLength, b, err)
				}
				if (res.Body == http.NoBody) != (tt.body == none) {
					t.Errorf("the body is %T", res.Body)
				}
				if n := up.conns.Load(); tt.kept && n != 1 || !tt.kept && n != i+1 {
					t.Errorf("%d connections after %d answers", n, i+1)
				}
			}
		})
	}
}

// TestStrictness: an answer that can be understood in two ways is none, and its
// connection is not used again (RFC 9112, section 11.1 and 11.2).
func TestStrictness(t *testing.T) {
	settled(t)
	const head = "HTTP/1.1 200 OK\r\n"
	for name, answer := range map[string]string{
		"length and coding":        head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"coding and length":        head + "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
		"two lengths":              head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
		"a list of lengths":        head + "Content-Length: 5, 5\r\n\r\nhello",
		"a signed length":          head + "Content-Length: +5\r\n\r\nhello",
		"a negative length":        head + "Content-Length: -5\r\n\r\nhello",
		"a hexadecimal length":     head + "Content-Length: 0x5\r\n\r\nhello",
		"an empty length":          head + "Content-Length:\r\n\r\nhello",
		"a length past 64 bits":    head + "Content-Length: 18446744073709551621\r\n\r\nhello",
		"two codings":              head + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"coding twice":             head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"another coding":           head + "Transfer-Encoding: identity\r\n\r\nhello",
		"a coding with a tab":      head + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n",
		"a coding in HTTP/1.0":     "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a coding at 204":          "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a coding at 103":          "HTTP/1.1 103 Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + ok,
		"a length at 103":          "HTTP/1.1 103 Hints\r\nContent-Length: 4\r\n\r\n" + ok,
		"a bare LF in the status":  "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello",
		"a bare LF in headers":     head + "A: b\nContent-Length: 5\r\n\r\nhello",
		"bare LFs at the end":      head + "Content-Length: 5\r\n\n\nhello",
		"a bare CR":                head + "A: b\rContent-Length: 5\r\n\r\n",
		"a folded line":            head + "A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
		"a folded first line":      head + " A: b\r\nContent-Length: 0\r\n\r\n",
		"a space before the colon": head + "Content-Length : 5\r\n\r\nhello",
		"a space in a name":        head + "Content Length: 5\r\n\r\nhello",
		"an empty name":            head + ": 5\r\nContent-Length: 0\r\n\r\n",
		"no colon":                 head + "Content-Length\r\n\r\n",
		"a zero byte in a value":   head + "A: b\x00c\r\nContent-Length: 0\r\n\r\n",
		"a zero byte in a name":    head + "A\x00: c\r\nContent-Length: 0\r\n\r\n",
		"a name that is not ASCII": head + "\xc3\xa4: c\r\nContent-Length: 0\r\n\r\n",
		"a control in the phrase":  "HTTP/1.1 200 O\x07K\r\nContent-Length: 0\r\n\r\n",
		"HTTP/2.0":                 "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.2":                 "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/01.1":                "HTTP/01.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"http in small letters":    "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"ICY":                      "ICY 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/0.9":                 "<html>hello</html>\r\n\r\n",
		"a long status":            "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
		"a short status":           "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
		"a status with a sign":     "HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n",
		"a status below 100":       "HTTP/1.1 042 What\r\nContent-Length: 0\r\n\r\n",
		"two spaces":               "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
		"a leading line":           "\r\n" + ok,
		"a framing trailer":        head + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\n\r\n",
		"too long":                 head + "A: " + strings.Repeat("b", 70<<10) + "\r\nContent-Length: 0\r\n\r\n",
		"an endless line":          strings.Repeat("H", 70<<10),
		"too many headers":         head + strings.Repeat("A: b\r\n", maxLines+1) + "Content-Length: 0\r\n\r\n",
		"an unasked switch":        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
		"endless hints":            strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 40) + ok,

		"body: no size":              head + "Transfer-Encoding: chunked\r\n\r\n\r\nhello",
		"body: a size with a sign":   head + "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
		"body: a size with 0x":       head + "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
		"body: a size with a space":  head + "Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
		"body: a space before it":    head + "Transfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n",
		"body: a size past 64 bits":  head + "Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
		"body: a negative size":      head + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello\r\n0\r\n\r\n",
		"body: a bare LF after size": head + "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
		"body: a bare LF after data": head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n",
		"body: data too long":        head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello, you\r\n0\r\n\r\n",
		"body: a CR in extensions":   head + "Transfer-Encoding: chunked\r\n\r\n5;a\rb\r\nhello\r\n0\r\n\r\n",
		"body: a long extension":     head + "Transfer-Encoding: chunked\r\n\r\n5;" + strings.Repeat("x", 300) + "\r\nhello\r\n0\r\n\r\n",
		"body: many extensions":      head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("x", 200)+"\r\nh\r\n", 60) + "0\r\n\r\n",
		"body: a bare LF at the end": head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\n",
		"body: a folded trailer":     head + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n",
		"body: a bad trailer":        head + "Transfer-Encoding: chunked\r\n\r\n0\r\nA : b\r\n\r\n",
		"body: long trailers":        head + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + strings.Repeat("b", 70<<10) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			up := listen(t, func(p *peer) {
				if r, _ := p.request(); r == nil {
					return
				}
				if p.no == 1 {
					p.send(answer)
				} else {
					p.send(ok)
				}
				p.gone() // what is wrong must be found out while the connection is open
			})
			tr := newTransport(t, nil)
			res, err := tr.RoundTrip(newRequest(t, "GET", up.url, ""))
			if err == nil {
				_, err = io.ReadAll(res.Body)
				if !strings.HasPrefix(name, "body: ") {
					t.Errorf("the headers were taken: %v", res)
				}
			}
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v", err)
			}
			if _, b := do(t, tr, newRequest(t, "GET", up.url, "")); b != "ok" || up.conns.Load() != 2 {
				t.Errorf("the next answer is %q, on connection %d", b, up.conns.Load())
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	up := answering(t, "HTTP/1.1 200 Very Well\r\nSet-Cookie: a=1\r\ncontent-TYPE:text/plain \t\r\nset-cookie: b=2\r\nX-Empty:\r\nX-Latin: caf\xe9\r\nx-very-long-name-that-nobody-knows-and-that-is-not-canonical: 1\r\nPragma: no-cache\r\nContent-Length: 0\r\n\r\n")
	res, _ := do(t, newTransport(t, nil), newRequest(t, "GET", up.url, ""))
	want := http.Header{"Set-Cookie": {"a=1", "b=2"}, "Content-Type": {"text/plain"}, "X-Empty": {""}, "X-Latin": {"caf\xe9"},
		"X-Very-Long-Name-That-Nobody-Knows-And-That-Is-Not-Canonical": {"1"}, "Pragma": {"no-cache"}, "Content-Length": {"0"}}
	if !reflect.DeepEqual(res.Header, want) || res.Status != "200 Very Well" || res.Proto != "HTTP/1.1" || res.Request == nil {
		t.Errorf("%v %q", res.Header, res.Status)
	}
	// One more value must not overwrite the next header's.
	_ = append(res.Header["Content-Type"], "overflow")
	if !reflect.DeepEqual(res.Header, want) {
		t.Errorf("%v", res.Header)
	}
}

func TestTrailers(t *testing.T) {
	for _, announced := range []string{"", "Trailer: X-Sum, X-Never\r\n"} {
		for _, part := range []int{1, 7, 1000} {
			up := listen(t, func(p *peer) {
				for {
					if r, _ := p.request(); r == nil {
						return
					}
					for s := "HTTP/1.1 200 OK\r\n" + announced + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\nX-sum: 8\r\n\r\n"; s != ""; {
						n := min(part, len(s))
						p.send(s[:n])
						s = s[n:]
					}
				}
			})
			tr := newTransport(t, nil)
			for range 2 {
				res, b := do(t, tr, newRequest(t, "GET", up.url, ""))
				_, never := res.Trailer["X-Never"]
				if b != "abc" || !reflect.DeepEqual(res.Trailer["X-Sum"], []string{"7", "8"}) || never != (announced != "") || res.Header["Trailer"] != nil {
					t.Errorf("%q, header %v, trailer %v", b, res.Header, res.Trailer)
				}
			}
			if n := up.conns.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
		}
	}
}

// TestWholeAtOnce: the end of a body that is there comes together with its bytes,
// so that who passes it on knows that it is whole.
func TestWholeAtOnce(t *testing.T) {
	for _, answer := range []string{ok, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nA: b\r\n\r\n"} {
		up := answering(t, answer)
		res, err := newTransport(t, nil).RoundTrip(newRequest(t, "GET", up.url, ""))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := res.Body.Read(make([]byte, 10)); n != 2 || err != io.EOF {
			t.Errorf("%d, %v", n, err)
		}
		if n, err := res.Body.Read(make([]byte, 10)); n != 0 || err != io.EOF {
			t.Errorf("again: %d, %v", n, err)
		}
		res.Body.Close()
	}
}

// TestCutOff: an answer that ends too early is an error at its end.
func TestCutOff(t *testing.T) {
	settled(t)
	for answer, want := range map[string]string{
		"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf":                           "half",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf":              "half",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n":          "half",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0":         "half",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nA: b": "half",
		"HTTP/1.1 200 OK\r\nContent-Len":                                              "",
		"HTTP/1.1 103 Early Hints\r\n\r\n":                                            "",
		"":                                                                            "",
	} {
		up := listen(t, func(p *peer) { p.request(); p.send(answer) })
		res, err := newTransport(t, nil).RoundTrip(newRequest(t, "GET", up.url, ""))
		if err == nil {
			var b []byte
			if b, err = io.ReadAll(res.Body); string(b) != want {
				t.Errorf("%q: %q", answer, b)
			}
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) && (answer != "" || err != io.EOF) {
			t.Errorf("%q: error %v", answer, err)
		}
	}
}
