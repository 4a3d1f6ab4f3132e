package proxy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
)

// issuer makes tokens.
type issuer struct {
	t   *testing.T
	kid string
	key *ecdsa.PrivateKey
}

func newIssuer(t *testing.T, kid string) *issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{t, kid, key}
}

func (i *issuer) set() []byte {
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &i.key.PublicKey, KeyID: i.kid}}})
	if err != nil {
		i.t.Fatal(err)
	}
	return b
}

func (i *issuer) token(claims map[string]any) string {
	all := map[string]any{"sub": "tok", "iss": "idp", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: i.kid}}, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	tok, err := jwt.Signed(s).Claims(all).Serialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return tok
}

// pki is a certificate that is its own authority, of a server and of a client.
type pki struct {
	leaf *x509.Certificate
	cert tls.Certificate
	pool *x509.CertPool
}

func newPKI(t *testing.T, uris ...string) *pki {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cn"}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"proxy"}, IsCA: true, BasicConstraintsValid: true}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.URIs = append(tmpl.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	p := &pki{cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool: x509.NewCertPool()}
	if p.leaf, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	p.pool.AddCert(p.leaf)
	return p
}

func (p *pki) server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{p.cert}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: p.pool}
}

func (p *pki) client(t *testing.T, certificate bool) *http.Client {
	cfg := &tls.Config{RootCAs: p.pool, ServerName: "proxy"}
	if certificate {
		cfg.Certificates = []tls.Certificate{p.cert}
	}
	tr := &http.Transport{TLSClientConfig: cfg}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// TestPrecedence holds every combination of sources against the table in
// docs/identity.md.
func TestPrecedence(t *testing.T) {
	idp, ca := newIssuer(t, "k"), newPKI(t)
	up := backend(t, func(http.ResponseWriter, *http.Request) {})
	const unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJmb3JnZWQifQ.x" // of "forged"
	digest := strings.Repeat("ab", 32)
	sources := []struct {
		how, id  string
		verified bool
		trust    bool // only from a trusted peer
		set      func(h http.Header)
	}{
		{"header", "usr", true, true, func(h http.Header) { h.Set("X-User", "usr") }},
		{"jwt", "tok", true, false, func(h http.Header) { h.Set("X-Jwt", idp.token(nil)) }},
		{"api-key", "svc", true, false, func(h http.Header) { h.Set("X-Api-Key", "k1") }},
		{"xfcc", "spiffe://a/b", true, true, func(h http.Header) { h.Set("X-Forwarded-Client-Cert", "Hash="+digest+";URI=spiffe://a/b") }},
		{"mtls", "cn", true, false, nil},
		{"jwt", "forged", false, false, func(h http.Header) { h.Set("Authorization", "Bearer "+unsigned) }},
		{"basic", "ann", false, false, func(h http.Header) { h.Set("Authorization", "Basic YW5uOnB3") }},
	}
	for _, trusted := range []bool{true, false} {
		s := start(t, up, func(c *Config) {
			c.TLS, c.UserHeader, c.XFCC = ca.server(), "X-User", true
			c.JWT = &JWT{Keys: idp.set(), Header: "X-Jwt"}
			c.APIKeys = &APIKeys{Header: "x-api-key", Keys: []APIKey{{"other", sha256.Sum256([]byte("k0"))}, {"svc", sha256.Sum256([]byte("k1"))}}}
			c.TrustedPeers = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
			if trusted {
				c.TrustedPeers = append(c.TrustedPeers, netip.MustParsePrefix("127.0.0.0/8"))
			}
		})
		with, without := ca.client(t, true), ca.client(t, false)
		for set := range 1 << len(sources) {
			if set>>5 == 3 {
				continue // both in Authorization
			}
			req, c, want := request(t, "GET", "https://"+s.addr, nil), without, -1
			for i, src := range sources {
				if set>>i&1 == 0 {
					continue
				}
				if src.set == nil {
					c = with
				} else {
					src.set(req.Header)
				}
				if want < 0 && (trusted || !src.trust) {
					want = i
				}
			}
			get(t, c, req)
			q, _ := s.rec.last(t)
			w := q.rec.GetRequest().GetWho()
			if want < 0 {
				if w != nil {
					t.Errorf("trusted %t, set %b: %v", trusted, set, w)
				}
				continue
			}
			src := sources[want]
			if w.GetId() != src.id || w.GetHow() != src.how || w.GetVerified() != src.verified {
				t.Errorf("trusted %t, set %b: %v, want %s", trusted, set, w, src.how)
			}
			if (src.how == "mtls" || src.how == "xfcc") != (w.GetCertificate() != nil) {
				t.Errorf("%s: certificate %x", src.how, w.GetCertificate())
			}
		}
	}
}

func TestCertificateNames(t *testing.T) {
	up := backend(t, func(http.ResponseWriter, *http.Request) {})
	for _, tt := range []struct {
		uris []string
		want string
	}{
		{[]string{"spiffe://acme.example/billing/v1"}, "spiffe://acme.example/billing/v1"},
		{[]string{"https://acme.example/x"}, "https://acme.example/x"},
		{[]string{"spiffe://acme.example/a", "spiffe://acme.example/b"}, "cn"},
		{[]string{"spiffe://acme.example/a/"}, "cn"},
		{nil, "cn"},
	} {
		ca := newPKI(t, tt.uris...)
		s := start(t, up, func(c *Config) { c.TLS = ca.server() })
		get(t, ca.client(t, true), request(t, "GET", "https://"+s.addr, nil))
		q, _ := s.rec.last(t)
		w, sum := q.rec.GetRequest().GetWho(), sha256.Sum256(ca.leaf.Raw)
		if w.GetId() != tt.want || !w.GetVerified() || !bytes.Equal(w.GetCertificate(), sum[:]) || w.GetIssuer() != "CN=cn" {
			t.Errorf("%v: %v", tt.uris, w)
		}
	}
	for s, want := range map[string]bool{
		"spiffe://a": true, "spiffe://a/b": true, "spiffe://A/b": false, "spiffe://a/B": true, "spiffe://": false, "spiffe:///b": false, "spiffe://a:1/b": false,
		"spiffe://u@a/b": false, "spiffe://a/b?c": false, "spiffe://a/b#c": false, "spiffe://a//b": false, "spiffe://a/../b": false, "spiffe://a/b/": false,
		"spiffe://a/%62": false, "spiffe://a/" + strings.Repeat("b", 2048): false, "spiffe://" + strings.Repeat("a", 256): false,
	} {
		if validSPIFFE(s) != want {
			t.Errorf("%.60s: %t", s, !want)
		}
	}
}

func TestClaims(t *testing.T) {
	idp := newIssuer(t, "k")
	up := backend(t, func(http.ResponseWriter, *http.Request) {})
	claims := map[string]any{"user": "ann@example", "azp": "web", "scope": []string{"a", "b"}, "tenant": strings.Repeat("t", 300), "secret": "s", "nested": "x eyJa.b.c"}
	cfg := &JWT{Keys: idp.set(), Issuers: []string{"idp"}, Claims: []string{"azp", "scope", "tenant", "missing", "nested"}, IDClaim: "user", Cookie: "sess"}
	send := func(seal []string, token string) *kept {
		s := start(t, up, func(c *Config) { c.JWT, c.Seal = cfg, seal })
		req := request(t, "GET", s.url("/"), nil)
		req.AddCookie(&http.Cookie{Name: "sess", Value: token})
		get(t, client(t), req)
		q, _ := s.rec.last(t)
		return q
	}
	w := send([]string{}, idp.token(claims)).rec.GetRequest().GetWho()
	got := make(map[string]string)
	for _, c := range w.GetClaims() {
		got[c.GetName()] = c.GetValue()
	}
	if w.GetId() != "ann@example" || w.GetIssuer() != "idp" || !w.GetVerified() || len(got) != 4 || got["azp"] != "web" || got["scope"] != `["a","b"]` || len(got["tenant"]) != maxClaim || got["nested"] != redacted {
		t.Errorf("%v", w)
	}
	q := send([]string{"who"}, idp.token(claims))
	for _, secret := range []string{"ann@example", "idp", "web"} {
		if bytes.Contains(q.entry, []byte(secret)) {
			t.Errorf("%s is in the open", secret)
		}
	}
	var values []string
	for _, o := range q.opened {
		if o.GetField() == record.FieldClaims {
			values, _ = record.SplitList(o.GetValue())
		}
	}
	if q.opening(t, "who") != "ann@example" || q.opening(t, "issuer") != "idp" || len(values) != 4 || values[0] != "web" {
		t.Errorf("%v", q.opened)
	}
	e, err := record.Parse(q.entry)
	if err != nil {
		t.Fatal(err)
	}
	view, err := json.Marshal(record.NewView(e, 0, func(keys.ID) string { return "" }, q.opened))
	if err != nil || !strings.Contains(string(view), `"value":"web"`) || !strings.Contains(string(view), `"issuer":{"sealed":`) {
		t.Errorf("%s, %v", view, err)
	}
	// Of tokens that do not verify no claims are believed.
	if w := send([]string{}, newIssuer(t, "k").token(claims)).rec.GetRequest().GetWho(); w.GetId() != "ann@example" || w.GetVerified() || len(w.GetClaims()) != 0 || w.GetIssuer() != "" {
		t.Errorf("%v", w)
	}
}

func TestFetchedKeys(t *testing.T) {
	settled(t)
	first, second := newIssuer(t, "k1"), newIssuer(t, "k2")
	var answer atomic.Pointer[[]byte]
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if b := answer.Load(); b != nil {
			_, _ = w.Write(*b)
			return
		}
		w.WriteHeader(http.StatusInternalServerError)
	}))
	t.Cleanup(idp.Close)
	serve := func(b []byte) { answer.Store(&b) }
	serve(append(bytes.TrimSuffix(first.set(), []byte("]}")), []byte(`,{"kty":"unheard","kid":"z"},{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}]}`)...))
	v, err := newTokenVerifier(&JWT{KeysURL: idp.URL})
	if err != nil {
		t.Fatal(err)
	}
	v.source.retry, v.source.every = 5*time.Millisecond, time.Hour
	stop := v.follow(t.Context())
	defer stop()
	good := func(i *issuer) bool { return v.read(i.token(nil), time.Now()).verified }
	if !good(first) || good(second) {
		t.Fatal("the keys at the start are not those that were served")
	}
	// What cannot be used changes nothing, and a key that is not known is asked for.
	for _, bad := range [][]byte{[]byte("x"), []byte(`{"keys":[]}`), append(second.set(), make([]byte, maxKeySet)...)} {
		serve(bad)
		if v.refresh(t.Context()) || !good(first) {
			t.Fatalf("%.20s replaces the keys", bad)
		}
	}
	cached := first.token(nil)
	_ = v.read(cached, time.Now())
	serve(second.set())
	for end := time.Now().Add(10 * time.Second); !good(second); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a new key is never fetched")
		}
	}
	if good(first) || v.read(cached, time.Now()).verified {
		t.Error("a key that is gone is believed")
	}
	for _, bad := range []string{"http://example.com/keys", "ftp://127.0.0.1/", "http://u:p@127.0.0.1/", "http://127.0.0.1.example/"} {
		if _, err := newTokenVerifier(&JWT{KeysURL: bad}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	away := httptest.NewServer(http.RedirectHandler("http://example.com/keys", http.StatusFound))
	t.Cleanup(away.Close)
	s, err := newKeySource(away.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "fetched with https") {
		t.Errorf("redirected elsewhere: %v", err)
	}
}

func TestAPIKeys(t *testing.T) {
	var query string
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) { query = r.URL.RawQuery })
	keys := []APIKey{{"svc", sha256.Sum256([]byte("opensesame1"))}}
	s := start(t, up, func(c *Config) { c.APIKeys = &APIKeys{Query: "key", Keys: keys} })
	for target, want := range map[string]string{"/?key=opensesame1": "svc", "/?key=opensesame2": "", "/": "", "/?key=opensesame1&key=opensesame2": "", "/?a=b": ""} {
		get(t, client(t), request(t, "GET", s.url(target), nil))
		q, _ := s.rec.last(t)
		if id := q.rec.GetRequest().GetWho().GetId(); id != want {
			t.Errorf("%s: %q", target, id)
		}
		if strings.Contains(target, "key=") && (len(q.credentials()) == 0 || !strings.Contains(query, "key=o")) {
			t.Errorf("%s: %v, %q", target, q.credentials(), query)
		}
		if bytes.Contains(q.entry, []byte("opensesame1")) || bytes.Contains(q.openings, []byte("opensesame1")) {
			t.Errorf("%s: the key is recorded", target)
		}
	}
	s = start(t, up, func(c *Config) { c.APIKeys, c.Seal = &APIKeys{Header: "X-Who", Keys: keys}, []string{} })
	req := request(t, "GET", s.url("/"), nil)
	req.Header.Set("X-Who", "opensesame1")
	get(t, client(t), req)
	if q, _ := s.rec.last(t); q.rec.GetRequest().GetWho().GetId() != "svc" || bytes.Contains(q.entry, []byte("opensesame1")) || len(q.credentials()) != 1 {
		t.Errorf("%v", q.rec)
	}
	for _, bad := range []APIKeys{{Keys: keys}, {Header: "A", Query: "key", Keys: keys}, {Query: "color", Keys: keys}, {Header: "A b", Keys: keys}, {Header: "A"},
		{Header: "A", Keys: append(keys, keys...)}, {Header: "User-Agent", Keys: keys}} {
		u, _ := url.Parse(up)
		if _, err := New(Config{Upstream: u, Recorder: newMemory(), DigestKey: make([]byte, 16), APIKeys: &bad}); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestTraceOfUntrusted(t *testing.T) {
	var got http.Header
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() })
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for peers, kept := range map[string]bool{"": true, "127.0.0.0/8": true, "10.0.0.0/8": false} {
		s := start(t, up, func(c *Config) {
			if peers != "" {
				c.TrustedPeers = []netip.Prefix{netip.MustParsePrefix(peers)}
			}
		})
		req := request(t, "GET", s.url("/"), nil)
		req.Header.Set("Traceparent", trace)
		req.Header.Set("Tracestate", "a=b")
		get(t, client(t), req)
		q, _ := s.rec.last(t)
		id := hex.EncodeToString(q.rec.GetRequest().GetTrace())
		if (got.Get("Traceparent") == trace) != kept || (got.Get("Tracestate") == "a=b") != kept || (id == trace[3:35]) != kept || !strings.Contains(got.Get("Traceparent"), id) {
			t.Errorf("%q: %v, %s", peers, got, id)
		}
		if h := q.headers(t); h["traceparent"][0] != trace || h["tracestate"][0] != "a=b" {
			t.Errorf("%q: what was received is not recorded: %v", peers, h)
		}
	}
}

