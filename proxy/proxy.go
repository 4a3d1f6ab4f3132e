// Package proxy stands between clients and upstreams, writes every exchange
// down, and only then lets it happen.
//
// The request record is durable before the upstream is contacted; the response
// record is durable before the client has the end of its answer (RFC 9110
// semantics; the rules are in docs/architecture.md). Where a record cannot be
// made durable the exchange does not happen. The package holds the HTTP part:
// capture, identity and forwarding, as a reverse proxy with routes to pools of
// upstreams, or as a forward proxy. Durability is the [Recorder]'s, which package proxy/spool
// implements.
//
// Start with [New], then call [Proxy.Run] with a listener.
package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy/hosts"
	"github.com/sealtap/sealtap/proxy/meaning"
	"github.com/sealtap/sealtap/record"
)

// Recorder makes records durable. It is called from many goroutines.
type Recorder interface {
	// Record returns once the record is durable, or an error: then the exchange
	// must not happen. It sets producer, incarnation, sequence and commitments;
	// the caller sets time, exchange, about, and the openings (field, type,
	// value; salts are made by the recorder) of the fields that are sealed.
	//
	// The record and the openings, with everything they point to, are the
	// caller's again once Record returns: they are used for other exchanges, so
	// an implementation must not keep them, not even after an error.
	//
	// The context does not end when the client goes away: what happened is
	// written down all the same.
	Record(ctx context.Context, r *sealtapv1.Record, openings []*sealtapv1.Opening) error
}

// ErrConfig is wrapped by every error about a [Config].
var ErrConfig = errors.New("bad proxy configuration")

// Config says what a proxy does.
type Config struct {
	// Upstream is where a reverse proxy forwards to: http, https, or h2c for
	// HTTP/2 without TLS. A path is put before the paths of requests. Nil makes
	// a forward proxy, for plain HTTP in absolute form and for CONNECT.
	Upstream *url.URL
	// UpstreamTLS is used for https upstreams; nil means the system's roots.
	UpstreamTLS *tls.Config
	// Pools are the upstreams of a reverse proxy with routes; not beside Upstream,
	// which is short for one route to one target.
	Pools []Pool
	// Routes lead to the pools. What none of them takes is answered with 404.
	Routes []Route
	// TLS is what listeners speak; nil means no TLS. A verified client
	// certificate gives "who".
	TLS *tls.Config
	// Service is the name of the only route in records; empty means none.
	Service string
	// Recorder is required.
	Recorder Recorder
	// DigestKey keys the digests by which credentials are recognised; at least
	// 16 bytes, required.
	DigestKey []byte
	// OpenHeaders are names of headers whose values stand open in records, beside
	// [DefaultOpenHeaders]; nil means those only. Credentials never stand open.
	OpenHeaders []string
	// Seal names the sealed fields (record.FieldSource and so on); nil means
	// [DefaultSeal], an empty slice means that nothing is sealed.
	Seal []string
	// TrustedPeers are the addresses from which forwarding headers and
	// UserHeader are believed; nil means none.
	TrustedPeers []netip.Prefix
	// XFCC has the certificates believed that trusted peers say in
	// X-Forwarded-Client-Cert.
	XFCC bool
	// ProxyProtocol are the addresses of peers whose connections begin with a
	// header of the PROXY protocol, and are refused without; nil means none. To
	// others it is no request.
	ProxyProtocol []netip.Prefix
	// APIKeys says whose keys are known; nil means none are.
	APIKeys *APIKeys
	// UserHeader names the header in which trusted peers say who the user is;
	// empty means that there is none.
	UserHeader string
	// JWT verifies bearer tokens; nil means that they give who, unverified.
	JWT *JWT
	// BufferLimit is up to how many bytes bodies are hashed before they pass;
	// zero means 64 KiB.
	BufferLimit int
	// MaxHeaderBytes bounds the headers of requests and of answers; zero means
	// 64 KiB.
	MaxHeaderBytes int
	// Operations are the protocols of which is recorded what was asked for
	// (meaning.Protocols); nil means all of them, an empty slice none.
	Operations []string
	// Receipts says that answers carry signed promises that their records exist, but
	// those of Routes, which say so themselves. The recorder has to be a [Promiser].
	Receipts bool
	// Forward says which targets a forward proxy reaches.
	Forward Forward
	// Policy says which requests pass that take none of Routes: those for Upstream,
	// or of a forward proxy.
	Policy Policy
	// FailOpen lets exchanges pass that cannot be recorded, where no route says
	// otherwise. They are counted, and declared by gap records.
	FailOpen bool
	// GapFile keeps the count over the end of the process; empty means that it is lost.
	GapFile string
	// Timeouts; zero values mean the defaults that stand beside them.
	Timeouts Timeouts
	// Limits; zero values mean the defaults that stand beside them.
	Limits Limits
	// Rate bounds the requests of each client, beside that of its route; nil means
	// that nothing does.
	Rate *Rate
	// Progress says when exchanges that last leave records; zero values mean the
	// defaults that stand beside them.
	Progress Progress
	// Access learns of each exchange once its response record is durable, and must
	// not block; nil means nobody does. What it is given is not used again.
	Access func(*Access)
	// Tracing says who keeps traces.
	Tracing Tracing
	// Metrics counts exchanges; nil means nobody does.
	Metrics *Metrics
	// Logger gets what goes wrong; nil means nobody does.
	Logger *slog.Logger
}

