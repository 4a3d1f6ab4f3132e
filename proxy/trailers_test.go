package proxy

import (
	"io"
	"net"
	"net/http"
	"testing"
)

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
