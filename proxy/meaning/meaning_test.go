package meaning

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// req makes a request from its line, "POST host/path?query", its header lines and
// its body. Names of headers are in canonical form.
func req(line, headers, body string) *Request {
	method, target, _ := strings.Cut(line, " ")
	target, query, _ := strings.Cut(target, "?")
	i := strings.IndexByte(target, '/')
	r := &Request{Method: method, Host: target[:i], Path: target[i:], Query: query, Header: make(map[string][]string)}
	for l := range strings.Lines(headers) {
		name, value, _ := strings.Cut(strings.TrimSpace(l), ": ")
		r.Header[name] = append(r.Header[name], value)
	}
	if body != "" {
		r.Body = []byte(body)
	}
	return r
}

func everything(t testing.TB) Set {
	t.Helper()
	s, err := Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	asJSON    = "Content-Type: application/json"
	asGraphQL = "Content-Type: application/graphql"
)

// example is a request with its operation; the zero one means that it has none.
type example struct {
	name string
	r    *Request
	want Operation
}

func check(t *testing.T, list []example) {
	t.Helper()
	for _, e := range list {
		t.Run(e.name, func(t *testing.T) {
			got, ok := everything(t).Of(e.r)
			if got != e.want || ok != (e.want != Operation{}) {
				t.Errorf("%+v, %v, want %+v", got, ok, e.want)
			}
		})
	}
}

func TestGRPC(t *testing.T) {
	hidden := req("POST h/shop.v1.Orders/Create", "Content-Type: application/grpc", "")
	hidden.PathHidden = true
	long := strings.Repeat("A", 300)
	check(t, []example{
		{"unary", req("POST h/shop.v1.Orders/Create", "Content-Type: application/grpc\nTe: trailers", ""), Operation{GRPC, "shop.v1.Orders/Create", "", ""}},
		{"with the codec", req("POST h/grpc.health.v1.Health/Check", "Content-Type: application/grpc+proto", ""), Operation{GRPC, "grpc.health.v1.Health/Check", "", ""}},
		{"web", req("POST h/shop.v1.Orders/Create", "Content-Type: application/grpc-web-text; charset=utf-8", ""), Operation{GRPC, "shop.v1.Orders/Create", "", ""}},
		{"under a prefix", req("POST h/api/shop.v1.Orders/Create", "Content-Type: application/grpc-web+proto", ""), Operation{GRPC, "shop.v1.Orders/Create", "", ""}},
		{"without a package", req("POST h/Orders/Create", "Content-Type: application/grpc", ""), Operation{GRPC, "Orders/Create", "", ""}},
		{"connect", req("POST h/shop.v1.Orders/Create", "Content-Type: application/json\nConnect-Protocol-Version: 1", `{"query":"red shoes"}`), Operation{GRPC, "shop.v1.Orders/Create", "", ""}},
		{"connect, or GraphQL", req("POST h/shop.v1.Orders/Create", "Content-Type: application/json\nConnect-Protocol-Version: 1", `{"query":"{a}"}`), Operation{GRPC, Ambiguous, "", ""}},
		{"connect, or MCP", req("POST h/api/mcp", "Content-Type: application/json\nConnect-Protocol-Version: 1", `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"rm"}}`), Operation{GRPC, Ambiguous, "", ""}},
		{"of two media types", req("POST h/api/rpc", "Content-Type: application/grpc\nContent-Type: application/json", `{"jsonrpc":"2.0","id":2,"method":"a"}`), Operation{GRPC, Ambiguous, "", ""}},
		{"with parameters of GraphQL", req("POST h/api/graphql?query=mutation+M+%7Ba%7D", "Content-Type: application/grpc", ""), Operation{GRPC, Ambiguous, "", ""}},
		{"escaped", req("POST h/shop.v1.Orders/Cre%61te", "Content-Type: application/grpc", ""), Operation{GRPC, Ambiguous, "", ""}},
		{"connect stream", req("POST h/shop.v1.Orders/Watch", "Content-Type: application/connect+json", ""), Operation{GRPC, "shop.v1.Orders/Watch", "", ""}},
		{"connect get", req("GET h/shop.v1.Orders/Get?connect=v1&encoding=json&message=%7B%7D", "", ""), Operation{GRPC, "shop.v1.Orders/Get", "", ""}},
		{"connect where no method is", req("POST h/graphql", "Content-Type: application/json\nConnect-Protocol-Version: 1", `{"query":"mutation M {a}"}`), Operation{GraphQL, "M", "mutation", ""}},
		{"no method", req("POST h/", "Content-Type: application/grpc", ""), Operation{Protocol: GRPC}},
		{"no identifier", req("POST h/a.b/%41lice@example.com", "Content-Type: application/grpc", ""), Operation{Protocol: GRPC}},
		{"empty part", req("POST h/a..b/C", "Content-Type: application/grpc", ""), Operation{Protocol: GRPC}},
		{"hidden path", hidden, Operation{Protocol: GRPC}},
		{"another media type", req("POST h/a.b/C", "Content-Type: application/grpcx", ""), Operation{}},
	})
	op, _ := everything(t).Of(req("POST h/a.B/"+long, "Content-Type: application/grpc", ""))
	if len(op.Name) != maxFact || !strings.Contains(op.Name, "…sha256:") {
		t.Errorf("a long name is %q", op.Name)
	}
}

