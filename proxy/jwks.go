package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	keysEvery   = 5 * time.Minute
	keysRetry   = 30 * time.Second // after a failure, or for a key that is not known yet
	keysTimeout = 5 * time.Second
	maxKeySet   = 256 << 10
	leastRSA    = 2048 // bits
)

var errNoKeys = errors.New("the key set of tokens holds no public key for signatures")

// parseKeySet returns the keys for signatures of a JSON Web Key Set. A strict one
// holds nothing but public keys that can be used; of another one, which is not
// for us to write, what cannot be used is skipped (RFC 7517, section 5).
func parseKeySet(data []byte, strict bool) (list []jose.JSONWebKey, err error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("reading the keys of tokens: %w", err)
	}
	for i, raw := range set.Keys {
		var k jose.JSONWebKey
		err := json.Unmarshal(raw, &k)
		if err == nil && (!k.Valid() || !k.IsPublic() || len(keyAlgorithms(k)) == 0) {
			err = fmt.Errorf("it is %q, and no public key that tokens can be signed with", k.KeyID)
		}
		if err != nil {
			if strict {
				return nil, fmt.Errorf("key %d of tokens: %w", i, err)
			}
			continue
		}
		if k.Use == "" || k.Use == "sig" {
			list = append(list, k)
		}
	}
	if len(list) == 0 {
		return nil, errNoKeys
	}
	return list, nil
}

// keyAlgorithms are those that a key can verify: the one that it says, if its
// kind allows that, or else those of its kind.
func keyAlgorithms(k jose.JSONWebKey) (list []jose.SignatureAlgorithm) {
	switch key := k.Key.(type) {
	case ed25519.PublicKey:
		list = []jose.SignatureAlgorithm{jose.EdDSA}
	case *ecdsa.PublicKey:
		switch key.Curve.Params().BitSize {
		case 256:
			list = []jose.SignatureAlgorithm{jose.ES256}
		case 384:
			list = []jose.SignatureAlgorithm{jose.ES384}
		case 521:
			list = []jose.SignatureAlgorithm{jose.ES512}
		}
	case *rsa.PublicKey:
		if key.N.BitLen() >= leastRSA {
			list = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
		}
	}
	if k.Algorithm == "" {
		return list
	}
	for _, a := range list {
		if string(a) == k.Algorithm {
			return []jose.SignatureAlgorithm{a}
		}
	}
	return nil
}

// keySource is where the keys of tokens come from while the proxy runs.
type keySource struct {
	url          string
	client       *http.Client
	every, retry time.Duration
	wanted       chan struct{} // a token named a key that is not known

	mu sync.Mutex // held while keys are fetched
}

func newKeySource(address string) (*keySource, error) {
	u, err := url.Parse(address)
	if err == nil {
		err = checkKeysURL(u)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrConfig, address, err)
	}
	return &keySource{
		url: address, every: keysEvery, retry: keysRetry, wanted: make(chan struct{}, 1),
		client: &http.Client{
			Timeout:   keysTimeout,
			Transport: &http.Transport{DisableKeepAlives: true},
			CheckRedirect: func(r *http.Request, via []*http.Request) error {
				if len(via) > 3 {
					return errors.New("redirected too often")
				}
				return checkKeysURL(r.URL)
			},
		},
	}, nil
}

// checkKeysURL refuses addresses at which somebody on the way could put their own
// keys in the place of those that are there.
func checkKeysURL(u *url.URL) error {
	ip := net.ParseIP(u.Hostname())
	if u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost" && !ip.IsLoopback()) {
		return errors.New("keys of tokens are fetched with https, or from this machine")
	}
	return nil
}

// want asks for keys to be fetched before it is time.
func (s *keySource) want() {
	if s == nil {
		return
	}
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

func (s *keySource) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", s.url, res.Status)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxKeySet+1))
	if err == nil && len(data) > maxKeySet {
		err = fmt.Errorf("the key set at %s has more than %d bytes", s.url, maxKeySet)
	}
	if err != nil {
		return nil, err
	}
	return parseKeySet(data, false)
}

// follow fetches keys, and again until the function that it returns is called.
// Where that fails those that are there stay.
func (v *tokenVerifier) follow(ctx context.Context) (stop func()) {
	if v.source == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ok := v.refresh(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if !v.source.pause(ctx, ok) {
				return
			}
			ok = v.refresh(ctx)
		}
	}()
	return func() { cancel(); <-done }
}

// pause waits until it is time for the next attempt and reports whether there is
// to be one. However many tokens ask for keys, attempts are some time apart.
func (s *keySource) pause(ctx context.Context, ok bool) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(s.retry):
	}
	if !ok {
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case <-s.wanted:
	case <-time.After(max(s.every-s.retry, 0)):
	}
	return true
}

func (v *tokenVerifier) refresh(ctx context.Context) bool {
	v.source.mu.Lock()
	defer v.source.mu.Unlock()
	keys, err := v.source.fetch(ctx)
	if err != nil {
		if ctx.Err() == nil {
			v.log.Warn("fetching the keys of tokens failed; those that are known stay", "error", err)
		}
		return false
	}
	v.replace(keys)
	return true
}
