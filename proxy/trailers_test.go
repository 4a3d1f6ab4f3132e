package proxy

import (
	"io"
	"net"
	"net/http"
	"testing"
)

// TestTrailerThatDidNotCome: a header is not repeated as a trailer that the upstream has
// announced and not sent.
func TestTrailerThatDidNotCome(t *testing.T) {
	settled(t)
	up := rawBackend(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Other\r\nX-Sum: head\r\n\r\n2\r\nhi\r\n0\r\nX-Other: 1\r\n\r\n")
	})
	s := start(t, up, nil)
	for two, c := range map[bool]*http.Client{false: client(t), true: h2c(t)} {
		res, _ := get(t, c, request(t, "GET", s.url("/"), nil))
		if res.Header.Get("X-Sum") != "head" || len(res.Trailer["X-Sum"]) != 0 || res.Trailer.Get("X-Other") != "1" {
			t.Errorf("HTTP/2 %v: header %v, trailer %v", two, res.Header, res.Trailer)
		}
	}
}

// TestTrailersWithoutPlace: the record says which trailers there was no place for.
func TestTrailersWithoutPlace(t *testing.T) {
	settled(t)
	up := h2cBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "2")
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "hi")
		w.Header().Set("X-Sum", "7")
	})
	s := start(t, up, nil)
	for two, c := range map[bool]*http.Client{false: client(t), true: h2c(t)} {
		res, _ := get(t, c, request(t, "GET", s.url("/"), nil))
		_, p := s.rec.last(t)
		if came := res.Trailer.Get("X-Sum") == "7"; came != two || hasChange(p, removed, "trailer:x-sum") == came || len(p.headers(t)["trailer:x-sum"]) != 1 {
			t.Errorf("HTTP/2 %v: trailer %v, changes %v", two, res.Trailer, p.rec.GetResponse().GetChanges())
		}
	}
}

func TestUpstreamsCannotAnnounceOwnTrailers(t *testing.T) {
	settled(t)
	up := rawBackend(t, func(c net.Conn, r *http.Request) {
		announced := ""
		if r.URL.Path == "/announced" {
			announced = "Trailer: Sealtap-Exchange, Sealtap-Receipt, X-Sum\r\n"
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"+announced+
			"\r\n2\r\nhi\r\n0\r\nSealtap-Exchange: forged\r\nSealtap-Receipt: forged\r\nX-Sum: 1\r\n\r\n")
	})
	s := start(t, up, func(c *Config) { c.Receipts = true })
	for _, path := range []string{"/announced", "/unannounced"} {
		res, _ := get(t, client(t), request(t, "GET", s.url(path), nil))
		if v := res.Header["Sealtap-Exchange"]; len(v) != 1 || v[0] == "forged" {
			t.Errorf("%s: the head names the exchange %q", path, v)
		}
		if len(res.Header["Sealtap-Receipt"]) == 0 {
			t.Errorf("%s: the head has no receipt", path)
		}
		if len(res.Trailer["Sealtap-Exchange"]) != 0 || res.Trailer.Get("X-Sum") != "1" {
			t.Errorf("%s: trailer %v", path, res.Trailer)
		}
	}
}
