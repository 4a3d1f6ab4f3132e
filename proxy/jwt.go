package proxy

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// JWT says how bearer tokens (RFC 7519) are verified.
type JWT struct {
	// Keys is a JSON Web Key Set (RFC 7517) of public keys, and KeysURL is where
	// one is fetched from while the proxy runs; one of both is required.
	Keys    []byte
	KeysURL string
	// Issuers are those of which one must be in "iss"; nil means that it is not
	// looked at.
	Issuers []string
	// Audiences are those of which one must be in "aud"; nil means that it is not
	// looked at.
	Audiences []string
	// Claims are the names of those that are recorded of verified tokens, at most
	// eight; nil means none.
	Claims []string
	// Leeway is how far clocks may be apart; zero means 30 s.
	Leeway time.Duration
	// IDClaim names who it is; empty means "sub", or else "client_id".
	IDClaim string
	// Header and Cookie are where tokens stand beside the Authorization header;
	// empty means nowhere.
	Header, Cookie string
}

const (
	tokenLeeway   = 30 * time.Second
	maxTokenSize  = 16 << 10
	maxTokenCache = 4096
)

// tokenVerifier finds out what bearer tokens say. Without keys it verifies none.
type tokenVerifier struct {
	cfg    JWT
	header string // canonical
	cookie string
	source *keySource // nil if the keys were given
	log    *slog.Logger

	keys atomic.Pointer[[]jose.JSONWebKey]

	mu    sync.Mutex
	known map[[sha256.Size]byte]knownToken // verified ones, since signatures are dear
}

// tokenFacts is what a token says.
type tokenFacts struct {
	id, issuer string
	verified   bool
	claims     []claim
}

type knownToken struct {
	tokenFacts
	from  time.Time
	until time.Time
}

// tokenAlgorithms are those of public keys. An algorithm with a shared secret
// would let whoever knows the public keys make tokens.
func tokenAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.EdDSA, jose.ES256, jose.ES384, jose.ES512, jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	}
}

func newTokenVerifier(cfg *JWT) (*tokenVerifier, error) {
	v := &tokenVerifier{log: slog.New(slog.DiscardHandler), known: make(map[[sha256.Size]byte]knownToken)}
	if cfg == nil {
		return v, nil
	}
	v.cfg, v.cookie = *cfg, cfg.Cookie
	if v.cfg.Leeway <= 0 {
		v.cfg.Leeway = tokenLeeway
	}
	switch {
	case (len(cfg.Keys) == 0) == (cfg.KeysURL == ""):
		return nil, fmt.Errorf("%w: the keys of tokens are given, or fetched: say one of both", ErrConfig)
	case len(cfg.Claims) > maxClaims:
		return nil, fmt.Errorf("%w: %d claims of tokens are to be recorded, at most %d can be", ErrConfig, len(cfg.Claims), maxClaims)
	case slices.ContainsFunc(cfg.Claims, func(s string) bool { return s == "" || len(s) > maxClaimName || capped(s, maxClaimName) != s }):
		return nil, fmt.Errorf("%w: the name of a claim has from 1 to %d bytes", ErrConfig, maxClaimName)
	case cfg.Cookie != "" && !validName(cfg.Cookie):
		return nil, fmt.Errorf("%w: %q is not the name of a cookie", ErrConfig, cfg.Cookie)
	}
	if cfg.Header != "" {
		var ok bool
		if v.header, ok = validHeaderName(cfg.Header); !ok {
			return nil, fmt.Errorf("%w: %q is not the name of a header", ErrConfig, cfg.Header)
		}
	}
	var err error
	if cfg.KeysURL != "" {
		v.source, err = newKeySource(cfg.KeysURL)
		return v, err
	}
	keys, err := parseKeySet(cfg.Keys, true)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	v.keys.Store(&keys)
	return v, nil
}

// read returns what a token says, or nothing of what is not a JWT.
func (v *tokenVerifier) read(token string, now time.Time) tokenFacts {
	if len(token) > maxTokenSize || !looksLikeToken(token) {
		return tokenFacts{}
	}
	if keys := v.keys.Load(); keys != nil {
		if f, ok := v.verified(*keys, token, now); ok {
			return f
		}
	}
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if len(parts) != 3 || err != nil {
		return tokenFacts{}
	}
	var c map[string]json.RawMessage
	if json.Unmarshal(payload, &c) != nil {
		return tokenFacts{}
	}
	return tokenFacts{id: v.name(c)}
}

