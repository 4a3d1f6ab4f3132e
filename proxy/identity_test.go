package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

func TestTokens(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	jwk := jose.JSONWebKey{Key: &key.PublicKey, KeyID: "k1", Algorithm: "ES256", Use: "sig"}
	set, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwk}})
	now := time.Now()
	sign := func(alg jose.SignatureAlgorithm, k any, c jwt.Claims) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: k}, nil)
		if err != nil {
			t.Fatal(err)
		}
		tok, err := jwt.Signed(s).Claims(c).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	claims := jwt.Claims{Subject: "ann", Issuer: "idp", Audience: jwt.Audience{"shop"}, Expiry: jwt.NewNumericDate(now.Add(time.Hour))}
	with := func(f func(*jwt.Claims)) jwt.Claims { c := claims; f(&c); return c }
	good := sign(jose.ES256, key, claims)
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.Split(good, ".")[1] + "."
	pub, _ := x509.MarshalPKIXPublicKey(&key.PublicKey)
	v, err := newTokenVerifier(&JWT{Keys: set, Issuers: []string{"x1", "idp"}, Audiences: []string{"shop", "y"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		token    string
		id       string
		verified bool
	}{
		"good":                 {good, "ann", true},
		"again":                {good, "ann", true},
		"other key":            {sign(jose.ES256, other, claims), "ann", false},
		"expired":              {sign(jose.ES256, key, with(func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(now.Add(-time.Hour)) })), "ann", false},
		"not yet":              {sign(jose.ES256, key, with(func(c *jwt.Claims) { c.NotBefore = jwt.NewNumericDate(now.Add(time.Hour)) })), "ann", false},
		"endless":              {sign(jose.ES256, key, with(func(c *jwt.Claims) { c.Expiry = nil })), "ann", false},
		"other issuer":         {sign(jose.ES256, key, with(func(c *jwt.Claims) { c.Issuer = "x" })), "ann", false},
		"other audience":       {sign(jose.ES256, key, with(func(c *jwt.Claims) { c.Audience = jwt.Audience{"x"} })), "ann", false},
		"none":                 {none, "ann", false},
		"public key as secret": {sign(jose.HS256, pub, claims), "ann", false},
		"cut":                  {good[:len(good)-4], "ann", false},
		"not a token":          {"abc", "", false},
		"long":                 {"eyJ" + strings.Repeat("a.", 20_000), "", false},
	} {
		if f := v.read(tt.token, now); f.id != tt.id || f.verified != tt.verified {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if v.read(good, now.Add(2*time.Hour)).verified {
		t.Error("a token that was verified once is believed after its end")
	}
	private, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key}}})
	shared, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: []byte("0123456789abcdef0123456789abcdef")}}})
	for _, keys := range [][]byte{private, shared, []byte("x"), nil} {
		if _, err := newTokenVerifier(&JWT{Keys: keys}); err == nil {
			t.Errorf("%s is taken for public keys", keys)
		}
	}
}

func TestWho(t *testing.T) {
	settled(t)
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "billing"}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"proxy"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	up := backend(t, func(http.ResponseWriter, *http.Request) {})
	unsigned := "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"ann"}`)) + ".x"
	for _, tt := range []struct {
		auth          string
		client        tls.ClientAuthType
		id, how       string
		verified, has bool
	}{
		{"", tls.VerifyClientCertIfGiven, "billing", "mtls", true, true},
		{"", tls.RequestClientCert, "billing", "mtls", false, true},
		{"Bearer " + unsigned, tls.NoClientCert, "ann", "jwt", false, true},
		{"Bearer " + unsigned, tls.VerifyClientCertIfGiven, "billing", "mtls", true, true},
		{"Basic YW5uOnB3", tls.NoClientCert, "ann", "basic", false, true},
		{"Basic !", tls.NoClientCert, "", "", false, false},
		{"Basic c2tfbGl2ZV8xMjM6", tls.NoClientCert, "", "", false, false}, // a key instead of a name
		{"", tls.NoClientCert, "", "", false, false},
	} {
		s := start(t, up, func(c *Config) {
			c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tt.client, ClientCAs: pool}
		})
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "proxy", Certificates: []tls.Certificate{cert}}}
		req := request(t, "GET", "https://"+s.addr, nil)
		if tt.auth != "" {
			req.Header.Set("Authorization", tt.auth)
		}
		get(t, &http.Client{Transport: tr}, req)
		tr.CloseIdleConnections()
		q, _ := s.rec.last(t)
		w := q.rec.GetRequest().GetWho()
		if (w != nil) != tt.has || w.GetId() != tt.id || w.GetHow() != tt.how || w.GetVerified() != tt.verified {
			t.Errorf("%+v: %v", tt, w)
		}
	}
	s := start(t, up, func(c *Config) { c.Seal = []string{"who"} })
	req := request(t, "GET", s.url("/"), nil)
	req.SetBasicAuth("ann", "pw")
	get(t, client(t), req)
	if q, _ := s.rec.last(t); q.rec.GetRequest().GetWho().GetId() != "" || q.opening(t, "who") != "ann" {
		t.Errorf("%v", q.rec)
	}
}

func TestIDs(t *testing.T) {
	var s idSource
	last := ""
	for i := range 20_000 {
		now := time.UnixMilli(int64(1_700_000_000_000 - i)) // the clock steps back
		id := s.next(now)
		text := string(appendUUID(nil, id))
		if text <= last || text[14] != '7' || !strings.ContainsRune("89ab", rune(text[19])) || len(text) != 36 {
			t.Fatalf("%s after %s", text, last)
		}
		last = text
	}
}

func TestTraceparent(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for v, want := range map[string]bool{
		good: true, "cc" + good[2:] + "-more": true, "cc" + good[2:] + "x": false, good + "-x": false, "ff" + good[2:]: false, strings.ToUpper(good): false,
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": false, "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01": false, "": false, good[1:]: false,
	} {
		if _, ok := parseTraceparent(v); ok != want {
			t.Errorf("%q: %t", v, ok)
		}
	}
	trace, h := newTraceparent(func([16]byte) bool { return false })
	if got, ok := parseTraceparent(h); !ok || got != trace {
		t.Errorf("%q", h)
	}
}
