package client_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sealtap/sealtap/tlog/client"
)

// TestRetentionEdges: the edge of a tree has as many hashes as its size has bits.
func TestRetentionEdges(t *testing.T) {
	hash := `"` + strings.Repeat("A", 43) + `="`
	for _, c := range []struct {
		size   string
		hashes int
		ok     bool
	}{
		{"1", 1, true}, {"7", 3, true}, {"8", 1, true}, {"18446744073709551615", 64, true},
		{"7", 2, false}, {"7", 4, false}, {"8", 0, false}, {"0", 1, false}, {"1", 100_000, false},
	} {
		edge := strings.TrimSuffix(strings.Repeat(hash+",", c.hashes), ",")
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/v1/retention":
				fmt.Fprint(w, `{"minimum_index": 256, "at": "x"}`)
			case "/v1/statements":
				fmt.Fprint(w, `{"statements": [{"index": 0}]}`)
			case "/v1/retention/streams":
				fmt.Fprintf(w, `{"minimum_index": 256, "streams": [{"producer": "%s", "incarnation": "%s", "size": %s, "edge": [%s]}]}`,
					strings.Repeat("01", 32), strings.Repeat("02", 16), c.size, edge)
			}
		}))
		src, err := client.Open(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := src.Retention(context.Background())
		if c.ok != (err == nil) || c.ok && len(kept.Streams[0].Edge) != c.hashes {
			t.Errorf("a tree of %s records with an edge of %d hashes: %v", c.size, c.hashes, err)
		}
		server.Close()
	}
}
