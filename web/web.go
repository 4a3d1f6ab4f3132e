// Package web is the explorer: a page that searches the log in a browser and
// checks inclusion proofs there. It is embedded in the binary and talks to the
// log's public interface only.
//
// Call [Handler].
package web

import (
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

// Handler serves the page at "/" and its parts under "/explorer/".
func Handler() http.Handler {
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic("web: " + err.Error()) // never: the directory is embedded
	}
	serve := http.FileServerFS(files)
	mux := http.NewServeMux()
	mux.Handle("GET /explorer/", http.StripPrefix("/explorer", serve))
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
