package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func TestHandler(t *testing.T) {
	srv := httptest.NewServer(Handler())
	defer srv.Close()
	for path, want := range map[string]string{
		"/":                   "<title>Sealtap</title>",
		"/explorer/app.js":    "verifyInclusion",
		"/explorer/proof.js":  "crypto.subtle",
		"/explorer/style.css": "--bg",
		"/explorer/icon.svg":  "<svg",
	} {
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s, without %q", path, resp.Status, want)
		}
		csp := resp.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'; script-src 'self';") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
	for _, path := range []string{"/explorer/none", "/other"} {
		if resp, err := http.Get(srv.URL + path); err != nil || resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %v %v", path, resp.Status, err)
		}
	}
}

// TestMarkup holds the page to its own policy: no markup is made from text, and
// there is no inline script or style.
func TestMarkup(t *testing.T) {
	for _, name := range []string{"index.html", "app.js", "proof.js"} {
		b, err := static.ReadFile("static/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", "onclick", "javascript:", "http://", "https://"} {
			if strings.Contains(string(b), bad) {
				t.Errorf("%s holds %q", name, bad)
			}
		}
	}
}

// TestVerifier holds the page that verifies evidence to its promises: one file, nothing
// from elsewhere, no markup made from text, and no script but the one in it.
func TestVerifier(t *testing.T) {
	srv := httptest.NewServer(Handler())
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/verifier")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, _ := io.ReadAll(resp.Body)
	if !bytes.Equal(page, Verifier()) || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("%s: %d bytes, %q", resp.Status, len(page), resp.Header.Get("Content-Type"))
	}
	digest := func(tag string) string {
		parts := regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllSubmatch(page, -1)
		if len(parts) != 1 {
			t.Fatalf("%d of %s", len(parts), tag)
		}
		return fmt.Sprintf("'sha256-%s'", base64.StdEncoding.EncodeToString(hash(parts[0][1])))
	}
	want := "default-src 'none'; script-src " + digest("script") + "; style-src " + digest("style") + "; base-uri 'none'; form-action 'none'"
	if !bytes.Contains(page, []byte(`<meta http-equiv="Content-Security-Policy" content="`+want+`">`)) {
		t.Errorf("the page's policy should read\n%s", want)
	}
	if got := resp.Header.Get("Content-Security-Policy"); got != want+"; frame-ancestors 'none'" {
		t.Errorf("served with the policy\n%s", got)
	}
	for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "style=", "onclick", "javascript:", "://", "src=", "href=", "fetch(", "import("} {
		if bytes.Contains(page, []byte(bad)) {
			t.Errorf("the page holds %q", bad)
		}
	}
}

func hash(b []byte) []byte { h := sha256.Sum256(b); return h[:] }