func TestXFCC(t *testing.T) {
	digest := strings.Repeat("0a", 32)
	for _, tt := range []struct{ in, name string }{
		{`By=http://frontend.lyft.com;Hash=` + digest + `;Subject="/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client";URI=http://testclient.lyft.com`, "http://testclient.lyft.com"},
		{`URI=spiffe://a/far,By=x;Hash=` + digest + `;URI=spiffe://a/near`, "spiffe://a/near"},
		{`Subject="CN=far,O=x";URI=,By=y;Subject="CN=near,O=Acme\, Inc";DNS=d`, "near"},
		{`Subject="CN=a;URI=spiffe://a/evil,URI=spiffe://a/evil"`, "a;URI=spiffe://a/evil"},
		{`Subject="O=\";URI=spiffe://a/evil"`, `O=";URI=spiffe://a/evil`},
		{`URI=spiffe://a/b;URI=spiffe://a/c;Subject="CN=x"`, "x"},
		{`URI=spiffe://a/b/;DNS=d.example`, "d.example"},
		{`By=x;hash=` + digest, "sha256:" + digest},
		{`Subject="CN=a,CN=b"`, "CN=a,CN=b"},
		{`By=x`, ""},
	} {
		e, ok := parseXFCC(tt.in)
		if !ok || e.name() != tt.name {
			t.Errorf("%s: %q %t, want %q", tt.in, e.name(), ok, tt.name)
		}
	}
	for _, bad := range []string{"", "x", "=x", `Subject="CN=a`, `Subject="a"b`, `URI=a"b`, "Hash=ab", "Hash=" + digest + ";Hash=" + digest, "URI=a,", "URI=a;", `Subject=a;Subject=b`, "URI=" + strings.Repeat("a", maxXFCC)} {
		if e, ok := parseXFCC(bad); ok {
			t.Errorf("%.60q is taken: %+v", bad, e)
		}
	}
}

func FuzzXFCC(f *testing.F) {
	f.Add(`By=x;Subject="CN=a\"b,O=c",URI=spiffe://a/b`)
	f.Fuzz(func(t *testing.T, s string) {
		e, ok := parseXFCC(s)
		_ = e.name()
		// An attacker who chooses a subject changes nothing else of the element.
		quoted := `URI=spiffe://a/b;Subject="` + strings.ReplaceAll(s, `"`, `\"`) + `"`
		if e, ok2 := parseXFCC(quoted); ok2 && (len(e.uris) != 1 || e.uris[0] != "spiffe://a/b") {
			t.Errorf("%q breaks out: %+v", s, e)
		}
		if ok && len(s) > maxXFCC {
			t.Error("too long")
		}
	})
}
