package proxy

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// TestSecretsNeverStored sends secrets through every place where they are
// expected and searches all that was recorded, openings too.
func TestSecretsNeverStored(t *testing.T) {
	settled(t)
	const secret = "S3cretHunter2"
	token := "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"`+"ann"+`"}`)) + "." + secret
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Add("Set-Cookie", "sid="+secret+"; Path=/; HttpOnly")
		h.Add("Set-Cookie", "other="+secret)
		h.Set("Location", "https://u:"+secret+"@host/cb?a=1&code="+secret+"#access_token="+secret)
		h.Set("X-Auth-Token", secret)
		h.Set("Link", `<https://x/?a=1&token=`+secret+`>; rel="next"`)
		h.Set("Trailer", "X-Session-Token")
		_, _ = io.WriteString(w, "x")
		h.Set("X-Session-Token", secret)
	})
	all := url.QueryEscape
	queries := []string{
		"token=" + secret, "a=1;token=" + secret + "&b", "ACCESS_TOKEN=" + secret, "%74oken=" + secret, "to%256ben=" + secret, "id_token=" + secret,
		"code=" + secret, "key=" + secret, "api_key=" + secret, "apikey=" + secret, "api-key=" + secret, "secret=" + secret, "client_secret=" + secret,
		"password=" + secret, "passwd=" + secret, "pwd=" + secret, "sig=" + secret, "signature=" + secret, "X-Amz-Signature=" + secret,
		"X-Amz-Credential=" + secret, "auth=" + secret, "jwt=" + secret, "session=" + secret, "sid=" + secret, "user%5Bpassword%5D=" + secret,
		"user[password]=" + secret, "password[]=" + secret, "back=" + all("https://x/?token="+secret), "back=" + all(all("https://x/?token="+secret)), "x=" + token, token,
		"t%6fken=a=" + secret, "&;&token=" + secret + ";;", "token=a%26" + secret, "token%3D" + secret, "%zztoken=" + secret, "a=%zz%3Ftoken%3D" + secret,
		"token%3D" + secret + "=1", "token%3D" + secret + "=", "db_pass=" + secret, "code_verifier=" + secret, "passcode=" + secret, "x-authorization=" + secret,
		"variables=" + all(`{"user":"ann","password":"`+secret+`"}`), "variables=" + all(`{"a":"{\"pin\": \"`+secret+`\"}"}`), "next=https://u:" + secret + "@h/",
		"query=" + all(`mutation { login(user: "ann", password: "`+secret+`") { id } }`), "see=now+" + token,
	}
	for _, sealed := range [][]string{nil, {}, {record.FieldPath, record.FieldQuery, record.FieldWho, record.FieldHeaders, record.FieldSource}} {
		s := start(t, up, func(c *Config) { c.Seal = sealed })
		send := func(f func(*http.Request)) {
			req := request(t, "GET", s.url("/"), nil)
			f(req)
			get(t, client(t), req)
		}
		for _, q := range queries {
			send(func(r *http.Request) { r.URL.RawQuery = q })
			k, _ := s.rec.last(t)
			if len(k.credentials()) == 0 {
				t.Errorf("%q gives no credential", q)
			}
		}
		for _, h := range []string{"Authorization", "Proxy-Authorization", "X-Api-Key", "Api-Key", "X-Auth-Token", "X-Csrf-Token", "X-Amz-Security-Token", "X-My-Secret", "X-Session-Id", "Apikey",
			"X-Authorization", "X-Forwarded-Authorization", "X-Serverless-Authorization", "X-Authentication", "X-Pass", "X-Totp"} {
			send(func(r *http.Request) { r.Header.Set(h, secret) })
			k, p := s.rec.last(t)
			if k.credentials()["header:"+strings.ToLower(h)] == "" || p.credentials()["header:set-cookie:sid"] == "" || p.credentials()["header:trailer:x-session-token"] == "" {
				t.Errorf("%s: %v %v", h, k.credentials(), p.credentials())
			}
		}
		for h, v := range map[string]string{
			"Authorization": "Bearer " + secret, "Cookie": "a=b; sid=" + secret, "Referer": "https://u:" + secret + "@x/p;jsessionid=" + secret + "?q&token=" + secret,
			"X-Original-Url": "/x?token=" + secret, "X-Something": token, "Sec-Websocket-Protocol": "chat, base64url.bearer.authorization.k8s.io." + secret,
			"X-Encoded": "https%3A%2F%2Fx%3Ftoken%3D" + secret, "X-Json": `{"password": "` + secret + `"}`, "X-Words": "take " + token + ", please",
			"X-Page": "/cb%3Fcode%3D" + secret + "%26session_state=abc", "X-Link": "https://x/reset/" + token,
		} {
			send(func(r *http.Request) { r.Header.Set(h, v) })
		}
		send(func(r *http.Request) { r.SetBasicAuth("bob", secret) })
		send(func(r *http.Request) { r.URL.Path = "/shop;jsessionid=" + secret + "/x" })
		send(func(r *http.Request) { r.URL.Path = "/reset/" + token + "/now" })
		nameless := base64.StdEncoding.EncodeToString([]byte("a" + secret))
		send(func(r *http.Request) { r.Header.Set("Cookie", nameless+"; a=b") })
		c := dial(t, s.addr)
		c.send("GET / HTTP/1.1\r\nHost: ann:" + secret + "@a\r\nHost: b\r\n\r\n")
		if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 400 ") {
			t.Error(h)
		}
		send(func(r *http.Request) { r.Header.Set("Authorization", "Digest username=\"u\", response=\""+secret+"\"") })
		for _, k := range s.rec.all() {
			for _, b := range [][]byte{k.entry, k.openings} {
				if bytes.Contains(b, []byte(secret)) || bytes.Contains(b, []byte(strings.TrimRight(nameless, "="))) {
					t.Errorf("a secret is stored: %v %v", k.rec, k.opened)
				}
				if bytes.Contains(b, []byte(base64.StdEncoding.EncodeToString([]byte("bob:"+secret)))) {
					t.Error("a Basic password is stored")
				}
			}
		}
	}
}

