package query

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

type page struct {
	Records []struct {
		Index    uint64 `json:"index"`
		Producer string `json:"producer"`
		Stage    string `json:"stage"`
		LeafHash []byte `json:"leaf_hash"`
	} `json:"records"`
	Next string `json:"next"`
}

// fetch gets one page.
func fetch(t testing.TB, h http.Handler, query string) ([]uint64, string) {
	t.Helper()
	w := get(h, "/v1/records?"+query)
	var p page
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 200 {
		t.Fatalf("%s: %d %s", query, w.Code, w.Body)
	}
	found := []uint64{}
	for _, r := range p.Records {
		found = append(found, r.Index)
	}
	return found, p.Next
}

// all gets all pages.
func all(t testing.TB, h http.Handler, query string) []uint64 {
	t.Helper()
	found, next := fetch(t, h, query)
	for next != "" {
		var more []uint64
		more, next = fetch(t, h, query+"&cursor="+next)
		found = append(found, more...)
	}
	return found
}

func expect(rows []row, match func(row) bool) []uint64 {
	want := []uint64{}
	for _, r := range rows {
		if match(r) {
			want = append(want, r.index)
		}
	}
	slices.Sort(want)
	slices.Reverse(want)
	return want
}

func TestFilters(t *testing.T) {
	l := newMemLog(t)
	ps := l.enrol("edge-a", "edge-b")
	rows := shop(l, ps, 1000)
	l.publish()
	path := indexFile(t)
	ix, stop := follow(t, path, l, small())
	caughtUp(t, ix)
	checkFilters(t, ix, rows, ps)
	stop()
	// And the same from the file.
	ix, _ = follow(t, path, l, small())
	if ix.Indexed() < 1792 {
		t.Errorf("after a restart %d entries are indexed", ix.Indexed())
	}
	caughtUp(t, ix)
	checkFilters(t, ix, rows, ps)
}

func checkFilters(t *testing.T, ix *Index, rows []row, ps []*producer) {
	t.Helper()
	h := ix.Handler(HandlerConfig{Proofs: ix.src.(Proofs)})
	at := func(i int) string { return url.QueryEscape(time.Unix(0, rows[i].time).UTC().Format(time.RFC3339Nano)) }
	for query, match := range map[string]func(row) bool{
		"":                             func(row) bool { return true },
		"who=user-3":                   func(r row) bool { return r.who == "user-3" },
		"service=pay":                  func(r row) bool { return r.service == "pay" },
		"method=PUT":                   func(r row) bool { return r.method == "PUT" },
		"path=/items/12":               func(r row) bool { return r.path == "/items/12" },
		"path=/item*":                  func(r row) bool { return strings.HasPrefix(r.path, "/item") },
		"path=/item/*":                 func(r row) bool { return strings.HasPrefix(r.path, "/item/") },
		"path=*":                       func(row) bool { return true },
		"operation=shop.v1.Orders/Op2": func(r row) bool { return r.operation == "shop.v1.Orders/Op2" },
		"operation=shop.v1.Orders/Op1&stage=response&status=2xx": func(r row) bool {
			return r.operation == "shop.v1.Orders/Op1" && r.stage == "response" && r.status/100 == 2
		},
		"operation=shop.v1.Orders": func(row) bool { return false },
		"status=404":               func(r row) bool { return r.status == 404 },
		"status=5xx":               func(r row) bool { return r.status/100 == 5 },
		"status=4xx&path=/order*":  func(r row) bool { return r.status/100 == 4 && strings.HasPrefix(r.path, "/order") },
		"status=500&stage=response&service=pay&who=user-1": func(r row) bool {
			return r.status == 500 && r.stage == "response" && r.service == "pay" && r.who == "user-1"
		},
		"producer=edge-b":                            func(r row) bool { return r.producer == "edge-b" },
		"producer=" + ps[0].key.ID().String():        func(r row) bool { return r.producer == "edge-a" },
		"producer=nobody":                            func(row) bool { return false },
		"exchange=" + record.FormatUUID(id(777)):     func(r row) bool { return r.exchange == 777 },
		"trace=" + hex.EncodeToString(id(100)):       func(r row) bool { return r.exchange/2 == 100 },
		"stage=request":                              func(r row) bool { return r.stage == "request" },
		"stage=gap":                                  func(row) bool { return false },
		"who=user-3&since=" + at(300):                func(r row) bool { return r.who == "user-3" && r.time >= rows[300].time },
		"until=" + at(300):                           func(r row) bool { return r.time < rows[300].time },
		"since=" + at(300) + "&until=" + at(400):     func(r row) bool { return r.time >= rows[300].time && r.time < rows[400].time },
		"since=0001-01-01T00:00:00Z&method=GET":      func(r row) bool { return r.method == "GET" },
		"until=9999-12-31T23:59:59%2b01:00&limit=7":  func(row) bool { return true },
		"since=9999-12-31T23:59:59Z&service=cart":    func(row) bool { return false },
		"status=503&who=user-2&method=GET&limit=1":   func(r row) bool { return r.status == 503 && r.who == "user-2" && r.method == "GET" },
		"path=/items/12&status=404&service=pay":      func(r row) bool { return r.path == "/items/12" && r.status == 404 && r.service == "pay" },
		"path=/nowhere":                              func(row) bool { return false },
		"status=2xx&path=/i*&stage=request&limit=33": func(r row) bool { return r.status/100 == 2 && strings.HasPrefix(r.path, "/i") && r.stage == "request" },
	} {
		want := expect(rows, match)
		if got := all(t, h, query); !slices.Equal(got, want) {
			t.Errorf("%q: %d records, want %d; got %v", query, len(got), len(want), got[:min(len(got), 20)])
		}
	}
}

