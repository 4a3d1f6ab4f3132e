package proxy

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// TestMalformedHTTP2: what net/http lets through and HTTP/1 would be refused for is
// refused in HTTP/2 as well.
func TestMalformedHTTP2(t *testing.T) {
	settled(t)
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/good" {
			t.Errorf("%s %s reached the upstream", r.Host, r.RequestURI)
		}
	})
	const (
		whole = 5 // END_HEADERS, END_STREAM
		begun = 4
	)
	for name, test := range map[string]struct {
		flags byte
		pairs []string
		want  string
	}{
		"good":              {whole, []string{":path", "/good", ":authority", "x:80", "content-length", "0"}, ""},
		"absolute":          {whole, []string{":path", "http://evil/x", ":authority", "x"}, "different hosts"},
		"absolute, alike":   {whole, []string{":path", "http://x/x", ":authority", "x"}, "absolute form"},
		"opaque":            {whole, []string{":path", "a:b", ":authority", "x"}, "none of the forms"},
		"fragment":          {whole, []string{":path", "/a#b", ":authority", "x"}, "not allowed in the target"},
		"space":             {whole, []string{":path", "/a b", ":authority", "x"}, "not allowed in the target"},
		"list":              {whole, []string{":path", "/", ":authority", "a,b"}, "authority"},
		"path in authority": {whole, []string{":path", "/", ":authority", "a/b"}, "authority"},
		"escape":            {whole, []string{":path", "/", ":authority", "a%2eb"}, "authority"},
		"bad port":          {whole, []string{":path", "/", ":authority", "a:b"}, "authority"},
		"no number":         {begun, []string{":path", "/", ":authority", "x", "content-length", "abc"}, "Content-Length"},
		"leading zero":      {begun, []string{":path", "/", ":authority", "x", "content-length", "05"}, "Content-Length"},
		"no body":           {whole, []string{":path", "/", ":authority", "x", "content-length", "5"}, "Content-Length"},
	} {
		s := start(t, up, nil)
		c := dial(t, s.addr)
		c.send(preface + frame(4, 0, 0, "") + frame(1, test.flags, 1, headerBlock(append([]string{":method", "POST", ":scheme", "http"}, test.pairs...)...)))
		s.rec.wait(t, 2)
		_, p := s.rec.last(t)
		got := p.rec.GetResponse()
		if test.want == "" {
			wantOutcome(t, p, complete)
		} else if got.GetOutcome() != sealtapv1.Outcome_OUTCOME_REFUSED || got.GetStatus() != 400 || !strings.Contains(got.GetDetail(), test.want) {
			t.Errorf("%s: %v", name, got)
		}
		c.Close()
		s.stop()
	}
}

// TestTrailersOverHTTP2: in HTTP/2 trailers in the proxy's own names do not pass either,
// in neither direction, and those that do are recorded.
func TestTrailersOverHTTP2(t *testing.T) {
	settled(t)
	up := h2cBackend(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Trailer", "Sealtap-Exchange, Sealtap-Receipt, X-Sum, X-Absent")
		h.Set("X-Absent", "head")
		n, _ := io.Copy(io.Discard, r.Body)
		if r.Trailer.Get("X-Up") != "up" || len(r.Trailer["Sealtap-Exchange"]) > 0 || len(r.Trailer["X-Forwarded-For"]) > 0 {
			t.Errorf("trailers %v", r.Trailer)
		}
		_, _ = fmt.Fprint(w, n)
		h.Del("X-Absent")
		for _, name := range []string{"Sealtap-Exchange", "Sealtap-Receipt"} {
			h.Set(name, "forged")
		}
		h.Set("X-Sum", "7")
	})
	s := start(t, up, func(c *Config) { c.Receipts = true })
	for _, size := range []int{10, 100_000} { // held, streamed
		req := request(t, "POST", s.url("/"), io.LimitReader(zeros{}, int64(size)))
		req.Trailer = http.Header{"X-Up": {"up"}, "Sealtap-Exchange": {"forged"}, "X-Forwarded-For": {"1.2.3.4"}}
		res, body := get(t, h2c(t), req)
		if string(body) != fmt.Sprint(size) {
			t.Errorf("%q", body)
		}
		if v := res.Header["Sealtap-Exchange"]; len(v) != 1 || v[0] == "forged" {
			t.Errorf("the head names the exchange %q", v)
		}
		if len(res.Trailer["Sealtap-Exchange"]) > 0 || res.Trailer.Get("Sealtap-Receipt") == "forged" || res.Trailer.Get("X-Sum") != "7" || len(res.Trailer["X-Absent"]) > 0 {
			t.Errorf("trailers %v", res.Trailer)
		}
		q, p := s.rec.last(t)
		got := q.headers(t)["trailer:x-up"]
		if size > 1000 {
			got = p.headers(t)["request-trailer:x-up"]
		}
		if len(got) != 1 || got[0] != "up" {
			t.Errorf("%d bytes: the trailers of the request are not recorded: %v, %v", size, q.headers(t), p.headers(t))
		}
	}
}