func TestJSONRPC(t *testing.T) {
	rpc := func(body string) *Request { return req("POST h/rpc", asJSON, body) }
	is := func(name, kind string) Operation { return Operation{JSONRPC, name, kind, ""} }
	var many []string
	for i := range 40 {
		many = append(many, `{"jsonrpc":"2.0","id":1,"method":"m`+strings.Repeat("x", i)+`"}`)
	}
	check(t, []example{
		{"request", rpc(`{"jsonrpc":"2.0","method":"eth_getBalance","params":["0x407d73d8a49eeb85d32cf465507dd71d507100c1","latest"],"id":1}`), is("eth_getBalance", "")},
		{"named parameters", rpc("{\n \"id\": \"7\",\n \"method\": \"subtract\", \"params\": {\"method\": \"x\", \"subtrahend\": 23.5e1},\n\t\"jsonrpc\": \"2.0\"}\n"), is("subtract", "")},
		{"notification", rpc(`{"jsonrpc":"2.0","method":"update","params":[1,2,{"a":[[]]},[],{}]}`), is("update", "notification")},
		{"id null", rpc(`{"jsonrpc":"2.0","method":"update","id":null}`), is("update", "")},
		{"batch", rpc(`[{"jsonrpc":"2.0","method":"sum","id":1},{"jsonrpc":"2.0","method":"notify"},1,{"jsonrpc":"2.0","method":"sum","id":2},{"foo":"boo"}]`), is("sum, notify", "batch")},
		{"escapes", rpc(`{"json\u0072pc":"\u0032.0","m\u0065thod":"a\u00e9\ud83d\ude00\n\u202e\/","id":1}`), is(`aé😀\u000a\u202e/`, "")},
		{"not UTF-8", rpc("{\"jsonrpc\":\"2.0\",\"method\":\"a\xffb\",\"id\":1}"), is(`a\xffb`, "")},
		{"backslash before a quote", rpc(`{"jsonrpc":"2.0","x":"\\\\","y\"":"\"","method":"a\\","id":1}`), is(`a\`, "")},
		{"half a pair", rpc(`{"jsonrpc":"2.0","method":"a\ud83dz","id":1}`), is("a\ufffdz", "")},
		{"initialize of another protocol", rpc(`{"jsonrpc":"2.0","method":"initialize","id":1,"params":{"processId":1}}`), is("initialize", "")},
		{"byte order mark", rpc("\xef\xbb\xbf" + `{"jsonrpc":"2.0","method":"a","id":1}`), is("a", "")},
		{"media type", req("POST h/", "Content-Type: APPLICATION/JSON ;charset=utf-8", `{"jsonrpc":"2.0","method":"a","id":1}`), is("a", "")},
		{"json-rpc", req("POST h/", "Content-Type: application/json-rpc", `{"jsonrpc":"2.0","method":"a","id":1}`), is("a", "")},
		{"two media types", req("POST h/", "Content-Type: text/plain\nContent-Type: application/json", `{"jsonrpc":"2.0","method":"a","id":1}`), is("a", "")},

		{"the method twice", rpc(`{"jsonrpc":"2.0","method":"read","id":1,"method":"delete"}`), is(Ambiguous, "")},
		{"the method twice, escaped", rpc(`{"jsonrpc":"2.0","method":"read","id":1,"\u006dethod":"delete"}`), is(Ambiguous, "")},
		{"the method in other letters", rpc(`{"jsonrpc":"2.0","method":"read","id":1,"Method":"delete"}`), is(Ambiguous, "")},
		{"the method in other letters only", rpc(`{"jsonrpc":"2.0","METHOD":"delete","id":1}`), is(Ambiguous, "")},
		{"params with a long s", rpc(`{"jsonrpc":"2.0","method":"a","id":1,"param` + "ſ" + `":{}}`), is(Ambiguous, "")},
		{"two versions", rpc(`{"jsonrpc":"2.0","method":"a","id":1,"jsonrpc":"1.0"}`), is(Ambiguous, "")},
		{"two versions, the other first", rpc(`{"jsonrpc":"1.0","method":"a","id":1,"jsonrpc":"2.0"}`), is(Ambiguous, "")},
		{"a method that is no string", rpc(`{"jsonrpc":"2.0","method":["delete"],"id":1}`), is(Ambiguous, "")},
		{"unterminated", rpc(`{"jsonrpc":"2.0","method":"a","id":1`), is(Ambiguous, "")},
		{"a string without end", rpc(`{"jsonrpc":"2.0","method":"a","id":"`), is(Ambiguous, "")},
		{"something behind it", rpc(`{"jsonrpc":"2.0","method":"a","id":1} {"method":"b"}`), is(Ambiguous, "")},
		{"too deep", rpc(`{"jsonrpc":"2.0","method":"a","id":1,"params":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`), is(Ambiguous, "")},
		{"as deep as may be", rpc(`{"jsonrpc":"2.0","method":"a","id":1,"params":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}`), is("a", "")},
		{"too long", rpc(`{"jsonrpc":"2.0","method":"a","id":1,"x":"` + strings.Repeat("x", maxRead) + `"}`), is(Ambiguous, "")},
		{"space up to what is read, and more", rpc(`{"jsonrpc":"2.0","method":"a","id":1}` + strings.Repeat(" ", maxRead) + `x`), is(Ambiguous, "")},
		{"GraphQL as well", rpc(`{"jsonrpc":"2.0","method":"a","id":1,"query":"mutation M {b}"}`), is(Ambiguous, "")},

		{"behind what is too deep", rpc(`{"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `,"jsonrpc":"2.0","method":"a","id":1}`), is(Ambiguous, "")},
		{"behind a comment", rpc(`{/**/"jsonrpc":"2.0","method":"a","id":1}`), is(Ambiguous, "")},
		{"GraphQL in the parameters", req("POST h/rpc?query=mutation+M+%7Ba%7D", asJSON, `{"jsonrpc":"2.0","method":"a","id":1}`), is(Ambiguous, "")},

		{"no method", rpc(`{"jsonrpc":"2.0","id":1}`), Operation{Protocol: JSONRPC}},
		{"an answer", rpc(`{"jsonrpc":"2.0","id":1,"result":{}}`), is("", "response")},
		{"another version", rpc(`{"jsonrpc":"1.0","method":"a","id":1}`), Operation{}},
		{"no version", rpc(`{"method":"a","id":1}`), Operation{}},
		{"a string", rpc(`"jsonrpc"`), Operation{}},
		{"empty list", rpc(`[]`), Operation{}},
		{"no JSON", rpc(`jsonrpc 2.0`), Operation{}},
		{"another media type", req("POST h/", "Content-Type: text/plain", `{"jsonrpc":"2.0","method":"a","id":1}`), Operation{}},
		{"compressed", req("POST h/", asJSON+"\nContent-Encoding: gzip", `{"jsonrpc":"2.0","method":"a","id":1}`), Operation{}},
		{"identity", req("POST h/", asJSON+"\nContent-Encoding: identity", `{"jsonrpc":"2.0","method":"a","id":1}`), is("a", "")},
		{"streamed", req("POST h/", asJSON, ""), Operation{}},
	})
	op, _ := everything(t).Of(rpc("[" + strings.Join(many, ",") + "]"))
	if op.Kind != "batch" || len(op.Name) > maxFact || !strings.HasPrefix(op.Name, "m, mx, mxx, ") || !strings.HasSuffix(op.Name, ", …") {
		t.Errorf("a batch of many is %q", op.Name)
	}
	many = nil
	for i := range 20 {
		many = append(many, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"%c"}`, 'a'+i))
	}
	op, _ = everything(t).Of(rpc("[" + strings.Join(many, ",") + "]"))
	if op != is("a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, …", "batch") {
		t.Errorf("a batch of short names is %q", op.Name)
	}
	op, _ = everything(t).Of(rpc(`{"jsonrpc":"2.0","method":"` + strings.Repeat("é", 300) + `","id":1}`))
	if len(op.Name) > maxFact || !utf8.ValidString(op.Name) || !strings.Contains(op.Name, "é…sha256:") {
		t.Errorf("a long method is %q", op.Name)
	}
}

func TestMCP(t *testing.T) {
	post := func(body string) *Request {
		return req("POST h/mcp", asJSON+"\nAccept: application/json, text/event-stream", body)
	}
	session := func(line, body string) *Request { return req(line, asJSON+"\nMcp-Session-Id: 1868a90c", body) }
	is := func(name, kind, target string) Operation { return Operation{MCP, name, kind, target} }
	check(t, []example{
		{"initialize", post(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"ide","version":"1"}}}`), is("initialize", "", "")},
		{"initialized", post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`), is("notifications/initialized", "notification", "")},
		{"tool", post(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"get_weather","arguments":{"name":"Alice","location":"New York"}}}`), is("tools/call", "", "get_weather")},
		{"parameters first", post(`{"params":{"arguments":{},"name":"get_weather"},"method":"tools/call","id":2,"jsonrpc":"2.0"}`), is("tools/call", "", "get_weather")},
		{"prompt", post(`{"jsonrpc":"2.0","id":2,"method":"prompts/get","params":{"name":"code_review","arguments":{"code":"x"}}}`), is("prompts/get", "", "code_review")},
		{"resource", post(`{"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"file:///home/alice/diagnosis.pdf"}}`), is("resources/read", "", "file")},
		{"resource of a person", post(`{"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"Patients+V1://alice:secret@ward"}}`), is("resources/subscribe", "", "patients+v1")},
		{"no URI", post(`{"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"alice's: diagnosis"}}`), is("resources/read", "", "")},
		{"list", session("POST h/mcp", `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`), is("tools/list", "", "")},
		{"ping within a session", session("POST h/mcp", `{"jsonrpc":"2.0","id":2,"method":"ping"}`), is("ping", "", "")},
		{"a method of their own within a session", session("POST h/mcp", `{"jsonrpc":"2.0","id":2,"method":"x/y"}`), is("x/y", "", "")},
		{"no version within a session", session("POST h/mcp", `{"id":2,"method":"tools/call","params":{"name":"rm"}}`), is("tools/call", "", "rm")},
		{"ping without one", post(`{"jsonrpc":"2.0","id":2,"method":"ping"}`), Operation{JSONRPC, "ping", "", ""}},
		{"answer to the server", session("POST h/mcp", `{"jsonrpc":"2.0","id":2,"result":{"roots":[]}}`), is("", "response", "")},
		{"batch", post(`[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"b"}}]`), is("tools/call", "batch", "a, b")},
		{"listening", session("GET h/mcp", ""), is("", "", "")},
		{"end of the session", session("DELETE h/mcp", ""), is("", "", "")},
		{"version header", req("POST h/mcp", asJSON+"\nMcp-Protocol-Version: 2025-06-18", `{"jsonrpc":"2.0","id":1,"method":"ping"}`), is("ping", "", "")},
		{"streamed", req("POST h/mcp", asJSON+"\nMcp-Session-Id: 1", ""), is("", "", "")},
		{"not to be read", session("POST h/mcp", `{"jsonrpc" "2.0"}`), is(Ambiguous, "", "")},
		{"GraphQL with a header of MCP", req("POST h/graphql", asGraphQL+"\nMcp-Session-Id: 1", "mutation M {a}"), is(Ambiguous, "", "")},
		{"GraphQL in the parameters, with a header of MCP", req("GET h/graphql?query=mutation+M+%7Ba%7D", "Mcp-Session-Id: 1", ""), is(Ambiguous, "", "")},
		{"tool twice", post(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"ls","name":"rm"}}`), is(Ambiguous, "", "")},
		{"tool in other letters", post(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"ls","Name":"rm"}}`), is(Ambiguous, "", "")},
		{"parameters twice", post(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"ls"},"params":{"name":"rm"}}`), is(Ambiguous, "", "")},
		{"tool that is no string", post(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":{"a":1}}}`), is(Ambiguous, "", "")},
		{"no tool", post(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":["rm"]}`), is("tools/call", "", "")},
	})
}

