package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/sealtap/sealtap/serve"
	"github.com/sealtap/sealtap/witness/fork"
)

const (
	// maxRequest bounds the body of an add-checkpoint: 63 proof lines, and a
	// note with the 16 signatures that signed-note asks verifiers to accept,
	// post-quantum ones included.
	maxRequest = 256 << 10

	typeText = "text/plain; charset=utf-8"
	typeSize = "text/x.tlog.size" // tlog-witness, "add-checkpoint"
)

// Handler returns the HTTP interface of the witness, with submission prefix and
// monitoring prefix "/", and besides /healthz, /readyz and /metrics.
func (s *Server) Handler() http.Handler {
	mux := s.protocol()
	mux.HandleFunc("GET /healthz", s.serveHealth)
	mux.HandleFunc("GET /readyz", s.serveReady)
	mux.HandleFunc("GET /metrics", s.serveMetrics)
	return mux
}

// protocol returns what clients and monitors of a witness ask for.
func (s *Server) protocol() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", s.serveAdd)
	mux.HandleFunc("POST /sign-subtree", s.serveSubtree)
	mux.HandleFunc("GET /{hash}/checkpoint", s.serveLatest)
	mux.HandleFunc("GET /{hash}/forks", s.serveForks)
	mux.HandleFunc("GET /{hash}/forks/{id}", s.serveFork)
	return mux
}

// Serve answers requests on ln until ctx ends, finishes those under way, and
// closes ln. It returns nil when ctx ended.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return serve.HTTP(ctx, ln, s.Handler())
}

// serveAdd serves add-checkpoint.
func (s *Server) serveAdd(w http.ResponseWriter, r *http.Request) {
	s.submit(w, r, s.addCheckpoint)
}

// submit serves a call of the submission prefix.
func (s *Server) submit(w http.ResponseWriter, r *http.Request, process func(context.Context, []byte) ([]byte, error)) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		err = fmt.Errorf("%w: reading: %w", errMalformed, err)
	}
	var lines []byte
	if err == nil {
		lines, err = process(r.Context(), data)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	answer(w, http.StatusOK, typeText, lines)
}

// refuse answers with an error.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := s.statusOf(err)
	var conflict *conflictError
	var limited *limitError
	if errors.As(err, &limited) {
		w.Header().Set("Retry-After", strconv.FormatInt(limited.seconds(), 10))
	}
	switch {
	case errors.As(err, &conflict):
		answer(w, status, typeSize, fmt.Appendf(nil, "%d\n", conflict.size))
	case status == http.StatusInternalServerError:
		// What went wrong in here is the operator's to know, not the client's.
		if r.Context().Err() == nil {
			s.logger.Error("request failed", "path", r.URL.Path, "err", err)
		}
		answer(w, status, typeText, []byte("the witness could not cosign; try again\n"))
	default:
		answer(w, status, typeText, []byte(err.Error()+"\n"))
	}
}

// statusOf maps errors to the status codes of tlog-witness, and counts them.
func (s *Server) statusOf(err error) int {
	var conflict *conflictError
	var tooLarge *http.MaxBytesError
	var limited *limitError
	switch {
	case errors.As(err, &limited):
		s.counts.limited.Add(1)
		return http.StatusTooManyRequests
	case errors.As(err, &conflict):
		s.counts.conflict.Add(1)
		return http.StatusConflict
	case errors.As(err, &tooLarge):
		s.counts.malformed.Add(1)
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, errMalformed):
		s.counts.malformed.Add(1)
		return http.StatusBadRequest
	case errors.Is(err, errSignature):
		s.counts.badSignature.Add(1)
		return http.StatusForbidden
	case errors.Is(err, errNoSubtrees):
		return http.StatusNotFound
	case errors.Is(err, errUnknownLog):
		s.counts.unknownLog.Add(1)
		return http.StatusNotFound
	case errors.Is(err, errDoubt):
		s.counts.doubted.Add(1)
		return http.StatusServiceUnavailable
	case errors.Is(err, errInconsistent):
		s.counts.inconsistent.Add(1)
		return http.StatusUnprocessableEntity
	}
	s.counts.failed.Add(1)
	return http.StatusInternalServerError
}

// serveLatest serves the latest cosigned checkpoint of a log to monitors.
func (s *Server) serveLatest(w http.ResponseWriter, r *http.Request) {
	if l := s.logs.Load().hashes[r.PathValue("hash")]; l != nil {
		if s.doubt(l.origin) != nil {
			w.Header().Set(doubtHeader, "the witness may have cosigned more")
		}
		if cosigned := l.cosigned.Load(); cosigned != nil {
			answer(w, http.StatusOK, typeText, *cosigned)
			return
		}
	}
	answer(w, http.StatusNotFound, typeText, []byte("no checkpoint of such a log was cosigned here\n"))
}

// serveHealth says whether the store can be read.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request) {
	if _, _, err := s.store.Head(r.Context(), ""); err != nil {
		s.logger.Error("store cannot be read", "err", err)
		answer(w, http.StatusServiceUnavailable, typeText, []byte("the store cannot be read\n"))
		return
	}
	answer(w, http.StatusOK, typeText, []byte("ok\n"))
}

// serveMetrics writes the counters in the text format of Prometheus.
func (s *Server) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	c := s.Counters()
	var b []byte
	b = append(b, "# TYPE sealtap_witness_requests_total counter\n"...)
	for _, m := range []struct {
		result string
		count  uint64
	}{
		{"advanced", c.Advanced}, {"repeated", c.Repeated}, {"subtree", c.Subtrees}, {"malformed", c.Malformed},
		{"unknown_log", c.UnknownLog}, {"bad_signature", c.BadSignature}, {"conflict", c.Conflict},
		{"inconsistent", c.Inconsistent}, {"limited", c.Limited}, {"doubted", c.Doubted}, {"failed", c.Failed},
	} {
		b = fmt.Appendf(b, "sealtap_witness_requests_total{result=%q} %d\n", m.result, m.count)
	}
	b = fmt.Appendf(b, "# TYPE sealtap_witness_forks_total counter\nsealtap_witness_forks_total %d\n", c.Forks)
	b = append(b, "# TYPE sealtap_witness_forks_kept gauge\n"...)
	for _, k := range fork.Kinds() {
		b = fmt.Appendf(b, "sealtap_witness_forks_kept{kind=%q} %d\n", k, s.kept.total(k))
	}
	b = fmt.Appendf(b, "# TYPE sealtap_witness_doubts gauge\nsealtap_witness_doubts %d\n", len(*s.doubts.Load()))
	b = fmt.Appendf(b, "# TYPE sealtap_witness_logs gauge\nsealtap_witness_logs %d\n", s.cosigned())
	b = fmt.Appendf(b, "# TYPE sealtap_witness_reloads_total counter\nsealtap_witness_reloads_total{result=\"good\"} %d\nsealtap_witness_reloads_total{result=\"bad\"} %d\n",
		s.counts.reloaded.Load(), s.counts.notReloaded.Load())
	b = s.bastionMetrics(b)
	answer(w, http.StatusOK, "text/plain; version=0.0.4", b)
}

// answer writes one whole answer. An error means that the client has gone.
func answer(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