func TestListing(t *testing.T) {
	l := newMemLog(t)
	ps := l.enrol("edge")
	shop(l, ps, 10)
	l.publish()
	last := ps[0].add(request(1000, "eve", "cart", "GET", "/unpublished"))
	ix, _ := follow(t, indexFile(t), l, small())
	caughtUp(t, ix)
	h := ix.Handler(HandlerConfig{Proofs: l})
	w := get(h, "/v1/records?limit=2")
	var p page
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || len(p.Records) != 2 || p.Next == "" {
		t.Fatalf("%v: %s", err, w.Body)
	}
	for _, r := range p.Records {
		if leaf := record.LeafHash(l.entries[r.Index]); string(r.LeafHash) != string(leaf[:]) || r.Producer != "edge" {
			t.Errorf("record %+v", r)
		}
	}
	if w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("content type %q", w.Header().Get("Content-Type"))
	}
	// What is not published is not shown, however it is asked for.
	if got, _ := fetch(t, h, "path=/unpublished"); len(got) != 0 {
		t.Errorf("unpublished records %v are shown", got)
	}
	for _, rest := range []string{"", "/evidence"} {
		if w := get(h, fmt.Sprintf("/v1/records/%d%s", last, rest)); w.Code != 404 || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("unpublished record%s: %d %s", rest, w.Code, w.Body)
		}
	}
	l.publish()
	if got, _ := fetch(t, h, "path=/unpublished"); !slices.Equal(got, []uint64{last}) {
		t.Errorf("published record is not shown: %v", got)
	}
}

func TestPagesWhileGrowing(t *testing.T) {
	l := newMemLog(t)
	ps := l.enrol("edge")
	rows := shop(l, ps, 300)
	l.publish()
	ix, _ := follow(t, indexFile(t), l, small())
	caughtUp(t, ix)
	h := ix.Handler(HandlerConfig{Proofs: l})
	want := expect(rows, func(r row) bool { return r.service == "pay" })
	var got []uint64
	next := ""
	for n := 300; ; n++ {
		query := "service=pay&limit=17"
		if next != "" {
			query += "&cursor=" + next
		}
		var found []uint64
		found, next = fetch(t, h, query)
		got = append(got, found...)
		if next == "" {
			break
		}
		for i := range 40 {
			ps[0].add(request(1000+n*40+i, "new", "pay", "GET", "/new"))
		}
		ps[0].seal()
		l.publish()
		caughtUp(t, ix)
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages gave %d records, want %d", len(got), len(want))
	}
}

