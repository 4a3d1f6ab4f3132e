package proxy

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// What a run of the stress test does. Whether an exchange is answered depends on the
// machine; what must hold of those that are does not.
const (
	stressSeed    = 0x5ea17a9
	stressClients = 12
	stressTalks   = 100             // connections of each client
	stressTime    = 8 * time.Second // no connection begins after that, if there was enough
	stressNeeded  = 50              // exchanges that have to be answered, however slow the machine
)

// stress is one run.
type stress struct {
	t        *testing.T
	rec      *memory
	addr     string
	noise    []byte // all bodies are its beginnings
	until    time.Time
	answered atomic.Int64

	mu    sync.Mutex
	came  map[string]gotten // what clients got, by exchange
	sent  map[string]int    // lengths of answers that the upstream has sent whole
	taken map[string]int    // lengths of requests that the upstream has read whole
}

// gotten is an answer that a client has read to its end.
type gotten struct {
	status int
	size   int
	own    bool // the proxy's own
	asked  int  // length of the body of its request
}

// TestStress: clients and upstreams that cut, stall, pipeline and reset as they like, while
// configurations follow each other. Every exchange has one request and one response record,
// a request reaches the upstream only once it is recorded, an answer ends only once it is, and
// the records have the lengths and digests of what passed.
func TestStress(t *testing.T) {
	settled(t)
	x := newStress(t)
	x.run(t, x.upstream(), x.client)
	x.check()
}

func newStress(t *testing.T) *stress {
	noise := make([]byte, 1<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(noise)
	return &stress{t: t, noise: noise, until: time.Now().Add(stressTime), came: make(map[string]gotten), sent: make(map[string]int), taken: make(map[string]int)}
}

// run has clients ask a proxy whose configurations follow each other. At its end
// everything has stopped.
func (x *stress) run(t *testing.T, up string, client func(*rand.Rand)) {
	t.Run("run", func(t *testing.T) {
		change := func(c *Config) {
			c.Upstream = to(t, up)
			c.Timeouts = Timeouts{ResponseHeader: 3 * time.Second, RequestHeader: 3 * time.Second, ClientStall: 2 * time.Second, AnswerIdle: 2 * time.Second}
			c.Limits.BodyRate = 1000
		}
		s, v := startLive(t, change)
		x.rec, x.addr = s.rec, s.addr
		stop := make(chan struct{})
		var wg, reloads sync.WaitGroup
		reloads.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(250 * time.Millisecond):
					v.Replace(s.follower(t, change))
				}
			}
		})
		for i := range stressClients {
			wg.Go(func() { client(rand.New(rand.NewPCG(stressSeed, uint64(i)))) })
		}
		wg.Wait()
		close(stop)
		reloads.Wait()
	})
}

// id returns an exchange as records have it.
func (x *stress) id(text string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != 16 {
		x.t.Errorf("%q is no exchange", text)
	}
	return string(b)
}

// recorded reports whether there is a record of the stage by now.
func (x *stress) recorded(id, stage string) bool {
	x.rec.mu.Lock()
	defer x.rec.mu.Unlock()
	for i := len(x.rec.entries) - 1; i >= 0; i-- {
		if r := &x.rec.entries[i].rec; string(r.GetExchange()) == id && r.Stage() == stage {
			return true
		}
	}
	return false
}

// over reports whether the time is up.
func (x *stress) over() bool {
	return x.answered.Load() >= stressNeeded && time.Now().After(x.until)
}

// client holds its talks one after the other.
func (x *stress) client(r *rand.Rand) {
	for range stressTalks {
		if x.over() {
			return
		}
		x.talk(r)
	}
}

