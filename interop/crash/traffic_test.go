package crash

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// traffic are clients of a proxy, the upstream behind it, and what both remember.
// Every exchange has a path of its own, by which it is found in the log.
type traffic struct {
	addr     string // of the proxy
	upstream string
	dying    atomic.Bool // from just before the proxy is killed

	mu       sync.Mutex
	attempts []attempt
	asked    map[string]int // how often the upstream was asked for a path
}

// attempt is an exchange as a client saw it.
type attempt struct {
	path     string
	exchange string // of Sealtap-Exchange; "" if no header came
	answered bool   // the client had the end of it
	tunnel   bool   // a WebSocket, of which the bytes after its opening count
	ended    bool   // of a tunnel: the client saw its end, ahead of a kill. Its record follows
	up, down sum    // bodies; of an exchange that was cut, what had come
}

type sum struct {
	size   uint64
	sha256 [32]byte
}

func sumOf(b []byte) sum { return sum{uint64(len(b)), sha256.Sum256(b)} }

// tally counts attempts.
type tally struct{ begun, answered int }

func (c tally) String() string { return fmt.Sprintf("%d of %d answered", c.answered, c.begun) }

func (tr *traffic) count() (c tally) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, a := range tr.attempts {
		c.begun++
		if a.answered {
			c.answered++
		}
	}
	return c
}

func newTraffic(t *testing.T) *traffic {
	t.Helper()
	tr := &traffic{asked: make(map[string]int)}
	srv := httptest.NewServer(http.HandlerFunc(tr.serve))
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	tr.upstream = srv.URL
	return tr
}

// serve is the upstream. It answers with what it gets, at once, in pieces, or over a
// WebSocket.
func (tr *traffic) serve(w http.ResponseWriter, r *http.Request) {
	tr.mu.Lock()
	tr.asked[r.URL.Path]++
	tr.mu.Unlock()
	switch {
	case strings.HasPrefix(r.URL.Path, "/ws/"):
		echoFrames(w)
	case strings.HasPrefix(r.URL.Path, "/stream/"):
		for i := range 6 {
			fmt.Fprintf(w, "part %d of %s\n", i, r.URL.Path)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(4 * time.Millisecond)
		}
	default:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler) // the proxy was killed
		}
		_, _ = w.Write(body)
	}
}

// load has clients of every kind ask the proxy until stop is called.
func (tr *traffic) load() (stop func() error) {
	tr.dying.Store(false)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	kinds := tr.kinds(ctx)
	errs := make([]error, len(kinds))
	for i, ask := range kinds {
		wg.Go(func() {
			for ctx.Err() == nil && errs[i] == nil {
				pause := time.Duration(mathrand.IntN(3)) * time.Millisecond
				path, err := tr.ask(ask)
				if wrong := wrongAnswer(""); errors.As(err, &wrong) {
					errs[i] = fmt.Errorf("%s: %w", path, wrong)
				} else if err != nil {
					pause = 30 * time.Millisecond // it is dead
				}
				time.Sleep(pause)
			}
		})
	}
	return func() error {
		cancel()
		wg.Wait()
		return errors.Join(errs...)
	}
}