func TestResponseBeforeRequest(t *testing.T) {
	for _, apart := range []int{0, 200, 700} { // in one segment, in two, further apart
		t.Run(fmt.Sprint(apart), func(t *testing.T) {
			l := newMemLog(t)
			ps := l.enrol("old", "new", "other")
			pad := func() {
				for i := range apart {
					ps[2].add(request(10_000+i, "x", "x", "X", "/x"))
				}
			}
			resp := ps[0].add(response(1, 500))
			foreign := ps[2].add(response(1, 418)) // by another producer: not of this exchange
			pad()
			ps[0].restart()
			req := ps[0].add(request(1, "ann", "pay", "GET", "/late"))
			pad()
			again := ps[0].add(response(1, 404))
			foreign2 := ps[2].add(response(1, 410))
			l.publish()
			path := indexFile(t)
			// Twice: the second time from the file, with the newest segment made again.
			for range 2 {
				ix, stop := follow(t, path, l, small())
				caughtUp(t, ix)
				h := ix.Handler(HandlerConfig{Proofs: l})
				for query, want := range map[string][]uint64{
					"who=ann": {again, req, resp}, "status=500": {req, resp}, "status=404&path=/late": {again, req}, "status=500&path=/l*": {req, resp},
					"status=418": {foreign}, "status=418&who=ann": {}, "status=410": {foreign2}, "status=410&who=ann": {},
					"exchange=" + record.FormatUUID(id(1)):            {foreign2, again, req, foreign, resp},
					"trace=" + hex.EncodeToString(id(0)) + "&who=ann": {again, req, resp},
				} {
					if got := all(t, h, query); !slices.Equal(got, want) {
						t.Errorf("%s: %v, want %v", query, got, want)
					}
				}
				stop()
			}
		})
	}
}

func TestLongValues(t *testing.T) {
	l := newMemLog(t)
	p := l.enrol("edge")[0]
	long := "/" + strings.Repeat("a", 2000)
	a := p.add(request(1, "ann", "pay", "GET", long))
	b := p.add(request(2, "ann", "pay", "GET", long+"b"))
	l.publish()
	ix, _ := follow(t, indexFile(t), l, small())
	caughtUp(t, ix)
	h := ix.Handler(HandlerConfig{Proofs: l})
	for query, want := range map[string][]uint64{
		"path=" + long: {a}, "path=" + long + "b": {b}, "path=" + long[:400] + "*": {b, a}, "path=" + long[:480] + "*": {b, a},
	} {
		if got := all(t, h, query); !slices.Equal(got, want) {
			t.Errorf("%.20s…: %v, want %v", query, got, want)
		}
	}
	if w := get(h, "/v1/records?path="+long[:481]+"*"); w.Code != 400 {
		t.Errorf("prefix too long: %d", w.Code)
	}
}