// talk is one connection, on which requests follow each other or come together.
func (x *stress) talk(r *rand.Rand) {
	c, err := net.Dial("tcp", x.addr)
	if err != nil {
		x.t.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	in := bufio.NewReader(c)
	for range 1 + r.IntN(4) {
		var text bytes.Buffer
		var sizes []int
		for range 1 + r.IntN(3)*r.IntN(2) {
			sizes = append(sizes, x.write(r, &text))
		}
		if !x.send(r, c, text.Bytes()) {
			return
		}
		for _, size := range sizes {
			if r.IntN(25) == 0 {
				x.leave(r, c, in)
				return
			}
			if !x.read(c, in, size) {
				return
			}
		}
	}
}

// write appends a request, and returns the length of its body.
func (x *stress) write(r *rand.Rand, b *bytes.Buffer) int {
	size := []int{0, 0, 10, 3000, 70_000, 300_000}[r.IntN(6)]
	b.WriteString(map[bool]string{true: "GET", false: "POST"}[size == 0])
	fmt.Fprintf(b, " /%d HTTP/1.1\r\nHost: x\r\n", r.Uint32())
	body := x.noise[:size]
	switch {
	case size == 0:
		b.WriteString("\r\n")
	case r.IntN(2) == 0:
		fmt.Fprintf(b, "Content-Length: %d\r\n\r\n%s", size, body)
	default:
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		for len(body) > 0 {
			n := min(1+r.IntN(40_000), len(body))
			fmt.Fprintf(b, "%x\r\n%s\r\n", n, body[:n])
			body = body[n:]
		}
		b.WriteString([]string{"0\r\n\r\n", "0\r\nX-Sum: 1\r\n\r\n"}[r.IntN(2)])
	}
	return size
}

// send sends in pieces, and reports whether that was all and the connection is still there.
func (x *stress) send(r *rand.Rand, c net.Conn, p []byte) bool {
	end := len(p)
	cut := r.IntN(15) == 0
	if cut {
		end = r.IntN(len(p))
	}
	failed := make(chan error, 1)
	own := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
	go func() { // an early answer may come before it is all sent, and be the last
		var err error
		for p := p[:end]; len(p) > 0 && err == nil; {
			n := len(p)
			if own.IntN(3) == 0 {
				n = 1 + own.IntN(n)
			}
			_, err = c.Write(p[:n])
			if p = p[n:]; len(p) > 0 {
				time.Sleep(time.Duration(own.IntN(9)) * time.Millisecond)
			}
		}
		failed <- err
	}()
	select {
	case <-failed:
	case <-time.After(5 * time.Second):
	}
	if cut && r.IntN(2) == 0 {
		reset(c)
	}
	return !cut
}

// leave goes away in the middle of an answer.
func (x *stress) leave(r *rand.Rand, c net.Conn, in *bufio.Reader) {
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // there may be no more of it
	_, _ = io.CopyN(io.Discard, in, int64(r.IntN(400)))
	if r.IntN(2) == 0 {
		reset(c)
	}
}

// read reads an answer, and reports whether it was whole and another one can follow.
func (x *stress) read(c net.Conn, in *bufio.Reader, size int) bool {
	res, err := http.ReadResponse(in, nil)
	for err == nil && res.StatusCode < 200 {
		res, err = http.ReadResponse(in, nil)
	}
	if err != nil {
		return false
	}
	return x.got(res, size) && !res.Close
}

// got takes note of an answer, and reports whether it was whole.
func (x *stress) got(res *http.Response, size int) bool {
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return false
	}
	id := x.id(res.Header.Get("Sealtap-Exchange"))
	own := res.Header.Get("Sealtap-Error") != ""
	if !own && !bytes.Equal(body, x.noise[:min(len(body), len(x.noise))]) {
		x.t.Errorf("%d bytes of an answer are others than were sent", len(body))
	}
	if !x.recorded(id, "response") {
		x.t.Error("an answer was whole before its record was there")
	}
	x.answered.Add(1)
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, twice := x.came[id]; twice {
		x.t.Error("one exchange was answered twice")
	}
	x.came[id] = gotten{res.StatusCode, len(body), own, size}
	return true
}

// upstream starts one that answers as it likes.
func (x *stress) upstream() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		x.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := uint64(0); ; i++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				in := bufio.NewReader(c)
				r := rand.New(rand.NewPCG(stressSeed+1, i))
				for x.answer(r, c, in) {
				}
			})
		}
	})
	x.t.Cleanup(func() { l.Close(); wg.Wait() })
	return "http://" + l.Addr().String()
}

// answer answers one request, and reports whether the connection goes on.
func (x *stress) answer(r *rand.Rand, c net.Conn, in *bufio.Reader) bool {
	req, err := http.ReadRequest(in)
	if err != nil {
		return false
	}
	id := x.id(req.Header.Get("Sealtap-Exchange"))
	if !x.recorded(id, "request") {
		x.t.Error("a request was sent on before its record was there")
	}
	if r.IntN(20) == 0 {
		reset(c)
		return false
	}
	early := r.IntN(8) == 0
	if !early {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return false
		}
		if !bytes.Equal(body, x.noise[:min(len(body), len(x.noise))]) {
			x.t.Error("a body arrived that is another than was sent")
		}
		x.mu.Lock()
		x.taken[id] = len(body)
		x.mu.Unlock()
	}
	if r.IntN(6) == 0 {
		time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
	}
	size := []int{0, 1, 200, 5000, 66_000, 400_000}[r.IntN(6)]
	text, toEnd := x.form(r, size)
	cut := r.IntN(12) == 0
	if cut {
		text = text[:r.IntN(len(text))]
	} else {
		x.mu.Lock()
		x.sent[id] = size
		x.mu.Unlock()
	}
	for len(text) > 0 {
		n := len(text)
		if r.IntN(3) == 0 {
			n = 1 + r.IntN(n)
		}
		if _, err := c.Write(text[:n]); err != nil {
			return false
		}
		if text = text[n:]; len(text) > 0 {
			time.Sleep(time.Duration(r.IntN(9)) * time.Millisecond)
		}
	}
	if cut && r.IntN(2) == 0 {
		reset(c)
	}
	return !cut && !toEnd && !early && r.IntN(10) > 0
}