// once asks for one exchange of every kind, which have to be answered.
func (tr *traffic) once() error {
	tr.dying.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, ask := range tr.kinds(ctx) {
		if path, err := tr.ask(ask); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// ask makes one attempt and keeps it.
func (tr *traffic) ask(how func(*attempt) error) (path string, err error) {
	var a attempt
	err = how(&a)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.attempts = append(tr.attempts, a)
	return a.path, err
}

// wrongAnswer is a whole answer that is not the one that was asked for.
type wrongAnswer string

func (w wrongAnswer) Error() string { return string(w) }

func newPath(kind string) string {
	id := make([]byte, 12)
	_, _ = rand.Read(id)
	return "/" + kind + "/" + hex.EncodeToString(id)
}

func (tr *traffic) kinds(ctx context.Context) []func(*attempt) error {
	kept := &http.Transport{DisableCompression: true}
	single := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	two := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
	two.Protocols.SetUnencryptedHTTP2(true)
	context.AfterFunc(ctx, func() { kept.CloseIdleConnections(); two.CloseIdleConnections() })
	// A POST whose body cannot be had again, and a connection of its own: none of these
	// is sent twice by net/http.
	return []func(*attempt) error{
		func(a *attempt) error { return tr.post(kept, a, "small", 300) },
		func(a *attempt) error { return tr.post(kept, a, "small", 4000) },
		func(a *attempt) error { return tr.post(kept, a, "large", 200<<10) },
		func(a *attempt) error { return tr.post(two, a, "two", 700) },
		func(a *attempt) error { return tr.post(two, a, "two-large", 150<<10) },
		func(a *attempt) error { return tr.fetch(single, a, "stream") },
		func(a *attempt) error { return tr.websocket(ctx, a) },
		func(a *attempt) error { return tr.websocket(ctx, a) },
	}
}

func (tr *traffic) post(c *http.Transport, a *attempt, kind string, size int) error {
	body := make([]byte, size)
	_, _ = rand.Read(body)
	a.path, a.up = newPath(kind), sumOf(body)
	req, err := http.NewRequest(http.MethodPost, "http://"+tr.addr+a.path, io.NopCloser(bytes.NewReader(body)))
	if err != nil {
		return err
	}
	req.ContentLength = int64(size)
	return a.exchangeBy(c, req, func(got []byte) bool { return bytes.Equal(got, body) })
}

func (tr *traffic) fetch(c *http.Transport, a *attempt, kind string) error {
	a.path, a.up = newPath(kind), sumOf(nil)
	req, err := http.NewRequest(http.MethodGet, "http://"+tr.addr+a.path, nil)
	if err != nil {
		return err
	}
	return a.exchangeBy(c, req, func(got []byte) bool { return bytes.HasSuffix(got, []byte("part 5 of "+a.path+"\n")) })
}

func (a *attempt) exchangeBy(c *http.Transport, req *http.Request, right func(body []byte) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := c.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	a.exchange = res.Header.Get("Sealtap-Exchange")
	body, err := io.ReadAll(res.Body)
	a.down = sumOf(body)
	if err != nil {
		return err
	}
	a.answered = true
	if res.StatusCode != http.StatusOK || !right(body) {
		return wrongAnswer(fmt.Sprintf("status %d, %d bytes: %.200q", res.StatusCode, len(body), body))
	}
	return nil
}

// websocket opens one, has some messages come back, and closes it. Of a tunnel the
// closing record follows the end, so that it can be lost: what a client saw answered
// is the opening. The end counts as seen if it came before anybody killed the proxy:
// after that the operating system may have made it.
func (tr *traffic) websocket(ctx context.Context, a *attempt) error {
	a.path, a.tunnel = newPath("ws"), true
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", tr.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", a.path); err != nil {
		return err
	}
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return err
	}
	a.exchange = res.Header.Get("Sealtap-Exchange")
	if res.StatusCode != http.StatusSwitchingProtocols {
		return wrongAnswer("status " + res.Status)
	}
	var up, down bytes.Buffer
	both := io.MultiWriter(c, &up)
	in := io.TeeReader(br, &down)
	defer func() { a.up, a.down = sumOf(up.Bytes()), sumOf(down.Bytes()) }()
	for i := range 1 + mathrand.IntN(12) {
		message := fmt.Appendf(nil, "%d of %s", i, a.path)
		if _, err := both.Write(maskedFrame(0x82, message)); err != nil {
			return err
		}
		op, back, err := readFrame(in)
		if err != nil {
			return err
		}
		if op != 0x82 || !bytes.Equal(back, message) {
			return wrongAnswer(fmt.Sprintf("%q comes back as %q", message, back))
		}
	}
	if _, err := both.Write(maskedFrame(0x88, []byte{3, 232})); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	a.ended = !tr.dying.Load()
	return nil
}

// maskedFrame is a frame of RFC 6455, section 5.2, with a payload of at most 125
// bytes.
func maskedFrame(op byte, payload []byte) []byte {
	f := []byte{op, 0x80 | byte(len(payload)), 1, 2, 3, 4}
	for i, b := range payload {
		f = append(f, b^f[2+i%4])
	}
	return f
}

// readFrame reads a frame of at most 125 bytes, and takes a mask off.
func readFrame(r io.Reader) (op byte, payload []byte, err error) {
	var head [6]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return 0, nil, err
	}
	masked := head[1]&0x80 != 0
	payload = make([]byte, head[1]&0x7f)
	if masked {
		if _, err := io.ReadFull(r, head[2:]); err != nil {
			return 0, nil, err
		}
	}
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= head[2+i%4] // zeros where there is no mask
	}
	return head[0], payload, nil
}

// echoFrames is the upstream's end of a WebSocket.
func echoFrames(w http.ResponseWriter) {
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	for {
		op, payload, err := readFrame(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(append([]byte{op, byte(len(payload))}, payload...)); err != nil || op == 0x88 {
			return
		}
	}
}
