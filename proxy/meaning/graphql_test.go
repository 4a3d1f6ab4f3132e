package meaning

import (
	"net/url"
	"strconv"
	"strings"
	"testing"
)

func TestGraphQL(t *testing.T) {
	post := func(body string) *Request { return req("POST h/graphql", asJSON, body) }
	text := func(document string) *Request { return post(`{"query":` + strconv.QuoteToASCII(document) + `}`) }
	named := func(document, name string) *Request {
		return post(`{"operationName":"` + name + `","query":` + strconv.QuoteToASCII(document) + `,"variables":{"query":1}}`)
	}
	is := func(name, kind string) Operation { return Operation{GraphQL, name, kind, ""} }
	const two = "query A { a } mutation B($x: Int = 3 @d, $y: [In!]! = [{k: \"}\"}]) @live(if: true) { b(x: $x) { id } }"
	const hash = `"extensions":{"persistedQuery":{"version":1,"sha256Hash":"ecf4edb46db40b5132295c0291d62fb65d6759a9eedfa4d5d612dd5ec54a6b38"}}`
	check(t, []example{
		{"query", text("query Orders($first: Int!) {\n  orders(first: $first) { edges { node { id } } }\n}\n"), is("Orders", "query")},
		{"mutation", text("mutation CreateOrder{createOrder(input:{sku:\"a\",note:\"}{\"}){id}}"), is("CreateOrder", "mutation")},
		{"subscription", text("subscription OnOrder{order{id}}"), is("OnOrder", "subscription")},
		{"anonymous", text("{ me { name } }"), is("", "query")},
		{"anonymous mutation", text("mutation { logout }"), is("", "mutation")},
		{"comment and commas", text("# mutation Bad {x}\n,,query Good { a # }\n b }"), is("Good", "query")},
		{"strings", text(`query Q { a(s: "mutation \" } {", t: """ } " \""" mutation M { """) }`), is("Q", "query")},
		{"fragments", text("fragment F on User @d(a: 1) { id ...G } query Q { me { ...F ... on User { x } ... @include(if: $a) { y } } } fragment G on User { z }"), is("Q", "query")},
		{"alias", text("{ query: mutation(x: -1.5e3) { fragment } }"), is("", "query")},
		{"description", text("\"\"\"of orders\"\"\" query Q { a }"), is("Q", "query")},
		{"one of two", named(two, "B"), is("B", "mutation")},
		{"the other", named(two, "A"), is("A", "query")},
		{"empty name", named("query A { a }", ""), is("A", "query")},
		{"name null", post(`{"query":"query A {a}","operationName":null,"extensions":null}`), is("A", "query")},
		{"document with escapes", post(`{"query":"\u0071uery A { a(s: \"\\\"\") }"}`), is("A", "query")},
		{"escaped member", post(`{"\u0071uery":"mutation A { a }"}`), is("A", "mutation")},
		{"batch", post(`[{"query":"query A {a}"},{"query":"mutation B {b}"},{"query":"query A {a}"}]`), is("A, B", "query, mutation")},
		{"persisted", post(`{"operationName":"Orders","variables":{},` + hash + `}`), is("Orders", "")},
		{"persisted without a name", post(`{` + hash + `}`), Operation{Protocol: GraphQL}},
		{"to be persisted", post(`{"query":"query Orders{a}",` + hash + `}`), is("Orders", "query")},
		{"graphql+json", req("POST h/", "Content-Type: application/graphql+json", `{"query":"query A {a}"}`), is("A", "query")},

		{"no name for two", text(two), is(Ambiguous, "")},
		{"a name that is not there", named(two, "C"), is(Ambiguous, "")},
		{"a name twice", named("query A {a} mutation A {b}", "A"), is(Ambiguous, "")},
		{"the query twice", post(`{"query":"query A {a}","query":"mutation B {b}"}`), is(Ambiguous, "")},
		{"the query in other letters", post(`{"query":"query A {a}","QUERY":"mutation B {b}"}`), is(Ambiguous, "")},
		{"only in capitals", post(`{"QUERY":"mutation B {b}"}`), is(Ambiguous, "")},
		{"only in other letters", post(`{"qUERy":"mutation B {b}"}`), is(Ambiguous, "")},
		{"name twice", post(`{"query":"query A {a} mutation B {b}","operationName":"A","operationName":"B"}`), is(Ambiguous, "")},
		{"name of another type", post(`{"query":"query A {a} mutation B {b}","operationName":["B"]}`), is(Ambiguous, "")},
		{"parameter beside the body", req("POST h/graphql?query=mutation+M+%7Bb%7D", asJSON, `{"query":"query A {a}"}`), is(Ambiguous, "")},
		{"name beside the body", req("POST h/graphql?operation%4eame=B", asJSON, `{"query":"query A {a} query B {a}","operationName":"A"}`), is(Ambiguous, "")},
		{"too deep", text(strings.Repeat("{a", 40) + strings.Repeat("}", 40)), is(Ambiguous, "")},
		{"arguments too deep", text("query A {a(x: " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + ")}"), is(Ambiguous, "")},
		{"as deep as may be", text("query A " + strings.Repeat("{a", 32) + strings.Repeat("}", 32)), is("A", "query")},
		{"too long", post(`{"query":"mutation A {a}","x":"` + strings.Repeat("x", maxRead) + `"}`), is(Ambiguous, "")},
		{"unterminated JSON", post(`{"query":"mutation A {a}"`), is(Ambiguous, "")},
		{"persisted with a strange name", post(`{"operationName":"a b",` + hash + `}`), is(Ambiguous, "")},

		{"words", post(`{"query":"query optimisation for beginners"}`), Operation{}},
		{"a search", post(`{"query":"red shoes","operationName":"x"}`), Operation{}},
		{"PromQL", post(`{"query":"{job=\"node\"}"}`), Operation{}},
		{"JSON in a string", post(`{"query":"{\"a\": 1}"}`), Operation{}},
		{"an empty object", post(`{"query":"{}"}`), Operation{}},
		{"an empty selection", post(`{"query":"{a{}}"}`), Operation{}},
		{"unterminated", post(`{"query":"query A { a"}`), Operation{}},
		{"unterminated string", post(`{"query":"query A { a(s: \"x) }"}`), Operation{}},
		{"unterminated block string", post(`{"query":"query A { a(s: \"\"\"x\"\") }"}`), Operation{}},
		{"crossed brackets", post(`{"query":"query A { a(s: [}) }"}`), Operation{}},
		{"fragments only", post(`{"query":"fragment F on A {a}"}`), Operation{}},
		{"an empty selection before a field", post(`{"query":"{a{} b}"}`), Operation{}},
		{"an object", post(`{"query":{"match_all":{}}}`), Operation{}},
		{"a schema", post(`{"query":"type A { a: Int }"}`), Operation{}},
	})
}

