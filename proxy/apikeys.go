package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
)

// APIKeys says whom keys in requests belong to.
type APIKeys struct {
	// Header is where a key stands; Query is the name of the parameter where one
	// stands instead. One of both is required.
	Header, Query string
	// Keys are the known ones; required.
	Keys []APIKey
}

// APIKey is a known key.
type APIKey struct {
	Name   string   // whose it is
	SHA256 [32]byte // of the key
}

// apiKeys finds the holders of keys. Without keys it finds none.
type apiKeys struct {
	header string // canonical
	bare   bool   // a scheme stands before the key
	query  string
	keys   []APIKey
}

func newAPIKeys(cfg *APIKeys) (*apiKeys, error) {
	k := new(apiKeys)
	if cfg == nil {
		return k, nil
	}
	k.query, k.keys = cfg.Query, cfg.Keys
	if cfg.Header != "" {
		var ok bool
		if k.header, ok = validHeaderName(cfg.Header); !ok {
			return nil, fmt.Errorf("%w: %q is not the name of a header", ErrConfig, cfg.Header)
		}
		k.bare = k.header == "Authorization" || k.header == "Proxy-Authorization"
	}
	switch {
	case (k.header == "") == (k.query == ""):
		return nil, fmt.Errorf("%w: API keys stand in a header or in a parameter of the query: name one of both", ErrConfig)
	case k.query != "" && !secretName(k.query):
		// Else the key would stand in records.
		return nil, fmt.Errorf("%w: %q is not a name by which parameters are known to be secret: take one such as key, api_key or token", ErrConfig, k.query)
	case len(k.keys) == 0:
		return nil, fmt.Errorf("%w: there are no API keys", ErrConfig)
	}
	seen := make(map[[sha256.Size]byte]bool)
	for _, key := range k.keys {
		if key.Name == "" || seen[key.SHA256] {
			return nil, fmt.Errorf("%w: the API key of %q is another's too, or nobody's", ErrConfig, key.Name)
		}
		seen[key.SHA256] = true
	}
	return k, nil
}

// find returns whose key a request has, or "". How long it takes tells nothing
// about the known keys.
func (k *apiKeys) find(r *http.Request) (name string) {
	if len(k.keys) == 0 {
		return ""
	}
	presented := k.presented(r)
	if presented == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(presented))
	found := -1
	for i := range k.keys {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(sum[:], k.keys[i].SHA256[:]), i, found)
	}
	if found < 0 {
		return ""
	}
	return k.keys[found].Name
}

// presented returns the key in a request. Of several nobody knows which counts.
func (k *apiKeys) presented(r *http.Request) string {
	values := r.Header[k.header]
	if k.query != "" {
		if r.URL.RawQuery == "" {
			return ""
		}
		values = r.URL.Query()[k.query]
	}
	if len(values) != 1 {
		return ""
	}
	if k.bare {
		return bareSecret(values[0])
	}
	return strings.TrimSpace(values[0])
}
