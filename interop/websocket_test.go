package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// tap digests what passes a connection in both directions: all of it, or what comes
// behind the head of HTTP.
type tap struct {
	net.Conn
	read, written tapped
}

type tapped struct {
	mu   sync.Mutex
	head []byte // until it has come to its end
	sum  hash.Hash
	size uint64
}

func (p *tapped) add(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sum == nil {
		p.head = append(p.head, b...)
		_, rest, ok := bytes.Cut(p.head, []byte("\r\n\r\n"))
		if !ok {
			return
		}
		p.sum, b = sha256.New(), rest
	}
	p.sum.Write(b)
	p.size += uint64(len(b))
}

func (p *tapped) facts() bodyFacts {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sum == nil {
		return bodyFacts{}
	}
	return bodyFacts{p.size, base64.StdEncoding.EncodeToString(p.sum.Sum(nil))}
}

func (c *tap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.add(b[:n])
	return n, err
}

func (c *tap) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.add(b[:n])
	return n, err
}

// tapListener taps every connection.
type tapListener struct {
	net.Listener
	all func(*tap) // is shown every connection, of which all bytes count; nil: those behind the head
}

func (l tapListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &tap{Conn: conn}
	if l.all != nil {
		c.read.sum, c.written.sum = sha256.New(), sha256.New()
		l.all(c)
	}
	return c, nil
}

type tapKey struct{}

// Many WebSockets of somebody else's making echo at once. The digests and the numbers
// of messages in the records are those that both ends saw.
func TestWebSocketLoad(t *testing.T) {
	t.Parallel()
	const sockets = 40
	var mu sync.Mutex
	atUpstream := make(map[string]*tap) // by exchange
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		atUpstream[r.Header.Get("Sealtap-Exchange")] = r.Context().Value(tapKey{}).(*tap)
		mu.Unlock()
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		for {
			kind, message, err := c.Read(r.Context())
			if err != nil {
				return // it was closed
			}
			if err := c.Write(r.Context(), kind, message); err != nil {
				t.Error(err)
				return
			}
		}
	}))
	up.Listener = tapListener{Listener: up.Listener}
	up.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, tapKey{}, c) }
	up.Start()
	defer up.Close()
	s := upProxy(t, up.URL, "  progress: {every: 100ms, bytes: 256KiB}\n")

	type end struct {
		exchange string
		tap      *tap
		messages int
	}
	ends := make([]end, sockets)
	var wg sync.WaitGroup
	for i := range ends {
		wg.Go(func() {
			id, c, n := echo(t, strings.TrimPrefix(s.Proxy, "http://"), uint64(i))
			ends[i] = end{id, c, n}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	bytes := uint64(0)
	for _, e := range ends {
		_, res := recorded(t, s, e.exchange)
		mu.Lock()
		u := atUpstream[e.exchange]
		mu.Unlock()
		if u == nil {
			t.Fatalf("exchange %s did not reach the upstream", e.exchange)
		}
		for _, way := range []struct {
			name                     string
			record, client, upstream bodyFacts
		}{
			{"up", res.Tunnel.Up, e.tap.written.facts(), u.read.facts()},
			{"down", res.Tunnel.Down, e.tap.read.facts(), u.written.facts()},
		} {
			if way.record != way.client || way.record != way.upstream || way.record.Size == 0 {
				t.Errorf("%s, %s: recorded %+v, the client had %+v, the upstream %+v", e.exchange, way.name, way.record, way.client, way.upstream)
			}
			bytes += way.record.Size
		}
		if res.Response.MessagesUp != e.messages || res.Response.MessagesDown != e.messages || res.Response.Outcome != "complete" {
			t.Errorf("%s: %d messages each way; recorded %+v", e.exchange, e.messages, res.Response)
		}
	}
	t.Logf("%d WebSockets, %d bytes", sockets, bytes)
	audit(t, s)
}

// echo speaks over one WebSocket, and closes it.
func echo(t *testing.T, addr string, seed uint64) (exchange string, c *tap, messages int) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c = &tap{Conn: conn}
		return c, nil
	}}}
	ws, res, err := websocket.Dial(ctx, "ws://"+addr+"/", &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Error(err)
		return "", nil, 0
	}
	defer ws.CloseNow()
	ws.SetReadLimit(1 << 20)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		message := make([]byte, rnd.IntN(1+(200<<rnd.IntN(8))))
		for i := range message {
			message[i] = byte(rnd.IntN(256))
		}
		kind := websocket.MessageBinary
		if err := ws.Write(ctx, kind, message); err != nil {
			t.Error(err)
			break
		}
		back, got, err := ws.Read(ctx)
		if err != nil || back != kind || !bytes.Equal(got, message) {
			t.Errorf("a message of %d bytes comes back with %d: %v", len(message), len(got), err)
			break
		}
		messages++
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	return res.Header.Get("Sealtap-Exchange"), c, messages
}
