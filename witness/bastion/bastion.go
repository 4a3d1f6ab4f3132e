// Package bastion makes an HTTP server reachable through a C2SP https-bastion
// (https://c2sp.org/https-bastion) that it dials itself, so that nobody needs to be
// able to connect to it.
//
// Call [New] and then [Bastion.Serve].
package bastion

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/sealtap/sealtap/keys"
)

const (
	// protocol is the ALPN protocol of backends ("Backend to bastion connection").
	protocol = "bastion/0"

	dialTimeout = 10 * time.Second
	grace       = 5 * time.Second // requests under way may take that long at the end
)

// Config says how a bastion is reached.
type Config struct {
	// Address is host:port of the bastion's backend endpoint; its certificate is for
	// that host. Required.
	Address string
	// Roots verify it. Nil: those of the system.
	Roots *x509.CertPool
	// Key is the Ed25519 key by which the bastion knows this server. Required.
	Key *keys.Private
	// MinBackoff and MaxBackoff bound the wait before the bastion is dialled again; it
	// doubles with each failure. 0: 1 s and 1 min.
	MinBackoff, MaxBackoff time.Duration
	// Logger is told when the bastion is reached and lost. Nil: nobody is.
	Logger *slog.Logger
}

// Bastion is one bastion of a server.
type Bastion struct {
	config   Config
	host     string
	hash     string
	logger   *slog.Logger
	linked   atomic.Bool
	links    atomic.Uint64
	failures atomic.Uint64
}

// New makes a bastion that is not dialled yet.
func New(c Config) (*Bastion, error) {
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil || host == "" || port == "" {
		return nil, fmt.Errorf("bastion %q: it is not host:port", c.Address)
	}
	if c.Key == nil {
		return nil, errors.New("a bastion needs a key")
	}
	hash, err := c.Key.BastionHash()
	if err != nil {
		return nil, fmt.Errorf("bastion %s: %w", c.Address, err)
	}
	if c.MinBackoff == 0 {
		c.MinBackoff = time.Second
	}
	if c.MaxBackoff == 0 {
		c.MaxBackoff = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Bastion{config: c, host: host, hash: hex.EncodeToString(hash[:])}
	b.logger = c.Logger.With("bastion", c.Address, "key_hash", b.hash)
	return b, nil
}

// Address is the bastion's, as it was configured.
func (b *Bastion) Address() string { return b.config.Address }

// KeyHash is the first segment of the path at which clients reach the server.
func (b *Bastion) KeyHash() string { return b.hash }

// Status is how the server stands with a bastion.
type Status struct {
	Linked   bool   // the bastion speaks HTTP/2 to the server now
	Links    uint64 // how often it began to
	Failures uint64 // connections that failed, or ended before it did
}

// Status returns the status as it is now.
func (b *Bastion) Status() Status {
	return Status{b.linked.Load(), b.links.Load(), b.failures.Load()}
}

// Serve keeps a connection to the bastion until ctx ends, and answers the requests
// that come on it. That the bastion cannot be reached is logged and no error.
func (b *Bastion) Serve(ctx context.Context, h http.Handler) {
	dialCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	ln := &dialler{bastion: b, ctx: dialCtx, cancel: cancel}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // TLS is beneath, and its roles are the other way round
	srv := &http.Server{
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 32, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: 30 * time.Second},
		Handler:           h,
		ReadHeaderTimeout: 15 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      2 * time.Minute,
		IdleTimeout:       -1, // nobody else can open the connection again
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(b.logger.Handler(), slog.LevelDebug),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln) // until ln is closed
	}()
	<-ctx.Done()
	until, stop := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer stop()
	if srv.Shutdown(until) != nil {
		_ = srv.Close()
	}
	<-done
}

// dial connects to the bastion.
func (b *Bastion) dial(ctx context.Context) (net.Conn, error) {
	cert, err := b.config.Key.ClientCertificate(time.Now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{
		ServerName:   b.host,
		RootCAs:      b.config.Roots,
		Certificates: []tls.Certificate{cert},
		MinVersion:   tls.VersionTLS13, // which hides the certificate
		MaxVersion:   tls.VersionTLS13,
		NextProtos:   []string{protocol},
	}}
	conn, err := d.DialContext(ctx, "tcp", b.config.Address)
	if err != nil {
		return nil, err
	}
	if got := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != protocol {
		return nil, errors.Join(fmt.Errorf("it does not speak %s: it is no bastion, or its clients are served there", protocol), conn.Close())
	}
	return conn, nil
}