// Forward says which targets a forward proxy reaches. Without rules it reaches
// everything but addresses that are link-local, multicast, unspecified or known
// to serve cloud metadata, and reaches loopback for clients on loopback only.
// Rules are applied to resolved addresses. The listeners of the process itself are
// never reached.
type Forward struct {
	DenyCIDRs  []netip.Prefix // win over everything
	AllowCIDRs []netip.Prefix // win over what is denied without rules
	// Own are further addresses on which this process listens, beside those of Run
	// and RunSOCKS.
	Own []netip.AddrPort
	// Ports that are reached; nil means [DefaultPorts].
	Ports []hosts.Ports
	// AllowHosts and DenyHosts are patterns (hosts.Set) of what is reached and
	// what is not, by the name that clients ask for. DenyHosts win; no AllowHosts means
	// every host.
	AllowHosts, DenyHosts []string
	// Users are verified by their passwords; RequireUser lets nobody else pass.
	Users       Users
	RequireUser bool
	// Intercept says which tunnels the proxy ends itself; nil means none.
	Intercept *Intercept
}

// Timeouts bound how long the proxy waits for others.
type Timeouts struct {
	Dial           time.Duration // to connect to a target; 10 s
	ResponseHeader time.Duration // for an answer to begin, after the request was sent; 2 min
	RequestHeader  time.Duration // for a request's headers to arrive; 10 s
	ClientIdle     time.Duration // between the requests of one connection; 2 min
	ClientStall    time.Duration // without progress of a client's reading; 1 min
	ClientBody     time.Duration // without progress of a client's body, of gRPC AnswerIdle; ClientStall
	AnswerIdle     time.Duration // without a byte of an answer that has begun, nor of its request's body; 5 min
	TunnelIdle     time.Duration // without a byte in either direction of a tunnel; 1 h
	Drain          time.Duration // for exchanges to end once Run is told to stop; 5 s
}

const (
	defaultBufferLimit = 64 << 10
	defaultHeaderBytes = 64 << 10
	smallBuffer        = 4 << 10
	copyBuffer         = 32 << 10
	minDigestKey       = 16

	// patience is how long an answer or a chunked request may take to turn out
	// small before what is there of it passes on.
	patience = 5 * time.Millisecond
)

// DefaultSeal returns the fields that are sealed without further configuration.
func DefaultSeal() []string {
	return []string{record.FieldSource, record.FieldQuery, record.FieldHeaders}
}

// Proxy records exchanges and forwards them. Its methods can be called from
// many goroutines.
type Proxy struct {
	cfg     Config
	log     *slog.Logger
	seal    sealSet
	headers *headerRules
	digests *digester
	tokens  *tokenVerifier
	keys    *apiKeys
	ids     *idSource

	operations     meaning.Set // that are recorded
	everyOperation meaning.Set // that rules ask about
	policy         *policy     // where there are no routes

	routing routing // of a reverse proxy
	pools   []*pool
	checks  checks
	targets targets // of a forward proxy

	gaps       *gaps      // what passed without records
	forwarding forwarding // its rules

	occupied *occupancy // what is under way
	rate     *limited   // nil: any
	waits    waits      // where no route says otherwise

	active atomic.Int64 // exchanges under way of a Live
	tally  *tally       // of exchanges without a route; nil: nobody counts

	exchanges sync.Pool // *exchange
	small     sync.Pool // *buffer of smallBuffer bytes
	large     sync.Pool // *buffer of BufferLimit+1 bytes
	copies    sync.Pool // *buffer of copyBuffer bytes

	listeners *listeners // that are never reached
}

type sealSet struct{ source, query, headers, path, who bool }

