package meaning

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// bounded checks what every operation keeps to, and that it is the same again.
func bounded(t *testing.T, s Set, r *Request) {
	t.Helper()
	op, ok := s.Of(r)
	if again, _ := s.Of(r); again != op {
		t.Fatalf("%+v, and then %+v", op, again)
	}
	if ok != (op.Protocol != "") {
		t.Fatalf("%v: %+v", ok, op)
	}
	for _, fact := range []string{op.Protocol, op.Name, op.Kind, op.Target} {
		if len(fact) > maxFact || !utf8.ValidString(fact) || strings.ContainsFunc(fact, controls) {
			t.Fatalf("%+v holds %q", op, fact)
		}
	}
}

func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","uri":"b:c"},"id":[{"x":[]},null,-1e5]}`,
		`[{"jsonrpc":"2.0","method":"a\u00e9\ud83d\ude00\\\"","id":1},{"jsonrpc":"2.0","Method":"b"},3,"x"]`,
		`{"query":"query A($x:[I!]=[{k:\"}\"}])@d{a(s:\"\"\"x\"\"\")...F} fragment F on A{b}","operationName":"A","extensions":{"persistedQuery":{"sha256Hash":"x"}}}`,
		"\xef\xbb\xbf {\"jsonrpc\":\"2.0\",\"method\":\"\xff\\", `[[[[[[[[{"a":{"b":{}}}]]]]]]]]`, `{"a":1,}`, `[,]`, `{"a"}`, `nul`,
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	s := everything(f)
	f.Fuzz(func(t *testing.T, body []byte, mcp bool) {
		r := req("POST h/x", asJSON, "")
		r.Body = body
		if mcp {
			r.Header["Mcp-Session-Id"] = []string{"1"}
		}
		bounded(t, s, r)
		for _, one := range []Set{setJSONRPC, setMCP, setGraphQL} {
			bounded(t, one, r)
		}
		likeEncodingJSON(t, body)
	})
}

// likeEncodingJSON compares with the standard library: what it reads, the scanner
// reads to its end, with the same string.
func likeEncodingJSON(t *testing.T, body []byte) {
	if len(body) > maxRead || !json.Valid(body) || deeper(body, maxDepth) {
		return
	}
	in := newScanner(body)
	if in.skip(); !in.end() {
		t.Fatalf("valid JSON is not read to its end: %q", body)
	}
	var doc struct {
		RPC    string          `json:"jsonrpc"`
		Method string          `json:"method"`
		ID     json.RawMessage `json:"id"`
	}
	if json.Unmarshal(body, &doc) != nil || doc.RPC != "2.0" || doc.Method == "" {
		return
	}
	r := req("POST h/x", asJSON, "")
	r.Body = body
	op, ok := setJSONRPC.Of(r)
	if !ok || op.Name != Ambiguous && utf8.Valid(body) && op.Name != fact(doc.Method) {
		t.Fatalf("%+v of method %q: %q", op, doc.Method, body)
	}
}

func deeper(body []byte, limit int) bool {
	d := json.NewDecoder(bytes.NewReader(body))
	depth := 0
	for {
		tok, err := d.Token()
		if err != nil {
			return false
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > limit {
				return true
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
}

func FuzzGraphQL(f *testing.F) {
	for _, seed := range []string{
		"query A($x: [In!]! = [{k: \"}\"}]) @live(if: true) { b(x: $x) { id ...F } } fragment F on B { c }", "{a{b}}", "mutation{a(s:\"\"\"x \\\"\"\" y\"\"\")}#x",
		"query", "query A {", "{a(", "{a(s:\"\\", "{)", "\ufeff{a}", "fragment F(", "{@", "\"d\" query A {a}",
	} {
		f.Add([]byte(seed), "A", "operationName=A")
	}
	s := everything(f)
	f.Fuzz(func(t *testing.T, document []byte, name, query string) {
		selectOperation(document, name)
		r := req("POST h/graphql", asGraphQL, "")
		r.Body, r.Query = document, query
		bounded(t, s, r)
		r = req("GET h/graphql", "", "")
		r.Query = query + "&query=" + string(document)
		bounded(t, s, r)
	})
}

func FuzzTargets(f *testing.F) {
	f.Add("GET", "photos.s3.amazonaws.com", "/k", "uploadId=x&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2Fs3%2Faws4_request", "application/grpc", "AWS4-HMAC-SHA256 a/s3/aws4_request")
	f.Add("PUT", "[::1]:80", "//", "acl&tagging", "application/json;", "")
	f.Add("POST", ".s3.", "/a.b/C", "connect=v1", "APPLICATION/GRPC-WEB", "")
	f.Add("GET", "s3-.x", "", "%&=&%zz", "application/x+json", "")
	s := everything(f)
	f.Fuzz(func(t *testing.T, method, host, path, query, media, authorization string) {
		r := &Request{Method: method, Host: host, Path: path, Query: query, Header: map[string][]string{
			"Content-Type": {media}, "Authorization": {authorization},
		}}
		bounded(t, s, r)
		bounded(t, setS3, r)
		r.Header["Connect-Protocol-Version"] = []string{"1"}
		bounded(t, s, r)
		r.PathHidden = true
		if op, _ := setGRPC.Of(r); op.Name != "" {
			t.Fatalf("a hidden path shows as %q", op.Name)
		}
	})
}
