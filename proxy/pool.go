package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	h1 "github.com/sealtap/sealtap/proxy/upstream"
)

// Pool is a group of targets that answer alike.
type Pool struct {
	// Name is how routes call it, and messages.
	Name string
	// Targets are URLs with the schemes http, https and h2c (HTTP/2 without TLS),
	// or unix:/path/to/socket; from 1 to [MaxTargets]. A path is put before the
	// paths of requests.
	Targets []*url.URL
	// Balance says which target gets a request.
	Balance Balance
	// Health are active checks; nil means none.
	Health *Health
	// Pause is for how long a target that cannot be connected to is left alone
	// while others are there; zero means not at all.
	Pause time.Duration
	// TLS is used for https; nil means the system's roots, or Config.UpstreamTLS.
	TLS *tls.Config
	// Dial and ResponseHeader take the places of those in Timeouts; zero means
	// those.
	Dial, ResponseHeader time.Duration
	// Retries is how many further attempts a request gets where that is safe.
	Retries int
}

// MaxTargets is how many targets a pool can have.
const MaxTargets = 64

// Balance says how requests are spread over the targets of a pool.
type Balance string

// The ways to spread requests.
const (
	RoundRobin    Balance = "round_robin"    // one after the other; the zero value means it too
	LeastRequests Balance = "least_requests" // where the fewest are in flight
)

// errNoTarget says that no target of a pool is healthy.
var errNoTarget = errors.New("no target is healthy")

// pool is a Pool at work.
type pool struct {
	name    string
	targets []*upstream
	least   bool
	health  *Health
	pause   time.Duration
	retries int
	prefix  bool // some target puts a path before those of requests
	turn    atomic.Uint64
}

// upstream is one target of a pool.
type upstream struct {
	name         string // host:port, or unix:/path
	scheme, host string
	prefix       string // of paths, escaped, without a slash at its end
	transport    *h1.Transport

	inFlight atomic.Int64
	down     atomic.Bool  // by active checks
	pause    atomic.Int64 // until then, in nanoseconds since 1970, it is left alone
}

func (p *Proxy) newPool(c *Pool) (*pool, error) {
	fail := func(format string, args ...any) (*pool, error) {
		return nil, fmt.Errorf("%w: upstream %s: %w", ErrConfig, c.Name, fmt.Errorf(format, args...))
	}
	q := &pool{name: c.Name, health: c.Health, pause: c.Pause, retries: c.Retries}
	switch c.Balance {
	case "", RoundRobin:
	case LeastRequests:
		q.least = true
	default:
		return fail("balance %q: there are round_robin and least_requests", c.Balance)
	}
	if len(c.Targets) == 0 || len(c.Targets) > MaxTargets {
		return fail("it has %d targets; from 1 to %d can be", len(c.Targets), MaxTargets)
	}
	if q.health != nil {
		h := q.health.withDefaults()
		if !strings.HasPrefix(h.Path, "/") {
			return fail("the path of its health checks does not start with a slash")
		}
		q.health = &h
	}
	for _, u := range c.Targets {
		t, err := p.newUpstream(q, c, u)
		if err != nil {
			return fail("%w", err)
		}
		q.targets = append(q.targets, t)
		q.prefix = q.prefix || t.prefix != ""
	}
	return q, nil
}

func (p *Proxy) newUpstream(q *pool, c *Pool, u *url.URL) (*upstream, error) {
	switch {
	case u.Scheme == "unix" && (u.Host != "" || !filepath.IsAbs(u.Path) || u.User != nil || u.RawQuery != "" || u.Fragment != ""):
		return nil, fmt.Errorf("target %q: a socket reads unix:/path/to/socket", u.Redacted())
	case u.Scheme == "unix":
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c":
		return nil, fmt.Errorf("target %q: the scheme must be http, https, h2c or unix", u.Redacted())
	case u.Host == "" || u.Opaque != "":
		return nil, fmt.Errorf("target %q names no host", u.Redacted())
	case !ascii(u.Host):
		return nil, fmt.Errorf("target %q: write the host's name in its xn-- form", u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("target %q: a user name or password does not belong there", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("target %q: only a path can stand behind the host", u.Redacted())
	}
	t := &upstream{scheme: u.Scheme, host: u.Host}
	t.transport = p.poolTransport(q, c, t, u)
	switch u.Scheme {
	case "unix":
		t.name, t.scheme, t.host = "unix:"+u.Path, "http", "localhost"
		return t, nil
	case "h2c":
		t.scheme = "http"
	}
	t.prefix = strings.TrimRight(u.EscapedPath(), "/")
	t.name = t.host
	if u.Port() == "" {
		t.name = net.JoinHostPort(u.Hostname(), map[bool]string{true: "443", false: "80"}[t.scheme == "https"])
	}
	return t, nil
}

// poolTransport returns the transport to one target.
func (p *Proxy) poolTransport(q *pool, c *Pool, t *upstream, u *url.URL) *h1.Transport {
	dialer := &net.Dialer{Timeout: cmp.Or(c.Dial, p.cfg.Timeouts.Dial)}
	return p.newTransport(h1.Config{
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if u.Scheme == "unix" {
				network, address = "unix", u.Path
			}
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil && ctx.Err() == nil {
				q.unreachable(t)
			}
			return conn, err
		},
		TLS: c.TLS, HandshakeTimeout: c.Dial, ResponseHeaderTimeout: c.ResponseHeader, H2C: u.Scheme == "h2c",
	})
}

// pick takes a target for a request that has tried some already, as bits, and
// counts the request as in flight there until release. It prefers targets that
// were not tried, and those that are not left alone.
func (q *pool) pick(tried uint64) (*upstream, uint64, error) {
	var healthy, rested uint64
	for i, t := range q.targets {
		if t.down.Load() {
			continue
		}
		healthy |= 1 << i
		if u := t.pause.Load(); u == 0 || u <= time.Now().UnixNano() {
			rested |= 1 << i
		}
	}
	var among uint64
	for _, set := range [...]uint64{rested &^ tried, healthy &^ tried, rested, healthy} {
		if among = set; among != 0 {
			break
		}
	}
	if among == 0 {
		return nil, 0, errNoTarget
	}
	i := q.choose(among)
	t := q.targets[i]
	t.inFlight.Add(1)
	return t, 1 << i, nil
}

// choose returns the index of a target out of a set.
func (q *pool) choose(among uint64) int {
	n := bits.OnesCount64(among)
	if n == 1 {
		return bits.TrailingZeros64(among)
	}
	// The turn counts those of the set only, or else the neighbour of one that is
	// down would get double.
	start := int(q.turn.Add(1) % uint64(n))
	best, least := -1, int64(0)
	for range n {
		i := nth(among, start)
		if !q.least {
			return i
		}
		if f := q.targets[i].inFlight.Load(); best < 0 || f < least {
			best, least = i, f
		}
		start = (start + 1) % n
	}
	return best
}

// nth returns the index of the nth bit that is set, from 0.
func nth(set uint64, n int) int {
	for range n {
		set &= set - 1
	}
	return bits.TrailingZeros64(set)
}

func (t *upstream) release() { t.inFlight.Add(-1) }

// unreachable notes that a target could not be connected to.
func (q *pool) unreachable(t *upstream) {
	if q.pause > 0 {
		t.pause.Store(time.Now().Add(q.pause).UnixNano())
	}
}

func (q *pool) closeIdle() {
	for _, t := range q.targets {
		t.transport.CloseIdleConnections()
	}
}
