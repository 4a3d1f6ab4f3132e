package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/http1"
	"github.com/sealtap/sealtap/proxy/rate"
)

// The values of Sealtap-Error of what is too much.
const (
	codeLimited    = "rate-limited"
	codeOverloaded = "overloaded"
)

// Limits bound what clients can take of a proxy, beside Config.MaxHeaderBytes.
// Zero values mean the defaults that stand beside them.
type Limits struct {
	Headers   int   // lines of a request's head; one for each 64 bytes of MaxHeaderBytes
	URIBytes  int   // of a request's target; half of MaxHeaderBytes
	BodyBytes int64 // of a request's body; no bound
	// BodyRate is how many bytes a second of a streamed body have to come on average: a
	// client may keep it waiting for Timeouts.ClientBody in all, and a second more for
	// each so many bytes. It does not count for gRPC, nor once the answer has begun.
	// Zero means 100, less means any.
	BodyRate    int64
	Connections int // of clients; 16384
	// ConnectionsPerClient are those of one address, or of one /64 of IPv6; 4096.
	// Those of TrustedPeers, and over Unix sockets, have no such bound.
	ConnectionsPerClient int
	Exchanges            int // under way, tunnels and what is said in them included; 8192
}

func (l *Limits) setDefaults(headerBytes int) {
	l.Headers = cmp.Or(l.Headers, headerBytes/64)
	l.URIBytes = cmp.Or(l.URIBytes, headerBytes/2)
	l.BodyRate = max(cmp.Or(l.BodyRate, 100), 0)
	l.Connections = cmp.Or(l.Connections, 16<<10)
	l.ConnectionsPerClient = cmp.Or(l.ConnectionsPerClient, 4<<10)
	l.Exchanges = cmp.Or(l.Exchanges, 8<<10)
}

// Rate bounds how many requests a client can make: a token bucket for each.
type Rate struct {
	PerSecond float64 // on average, from 0.001 to 1e6
	Burst     int     // at once, up to 1e6; zero means PerSecond rounded up
	// ByWho has a bucket for each verified identity; else, and for clients without
	// one, they are by address, as with Limits.ConnectionsPerClient.
	ByWho bool
}

// limited is a Rate at work.
type limited struct {
	Rate
	*rate.Limiter
}

func (r *Rate) compile() (*limited, error) {
	if r == nil {
		return nil, nil
	}
	if !(r.PerSecond >= 0.001 && r.PerSecond <= 1e6) || r.Burst < 0 || r.Burst > 1e6 {
		return nil, errors.New("a rate is from 0.001 to 1e6 requests a second, and its burst at most 1e6")
	}
	c := *r
	if c.Burst == 0 {
		c.Burst = int(math.Ceil(c.PerSecond))
	}
	return &limited{c, rate.New(c.PerSecond, c.Burst)}, nil
}

// keep has a limiter go on with what the one before it has seen, if it is alike, and
// reports whether it is.
func (l *limited) keep(old *limited) bool {
	if l == nil || old == nil || l.Rate != old.Rate {
		return false
	}
	l.Limiter = old.Limiter
	return true
}

// occupancy counts what is under way. It outlives a proxy that another one follows.
type occupancy struct {
	exchanges atomic.Int64

	mu          sync.Mutex // guards what follows
	connections int
	clients     map[netip.Prefix]int
}

func newOccupancy() *occupancy { return &occupancy{clients: make(map[netip.Prefix]int)} }

// clientOf is what counts as one client: of IPv6 whoever has one address has 2^64.
func clientOf(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	prefix, _ := a.WithZone("").Prefix(bits) // of no address none
	return prefix
}

// admit takes a connection in, and returns what says that it has ended.
func (p *Proxy) admit(remote string) (leave func(), ok bool) {
	o, l := p.occupied, &p.cfg.Limits
	var client netip.Prefix
	if a := parseAddr(remote).Addr(); a.IsValid() && !p.trusts(a) {
		client = clientOf(a)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.connections >= l.Connections:
		p.cfg.Metrics.refuseConnection("connections")
		return nil, false
	case client.IsValid() && o.clients[client] >= l.ConnectionsPerClient:
		p.cfg.Metrics.refuseConnection("connections_per_client")
		return nil, false
	}
	o.connections++
	if client.IsValid() {
		o.clients[client]++
	}
	return func() { o.left(client) }, true
}

func (o *occupancy) left(client netip.Prefix) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.connections--
	if !client.IsValid() {
		return
	}
	if o.clients[client]--; o.clients[client] == 0 {
		delete(o.clients, client)
	}
}

// fits answers a request for which there is no room, and reports whether there is.
func (x *exchange) fits() bool {
	if x.crowded {
		x.retryAfter = 1
		x.turnAway(http.StatusServiceUnavailable, codeOverloaded, "too many exchanges are under way")
		return false
	}
	return x.within(x.p.rate)
}

