package proxy

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// encoder is a recorder that encodes and forgets: what it costs to record, but
// for commitments and the disk.
type encoder struct{}

func (encoder) Record(_ context.Context, r *sealtapv1.Record, _ []*sealtapv1.Opening) error {
	r.Producer, r.Incarnation = make([]byte, 32), make([]byte, 16)
	_, err := record.Encode(r)
	return err
}

// BenchmarkProxy posts 1 KiB and gets 1 KiB, through this proxy and through a
// bare httputil.ReverseProxy, over loopback with client and upstream in the same
// process: compare the two, the figures themselves mean nothing.
func BenchmarkProxy(b *testing.B) {
	answer := bytes.Repeat([]byte("a"), 1024)
	up := backend(b, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	})
	u, _ := url.Parse(up)
	b.Run("sealtap", func(b *testing.B) {
		s := start(b, up, func(c *Config) { c.Recorder = encoder{} })
		post(b, s.url("/orders?page=2"))
	})
	b.Run("ReverseProxy", func(b *testing.B) {
		tr := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
		defer tr.CloseIdleConnections()
		s := httptest.NewServer(&httputil.ReverseProxy{Transport: tr, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u); r.SetXForwarded() }})
		defer s.Close()
		post(b, s.URL+"/orders?page=2")
	})
}

func post(b *testing.B, target string) {
	c := client(b)
	body := bytes.Repeat([]byte("q"), 1024)
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, _ := http.NewRequest("POST", target, bytes.NewReader(body))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer abcdefghijklmnop")
			res, err := c.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	})
}