func TestBadParameters(t *testing.T) {
	l := newMemLog(t)
	p := l.enrol("edge")[0]
	for i := range 5 {
		p.add(request(i, "ann", "pay", "GET", "/"))
	}
	l.publish()
	ix, _ := follow(t, indexFile(t), l, small())
	caughtUp(t, ix)
	h := ix.Handler(HandlerConfig{Proofs: l})
	_, cursor := fetch(t, h, "who=ann&limit=2")
	for query, name := range map[string]string{
		"color=red": "color", "who=": "who", "who=a&who=b": "who", "status=40": "status", "status=4x": "status", "status=abc": "status", "status=0xx": "status",
		"status=99999": "status", "exchange=7": "exchange", "trace=xyz": "trace", "trace=00": "trace", "since=yesterday": "since", "until=2026-13-01T00:00:00Z": "until",
		"stage=Request": "stage", "limit=0": "limit", "limit=1001": "limit", "limit=-1": "limit", "limit=1e2": "limit", "limit=%2b5": "limit", "cursor=abc": "cursor",
		"who=bob&cursor=" + cursor: "cursor", "cursor=" + cursor + "&who=ann&stage=request": "cursor", "who=ann&cursor=" + cursor + "A": "cursor",
		"since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z": "since", "who=%zz": "query string",
	} {
		w := get(h, "/v1/records?"+query)
		var p struct {
			Type, Title, Detail string
			Status              int
		}
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 400 || p.Status != 400 || !strings.Contains(p.Detail, name) ||
			w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
	for url, code := range map[string]int{
		"/v1/records/x": 400, "/v1/records/007": 400, "/v1/records/-1": 400, "/v1/records/18446744073709551615": 400, "/v1/records/99": 404,
		"/v1/records/" + record.FormatUUID(id(1)): 400, "/v1/records/1?x=1": 400, "/v1/records/1/evidence?openings=yes": 400,
		"/v1/records/99/evidence": 404, "/v1/producers?limit=0": 400, "/v1/producers?cursor=" + cursor: 400, "/v1/records/3": 200,
	} {
		if w := get(h, url); w.Code != code {
			t.Errorf("%s: %d %s", url, w.Code, w.Body)
		}
	}
	if w := get(h, "/v1/records", func(r *http.Request) { r.Method = "POST" }); w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
	if got, _ := fetch(t, h, "who=ann&limit=3&cursor="+cursor); len(got) != 3 {
		t.Errorf("a cursor with another limit: %v", got)
	}
}

func TestStrangeEntries(t *testing.T) {
	l := newMemLog(t)
	p := l.enrol("edge")[0]
	a := p.add(request(1, "ann", "pay", "GET", "/"))
	unknown := l.add([]byte{1, 200, 7, 7})
	l.add([]byte{}, []byte{9}, []byte{1, 2, 0xff, 0xff}, []byte{1, 3, 'x'}, []byte{1, 0}, []byte{1, 1, '\n'})
	huge := must(record.NewSeal(p.stream, 1<<63+5, record.Hash{}, must(p.key.Signer())))
	l.add(huge, l.entries[0])
	// Sequences that the log should have refused.
	odd := func(seq uint64, r *sealtapv1.Record) uint64 {
		r.Producer, r.Incarnation, r.Sequence = p.stream.Producer[:], p.stream.Incarnation[:], seq
		return l.add(must(record.Encode(r)))
	}
	b := odd(1<<63+9, beacon([]byte("x")))
	c := odd(7, request(2, "ann", "pay", "GET", "/"))
	d := odd(0, request(3, "ann", "pay", "GET", "/"))
	stranger := must(keys.Generate("stranger", keys.Ed25519))
	s := &producer{log: l, key: stranger}
	s.restart()
	e := s.add(request(4, "ann", "pay", "GET", "/"))
	s.seal()
	p.seal()
	l.publish()
	ix, _ := follow(t, indexFile(t), l, small())
	caughtUp(t, ix)
	h := ix.Handler(HandlerConfig{Proofs: l})
	if got, want := all(t, h, "who=ann"), []uint64{e, d, c, a}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	if got, want := all(t, h, "stage=beacon"), []uint64{b}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	// Strange entries can be shown and proven, but not what needs a tree they are not in.
	for i := unknown; i < b; i++ {
		for _, rest := range []string{"", "/evidence"} {
			want := 200
			if i == unknown+7 && rest == "/evidence" {
				want = 200 // a seal over nothing is proven as an entry
			}
			if i == unknown+1 && rest == "/evidence" {
				continue // an empty entry makes no evidence that parses
			}
			if w := get(h, fmt.Sprintf("/v1/records/%d%s", i, rest)); w.Code != want {
				t.Errorf("strange entry %d%s: %d %s", i, rest, w.Code, w.Body)
			}
		}
	}
	for i, want := range map[uint64]int{a: 200, b: 404, c: 404, d: 500, e: 404} {
		if w := get(h, fmt.Sprintf("/v1/records/%d/evidence", i)); w.Code != want {
			t.Errorf("evidence of %d: %d %s, want %d", i, w.Code, w.Body, want)
		}
	}
}

func TestLeafIndex(t *testing.T) {
	l := newMemLog(t)
	shop(l, l.enrol("edge"), 700)
	ix, _ := follow(t, indexFile(t), l, small())
	caughtUp(t, ix)
	ctx := context.Background()
	for range 200 {
		i := rand.N(l.Size())
		if got, ok, err := ix.LeafIndex(ctx, record.LeafHash(l.entries[i])); got != i || !ok || err != nil {
			t.Fatalf("LeafIndex of entry %d = %d, %v, %v", i, got, ok, err)
		}
	}
	// The kept part of the hash alone is not enough.
	h := record.LeafHash(l.entries[5])
	h[20] ^= 1
	if i, ok, err := ix.LeafIndex(ctx, h); ok || err != nil {
		t.Errorf("LeafIndex of no entry = %d, %v, %v", i, ok, err)
	}
}
