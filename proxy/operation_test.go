package proxy

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proto/sealtap/v1/sealtapv1connect"
	"github.com/sealtap/sealtap/proxy/meaning"
	"github.com/sealtap/sealtap/record"
)

func TestOperationsAreRecorded(t *testing.T) {
	const call = `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"get_weather","arguments":{"location":"New York"}}}`
	const jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.ContentLength >= 0 && int(r.ContentLength) != len(body) {
			t.Errorf("the upstream got %d bytes, %v", len(body), err)
		}
		_, _ = w.Write(body)
	})
	sealPath := func(c *Config) { c.Seal = []string{record.FieldPath} }
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = io.WriteString(z, call)
	z.Close()
	for _, e := range []struct {
		name    string
		change  func(*Config)
		path    string
		headers []string
		body    io.Reader
		want    string // protocol, kind, name, target
	}{
		{"MCP", nil, "/mcp", nil, strings.NewReader(call), "mcp||tools/call|get_weather"},
		{"compressed", nil, "/mcp", []string{"Content-Encoding: gzip"}, &packed, ""},
		{"streamed", func(c *Config) { c.BufferLimit = 64 }, "/mcp", nil, strings.NewReader(call), ""},
		{"streamed, with a header", func(c *Config) { c.BufferLimit = 64 }, "/mcp", []string{"Mcp-Session-Id: 1"}, strings.NewReader(call), "mcp|||"},
		{"switched off", func(c *Config) { c.Operations = []string{} }, "/mcp", nil, strings.NewReader(call), ""},
		{"only JSON-RPC", func(c *Config) { c.Operations = []string{meaning.JSONRPC} }, "/mcp", nil, strings.NewReader(call), "json-rpc||tools/call|"},
		{"credential for a tool", nil, "/mcp", nil, strings.NewReader(strings.Replace(call, "get_weather", jwt, 1)), "mcp||tools/call|REDACTED"},
		{"secret in a method", nil, "/rpc", nil, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"sum?token=` + jwt + `"}`), "json-rpc||sum?token=REDACTED|"},
		{"GraphQL", nil, "/graphql", nil, strings.NewReader(`{"query":"mutation CreateOrder { createOrder { id } }"}`), "graphql|mutation|CreateOrder|"},
		{"S3 by a signed query", nil, "/photos/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F1%2Feu%2Fs3%2Faws4_request&uploads", nil, strings.NewReader("x"), "s3||CreateMultipartUpload|photos"},
		{"S3 with a sealed path", sealPath, "/photos/k", []string{"Authorization: AWS4-HMAC-SHA256 Credential=A/1/eu/s3/aws4_request, Signature=x", "X-Id: 1"}, strings.NewReader("x"), "s3|||"},
		{"gRPC with a sealed path", sealPath, "/shop.v1.Orders/Create", []string{"Content-Type: application/grpc"}, strings.NewReader("x"), "grpc|||"},
		{"nothing", nil, "/orders", nil, strings.NewReader(`{"item":"shoe"}`), ""},
	} {
		t.Run(e.name, func(t *testing.T) {
			s := start(t, up, e.change)
			r := request(t, "POST", s.url(e.path), e.body)
			r.Header.Set("Content-Type", "application/json")
			for _, h := range e.headers {
				name, value, _ := strings.Cut(h, ": ")
				r.Header.Set(name, value)
			}
			if res, _ := get(t, client(t), r); res.StatusCode != http.StatusOK {
				t.Fatal(res.Status)
			}
			q, _ := s.rec.last(t)
			got := ""
			if o := q.rec.GetRequest().GetOperation(); o != nil {
				got = strings.Join([]string{o.GetProtocol(), o.GetKind(), o.GetName(), o.GetTarget()}, "|")
			}
			if got != e.want {
				t.Errorf("recorded %q, want %q", got, e.want)
			}
			if bytes.Contains(q.entry, []byte(jwt)) {
				t.Error("a credential stands in the record")
			}
			if strings.Contains(e.want, redacted) && len(q.credentials()) == 0 {
				t.Error("a credential has left no digest")
			}
		})
	}
	if _, err := New(Config{Recorder: newMemory(), DigestKey: make([]byte, 16), Operations: []string{"soap"}}); err == nil {
		t.Error("an unknown protocol is taken")
	}
}

// TestOperationsDoNotStick: exchanges are pooled, and what one asked for is not
// said of the next.
func TestOperationsDoNotStick(t *testing.T) {
	s := start(t, backend(t, func(http.ResponseWriter, *http.Request) {}), nil)
	c := client(t)
	for i := range 20 {
		r := request(t, "POST", s.url("/shop.v1.Orders/Create"), nil)
		if i%2 == 0 {
			r.Header.Set("Content-Type", "application/grpc")
		}
		get(t, c, r)
		if q, _ := s.rec.last(t); (q.rec.GetRequest().GetOperation() != nil) != (i%2 == 0) {
			t.Fatalf("exchange %d: operation %v", i, q.rec.GetRequest().GetOperation())
		}
	}
}

// logService answers like a log.
type logService struct {
	sealtapv1connect.UnimplementedLogServiceHandler
}

func (logService) Submit(_ context.Context, r *connect.Request[sealtapv1.SubmitRequest]) (*connect.Response[sealtapv1.SubmitResponse], error) {
	return connect.NewResponse(&sealtapv1.SubmitResponse{Checkpoint: string(r.Msg.GetItems()[0].GetEntry())}), nil
}

// TestGRPCClients: calls by a library for gRPC over HTTP/2 without TLS, gRPC-Web
// and Connect are recorded by their method, and pass.
func TestGRPCClients(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle(sealtapv1connect.NewLogServiceHandler(logService{}))
	up := httptest.NewUnstartedServer(mux)
	up.Config.Protocols = new(http.Protocols)
	up.Config.Protocols.SetUnencryptedHTTP2(true)
	up.Start()
	t.Cleanup(up.Close)
	s := start(t, "h2c://"+up.Listener.Addr().String(), nil)
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	for name, options := range map[string][]connect.ClientOption{
		"gRPC":              {connect.WithGRPC()},
		"gRPC-Web":          {connect.WithGRPCWeb()},
		"Connect":           nil,
		"Connect with JSON": {connect.WithProtoJSON()},
	} {
		c := sealtapv1connect.NewLogServiceClient(&http.Client{Transport: tr}, s.url("/"), options...)
		res, err := c.Submit(t.Context(), connect.NewRequest(&sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{{Entry: []byte(name)}}}))
		if err != nil || res.Msg.GetCheckpoint() != name {
			t.Fatalf("%s: %v, %v", name, res, err)
		}
		q, p := s.rec.last(t)
		if o := q.rec.GetRequest().GetOperation(); o.GetProtocol() != meaning.GRPC || o.GetName() != "sealtap.v1.LogService/Submit" || o.GetKind()+o.GetTarget() != "" {
			t.Errorf("%s: operation %v", name, o)
		}
		if q.rec.GetRequest().GetProtocol() != "HTTP/2.0" {
			t.Errorf("%s: over %s", name, q.rec.GetRequest().GetProtocol())
		}
		wantOutcome(t, p, sealtapv1.Outcome_OUTCOME_COMPLETE)
	}
}
