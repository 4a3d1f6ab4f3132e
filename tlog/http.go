package tlog

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sealtap/sealtap/proto/sealtap/v1/sealtapv1connect"
	"github.com/sealtap/sealtap/serve"
)

const (
	// Tiles never change (tlog-tiles, "Merkle Tree").
	cacheForever = "public, max-age=31536000, immutable"
	cacheNever   = "no-store"

	typeText  = "text/plain; charset=utf-8"
	typeBytes = "application/octet-stream"
	typeJSON  = "application/json"
	typeProto = "application/x-protobuf"
)

// endpoint answers a request, or returns why it does not.
type endpoint func(w http.ResponseWriter, r *http.Request) error

// Handler serves everything that needs no index of the records: C2SP tlog-tiles,
// proofs, submission, health and metrics. What readers see ends at the published
// checkpoint.
func (l *Log) Handler() *serve.Mux {
	mux := serve.NewMux()
	read := func(path string, e endpoint) { mux.Handle(path, l.only(e, http.MethodGet, http.MethodHead)) }
	read("/checkpoint", l.serveCheckpoint)
	read("/tile/", l.serveTile)
	mux.Handle("/v1/proof/inclusion", l.only(l.reading(l.serveInclusion), http.MethodGet, http.MethodHead, http.MethodPost))
	read("/v1/proof/consistency", l.serveConsistency)
	read("/v1/records/{index}/proof", l.serveProof)
	read("/v1/witnesses", l.serveWitnesses)
	l.readRetention(read)
	read("/healthz", serveHealth)
	read("/readyz", l.serveReady)
	mux.Handle("/v1/entries", l.only(l.reading(l.serveSubmit), http.MethodPost))
	mux.Handle(sealtapv1connect.LogServiceSubmitProcedure, l.only(l.reading(l.rpcEndpoint()), http.MethodPost))
	metrics := promhttp.HandlerFor(l.config.Metrics, promhttp.HandlerOpts{})
	read("/metrics", func(w http.ResponseWriter, r *http.Request) error {
		metrics.ServeHTTP(w, r)
		return nil
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, problem{Type: "about:blank", Title: http.StatusText(http.StatusNotFound), Status: http.StatusNotFound,
			Detail: fmt.Sprintf("there is nothing at %.200q", r.URL.Path)})
	})
	return mux
}

// only refuses other methods.
func (l *Log) only(e endpoint, methods ...string) http.Handler {
	allow := strings.Join(methods, ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, m := range methods {
			if r.Method == m {
				if err := e(w, r); err != nil {
					l.fail(w, r, err)
				}
				return
			}
		}
		w.Header().Set("Allow", allow)
		writeProblem(w, problem{Type: "about:blank", Title: http.StatusText(http.StatusMethodNotAllowed), Status: http.StatusMethodNotAllowed,
			Detail: fmt.Sprintf("%s takes %s", r.URL.Path, allow)})
	})
}

func serveBytes(w http.ResponseWriter, contentType, cache string, body []byte) error {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", cache)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client is gone: nobody to tell
	return nil
}

func serveJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", typeJSON)
	h.Set("Cache-Control", cacheNever)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
	return nil
}

func serveHealth(w http.ResponseWriter, _ *http.Request) error {
	return serveJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (l *Log) serveReady(w http.ResponseWriter, _ *http.Request) error {
	if err := l.Ready(); err != nil {
		writeProblem(w, problem{Type: "about:blank", Title: "Not ready", Status: http.StatusServiceUnavailable, Detail: err.Error()})
		return nil
	}
	return serveJSON(w, http.StatusOK, map[string]any{"status": "ready", "size": l.Size(), "published": l.Published()})
}
