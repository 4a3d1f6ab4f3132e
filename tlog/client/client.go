// Package client reads a transparency log and believes nothing it cannot prove.
//
// The log is any that is served as C2SP tlog-tiles
// (https://c2sp.org/tlog-tiles), over HTTP or HTTPS or from a directory in the
// same layout. Beside that it makes the calls of Sealtap's own /v1 interface:
// what they answer is a hint until it has been looked up in the tree.
//
// Start with [New]; [Client.Checkpoint] gives a verified head, and
// [Client.Tree] the entries under it, each with its proof checked.
//
// Every error is of one of two kinds, which must never be confused:
// [ErrUnavailable] says that something could not be had, and concludes nothing;
// [ErrVerification] says that something was had, and is not what was promised.
package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sealtap/sealtap/witness/policy"
)

var (
	// ErrUnavailable is wrapped where something could not be fetched.
	ErrUnavailable = errors.New("not available")
	// ErrVerification is wrapped where something that was fetched does not verify.
	ErrVerification = errors.New("does not verify")
	// ErrNotFound is wrapped, together with [ErrUnavailable], where the log says
	// that it has no such thing.
	ErrNotFound = errors.New("not found")
	// ErrConfig is wrapped where a client is asked to do what it cannot with the
	// settings that it has.
	ErrConfig = errors.New("invalid client configuration")
)

// Client reads one log under a policy. It may be used by several goroutines.
type Client struct {
	source *Source
	policy *policy.Policy
	origin string
}

// settings are what options change.
type settings struct {
	http     *http.Client
	token    string
	origin   string
	attempts int
	backoff  time.Duration
	timeout  time.Duration
}

// Option changes how a log is read.
type Option func(*settings)

// WithHTTPClient sets the HTTP client; the default is one of the package's own.
func WithHTTPClient(c *http.Client) Option { return func(s *settings) { s.http = c } }

// WithToken sends a bearer token with every request: the reader role, without
// which nobody sees openings.
func WithToken(token string) Option { return func(s *settings) { s.token = token } }

// WithOrigin takes checkpoints of this origin only; without it any log of the
// policy will do.
func WithOrigin(origin string) Option { return func(s *settings) { s.origin = origin } }

// WithRetries sets how often a read is attempted (default 5) and how long the
// first pause between attempts is (default 200 ms; it doubles each time). It
// changes nothing for [Client.Submit], which makes one attempt.
func WithRetries(attempts int, backoff time.Duration) Option {
	return func(s *settings) { s.attempts, s.backoff = attempts, backoff }
}

// WithTimeout sets how long one attempt may take, its answer included (default 30 s).
func WithTimeout(d time.Duration) Option { return func(s *settings) { s.timeout = d } }

// New returns a client of the log at location, which is a URL or a directory.
// It does not contact the log.
func New(location string, p *policy.Policy, opts ...Option) (*Client, error) {
	if p == nil {
		return nil, fmt.Errorf("%w: a policy is needed to verify a log", ErrConfig)
	}
	src, err := Open(location, opts...)
	if err != nil {
		return nil, err
	}
	return &Client{source: src, policy: p, origin: src.set.origin}, nil
}

// Source returns the unverified reads underneath.
func (c *Client) Source() *Source { return c.source }

// Checkpoint fetches the newest checkpoint and verifies it: the log's signature
// and the quorum of witnesses. Errors of verification wrap [ErrVerification] and
// the error of [policy.Policy.Verify].
func (c *Client) Checkpoint(ctx context.Context) (*policy.Checkpoint, error) {
	signed, err := c.source.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	cp, err := c.policy.Verify(signed)
	if err != nil {
		return nil, fmt.Errorf("checkpoint of %s: %w: %w", c.source, ErrVerification, err)
	}
	if c.origin != "" && cp.Origin != c.origin {
		return nil, fmt.Errorf("checkpoint of %s: %w: its origin is %q, wanted is %q", c.source, ErrVerification, cp.Origin, c.origin)
	}
	return cp, nil
}

// Tree returns verified reads under a head that [Client.Checkpoint], or the
// policy, has verified.
func (c *Client) Tree(cp *policy.Checkpoint) *Tree { return NewTree(c.source, cp.Size, cp.Root) }