func TestHarmlessStays(t *testing.T) {
	for _, q := range []string{"a=1&b=2", "page=3;sort=asc", "country_code=CH", "q=what+is+a+tokenizer%3F", "", "x", "monkey=1", "next=%2Fcart%3Fitem%3D5",
		"at=10:30", "q=re: your mail", "filter=%7B%22color%22:%22red%22%7D", "x=eyJhbGci", "u=https://shop.example/a", "pin=", "sort=a:\"b\""} {
		if got := redactQuery(q, func(name, _ string) { t.Errorf("%q: %s is taken for a secret", q, name) }); got != q {
			t.Errorf("%q became %q", q, got)
		}
	}
	if got := redactQuery("a=1&token=x&b=2", func(string, string) {}); got != "a=1&token=REDACTED&b=2" {
		t.Error(got)
	}
	if got := redactText("text/html; charset=utf-8", func(string, string) {}); got != "text/html; charset=utf-8" {
		t.Error(got)
	}
}

// TestSameCredential: one secret has one digest wherever it comes from, and
// another under another key.
func TestSameCredential(t *testing.T) {
	up := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "sid", Value: "abc"})
	})
	s := start(t, up, nil)
	req := request(t, "GET", s.url("/?access_token=abc"), nil)
	req.Header.Set("Authorization", "Bearer abc")
	req.Header.Set("Cookie", "sid=abc; other=def")
	get(t, client(t), req)
	q, p := s.rec.last(t)
	c := q.credentials()
	want := c["header:authorization"]
	if len(want) != 32 || c["query:access_token"] != want || c["header:cookie:sid"] != want || c["header:cookie:other"] == want || p.credentials()["header:set-cookie:sid"] != want {
		t.Errorf("%x", c)
	}
	other := start(t, up, func(c *Config) { c.DigestKey = []byte("fedcba9876543210") })
	req = request(t, "GET", other.url("/?access_token=abc"), nil)
	get(t, client(t), req)
	if q, _ := other.rec.last(t); q.credentials()["query:access_token"] == want {
		t.Error("the digest does not depend on the key")
	}
}

func TestTargetsPassUnchanged(t *testing.T) {
	settled(t)
	got := make(chan string, 1)
	up := rawBackend(t, func(c net.Conn, r *http.Request) {
		got <- r.RequestURI
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	})
	s := start(t, up, nil)
	prefixed := start(t, up+"/base/", nil)
	for _, target := range []string{"/", "/?", "/a?b=c;d&&e", "/a%2fb/%C3%BC?x=%zz", "/a\"b|c", "/../x/./y", "//host/path", "/a;p=1/b", "/%", "/a:b@c"} {
		for prefix, s := range map[string]*server{"": s, "/base": prefixed} {
			c := dial(t, s.addr)
			c.send("GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")
			h := c.head()
			if strings.HasPrefix(h, "HTTP/1.1 400") { // refused by package http1
				continue
			}
			if g := <-got; g != prefix+target {
				t.Errorf("%q became %q", prefix+target, g)
			}
			if q, _ := s.rec.last(t); q.rec.GetRequest().GetPath() != strings.Split(target, "?")[0] {
				t.Errorf("%q is recorded as %q", target, q.rec.GetRequest().GetPath())
			}
		}
	}
}