// within takes a token of the client's, and answers where there is none.
func (x *exchange) within(l *limited) bool {
	if l == nil {
		return true
	}
	wait, ok := l.Take(x.bucket(l))
	if ok {
		return true
	}
	x.retryAfter = int(min((wait+time.Second-1)/time.Second, 86400))
	x.turnAway(http.StatusTooManyRequests, codeLimited, "the client makes more requests than it may")
	return false
}

// bucket names the bucket that a request takes from.
func (x *exchange) bucket(l *limited) string {
	if l.ByWho {
		if who := x.identity(); who.verified && who.id != "" {
			return who.how + " " + who.issuer + " " + who.id
		}
	}
	if a := x.sourceAddr(); a.IsValid() {
		return clientOf(a).String()
	}
	return x.conn.text // of a Unix socket: all are one
}

// turnAway records a request that is well-formed and too much, and says why.
func (x *exchange) turnAway(status int, code, why string) {
	if x.body.none(); x.r.ContentLength != 0 {
		x.body.broken() // nothing of it was read
	}
	if x.open() {
		x.fail(status, code, sealtapv1.Outcome_OUTCOME_REFUSED, why)
	}
}

// oversized says why a request is too large, with the status for that. HTTP/1 is
// held to the same limits while it is read.
func (x *exchange) oversized() (status int, why string) {
	l := &x.p.cfg.Limits
	if x.r.ProtoMajor < 2 {
		return 0, ""
	}
	if len(x.r.RequestURI) > l.URIBytes {
		return http.StatusRequestURITooLong, "the target of the request is too long"
	}
	lines, size := 0, len(x.r.RequestURI)
	for name, values := range x.r.Header {
		lines += len(values)
		for _, v := range values {
			size += len(name) + len(v) + len(": \r\n")
		}
	}
	switch {
	case len(x.r.Trailer) > http1.MaxTrailers:
		return http.StatusRequestHeaderFieldsTooLarge, "there are too many trailers"
	case lines > l.Headers:
		return http.StatusRequestHeaderFieldsTooLarge, "there are too many header lines"
	case size > x.p.cfg.MaxHeaderBytes:
		return http.StatusRequestHeaderFieldsTooLarge, "the head of the request is too large"
	}
	return 0, ""
}

// bodyLimit is how large the body of the request can be; 0 if there is no bound.
func (x *exchange) bodyLimit() int64 {
	if x.route != nil && x.route.bodyBytes > 0 {
		return x.route.bodyBytes
	}
	return x.p.cfg.Limits.BodyBytes
}

var errLargeBody = &http1.Error{Status: http.StatusRequestEntityTooLarge, Reason: "the body of the request is too large"}

// boundBody holds a request to the limit for its body, and reports whether what it
// says of that is within.
func (x *exchange) boundBody() bool {
	limit := x.bodyLimit()
	switch {
	case limit <= 0 || x.r.Body == nil || x.r.Body == http.NoBody:
	case x.r.ContentLength > limit:
		x.refuse(errLargeBody.Status, errLargeBody.Reason)
		return false
	case x.r.ContentLength < 0:
		x.r.Body = &boundedBody{x.r.Body, limit}
	}
	return true
}

// boundedBody is a body that ends with an error where it is too large.
type boundedBody struct {
	io.ReadCloser
	left int64
}

// Read implements [io.Reader].
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errLargeBody
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one more, to see whether there is more
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, errLargeBody
	}
	return n, err
}

// serverLimits is what the server of clients is held to.
func (p *Proxy) serverLimits() http1.Limits {
	t := &p.cfg.Timeouts
	return http1.Limits{
		HeaderTimeout: t.RequestHeader, IdleTimeout: t.ClientIdle, WriteTimeout: t.ClientStall,
		MaxHeaderBytes: p.cfg.MaxHeaderBytes, MaxTarget: p.cfg.Limits.URIBytes, MaxHeaders: p.cfg.Limits.Headers,
	}
}

// newBounds prepares what holds clients to the limits.
func (p *Proxy) newBounds() (err error) {
	p.occupied = newOccupancy()
	t := &p.cfg.Timeouts
	p.waits = waits{write: t.ClientStall, body: t.ClientBody, answer: t.AnswerIdle, rate: p.cfg.Limits.BodyRate}
	if p.rate, err = p.cfg.Rate.compile(); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return nil
}

// inheritBounds goes on counting where another proxy was.
func (p *Proxy) inheritBounds(old *Proxy) {
	p.occupied = old.occupied
	p.rate.keep(old.rate)
	kept := make(map[int]bool) // of the old routes: two new ones must not count as one
	for i := range p.routing.routes {
		r := &p.routing.routes[i]
		for j := range old.routing.routes {
			if o := &old.routing.routes[j]; !kept[j] && o.service == r.service && r.rate.keep(o.rate) {
				kept[j] = true
				break
			}
		}
	}
}

// retryHeader says when a client may come again.
func (x *exchange) retryHeader(h http.Header) {
	if x.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(x.retryAfter))
	}
}