// TestTrailersWhileRecording: trailers that come while the request record is made are
// the reader's of the body alone. Else, in HTTP/2, two would use one map at a time, which
// ends the process.
func TestTrailersWhileRecording(t *testing.T) {
	settled(t)
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Trailer.Get("A00") != "v" {
			t.Errorf("trailers %v", r.Trailer)
		}
	})
	var names []string
	for i := range 90 {
		names = append(names, fmt.Sprintf("a%02d", i))
	}
	list := strings.Join(names, ", ")
	var lines, block strings.Builder
	for _, n := range names {
		fmt.Fprintf(&lines, "%s: v\r\n", n)
		block.WriteString(headerBlock(n, "v"))
	}
	for two, parts := range map[bool][2]string{
		false: {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: " + list + "\r\n\r\n1\r\na\r\n", "0\r\n" + lines.String() + "\r\n"},
		true: {preface + frame(4, 0, 0, "") + frame(1, 4, 1, headerBlock(":method", "POST", ":scheme", "http", ":path", "/", ":authority", "x", "trailer", list)) + frame(0, 0, 1, "a"),
			frame(1, 5, 1, block.String())},
	} {
		s := start(t, up, nil)
		g := newGate("request")
		s.rec.before = g.hook
		c := dial(t, s.addr)
		c.send(parts[0])
		<-g.reached // so the body is one that is streamed
		c.send(parts[1])
		time.Sleep(20 * time.Millisecond) // the trailers are read meanwhile
		close(g.open)
		_, p := s.rec.last(t)
		wantOutcome(t, p, complete)
		wantBody(t, "request", p.rec.GetResponse().GetRequestBody(), []byte("a"))
		if got := p.headers(t)["request-trailer:a89"]; len(got) != 1 {
			t.Errorf("HTTP/2 %v: %v", two, p.headers(t))
		}
		c.Close()
		s.stop()
	}
}

// TestSteadyUpload: a body of HTTP/2 without a length may take longer than a silence may.
func TestSteadyUpload(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n)
	})
	s := start(t, up, func(c *Config) { c.Timeouts.ClientBody = 2 * time.Second })
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, c := range map[string]*http.Client{"HTTP/1": client(t), "HTTP/2": h2c(t)} {
		r, w := io.Pipe()
		wg.Go(func() {
			for range 30 {
				_, _ = w.Write(make([]byte, 100))
				time.Sleep(100 * time.Millisecond)
			}
			w.Close()
		})
		wg.Go(func() {
			res, err := c.Do(request(t, "POST", s.url("/"), r))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			defer res.Body.Close()
			if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 200 || string(body) != "3000" {
				t.Errorf("%s: %d %s, %v", name, res.StatusCode, body, err)
			}
		})
	}
}