func TestReadable(t *testing.T) {
	for _, c := range []struct {
		name string
		r    *Request
		want bool
	}{
		{"none", req("GET h/", "", ""), true},
		{"a page", req("POST h/", "Content-Type: text/plain", "{"), true},
		{"JSON", req("POST h/", asJSON, ` {"a":[1,{}],"b":null} `), true},
		{"a part of it", req("POST h/", asJSON, `{"a":1`), false},
		{"more of it", req("POST h/", asJSON, `{} {}`), false},
		{"too deep", req("POST h/", asJSON, strings.Repeat("[", 40)+strings.Repeat("]", 40)), false},
		{"too long", req("POST h/", asJSON, `"`+strings.Repeat("x", maxRead)+`"`), false},
		{"UTF-16", req("POST h/", asJSON, "{\x00}\x00"), false},
		{"with a header of MCP", req("POST h/", "Mcp-Session-Id: 1", "{"), false},
		{"compressed", req("POST h/", "Content-Type: text/plain\nContent-Encoding: gzip", "x"), false},
		{"as it is", req("POST h/", asJSON+"\nContent-Encoding: identity", "{}"), true},
		{"streamed", &Request{Method: "POST", Streamed: true}, false},
	} {
		if got := c.r.Readable(); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestSets(t *testing.T) {
	call := req("POST h/mcp", asJSON, `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"rm"}}`)
	plain := req("POST h/rpc", asJSON, `{"jsonrpc":"2.0","id":2,"method":"sum","query":"{a}"}`)
	for _, e := range []struct {
		set  []string
		r    *Request
		want Operation
	}{
		{[]string{JSONRPC}, call, Operation{JSONRPC, "tools/call", "", ""}},
		{[]string{MCP}, call, Operation{MCP, "tools/call", "", "rm"}},
		{[]string{MCP}, plain, Operation{}},
		{[]string{JSONRPC}, plain, Operation{JSONRPC, "sum", "", ""}},
		{[]string{GraphQL}, plain, Operation{GraphQL, "", "query", ""}},
		{[]string{}, call, Operation{}},
	} {
		s, err := Parse(e.set)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := s.Of(e.r); got != e.want {
			t.Errorf("%v: %+v, want %+v", e.set, got, e.want)
		}
	}
	if _, err := Parse([]string{"soap"}); err == nil {
		t.Error("an unknown protocol is taken")
	}
}

// TestNothingForNothing: requests without an operation cost no memory.
func TestNothingForNothing(t *testing.T) {
	s := everything(t)
	for name, r := range map[string]*Request{
		"page":  req("GET shop.example/orders?page=2&sort=asc", "Accept: text/html\nAuthorization: Bearer abc", ""),
		"form":  req("POST shop.example/orders", "Content-Type: application/x-www-form-urlencoded", "a=b"),
		"JSON":  req("POST shop.example/orders", asJSON, `{"item":"shoe","count":2,"notes":["a","b",{"c":null}],"query":"red shoes"}`),
		"large": req("POST shop.example/orders", asJSON, `{"item":"`+strings.Repeat("x", maxRead)+`"}`),
	} {
		if n := testing.AllocsPerRun(100, func() {
			if op, ok := s.Of(r); ok {
				t.Errorf("%s: %+v", name, op)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkOf(b *testing.B) {
	s := everything(b)
	for name, r := range map[string]*Request{
		"page":     req("GET shop.example/orders?page=2&sort=asc", "Accept: text/html\nAuthorization: Bearer abc", ""),
		"json1k":   req("POST shop.example/orders", asJSON, `{"item":"shoe","count":2,"notes":[`+strings.Repeat(`{"a":"some words","b":[1,2,3],"day":null},`, 24)+`0]}`),
		"mcp":      req("POST h/mcp", asJSON, `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"get_weather","arguments":{"location":"New York"}}}`),
		"graphql":  req("POST h/graphql", asJSON, `{"query":"query Orders($n: Int) {\n  orders(first: $n) { id total lines { sku count } }\n}","variables":{"n":10},"operationName":"Orders"}`),
		"grpc":     req("POST h/shop.v1.Orders/Create", "Content-Type: application/grpc", ""),
		"worst64k": req("POST h/rpc", asJSON, `["2.0",`+strings.Repeat(`{"":0},`, 9000)+`0]`),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(r.Body)))
			for b.Loop() {
				s.Of(r)
			}
		})
	}
}
