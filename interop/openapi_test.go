package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// description is docs/openapi.yaml, read by a library that is not ours, for a
// server.
type description struct {
	t      *testing.T
	doc    *openapi3.T
	server string
	router routers.Router
	seen   map[string]bool // operation and status that were checked
}

func describe(t *testing.T, server string) *description {
	t.Helper()
	for _, mediaType := range []string{"application/x-protobuf", "application/proto", "text/html", "text/css", "text/javascript", "image/svg+xml"} {
		openapi3filter.RegisterBodyDecoder(mediaType, openapi3filter.FileBodyDecoder)
	}
	doc, err := openapi3.NewLoader().LoadFromFile(filepath.Join("..", "docs", "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatalf("docs/openapi.yaml: %v", err)
	}
	doc.Servers = openapi3.Servers{{URL: server}}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &description{t: t, doc: doc, server: server, router: router, seen: make(map[string]bool)}
}

// call makes a request, and checks the answer against the description; of one that
// succeeds the request too. A header line is "Name: value".
func (d *description) call(want int, method, path string, body []byte, header ...string) []byte {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.server+path, bytes.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	route, params, err := d.router.FindRoute(req)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	options := &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}
	input := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route, Options: options}
	if want < 300 {
		if err := openapi3filter.ValidateRequest(context.Background(), input); err != nil {
			d.t.Errorf("%s %s is good, but not as the file describes it: %v", method, path, err)
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	if resp.StatusCode != want {
		d.t.Fatalf("%s %s: %s, want %d: %.500s", method, path, resp.Status, want, answer)
	}
	if resp.Header.Get("Content-Encoding") != "" {
		answer = nil // the schema is of what is inside
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: resp.StatusCode, Header: resp.Header, Options: options}
	if err := openapi3filter.ValidateResponse(context.Background(), out.SetBodyBytes(answer)); err != nil {
		d.t.Errorf("%s %s: %s is not as the file describes it: %v\n%.500s", method, path, resp.Status, err, answer)
	}
	d.seen[route.Operation.OperationID+" "+strconv.Itoa(resp.StatusCode)] = true
	return answer
}

func (d *description) get(want int, paths ...string) {
	d.t.Helper()
	for _, p := range paths {
		d.call(want, http.MethodGet, p, nil)
	}
}

// submit submits a batch in each form of both ways, and returns the last answer of
// POST /v1/entries.
func (d *description) submit(want, wantRPC int, req *sealtapv1.SubmitRequest) *sealtapv1.SubmitResponse {
	d.t.Helper()
	binary, err := proto.Marshal(req)
	if err != nil {
		d.t.Fatal(err)
	}
	text, err := protojson.Marshal(req)
	if err != nil {
		d.t.Fatal(err)
	}
	const rpc = "/sealtap.v1.LogService/Submit"
	d.call(want, http.MethodPost, "/v1/entries", binary, "Content-Type: application/x-protobuf")
	answer := d.call(want, http.MethodPost, "/v1/entries", text, "Content-Type: application/json")
	d.call(wantRPC, http.MethodPost, rpc, binary, "Content-Type: application/proto")
	d.call(wantRPC, http.MethodPost, rpc, text, "Content-Type: application/json")
	resp := new(sealtapv1.SubmitResponse)
	if want == http.StatusOK {
		if err := protojson.Unmarshal(answer, resp); err != nil {
			d.t.Fatal(err)
		}
	}
	return resp
}

// outOfReach are answers that a log in good health does not give.
var outOfReach = []string{"checkpoint 404"}

// complete checks that every answer of the file was seen.
func (d *description) complete() {
	d.t.Helper()
	for path, item := range d.doc.Paths.Map() {
		for method, op := range item.Operations() {
			for status := range op.Responses.Map() {
				key := op.OperationID + " " + status
				excused := strings.Contains(strings.Join(outOfReach, ","), key) ||
					status >= "500" && key != "submit 503" && key != "submitRPC 503"
				if !d.seen[key] && !excused {
					d.t.Errorf("%s %s: nothing makes the server answer %s", method, path, status)
				}
			}
		}
	}
}

// Every answer of a running log is as docs/openapi.yaml describes it, and every
// answer that the file describes is one that the log gives.
func TestOpenAPI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := up(t, dir)
	stop := func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}
	upstream := newUpstream()
	defer upstream.Close()
	d := describe(t, s.Log)
	p := enrol(t, s, "by-http")
	curl(t, "-x", s.Proxy, "-H", "Authorization: Bearer x", upstream.URL+"/echo?token=x")
	curl(t, "-x", s.Proxy, "--proxytunnel", upstream.URL+"/chunked")
	search(t, s, "method=CONNECT")
	early := p.clone()
	exchanged(d, p)
	submitted(d, p)
	read(d)
	stop()

	// A log that lets nobody see sealed fields, is slow to publish, and lets a
	// producer send little.
	path := filepath.Join(dir, "config.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer("\nlog:\n", "\nlog:\n  checkpoint_interval: 10s\n  limits: {publish_wait: 1ms, batch_bytes: 4MiB, producer_bytes_per_second: 1}\n",
		"loopback: true", "loopback: false").Replace(string(text))
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	s = up(t, dir)
	held(d, p)
	stop()

	// A log that looks at its retention policy all the time.
	if err := os.WriteFile(path, bytes.Replace(text, []byte("\nlog:\n"), []byte("\nlog:\n  prune_interval: 100ms\n"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	s = up(t, dir)
	defer stop()
	retained(d, s, p, early)
	d.complete()
}

// exchanged makes the log large enough for full tiles.
func exchanged(d *description, p *producer) {
	d.t.Helper()
	resp := d.submit(200, 200, wantPublished(p.batch(300, "x")))
	if resp.GetCheckpoint() == "" {
		d.t.Error("no checkpoint at level published")
	}
}

func submitted(d *description, p *producer) {
	d.t.Helper()
	stranger, err := keys.Generate("stranger", keys.Ed25519)
	if err != nil {
		d.t.Fatal(err)
	}
	before := p.clone()
	stored := p.batch(2, "x")
	d.submit(200, 200, stored)
	d.submit(400, 400, &sealtapv1.SubmitRequest{Items: stored.GetItems()[:1]})
	d.submit(403, 403, newProducer(d.t, stranger).batch(1, "x"))
	ahead := p.clone()
	ahead.batch(1, "lost")
	d.submit(409, 400, ahead.batch(1, "x"))
	d.submit(409, 409, before.batch(2, "y"))
	d.submit(413, 429, &sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{{Entry: make([]byte, 1<<16)}}})
	d.call(413, http.MethodPost, "/v1/entries", make([]byte, 20<<20), "Content-Type: application/x-protobuf")
	d.call(400, http.MethodPost, "/v1/entries", []byte(`{"itemz":[]}`), "Content-Type: application/json")
	d.call(415, http.MethodPost, "/v1/entries", nil, "Content-Type: text/plain")
	d.call(415, http.MethodPost, "/sealtap.v1.LogService/Submit", nil, "Content-Type: text/plain")
}

// read makes every call that reads.
func read(d *description) {
	d.t.Helper()
	d.get(200, "/checkpoint", "/tile/0/000", "/tile/0/000.p/7", "/tile/1/000.p/1", "/tile/entries/000", "/tile/entries/000.p/3",
		"/v1/proof/inclusion?index=5", "/v1/proof/inclusion?index=5&size=9", "/v1/proof/consistency?from=3&to=9", "/v1/records/5/proof",
		"/v1/witnesses", "/healthz", "/readyz", "/metrics", "/", "/explorer/app.js", "/explorer/style.css", "/explorer/icon.svg", "/verifier",
		"/v1/records", "/v1/records?method=GET&status=2xx&limit=1", "/v1/records?path=/ec*&stage=request&since=2020-01-01T00:00:00Z", "/v1/records?operation=tools/call", "/v1/producers")
	d.call(200, http.MethodGet, "/tile/entries/000", nil, "Accept-Encoding: zstd")
	d.call(200, http.MethodGet, "/tile/entries/000", nil, "Accept-Encoding: gzip")
	for _, path := range []string{"/tile/0/000", "/tile/0/000.p/7", "/tile/entries/000", "/tile/entries/000.p/3"} {
		d.call(304, http.MethodGet, path, nil, "If-None-Match: *")
		if strings.Contains(path, "entries") {
			d.call(406, http.MethodGet, path, nil, "Accept-Encoding: identity;q=0")
		}
	}
	const inclusions, asJSON = "/v1/proof/inclusion", "Content-Type: application/json"
	d.call(200, http.MethodPost, inclusions, []byte(`{"indices":[5,7,5]}`), asJSON)
	d.call(200, http.MethodPost, inclusions, []byte(`{"indices":[5],"size":9}`), asJSON)
	d.call(400, http.MethodPost, inclusions, []byte(`{}`), asJSON)
	d.call(404, http.MethodPost, inclusions, []byte(`{"indices":[999999]}`), asJSON)
	d.call(413, http.MethodPost, inclusions, bytes.Repeat([]byte(" "), 1<<20), asJSON)
	d.call(415, http.MethodPost, inclusions, []byte(`{"indices":[5]}`), "Content-Type: text/plain")
	d.get(404, "/tile/0/009", "/tile/5/000.p/1", "/tile/entries/009", "/tile/entries/009.p/1", "/v1/proof/inclusion?index=999999",
		"/v1/proof/consistency?from=1&to=999999", "/v1/records/999999/proof", "/v1/records/999999", "/v1/records/999999/evidence", "/explorer/nothing")
	d.get(400, "/v1/proof/inclusion", "/v1/proof/inclusion?index=x", "/v1/proof/consistency?from=9&to=3", "/v1/records/x/proof", "/v1/records/x",
		"/v1/records/5/evidence?openings=2", "/v1/records?sise=1", "/v1/records?status=9999", "/v1/producers?limit=0")
	for _, path := range []string{"/v1/records?limit=2", "/v1/producers?limit=1"} {
		var page struct{ Next string }
		if err := json.Unmarshal(d.call(200, http.MethodGet, path, nil), &page); err != nil || page.Next == "" {
			d.t.Errorf("%s: next %q, %v", path, page.Next, err)
		}
		d.get(200, path+"&cursor="+page.Next)
	}
	for index := range 20 { // statements, records of the proxy, seals
		d.get(200, fmt.Sprintf("/v1/records/%d", index))
	}
	var page struct {
		Records []struct{ Index uint64 }
	}
	if err := json.Unmarshal(d.call(200, http.MethodGet, "/v1/records?stage=request", nil), &page); err != nil || len(page.Records) == 0 {
		d.t.Fatalf("no request is recorded: %v", err)
	}
	for _, r := range page.Records {
		d.get(200, fmt.Sprintf("/v1/records/%d", r.Index), fmt.Sprintf("/v1/records/%d/evidence?openings=1", r.Index), fmt.Sprintf("/v1/records/%d/evidence", r.Index))
	}
}

// retained gets what a log answers that has let go of its oldest entries. Early is
// the producer as it was before its first batch.
func retained(d *description, s *stack.Stack, p, early *producer) {
	d.t.Helper()
	d.submit(200, 200, wantPublished(p.batch(600, "x")))
	out, err := exec.Command(s.Bin, "log", "retention", "--keep-entries", "300", "--policy", filepath.Join(s.Dir, "policy.txt"),
		"--operator-key", filepath.Join(s.Dir, "keys", "operator.key")).CombinedOutput()
	if err != nil {
		d.t.Fatalf("sealtap log retention: %v: %s", err, out)
	}
	var r struct {
		Minimum uint64 `json:"minimum_index"`
	}
	for end := time.Now().Add(time.Minute); r.Minimum < 512; time.Sleep(20 * time.Millisecond) {
		if err := json.Unmarshal(d.call(200, http.MethodGet, "/v1/retention", nil), &r); err != nil || time.Now().After(end) {
			d.t.Fatalf("minimum index %d, %v", r.Minimum, err)
		}
	}
	d.get(200, "/v1/retention/streams", "/v1/statements", "/v1/statements?limit=1", "/v1/statements?limit=1&cursor=1")
	d.get(400, "/v1/retention?x=1", "/v1/retention/streams?limit=0", "/v1/statements?limit=0")
	d.get(410, "/tile/0/001", "/tile/0/001.p/7", "/tile/entries/001", "/tile/entries/001.p/7", "/v1/proof/inclusion?index=300", "/v1/proof/consistency?from=300&to=700",
		"/v1/records/300/proof", "/v1/records/300/evidence", "/v1/records/300")
	d.call(410, http.MethodPost, "/v1/proof/inclusion", []byte(`{"indices":[300]}`), "Content-Type: application/json")
	// Their runs are swept a moment after the minimum index has moved.
	old := early.batch(300, "x")
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		body, err := proto.Marshal(old)
		if err != nil {
			d.t.Fatal(err)
		}
		resp, err := http.Post(d.server+"/v1/entries", "application/x-protobuf", bytes.NewReader(body))
		if err != nil {
			d.t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusGone {
			break
		}
		if time.Now().After(end) {
			d.t.Fatalf("records that were let go of are answered %s", resp.Status)
		}
	}
	d.submit(410, 400, old)
}

// held gets what a log answers that holds back.
func held(d *description, p *producer) {
	d.t.Helper()
	d.get(403, "/v1/records/5/evidence?openings=1")
	batch := wantPublished(p.batch(1, "x"))
	// A head may just be on its way; the next one takes its time.
	for end := time.Now().Add(5 * time.Second); ; batch = wantPublished(p.batch(1, "x")) {
		body, err := proto.Marshal(batch)
		if err != nil {
			d.t.Fatal(err)
		}
		resp, err := http.Post(d.server+"/v1/entries", "application/x-protobuf", bytes.NewReader(body))
		if err != nil {
			d.t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusServiceUnavailable {
			break
		}
		if time.Now().After(end) {
			d.t.Fatalf("a log that is slow to publish answers %s", resp.Status)
		}
	}
	d.submit(503, 503, batch)
	large := strings.Repeat("x", 60_000)
	sent := p.batch(50, large)
	d.submit(200, 200, sent)
	d.submit(429, 429, p.clone().batch(50, large))
}
