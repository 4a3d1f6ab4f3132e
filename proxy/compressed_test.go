package proxy

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"runtime"
	"testing"
)

// TestBombs: bodies that would be a thousand times as large pass as they are, both
// ways. The digests are of the bytes on the wire, and nothing inflates them, not even
// to look for what they ask for.
func TestBombs(t *testing.T) {
	settled(t)
	const inflated = 96 << 20
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	zeros := make([]byte, 1<<20)
	for range inflated / len(zeros) {
		_, _ = z.Write(zeros)
	}
	_ = z.Close()
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		got, _ := io.ReadAll(r.Body)
		if !bytes.Equal(got, bomb.Bytes()) {
			t.Errorf("the upstream got %d bytes", len(got))
		}
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(got)
	})
	s := start(t, up, nil)
	req := request(t, "POST", s.url("/mcp"), bytes.NewReader(bomb.Bytes()))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res, body := get(t, client(t), req)
	runtime.ReadMemStats(&after)
	if res.Header.Get("Content-Encoding") != "gzip" || !bytes.Equal(body, bomb.Bytes()) {
		t.Errorf("%d bytes come back, %v", len(body), res.Header)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
		t.Errorf("%d bytes were allocated for %d on the wire", n, bomb.Len())
	}
	_, p := s.rec.last(t)
	rp := p.rec.GetResponse()
	wantBody(t, "request", rp.GetRequestBody(), bomb.Bytes())
	wantBody(t, "received", rp.GetReceived(), bomb.Bytes())
	wantBody(t, "sent", rp.GetSent(), bomb.Bytes())
}