func TestHopByHopAndPeers(t *testing.T) {
	settled(t)
	var got http.Header
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		h := w.Header()
		h.Set("Connection", "X-Internal")
		h.Set("X-Internal", "1")
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Proxy-Authenticate", "Basic")
		h.Set("Sealtap-Exchange", "forged")
		h.Set("Sealtap-Error", "forged")
		h.Set("X-Kept", "1")
		h["Content-Type"] = nil
		_, _ = io.WriteString(w, "<html>")
	})
	send := func(s *server) (*http.Response, *kept) {
		c := dial(t, s.addr)
		c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close, X-Drop, Upgrade, HTTP2-Settings\r\nX-Drop: 1\r\nKeep-Alive: 1\r\nProxy-Connection: x\r\nTE: trailers, gzip\r\n" +
			"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nProxy-Authorization: Basic YTpi\r\nX-User: mallory\r\nX_User: mallory\r\nX_Forwarded_For: 6.6.6.6\r\nX_Kept: 1\r\n" +
			"X-Forwarded-For: 9.9.9.9, 10.0.0.7\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nX-Forwarded-Prefix: /x\r\nSealtap-Exchange: 0\r\nSealtap-Foo: 0\r\n" +
			"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nTracestate: a=b\r\n\r\n")
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		q, _ := s.rec.last(t)
		return res, q
	}
	s := start(t, up, func(c *Config) { c.UserHeader = "X-User" })
	res, q := send(s)
	for _, name := range []string{"X-Drop", "Keep-Alive", "Proxy-Connection", "Upgrade", "Http2-Settings", "Proxy-Authorization", "X-User", "X_user", "X_User", "X_forwarded_for",
		"X-Real-Ip", "Forwarded", "X-Forwarded-Prefix", "Sealtap-Foo", "Accept-Encoding", "User-Agent"} {
		if v, ok := got[name]; ok {
			t.Errorf("%s: %q passes", name, v)
		}
	}
	if got.Get("X-Forwarded-For") != "127.0.0.1" || got.Get("X-Forwarded-Proto") != "http" || got.Get("X-Forwarded-Host") != "x" || got.Get("Te") != "trailers" ||
		got.Get("Sealtap-Exchange") != res.Header.Get("Sealtap-Exchange") || got.Get("Via") != "1.1 sealtap" || got.Get("Tracestate") != "a=b" || len(got["X_kept"]) != 1 {
		t.Errorf("%v", got)
	}
	if got.Get("Traceparent") != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" || fmt.Sprintf("%x", q.rec.GetRequest().GetTrace()) != "0af7651916cd43dd8448eb211c80319c" {
		t.Error("the trace is lost")
	}
	for _, name := range []string{"X-Internal", "Keep-Alive", "Proxy-Authenticate", "Sealtap-Error", "Content-Type"} {
		if v, ok := res.Header[name]; ok {
			t.Errorf("the answer has %s: %q", name, v)
		}
	}
	if res.Header.Get("X-Kept") == "" || len(res.Header["Sealtap-Exchange"]) != 1 || res.Header.Get("Sealtap-Exchange") == "forged" {
		t.Errorf("%v", res.Header)
	}
	// What was received is recorded, whatever becomes of it.
	if h := q.headers(t); h["x-user"][0] != "mallory" || h["x-forwarded-for"] == nil || h["upgrade"][0] != "h2c" || h["sealtap-exchange"] == nil {
		t.Errorf("%v", h)
	}
	if w := q.rec.GetRequest().GetWho(); w.GetHow() == "header" || !strings.HasPrefix(q.opening(t, "source"), "127.0.0.1:") {
		t.Errorf("an untrusted peer is believed: %v", w)
	}

	s = start(t, up, func(c *Config) {
		c.UserHeader = "x-user"
		c.TrustedPeers = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	})
	_, q = send(s)
	if got.Get("X-Forwarded-For") != "9.9.9.9, 10.0.0.7, 127.0.0.1" || got.Get("X-Forwarded-Proto") != "https" || got.Get("X-User") != "mallory" || got["X_user"] != nil || got.Get("X-Real-Ip") != "9.9.9.9" {
		t.Errorf("%v", got)
	}
	if w := q.rec.GetRequest().GetWho(); w.GetId() != "mallory" || w.GetHow() != "header" || !w.GetVerified() || q.opening(t, "source") != "9.9.9.9" {
		t.Errorf("%v", w)
	}
}

