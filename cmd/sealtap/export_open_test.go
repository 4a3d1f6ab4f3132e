package main

import (
	"encoding/binary"
	"net/url"
	"testing"

	"github.com/sealtap/sealtap/export"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
)

// exchanged returns an entry of an exchange.
func exchanged(t *testing.T, exchange uint64, r *sealtapv1.Record) (record.Entry, []byte) {
	t.Helper()
	r.Exchange = binary.BigEndian.AppendUint64(make([]byte, 8), exchange)
	r.Producer, r.Incarnation, r.Time = make([]byte, 32), make([]byte, 16), 1
	b, err := record.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return e, b
}

// A request is remembered however many others begin and end meanwhile, and no more
// than the bound wait; what is remembered of those that ended is bounded too.
func TestExportRemembersOpenRequests(t *testing.T) {
	s := &scan{last: make(map[string]*export.Item), most: 4}
	begin := func(n uint64) {
		e, b := exchanged(t, n, &sealtapv1.Record{About: &sealtapv1.Record_Request{Request: &sealtapv1.Request{Method: "GET"}}})
		s.remember(string(e.Record.GetExchange()), client.Proven{Index: n, Entry: b})
	}
	key := func(n uint64) string { return string(binary.BigEndian.AppendUint64(make([]byte, 8), n)) }
	begin(0)
	for n := uint64(1); n < 100; n++ {
		begin(n)
		delete(s.last, key(n))
		if len(s.order) > 2*s.most {
			t.Fatalf("%d remembered after %d requests", len(s.order), n)
		}
	}
	if s.last[key(0)] == nil {
		t.Error("a request that waits was forgotten for others that were answered")
	}
	for n := uint64(100); n < 104; n++ {
		begin(n)
	}
	if len(s.last) != s.most || s.last[key(0)] != nil || s.last[key(103)] == nil {
		t.Errorf("%d wait, of %d at most", len(s.last), s.most)
	}
}

// A response whose request cannot be read is written, and counted as one that could
// not be held against the filter.
func TestExportWithoutRequest(t *testing.T) {
	s := &scan{}
	answer, _ := exchanged(t, 1, &sealtapv1.Record{About: &sealtapv1.Record_Response{Response: &sealtapv1.Response{Status: 200}}})
	started, _ := exchanged(t, 0, &sealtapv1.Record{About: &sealtapv1.Record_Start{Start: &sealtapv1.Start{}}})
	response, start := export.Item{Entry: answer}, export.Item{Entry: started}
	for name, id := range map[string]string{"who": "alice", "operation": "tools/call"} {
		v := url.Values{name: {id}}
		if ok, unseen := s.match(response, v); !ok || !unseen {
			t.Errorf("a response without its request, by %s: %v %v", name, ok, unseen)
		}
		if ok, _ := s.match(start, v); ok {
			t.Errorf("a record of no exchange is found by %s", name)
		}
	}
}