// TestDrippedBody: a client that sends a byte now and then does not keep the exchange,
// and one that is fast enough on average does.
func TestDrippedBody(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n)
	})
	s := start(t, up, func(c *Config) { c.Timeouts.ClientBody, c.Limits.BodyRate = 10*brief100, 1000 })
	for name, c := range map[string]*http.Client{"HTTP/1": client(t), "HTTP/2": h2c(t)} {
		for _, drop := range []int{1, 500} {
			r, w := io.Pipe()
			stop := make(chan struct{})
			go func() {
				defer w.Close()
				for i := 0; ; i++ {
					if _, err := w.Write(make([]byte, drop)); err != nil || drop > 1 && i == 30 {
						return
					}
					select {
					case <-stop:
						return
					case <-time.After(50 * time.Millisecond):
					}
				}
			}()
			n := len(s.rec.all())
			res, err := c.Do(request(t, "POST", s.url("/"), r))
			close(stop)
			if err == nil {
				res.Body.Close()
			}
			s.rec.wait(t, n+2)
			_, p := s.rec.last(t)
			if drop > 1 {
				wantOutcome(t, p, complete)
				continue
			}
			wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_TIMEOUT)
			if d := p.rec.GetResponse().GetDetail(); !strings.Contains(d, "too slowly") {
				t.Errorf("%s: %q", name, d)
			}
		}
	}
}

// TestRapidReset: requests that a client gives up as soon as it has made them do not pile
// up, and each that was begun has its two records.
func TestRapidReset(t *testing.T) {
	settled(t)
	var most atomic.Int64
	var s *server
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		for n := s.occupied.exchanges.Load(); n > most.Load(); {
			most.Store(n)
		}
		select {
		case <-r.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	})
	s = start(t, up, nil)
	c := dial(t, s.addr)
	_, _ = io.WriteString(c, preface+frame(4, 0, 0, ""))
	good := headerBlock(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x")
	for i := range 3000 {
		id := uint32(2*i + 1)
		if _, err := io.WriteString(c, frame(1, 5, id, good)+frame(3, 0, id, "\x00\x00\x00\x08")); err != nil {
			break // it was too much
		}
		if i == 10 {
			s.rec.wait(t, 2)
		}
	}
	c.Close()
	for end := time.Now().Add(15 * time.Second); s.occupied.exchanges.Load() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d exchanges are under way", s.occupied.exchanges.Load())
		}
	}
	s.stop()
	open := make(map[string]int)
	for _, k := range s.rec.all() {
		if k.rec.GetRequest() != nil {
			open[string(k.rec.GetExchange())]++
		} else if k.rec.GetResponse() != nil {
			open[string(k.rec.GetExchange())]--
		}
	}
	for _, n := range open {
		if n != 0 {
			t.Fatal("an exchange has not its two records")
		}
	}
	if len(open) == 0 || most.Load() > 300 {
		t.Errorf("%d exchanges, %d at once", len(open), most.Load())
	}
}

// TestFrameSize: a client cannot have its connection keep a large buffer.
func TestFrameSize(t *testing.T) {
	settled(t)
	s := start(t, backend(t, func(http.ResponseWriter, *http.Request) {}), nil)
	c := dial(t, s.addr)
	c.send(preface + frame(4, 0, 0, ""))
	head := make([]byte, 9)
	if _, err := io.ReadFull(c.r, head); err != nil || head[3] != 4 {
		t.Fatalf("%x, %v", head, err)
	}
	settings := make([]byte, head[2])
	if _, err := io.ReadFull(c.r, settings); err != nil {
		t.Fatal(err)
	}
	for ; len(settings) >= 6; settings = settings[6:] {
		if id, n := binary.BigEndian.Uint16(settings), binary.BigEndian.Uint32(settings[2:]); id == 5 && n != 64<<10 {
			t.Errorf("frames of %d bytes may be sent", n)
		} else if id == 5 {
			return
		}
	}
	t.Error("frames have no limit")
}

// TestContinuationFlood: a header block that does not end ends its connection.
func TestContinuationFlood(t *testing.T) {
	settled(t)
	s := start(t, backend(t, func(http.ResponseWriter, *http.Request) { t.Error("reached") }), nil)
	c := dial(t, s.addr)
	_, _ = io.WriteString(c, preface+frame(4, 0, 0, "")+frame(1, 0, 1, headerBlock(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x")))
	part := frame(9, 0, 1, strings.Repeat(headerBlock("a", "b"), 2000))
	ended := false
	for range 2000 { // 20 MB
		if _, err := io.WriteString(c, part); err != nil {
			ended = true
			break
		}
	}
	if !ended {
		t.Error("20 MB of a header block were taken")
	}
	for end := time.Now().Add(8 * time.Second); len(s.attempts()) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("there is no record")
		}
	}
}
