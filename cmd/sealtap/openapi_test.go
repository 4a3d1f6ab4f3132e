package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestOpenAPI holds docs/openapi.yaml against what the log serves: every call of
// the file is a route, and every route stands in the file. What the answers are
// like is checked in interop, by a library that is not ours.
func TestOpenAPI(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(repository(), "docs", "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]any `yaml:"paths"`
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	f := upFlags{listen: "127.0.0.1:0", logListen: "127.0.0.1:0"}
	d, err := openDataDir(filepath.Join(t.TempDir(), "data"), f)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	c, err := d.prepare(f)
	if err != nil {
		t.Fatal(err)
	}
	log, err := startLog(t.Context(), c.Log, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	fill := strings.NewReplacer("{L}", "0", "{N}", "000", "{W}", "1", "{index}", "0", "{file}", "app.js")
	described := make(map[string]string)
	for path, calls := range doc.Paths {
		for method := range calls {
			target := fill.Replace(path)
			if strings.Contains(target, "{") {
				t.Errorf("%s: a parameter that this test does not know", path)
			}
			r := httptest.NewRequest(strings.ToUpper(method), target, nil)
			_, pattern := log.mux.Handler(r)
			if pattern == "/" {
				t.Errorf("docs/openapi.yaml describes %s %s, which the log does not serve", method, path)
			}
			described[pattern] = path
			w := httptest.NewRecorder()
			log.mux.ServeHTTP(w, r)
			if w.Code == http.StatusMethodNotAllowed {
				t.Errorf("docs/openapi.yaml describes %s %s, which the log does not take", method, path)
			}
		}
	}
	for _, pattern := range log.mux.Routes() {
		if described[pattern] == "" && pattern != "/" { // the answer to all other paths
			t.Errorf("the log serves %s, which docs/openapi.yaml does not describe", pattern)
		}
	}
}
