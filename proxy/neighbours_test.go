package proxy

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestSlowNeighbours: a client that does not read, one that does not send, and an
// upstream that does not answer hold up nobody else, neither over connections of
// their own nor as streams of one.
func TestSlowNeighbours(t *testing.T) {
	settled(t)
	stop := make(chan struct{})
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/much":
			b := make([]byte, 64<<10)
			for {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		case "/silent":
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		default:
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(body)
		}
	})
	s := start(t, up, nil)
	defer close(stop)
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()

	for range 20 {
		unread := dial(t, s.addr)
		unread.send("GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
		defer unread.Close()
		unsent := dial(t, s.addr)
		unsent.send("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
		defer unsent.Close()
		unanswered := dial(t, s.addr)
		unanswered.send("GET /silent HTTP/1.1\r\nHost: x\r\n\r\n")
		defer unanswered.Close()
	}
	res, err := tr.RoundTrip(request(t, "GET", s.url("/much"), nil)) // a stream that is not read
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	pr, pw := io.Pipe()
	defer pw.Close()
	go func() {
		if res, err := tr.RoundTrip(request(t, "POST", s.url("/slow"), pr)); err == nil { // one that is not sent
			res.Body.Close()
		}
	}()

	for _, c := range []*http.Client{client(t), {Transport: tr, Timeout: 20 * time.Second}} {
		for range 20 {
			res, body := get(t, c, request(t, "POST", s.url("/fast"), strings.NewReader("order 7")))
			if res.StatusCode != 200 || string(body) != "order 7" {
				t.Fatalf("%s: %d %q", res.Proto, res.StatusCode, body)
			}
		}
	}
}
