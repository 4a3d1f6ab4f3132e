package proxy

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// JWT says how bearer tokens (RFC 7519) are verified.
type JWT struct {
	// Keys is a JSON Web Key Set (RFC 7517) of public keys; required.
	Keys []byte
	// Issuer must be in "iss"; empty means that it is not looked at.
	Issuer string
	// Audience must be in "aud"; empty means that it is not looked at.
	Audience string
}

const (
	tokenLeeway   = time.Minute
	maxTokenSize  = 16 << 10
	maxTokenCache = 4096
)

// tokenVerifier finds the subject of bearer tokens. Without keys it verifies
// none.
type tokenVerifier struct {
	keys   []jose.JSONWebKey
	expect jwt.Expected

	mu    sync.Mutex
	known map[[sha256.Size]byte]knownToken // verified ones, since signatures are dear
}

type knownToken struct {
	subject string
	from    time.Time
	until   time.Time
}

// tokenAlgorithms are those of public keys. An algorithm with a shared secret
// would let whoever knows the public keys make tokens.
func tokenAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.EdDSA, jose.ES256, jose.ES384, jose.ES512, jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	}
}

func newTokenVerifier(cfg *JWT) (*tokenVerifier, error) {
	v := &tokenVerifier{known: make(map[[sha256.Size]byte]knownToken)}
	if cfg == nil {
		return v, nil
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(cfg.Keys, &set); err != nil {
		return nil, fmt.Errorf("%w: reading the keys of tokens: %w", ErrConfig, err)
	}
	for _, k := range set.Keys {
		if !k.Valid() || !k.IsPublic() {
			return nil, fmt.Errorf("%w: key %q of tokens is not a public key", ErrConfig, k.KeyID)
		}
		if k.Use == "" || k.Use == "sig" {
			v.keys = append(v.keys, k)
		}
	}
	if len(v.keys) == 0 {
		return nil, fmt.Errorf("%w: the key set of tokens holds no key for signatures", ErrConfig)
	}
	v.expect.Issuer = cfg.Issuer
	if cfg.Audience != "" {
		v.expect.AnyAudience = jwt.Audience{cfg.Audience}
	}
	return v, nil
}

// subject returns whom a token speaks of, and whether that is verified. It
// returns "" for what is not a JWT.
func (v *tokenVerifier) subject(token string, now time.Time) (id string, verified bool) {
	if len(token) > maxTokenSize || !looksLikeToken(token) {
		return "", false
	}
	if len(v.keys) > 0 {
		if id, ok := v.verified(token, now); ok {
			return id, true
		}
	}
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if len(parts) != 3 || err != nil {
		return "", false
	}
	var c subjectClaims
	if json.Unmarshal(payload, &c) != nil {
		return "", false
	}
	return c.name(), false
}

type subjectClaims struct {
	Subject  string `json:"sub"`
	ClientID string `json:"client_id"`
}

func (c subjectClaims) name() string {
	if c.Subject != "" {
		return c.Subject
	}
	return c.ClientID
}

func (v *tokenVerifier) verified(token string, now time.Time) (string, bool) {
	sum := sha256.Sum256([]byte(token))
	v.mu.Lock()
	k, ok := v.known[sum]
	v.mu.Unlock()
	if ok {
		return k.subject, !now.Before(k.from) && !now.After(k.until)
	}
	parsed, err := jwt.ParseSigned(token, tokenAlgorithms())
	if err != nil || len(parsed.Headers) != 1 {
		return "", false
	}
	for _, key := range v.keys {
		if kid := parsed.Headers[0].KeyID; kid != "" && key.KeyID != "" && kid != key.KeyID {
			continue
		}
		if key.Algorithm != "" && key.Algorithm != parsed.Headers[0].Algorithm {
			continue
		}
		var claims jwt.Claims
		var names subjectClaims
		if parsed.Claims(key.Key, &claims, &names) != nil {
			continue
		}
		expect := v.expect
		expect.Time = now
		// A token that never ends is not verified: it could not be taken back.
		if claims.Expiry == nil || claims.ValidateWithLeeway(expect, tokenLeeway) != nil || names.name() == "" {
			return "", false
		}
		k = knownToken{subject: names.name(), until: claims.Expiry.Time().Add(tokenLeeway)}
		if claims.NotBefore != nil {
			k.from = claims.NotBefore.Time().Add(-tokenLeeway)
		}
		v.remember(sum, k)
		return k.subject, true
	}
	return "", false
}

func (v *tokenVerifier) remember(sum [sha256.Size]byte, k knownToken) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= maxTokenCache {
		clear(v.known)
	}
	v.known[sum] = k
}