func TestGraphQLWithoutJSON(t *testing.T) {
	get := func(query string) *Request { return req("GET h/graphql?"+query, "", "") }
	is := func(name, kind string) Operation { return Operation{GraphQL, name, kind, ""} }
	q := url.QueryEscape
	check(t, []example{
		{"GET", get("query=" + q("query A { a(s: \"&\") }")), is("A", "query")},
		{"GET one of two", get("operationName=B&query=" + q("query A {a} query B {b}")), is("B", "query")},
		{"GET escaped name", get("qu%65ry=" + q("query A {a}")), is("A", "query")},
		{"GET persisted", get("operationName=A&extensions=" + q(`{"persistedQuery":{"version":1,"sha256Hash":"ab"}}`)), is("A", "")},
		{"GET twice", get("query=" + q("{a}") + "&query=" + q("{b}")), is(Ambiguous, "")},
		{"GET name twice", get("query=" + q("query A {a} query B {b}") + "&operationName=A&operationName=B"), is(Ambiguous, "")},
		{"GET persisted, and more", get("operationName=A&extensions=" + q(`{"persistedQuery":{"sha256Hash":"ab"}} x`)), is(Ambiguous, "")},
		{"POST with parameters", req("POST h/graphql?query="+q("mutation M {a}"), "", ""), is("M", "mutation")},
		{"POST with parameters and variables", req("POST h/graphql?query="+q("mutation M {a}"), asJSON, `{"variables":{"query":"{b}"}}`), is("M", "mutation")},
		{"POST with parameters and a name", req("POST h/graphql?query="+q("query A {a} query B {b}")+"&operationName=A", asJSON, `{"operationName":"B"}`), is(Ambiguous, "")},
		{"POST with parameters and a persisted query", req("POST h/graphql?query="+q("{a}"), asJSON, `{"extensions":{}}`), is(Ambiguous, "")},
		{"POST with parameters and what is compressed", req("POST h/graphql?query="+q("query A {a}"), asJSON+"\nContent-Encoding: gzip", "x"), is(Ambiguous, "")},
		{"POST with parameters and a form", req("POST h/graphql?query="+q("query A {a}"), "Content-Type: application/x-www-form-urlencoded", "query=mutation+M+%7Ba%7D"), is(Ambiguous, "")},
		{"POST with parameters and what is no JSON", req("POST h/graphql?query="+q("query A {a}"), asJSON, "{"), is(Ambiguous, "")},
		{"POST with parameters and a stream", &Request{Method: "POST", Host: "h", Path: "/graphql", Query: "query=" + q("query A {a}"), Streamed: true}, is(Ambiguous, "")},
		{"signed for S3", req("GET h/graphql?query="+q("mutation M {a}"), "Authorization: AWS4-HMAC-SHA256 Credential=A/1/eu/s3/aws4_request", ""), Operation{S3, Ambiguous, "", ""}},
		{"GET words", get("query=red+shoes"), Operation{}},
		{"GET PromQL", get("query=" + q(`{job="node"}`)), Operation{}},
		{"GET another parameter", get("q=" + q("{a}")), Operation{}},
		{"GET bad escapes", get("query=%zz&%zz=query"), Operation{}},
		{"GET other extensions", get("extensions=%7B%7D"), Operation{}},
		{"PUT", req("PUT h/graphql?query="+q("{a}"), "", ""), Operation{}},
		{"document", req("POST h/graphql", asGraphQL+"; charset=utf-8", "mutation M { a }"), is("M", "mutation")},
		{"document, one of two", req("POST h/graphql?operationName=B", asGraphQL, "query A {a} query B {b}"), is("B", "query")},
		{"document and parameter", req("POST h/graphql?query="+q("{a}"), asGraphQL, "mutation M { a }"), is(Ambiguous, "")},
		{"document too long", req("POST h/graphql", asGraphQL, "mutation M { a }"+strings.Repeat(" ", maxRead)), is(Ambiguous, "")},
		{"document compressed", req("POST h/graphql", asGraphQL+"\nContent-Encoding: br", "mutation M { a }"), Operation{Protocol: GraphQL}},
		{"document streamed", req("POST h/graphql", asGraphQL, ""), Operation{Protocol: GraphQL}},
		{"no document", req("POST h/graphql", asGraphQL, "hello"), Operation{Protocol: GraphQL}},
	})
}