// New returns a proxy.
func New(cfg Config) (*Proxy, error) {
	if cfg.Recorder == nil {
		return nil, fmt.Errorf("%w: there is no recorder, and nothing passes unrecorded", ErrConfig)
	}
	if len(cfg.DigestKey) < minDigestKey {
		return nil, fmt.Errorf("%w: the digest key has %d bytes, want at least %d", ErrConfig, len(cfg.DigestKey), minDigestKey)
	}
	if _, ok := cfg.Recorder.(Promiser); !ok && cfg.receipts() {
		return nil, fmt.Errorf("%w: %w", ErrConfig, errNoPromiser)
	}
	p := &Proxy{cfg: cfg, log: cfg.Logger, ids: new(idSource)}
	p.cfg.setDefaults()
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if p.seal, err = parseSeal(cfg.Seal); err != nil {
		return nil, err
	}
	if p.operations, err = parseOperations(cfg.Operations); err != nil {
		return nil, err
	}
	if p.everyOperation, err = parseOperations(nil); err != nil {
		return nil, err
	}
	if p.headers, err = newHeaderRules(cfg.OpenHeaders, cfg.UserHeader); err != nil {
		return nil, err
	}
	if p.tokens, err = newTokenVerifier(cfg.JWT); err != nil {
		return nil, err
	}
	p.tokens.log = p.log
	if p.keys, err = newAPIKeys(cfg.APIKeys); err != nil {
		return nil, err
	}
	if err := p.headers.carryCredentials(p.tokens.header, p.keys.header); err != nil {
		return nil, err
	}
	p.digests = newDigester(cfg.DigestKey)
	p.listeners = newListeners(cfg.Forward.Own)
	if err := p.newBounds(); err != nil {
		return nil, err
	}
	if p.policy, err = cfg.Policy.compile(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := p.newRouting(); err != nil {
		return nil, err
	}
	p.measure()
	if !p.reverse() {
		p.targets = p.newTargets()
		if err := p.newForwarding(); err != nil {
			return nil, err
		}
	}
	if p.gaps, err = p.newGaps(cfg.GapFile); err != nil {
		return nil, err
	}
	p.exchanges.New = func() any { return p.newExchange() }
	p.small.New = func() any { return &buffer{pool: &p.small, b: make([]byte, smallBuffer)} }
	p.large.New = func() any { return &buffer{pool: &p.large, b: make([]byte, p.cfg.BufferLimit+1)} }
	p.copies.New = func() any { return &buffer{pool: &p.copies, b: make([]byte, copyBuffer)} }
	return p, nil
}

func (c *Config) setDefaults() {
	if c.BufferLimit <= 0 {
		c.BufferLimit = defaultBufferLimit
	}
	if c.MaxHeaderBytes <= 0 {
		c.MaxHeaderBytes = defaultHeaderBytes
	}
	if c.Progress.Bytes <= 0 {
		c.Progress.Bytes = defaultProgressBytes
	}
	if c.Progress.Every <= 0 {
		c.Progress.Every = defaultProgressEvery
	}
	t := &c.Timeouts
	for _, d := range []struct {
		value *time.Duration
		zero  time.Duration
	}{
		{&t.Dial, 10 * time.Second}, {&t.ResponseHeader, 2 * time.Minute}, {&t.RequestHeader, 10 * time.Second},
		{&t.ClientIdle, 2 * time.Minute}, {&t.ClientStall, time.Minute}, {&t.AnswerIdle, 5 * time.Minute}, {&t.TunnelIdle, time.Hour}, {&t.Drain, 5 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.zero
		}
	}
	t.ClientBody = cmp.Or(t.ClientBody, t.ClientStall)
	c.Limits.setDefaults(c.MaxHeaderBytes)
}

func parseSeal(fields []string) (sealSet, error) {
	if fields == nil {
		fields = DefaultSeal()
	}
	var s sealSet
	for _, f := range fields {
		switch f {
		case record.FieldSource:
			s.source = true
		case record.FieldQuery:
			s.query = true
		case record.FieldHeaders:
			s.headers = true
		case record.FieldPath:
			s.path = true
		case record.FieldWho:
			s.who = true
		default:
			return s, fmt.Errorf("%w: %q is not a field that can be sealed", ErrConfig, f)
		}
	}
	return s, nil
}

// Handler returns the proxy as a handler. Under a server that is not started by
// [Proxy.Run] clients that stall are not timed out, and the server must leave
// "OPTIONS *" to its handler.
func (p *Proxy) Handler() http.Handler { return http.HandlerFunc(p.serve) }

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) { p.handle(w, r, (*exchange).serve) }

// handle has f do what is to be done in an exchange.
func (p *Proxy) handle(w http.ResponseWriter, r *http.Request, f func(*exchange)) {
	x := p.exchanges.Get().(*exchange)
	x.begin(w, r)
	if x.conn.run != nil {
		x.conn.run.active.Add(1)
		defer x.conn.run.active.Add(-1)
	}
	if in := x.conn.inside; in != nil {
		in.exchanges.Add(1)
		in.active.Add(1)
		defer in.active.Add(-1)
	}
	defer x.end()
	f(x)
}

// buffer is a pooled slice.
type buffer struct {
	pool *sync.Pool
	b    []byte
}

func (b *buffer) put() { b.pool.Put(b) }

// bufferFor returns a buffer of at least n bytes; n is at most BufferLimit+1.
func (p *Proxy) bufferFor(n int) *buffer {
	if n <= smallBuffer {
		return p.small.Get().(*buffer)
	}
	return p.large.Get().(*buffer)
}
