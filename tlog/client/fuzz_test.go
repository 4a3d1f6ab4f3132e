package client_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// anything answers every request the same.
type anything struct {
	status int
	kind   string
	body   []byte
}

func (a anything) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Request: r, Header: http.Header{"Content-Type": {a.kind}, "Retry-After": {"0"}},
		Body: io.NopCloser(bytes.NewReader(a.body))}, nil
}

// FuzzAnswers has a log answer anything to any call. A client believes no
// checkpoint without a signature, takes no tile of another length, and says of
// every error whether another attempt may help.
func FuzzAnswers(f *testing.F) {
	key, err := keys.Generate(origin, keys.Ed25519)
	if err != nil {
		f.Fatal(err)
	}
	p, err := policy.New([]policy.Log{{Key: key.Public}}, nil, nil, policy.None, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(200, "text/plain", []byte("log.example/a\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— log.example/a AAAAAAAA\n"))
	f.Add(409, "application/problem+json", []byte(`{"type":"about:blank","title":"Conflict","detail":"x","expected":18446744073709551615,"fork":true}`))
	f.Add(200, "application/json", []byte(`{"records":[{"index":5}],"next":"x"}`))
	f.Add(200, "application/x-protobuf", []byte{0x0a, 0x06, 0x08, 0x01, 0x10, 0x02, 0x18, 0x03})
	f.Add(200, "application/octet-stream", make([]byte, 64))
	f.Fuzz(func(t *testing.T, status int, kind string, body []byte) {
		if status < 200 || status > 599 || status/100 == 3 {
			return
		}
		c, err := client.New("http://log.test", p, client.WithRetries(1, 0), client.WithHTTPClient(&http.Client{Transport: anything{status, kind, body}}))
		if err != nil {
			t.Fatal(err)
		}
		if cp, err := c.Checkpoint(t.Context()); err == nil {
			t.Errorf("a checkpoint that nobody signed: %+v", cp)
		}
		if tile, err := c.Source().Tile(t.Context(), 0, 0, 2); err == nil && len(tile) != 64 {
			t.Errorf("a tile of %d bytes", len(tile))
		}
		_, _ = c.Source().Bundle(t.Context(), 0, 2)
		_, _ = c.Search(t.Context(), url.Values{})
		_, _ = c.Evidence(t.Context(), 3)
		_, err = c.Submit(t.Context(), &sealtapv1.SubmitRequest{})
		if status >= 500 && !errors.Is(err, client.ErrUnavailable) || status == 403 && (err == nil || errors.Is(err, client.ErrUnavailable)) {
			t.Errorf("status %d is %v", status, err)
		}
	})
}