// form is an answer with a body of this size, and whether that ends with the connection.
func (x *stress) form(r *rand.Rand, size int) (text []byte, toEnd bool) {
	var b bytes.Buffer
	if r.IntN(8) == 0 {
		b.WriteString("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
	}
	b.WriteString("HTTP/1.1 200 OK\r\n")
	body := x.noise[:size]
	switch r.IntN(3) {
	case 0:
		b.WriteString("Content-Length: " + strconv.Itoa(size) + "\r\n\r\n")
		b.Write(body)
	case 1:
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		for len(body) > 0 {
			n := min(1+r.IntN(40_000), len(body))
			fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
			body = body[n:]
		}
		b.WriteString([]string{"0\r\n\r\n", "0\r\nX-Sum: 1\r\n\r\n"}[r.IntN(2)])
	default:
		b.WriteString("Connection: close\r\n\r\n")
		b.Write(body)
		toEnd = true
	}
	return b.Bytes(), toEnd
}

// check compares the records with what clients and the upstream saw.
func (x *stress) check() {
	requests, responses := make(map[string]*sealtapv1.Request), make(map[string]*sealtapv1.Response)
	all := x.rec.all()
	for i := range all {
		r := all[i].rec
		id := string(r.GetExchange())
		if q := r.GetRequest(); q != nil {
			if requests[id] != nil || responses[id] != nil {
				x.t.Error("an exchange has two request records, or the first is not its first")
			}
			requests[id] = q
		}
		if p := r.GetResponse(); p != nil {
			if responses[id] != nil || requests[id] == nil {
				x.t.Error("an exchange has two response records, or one without a request")
			}
			responses[id] = p
		}
	}
	if len(requests) != len(responses) {
		x.t.Errorf("%d requests and %d responses are recorded", len(requests), len(responses))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for id, got := range x.came {
		q, p := requests[id], responses[id]
		if q == nil || p == nil {
			x.t.Error("an exchange that was answered is not recorded")
			continue
		}
		if int(p.GetStatus()) != got.status || int(p.GetSent().GetSize()) != got.size {
			x.t.Errorf("a client got %+v, recorded is %v", got, p)
		}
		body := q.GetBody()
		if body == nil {
			body = p.GetRequestBody()
		}
		x.isPrefix("a request", body, got.asked)
		if size, ok := x.taken[id]; ok && (size != int(body.GetSize()) || size != got.asked) {
			x.t.Errorf("the upstream read a body of %d bytes, %d were sent, recorded are %d", size, got.asked, body.GetSize())
		}
		if got.own {
			continue
		}
		x.isPrefix("an answer", p.GetSent(), got.size)
		if p.GetOutcome() != complete || !bytes.Equal(p.GetReceived().GetSha256(), p.GetSent().GetSha256()) {
			x.t.Errorf("a whole answer is recorded as %v", p)
		}
		if size, ok := x.sent[id]; ok && size != got.size {
			x.t.Errorf("the upstream sent %d bytes, the client got %d", size, got.size)
		}
	}
	n := x.answered.Load()
	x.t.Logf("seed %#x: %d exchanges, %d answered", stressSeed, len(requests), n)
	if n < stressNeeded {
		x.t.Errorf("only %d exchanges were answered", n)
	}
}

// isPrefix checks that a body in a record is the beginning of one of the given length.
func (x *stress) isPrefix(what string, b *sealtapv1.Body, most int) {
	x.t.Helper()
	n := int(b.GetSize())
	if b == nil || n > most {
		x.t.Errorf("%s of %d bytes is recorded with %v", what, most, b)
		return
	}
	if sum := sha256.Sum256(x.noise[:n]); !bytes.Equal(sum[:], b.GetSha256()) {
		x.t.Errorf("%s of %d bytes has another digest in its record", what, n)
	}
}
