package proxy

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// TestStressHTTP2 is TestStress where HTTP/2 is spoken on both sides: many streams of few
// connections, which are given up, reset and cut.
func TestStressHTTP2(t *testing.T) {
	settled(t)
	x := newStress(t)
	up := h2cBackend(t, x.serveTwo)
	c := h2c(t)
	x.run(t, up, func(r *rand.Rand) {
		for range 4 * stressTalks {
			if x.over() {
				return
			}
			x.askTwo(r, c)
		}
	})
	x.check()
}

// dripping is a body that comes in pieces.
type dripping struct {
	p []byte
	r *rand.Rand
}

// Read implements [io.Reader].
func (d *dripping) Read(p []byte) (int, error) {
	if len(d.p) == 0 {
		return 0, io.EOF
	}
	if d.r.IntN(4) == 0 {
		time.Sleep(time.Duration(d.r.IntN(9)) * time.Millisecond)
	}
	n := copy(p[:min(len(p), 1+d.r.IntN(30_000))], d.p)
	d.p = d.p[n:]
	return n, nil
}

// askTwo makes one request, and gives it up now and then.
func (x *stress) askTwo(r *rand.Rand, c *http.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if r.IntN(12) == 0 {
		time.AfterFunc(time.Duration(r.IntN(20))*time.Millisecond, cancel)
	}
	size := []int{0, 0, 10, 3000, 70_000, 300_000}[r.IntN(6)]
	var body io.Reader
	method := "GET"
	if size > 0 {
		method, body = "POST", &dripping{x.noise[:size], rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+x.addr+"/"+strconv.Itoa(r.IntN(1000)), body)
	if err != nil {
		x.t.Error(err)
		return
	}
	if size > 0 && r.IntN(2) == 0 {
		req.ContentLength = int64(size)
	} else if size > 0 && r.IntN(2) == 0 {
		req.Trailer = http.Header{"X-Sum": {"1"}}
	}
	res, err := c.Do(req)
	if err != nil {
		return
	}
	defer res.Body.Close()
	x.got(res, size)
}

// serveTwo answers as it likes.
func (x *stress) serveTwo(w http.ResponseWriter, req *http.Request) {
	r := rand.New(rand.NewPCG(stressSeed, rand.Uint64()))
	id := x.id(req.Header.Get("Sealtap-Exchange"))
	if !x.recorded(id, "request") {
		x.t.Error("a request was sent on before its record was there")
	}
	if r.IntN(20) == 0 {
		panic(http.ErrAbortHandler)
	}
	if r.IntN(8) > 0 {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		if !bytes.Equal(body, x.noise[:min(len(body), len(x.noise))]) {
			x.t.Error("a body arrived that is another than was sent")
		}
		x.mu.Lock()
		x.taken[id] = len(body)
		x.mu.Unlock()
	}
	size := []int{0, 1, 200, 5000, 66_000, 400_000}[r.IntN(6)]
	if r.IntN(2) == 0 {
		w.Header().Set("Content-Length", strconv.Itoa(size))
	}
	if r.IntN(3) == 0 {
		w.Header().Set("Trailer", "X-Sum")
		defer w.Header().Set("X-Sum", "1")
	}
	if r.IntN(8) == 0 {
		w.WriteHeader(http.StatusEarlyHints)
	}
	cut := -1
	if r.IntN(12) == 0 {
		cut = r.IntN(size + 1)
	} else {
		x.mu.Lock()
		x.sent[id] = size
		x.mu.Unlock()
	}
	for p := x.noise[:size]; len(p) > 0; {
		n := min(len(p), 1+r.IntN(60_000))
		if _, err := w.Write(p[:n]); err != nil {
			return
		}
		if r.IntN(2) == 0 {
			w.(http.Flusher).Flush()
			time.Sleep(time.Duration(r.IntN(9)) * time.Millisecond)
		}
		if p = p[n:]; cut >= 0 && size-len(p) >= cut {
			panic(http.ErrAbortHandler)
		}
	}
	if cut >= 0 {
		panic(http.ErrAbortHandler)
	}
}
