package tlog_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// TestServePrunedFromMemory: the tiles and bundles that are in memory are denied
// with those in storage once they are below the minimum index.
func TestServePrunedFromMemory(t *testing.T) {
	f := pruning(t)
	p := f.producer("proxy-1")
	for range 30 {
		f.mustSubmit(p.batch(50)...)
	}
	f.published(f.log.Size())
	server := f.serve()
	ask := func(path string) int {
		t.Helper()
		method, body := http.MethodGet, ""
		if path, body, _ = strings.Cut(path, " "); body != "" {
			method = http.MethodPost
		}
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	paths := []string{"/tile/entries/001", "/tile/entries/002.p/7", "/tile/0/001", "/tile/0/003.p/9", "/v1/records/300/proof", "/v1/proof/inclusion?index=700",
		"/v1/proof/inclusion?index=0&size=700", "/v1/proof/consistency?from=300&to=1200", "/v1/proof/consistency?from=256&to=700",
		`/v1/proof/inclusion {"indices":[1200,700]}`, `/v1/proof/inclusion {"indices":[0],"size":700}`}
	for _, path := range paths {
		if status := ask(path); status != http.StatusOK {
			t.Fatalf("%s: %d before it was pruned", path, status)
		}
	}
	f.retain(record.Retention{Entries: 500})
	f.pruned(1024)
	for _, path := range paths {
		if status := ask(path); status != http.StatusGone {
			t.Errorf("%s: %d of what was pruned", path, status)
		}
	}
	if _, err := f.log.LeafHash(t.Context(), 700); !errors.Is(err, storage.ErrPruned) {
		t.Errorf("leaf hash of what was pruned: %v", err)
	}
}

func TestServePruned(t *testing.T) {
	f := pruning(t)
	p := f.producer("proxy-1")
	for range 30 {
		f.mustSubmit(p.batch(50)...)
	}
	index := f.retain(record.Retention{Keep: time.Second, Entries: 500})
	f.published(f.log.Size())
	f.pruned(1024)
	f.swept(2)
	server := f.serve()
	get := func(path string) (int, []byte) {
		t.Helper()
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, b
	}
	for _, path := range []string{"/tile/entries/001", "/tile/entries/003", "/tile/0/001", "/tile/0/003", "/tile/entries/002.p/7", "/v1/records/300/proof",
		"/v1/proof/inclusion?index=700", "/v1/proof/consistency?from=300&to=1200"} {
		status, body := get(path)
		var problem struct {
			Status       int
			Detail       string
			MinimumIndex *uint64 `json:"minimum_index"`
		}
		if err := json.Unmarshal(body, &problem); err != nil || status != http.StatusGone || problem.MinimumIndex == nil || *problem.MinimumIndex != 1024 {
			t.Errorf("GET %s: %d %s", path, status, body)
		}
	}
	for _, path := range []string{"/tile/entries/000", "/tile/0/000", "/tile/entries/004", "/tile/0/005.p/7", "/tile/1/000.p/5", "/v1/records/0/proof", "/v1/records/1024/proof",
		"/v1/proof/inclusion?index=1200", "/v1/proof/consistency?from=512&to=1200", "/v1/proof/consistency?from=1030&to=1200"} {
		if status, body := get(path); status != http.StatusOK {
			t.Errorf("GET %s: %d %s", path, status, body)
		}
	}
	_, body := get("/v1/retention")
	var retention struct {
		MinimumIndex uint64 `json:"minimum_index"`
		Policy       struct {
			Statement   uint64
			KeepSeconds uint64 `json:"keep_seconds"`
			KeepEntries uint64 `json:"keep_entries"`
		}
		At, Old string
	}
	if err := json.Unmarshal(body, &retention); err != nil || retention.MinimumIndex != 1024 || retention.Policy.Statement != index ||
		retention.Policy.KeepSeconds != 1 || retention.Policy.KeepEntries != 500 {
		t.Errorf("%s, %v", body, err)
	}
	for name, signed := range map[string]string{"at": retention.At, "old": retention.Old} {
		if cp, err := f.policy.Verify([]byte(signed)); err != nil || cp.Size < 1024 {
			t.Errorf("checkpoint %q: %v", name, err)
		}
	}
	_, body = get("/v1/retention/streams")
	var streams struct {
		MinimumIndex uint64 `json:"minimum_index"`
		Streams      []struct {
			Producer, Incarnation string
			Size                  uint64
			Edge                  [][]byte
		}
		Next string
	}
	if err := json.Unmarshal(body, &streams); err != nil || streams.MinimumIndex != 1024 || len(streams.Streams) != 1 || streams.Next != "" ||
		streams.Streams[0].Producer != p.stream.Producer.String() || streams.Streams[0].Incarnation != p.stream.Incarnation.String() {
		t.Errorf("%s, %v", body, err)
	}
	if status, body := get("/v1/statements?limit=2"); status != http.StatusOK || !bytes.Contains(body, []byte(`{"statements":[{"index":0},{"index":1}],"next":"2"}`)) {
		t.Errorf("%d %s", status, body)
	}
	if status, body := get("/v1/statements?cursor=2"); status != http.StatusOK || !bytes.Contains(body, fmt.Appendf(nil, `{"statements":[{"index":%d}]}`, index)) {
		t.Errorf("%d %s", status, body)
	}
	for _, bad := range []string{"/v1/retention?x=1", "/v1/statements?limit=0", "/v1/statements?cursor=-1", "/v1/retention/streams?limit=1001"} {
		if status, _ := get(bad); status != http.StatusBadRequest {
			t.Errorf("GET %s: %d", bad, status)
		}
	}
	_, metrics := get("/metrics")
	if !bytes.Contains(metrics, []byte("sealtap_log_minimum_index 1024")) {
		t.Error("no metric tells the minimum index")
	}
}