// name returns the claim that says who it is.
func (v *tokenVerifier) name(claims map[string]json.RawMessage) (id string) {
	names := []string{v.cfg.IDClaim}
	if v.cfg.IDClaim == "" {
		names = []string{"sub", "client_id"}
	}
	for _, name := range names {
		if json.Unmarshal(claims[name], &id) == nil && id != "" {
			return id
		}
	}
	return ""
}

func (v *tokenVerifier) verified(keys []jose.JSONWebKey, token string, now time.Time) (tokenFacts, bool) {
	sum := sha256.Sum256([]byte(token))
	v.mu.Lock()
	k, ok := v.known[sum]
	v.mu.Unlock()
	if ok {
		return k.tokenFacts, !now.Before(k.from) && !now.After(k.until)
	}
	parsed, err := jwt.ParseSigned(token, tokenAlgorithms())
	if err != nil || len(parsed.Headers) != 1 {
		return tokenFacts{}, false
	}
	head, named := parsed.Headers[0], false
	for _, key := range keys {
		named = named || key.KeyID == head.KeyID
		if head.KeyID != "" && key.KeyID != "" && head.KeyID != key.KeyID || !slices.Contains(keyAlgorithms(key), jose.SignatureAlgorithm(head.Algorithm)) {
			continue
		}
		var registered jwt.Claims
		var all map[string]json.RawMessage
		if parsed.Claims(key.Key, &registered, &all) != nil {
			continue
		}
		if k, ok = v.judge(registered, all, now); ok {
			v.remember(&keys, sum, k)
		}
		return k.tokenFacts, ok
	}
	if !named && head.KeyID != "" {
		v.source.want()
	}
	return tokenFacts{}, false
}

// judge looks at the claims of a token whose signature is good. A token that
// never ends is not verified: it could not be taken back.
func (v *tokenVerifier) judge(c jwt.Claims, all map[string]json.RawMessage, now time.Time) (k knownToken, ok bool) {
	id, leeway := v.name(all), v.cfg.Leeway
	expect := jwt.Expected{Time: now, AnyAudience: v.cfg.Audiences}
	if c.Expiry == nil || id == "" || c.ValidateWithLeeway(expect, leeway) != nil {
		return k, false
	}
	if len(v.cfg.Issuers) > 0 && !slices.Contains(v.cfg.Issuers, c.Issuer) {
		return k, false
	}
	k = knownToken{tokenFacts: tokenFacts{id: id, issuer: c.Issuer, verified: true}, until: c.Expiry.Time().Add(leeway)}
	if c.NotBefore != nil {
		k.from = c.NotBefore.Time().Add(-leeway)
	}
	for _, name := range v.cfg.Claims {
		if value, ok := claimText(all[name]); ok {
			k.claims = append(k.claims, claim{name, value})
		}
	}
	return k, true
}

// claimText returns the text of a claim: a string as it is, anything else as
// JSON. What looks like a token of its own is a credential.
func claimText(raw json.RawMessage) (string, bool) {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		var b bytes.Buffer
		if json.Compact(&b, raw) != nil {
			return "", false
		}
		text = b.String()
	} else if string(raw) == "null" {
		return "", false
	}
	if strings.Contains(text, "eyJ") && strings.Count(text, ".") >= 2 {
		text = redacted
	}
	return capped(text, maxClaim), true
}

// remember keeps what a token says, unless the keys have changed since.
func (v *tokenVerifier) remember(keys *[]jose.JSONWebKey, sum [sha256.Size]byte, k knownToken) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now := v.keys.Load(); len(*now) == 0 || len(*keys) == 0 || &(*now)[0] != &(*keys)[0] {
		return
	}
	if len(v.known) >= maxTokenCache {
		clear(v.known)
	}
	v.known[sum] = k
}

// replace puts other keys in the place of those that tokens were verified with.
func (v *tokenVerifier) replace(keys []jose.JSONWebKey) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys.Store(&keys)
	clear(v.known)
}
