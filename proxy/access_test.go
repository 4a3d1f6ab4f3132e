package proxy

import (
	"net/http"
	"sync"
	"testing"

	"github.com/sealtap/sealtap/record"
)

// TestAccess: an access log says what the records have in the open, once they
// are durable, and nothing else.
func TestAccess(t *testing.T) {
	settled(t)
	up := backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })
	for name, seal := range map[string][]string{"open": {}, "sealed": {record.FieldWho, record.FieldPath}} {
		var mu sync.Mutex
		var got []*Access
		var records int
		var rec *memory
		s := start(t, up, func(c *Config) {
			rec = c.Recorder.(*memory)
			c.Seal = seal
			c.Access = func(a *Access) {
				mu.Lock()
				defer mu.Unlock()
				got, records = append(got, a), len(rec.all())
			}
		})
		req, err := http.NewRequest(http.MethodGet, s.url("/a/b?c=d"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("alice", "open-sesame")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		s.stop()
		mu.Lock()
		if len(got) != 1 || records != 2 {
			t.Fatalf("%s: %d lines, %d records by then", name, len(got), records)
		}
		who, path := "alice", "/a/b"
		if name == "sealed" {
			who, path = "", ""
		}
		a := got[0]
		if a.Who != who || a.Path != path || a.Verified || a.Method != "GET" || a.Authority != s.addr || a.Service != "shop" || a.Status != 200 ||
			a.Outcome != "complete" || a.Bytes != 5 || a.Exchange != res.Header.Get("Sealtap-Exchange") || len(a.Trace) != 32 || a.Duration <= 0 {
			t.Errorf("%s: %+v", name, a)
		}
		mu.Unlock()
	}
}
