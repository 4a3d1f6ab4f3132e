package mirror

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/sealtap/sealtap/tlog/tiles"
)

// Handler serves the mirror in a directory as C2SP tlog-tiles, with what it says
// about entries that the log did not keep.
func Handler(dir string) http.Handler {
	s := served(dir)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /checkpoint", func(w http.ResponseWriter, r *http.Request) {
		s.file(w, r, checkpointFile, "text/plain; charset=utf-8", "no-cache")
	})
	mux.HandleFunc("GET /tile/", func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if _, err := tiles.ParsePath(name); err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		s.file(w, r, name, "application/octet-stream", "public, max-age=31536000, immutable")
	})
	for _, name := range []string{retentionName, statementsName, streamsName} {
		mux.HandleFunc("GET /"+strings.TrimSuffix(name, ".json"), func(w http.ResponseWriter, r *http.Request) {
			s.file(w, r, name, "application/json", "no-cache")
		})
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

type served string

// file serves a file whose name was checked.
func (s served) file(w http.ResponseWriter, r *http.Request, name, kind, cache string) {
	f, st, err := openRegular(filepath.Join(string(s), filepath.FromSlash(name)))
	if err != nil {
		http.Error(w, "the mirror does not have it", http.StatusNotFound)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", cache)
	http.ServeContent(w, r, "", st.ModTime(), f)
}
