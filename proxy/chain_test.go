package proxy

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func trustLoopback(c *Config) { c.TrustedPeers = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }

// TestTwoProxiesInAChain: the second names the exchange of the first, and both saw
// the same bytes.
func TestTwoProxiesInAChain(t *testing.T) {
	up := backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	inner := start(t, up, trustLoopback)
	outer := start(t, inner.url(""), nil)
	get(t, client(t), request(t, "POST", outer.url("/"), strings.NewReader("hello")))
	qa, pa := outer.rec.last(t)
	qb, pb := inner.rec.last(t)
	if !bytes.Equal(qb.rec.GetRequest().GetCaller(), qa.rec.GetExchange()) || len(qa.rec.GetRequest().GetCaller()) != 0 {
		t.Errorf("the caller is %x, want %x", qb.rec.GetRequest().GetCaller(), qa.rec.GetExchange())
	}
	wantBody(t, "asked of the outer", qa.rec.GetRequest().GetBody(), []byte("hello"))
	wantBody(t, "asked of the inner", qb.rec.GetRequest().GetBody(), []byte("hello"))
	wantBody(t, "sent by the inner", pb.rec.GetResponse().GetSent(), []byte("hello"))
	wantBody(t, "received by the outer", pa.rec.GetResponse().GetReceived(), []byte("hello"))
}

// TestTamperedBetweenTwoProxies: what somebody between them changes shows in their
// records.
func TestTamperedBetweenTwoProxies(t *testing.T) {
	up := backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "10 EUR") })
	inner := start(t, up, trustLoopback)
	target, err := url.Parse(inner.url(""))
	if err != nil {
		t.Fatal(err)
	}
	middle := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(res *http.Response) error {
			res.Body = io.NopCloser(strings.NewReader("99 EUR"))
			return nil
		},
	})
	t.Cleanup(middle.Close)
	outer := start(t, middle.URL, nil)
	get(t, client(t), request(t, "GET", outer.url("/"), nil))
	_, pa := outer.rec.last(t)
	qb, pb := inner.rec.last(t)
	if len(qb.rec.GetRequest().GetCaller()) == 0 {
		t.Error("the inner proxy does not know its caller")
	}
	wantBody(t, "sent by the inner", pb.rec.GetResponse().GetSent(), []byte("10 EUR"))
	wantBody(t, "received by the outer", pa.rec.GetResponse().GetReceived(), []byte("99 EUR"))
}

func TestStrangersNameNoCaller(t *testing.T) {
	var got http.Header
	up := backend(t, func(w http.ResponseWriter, r *http.Request) { got = r.Header })
	const id = "01890000-0000-7000-8000-000000000001"
	for _, trusted := range []bool{false, true} {
		s := start(t, up, func(c *Config) {
			if trusted {
				trustLoopback(c)
			}
		})
		r := request(t, "GET", s.url("/"), nil)
		r.Header.Set("Sealtap-Exchange", id)
		get(t, client(t), r)
		q, _ := s.rec.last(t)
		if known := len(q.rec.GetRequest().GetCaller()) == 16; known != trusted {
			t.Errorf("trusted %t: caller %x", trusted, q.rec.GetRequest().GetCaller())
		}
		if got.Get("Sealtap-Exchange") == id {
			t.Error("the caller's exchange was passed on as the proxy's own")
		}
	}
}

func TestChangesAreRecorded(t *testing.T) {
	up := rawBackend(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\nX-Hop: 1\r\nSealtap-Error: no\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
	})
	s := start(t, up, nil)
	c := dial(t, s.addr)
	c.send("POST / HTTP/1.1\r\nHost: x\r\nConnection: close, X-Private\r\nX-Private: 1\r\nX-Forwarded-For: 10.0.0.1\r\nSealtap-Exchange: 1\r\n" +
		"Traceparent: nonsense\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
	c.head()
	q, p := s.rec.last(t)
	text := func(k *kept) (list []string) {
		for _, ch := range append(k.rec.GetRequest().GetChanges(), k.rec.GetResponse().GetChanges()...) {
			list = append(list, strings.TrimPrefix(ch.GetKind().String(), "CHANGE_KIND_")+" "+ch.GetName())
		}
		return list
	}
	if have := strings.Join(text(q), ", "); have != "REMOVED sealtap-exchange, REMOVED x-forwarded-for, REMOVED x-private, REPLACED traceparent, REFRAMED body" {
		t.Errorf("of the request: %s", have)
	}
	have := strings.Join(text(p), ", ")
	if !strings.HasPrefix(have, "REMOVED sealtap-error, REMOVED x-hop") {
		t.Errorf("of the answer: %s", have)
	}
}

func TestNoChangesWhereNothingChanged(t *testing.T) {
	s := start(t, backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hi") }), nil)
	get(t, client(t), request(t, "POST", s.url("/"), strings.NewReader("hi")))
	q, p := s.rec.last(t)
	if a, b := q.rec.GetRequest().GetChanges(), p.rec.GetResponse().GetChanges(); len(a)+len(b) > 0 {
		t.Errorf("changes: %v, %v", a, b)
	}
}

func TestChangesAreBounded(t *testing.T) {
	s := start(t, backend(t, func(w http.ResponseWriter, r *http.Request) {}), nil)
	r := request(t, "GET", s.url("/"), nil)
	for i := range 60 {
		r.Header.Set("Sealtap-X"+strings.Repeat("x", i), "1")
	}
	get(t, client(t), r)
	q, _ := s.rec.last(t)
	list := q.rec.GetRequest().GetChanges()
	if len(list) != maxChanges+1 || list[maxChanges].GetName() != "others" {
		t.Errorf("%d changes, the last is %v", len(list), list[len(list)-1])
	}
}
