// Package web is the explorer: a page that searches the log in a browser and
// checks inclusion proofs there. It is embedded in the binary and talks to the
// log's public interface only. Beside it stands the verifier, a page in one file that
// checks evidence in a browser and talks to nobody.
//
// Call [Handler], or [Verifier] for the page alone.
package web

import (
	"bytes"
	"embed"
	"io/fs"
	"net/http"
)

//go:embed static
var static embed.FS

// policy lets the page run its own script and ask its own log, and nothing else:
// what clients sent through the proxy is shown as text, and could not run if it
// got further.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

//go:embed verifier/verifier.html
var verifier []byte

// Verifier returns the page that verifies evidence files: web/verifier/verifier.html. It
// is whole in one file, so that people can keep it and open it without any server.
func Verifier() []byte { return bytes.Clone(verifier) }

// verifierPolicy is what the verifier says in its own text, where it holds without a
// server too: it runs the one script whose digest stands there, and asks nobody. A page
// cannot say itself that no other may frame it.
func verifierPolicy() string {
	_, rest, _ := bytes.Cut(verifier, []byte(`<meta http-equiv="Content-Security-Policy" content="`))
	own, _, _ := bytes.Cut(rest, []byte(`">`))
	return string(own) + "; frame-ancestors 'none'"
}

// Handler serves the explorer at "/" with its parts under "/explorer/", and the
// verifier at "/verifier".
func Handler() http.Handler {
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic("web: " + err.Error()) // never: the directory is embedded
	}
	serve := http.FileServerFS(files)
	mux := http.NewServeMux()
	mux.Handle("GET /explorer/", http.StripPrefix("/explorer", serve))
	own := verifierPolicy()
	mux.HandleFunc("GET /verifier", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", own)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(verifier)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "index.html") })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		mux.ServeHTTP(w, r)
	})
}