func TestRefused(t *testing.T) {
	settled(t)
	up := backend(t, func(http.ResponseWriter, *http.Request) { t.Error("the upstream was reached") })
	reverse, forward := start(t, up, nil), start(t, "", nil)
	for _, tt := range []struct {
		s    *server
		send string
	}{
		{reverse, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"},
		{reverse, "GET http://other/ HTTP/1.1\r\nHost: x\r\n\r\n"},
		{reverse, "CONNECT other:443 HTTP/1.1\r\nHost: x\r\n\r\n"},
		{forward, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{forward, "GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n"},
		{forward, "CONNECT x HTTP/1.1\r\nHost: x\r\n\r\n"},
		{forward, "CONNECT x:99999 HTTP/1.1\r\nHost: x\r\n\r\n"},
		{forward, "CONNECT x:80 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"},
	} {
		n := len(tt.s.rec.all())
		c := dial(t, tt.s.addr)
		c.send(tt.send)
		if h := c.head(); !strings.HasPrefix(h, "HTTP/1.1 400 ") || !strings.Contains(h, "Sealtap-Error: refused") {
			t.Errorf("%q: %q", tt.send, h)
		}
		tt.s.rec.wait(t, n+2)
		_, p := tt.s.rec.last(t)
		wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_REFUSED)
	}
}

func TestConfig(t *testing.T) {
	good := func() Config {
		return Config{Recorder: newMemory(), DigestKey: make([]byte, 32), Upstream: &url.URL{Scheme: "http", Host: "x"}}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(*Config){
		"recorder":   func(c *Config) { c.Recorder = nil },
		"key":        func(c *Config) { c.DigestKey = nil },
		"seal":       func(c *Config) { c.Seal = []string{"method"} },
		"open":       func(c *Config) { c.OpenHeaders = []string{"cookie"} },
		"open guess": func(c *Config) { c.OpenHeaders = []string{"X-My-Token"} },
		"user":       func(c *Config) { c.UserHeader = "X User" },
		"scheme":     func(c *Config) { c.Upstream.Scheme = "ftp" },
		"host":       func(c *Config) { c.Upstream.Host = "" },
		"userinfo":   func(c *Config) { c.Upstream.User = url.UserPassword("a", "b") },
		"jwt":        func(c *Config) { c.JWT = &JWT{Keys: []byte("{}")} },
	} {
		c := good()
		f(&c)
		if _, err := New(c); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRedact(f *testing.F) {
	for _, s := range []string{"a=1&token=x", "user[password]=x;y", "https://u:p@h/?code=1#id_token=2", "%74oken=%zz", "a=%253Ftoken%253Dx", "====&&;;", "://@://@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for name, redact := range map[string]func(string, foundFunc) string{"query": redactQuery, "text": redactText} {
			n := 0
			out := redact(s, func(string, string) { n++ })
			if n == 0 && out != s {
				t.Errorf("%s: %q became %q without a find", name, s, out)
			}
			if got := redact("token=VerySecret99&"+s, func(string, string) {}); strings.Contains(got, "VerySecret99") {
				t.Errorf("%s: the secret before %q stays: %q", name, s, got)
			}
			if got := redactQuery(s+"&token=VerySecret99", func(string, string) {}); strings.Contains(got, "VerySecret99") && !strings.Contains(s, "VerySecret99") {
				t.Errorf("the secret behind %q stays: %q", s, got)
			}
		}
		if c := capped(s, 100); len(c) > max(100, 0) || strings.ToValidUTF8(c, "?") != c {
			t.Errorf("capped %q", c)
		}
	})
}

// TestUnreadableAnswer proves that what an upstream sent reaches neither the
// record nor the client inside of an error.
func TestUnreadableAnswer(t *testing.T) {
	settled(t)
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nSet-Cookie sid=hunter2\r\n\r\n", "hunter2 hunter2 hunter2\r\n\r\n", "HTTP/1.1 hunter2\r\n\r\n", "HTTP/hunter2 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: hunter2\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: hunter2\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 8 hunter2\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum hunter2\r\n\r\n",
	} {
		up := rawBackend(t, func(c net.Conn, _ *http.Request) { _, _ = io.WriteString(c, answer) })
		s := start(t, up, nil)
		res, err := client(t).Get(s.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		_, p := s.rec.last(t)
		detail := p.rec.GetResponse().GetDetail()
		if err != nil || res.StatusCode != http.StatusBadGateway || detail == "" || strings.Contains(detail+string(body), "hunter2") {
			t.Errorf("%q: status %d, %q, record says %q", answer, res.StatusCode, body, detail)
		}
	}
}
