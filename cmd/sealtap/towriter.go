package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"github.com/sealtap/sealtap/proto/sealtap/v1/sealtapv1connect"
	"github.com/sealtap/sealtap/storage/postgres"
)

const (
	// forwardedHeader marks what one log server hands to another, so that two which both
	// take the other for the writer do not do it for ever; and in an answer, that it was
	// the wrong one.
	forwardedHeader = "Sealtap-Log-Forwarded"

	// writerTime is how long it is known who writes, and unknownTime how long that nobody
	// knows.
	writerTime  = time.Second
	unknownTime = 200 * time.Millisecond
	// lookAgain is how often it is asked whether the one still writes that has not answered
	// yet: it may have been paused, and nothing ends a connection to it.
	lookAgain = 2 * time.Second
	// writerPatience bounds the question who it is, and reaching it.
	writerPatience = 2 * time.Second
)

// What clients are told. The causes have addresses in them, and are for the log.
var (
	errNobodyWrites  = errors.New("no server writes the log at present")
	errNobodyKnows   = errors.New("which server writes the log cannot be found out at present")
	errNotReached    = errors.New("the server that writes the log cannot be reached")
	errWriterChanges = errors.New("the server that writes the log is changing")
)

// forWriter are the calls that only the writing server can answer.
func forWriter(r *http.Request) bool {
	switch r.URL.Path {
	case "/v1/entries", sealtapv1connect.LogServiceSubmitProcedure, "/v1/witnesses":
		return true
	}
	return false
}

// toWriter hands to the writing server what only that one can do, while this one does
// not write.
type toWriter struct {
	own          http.Handler
	writing      func() bool                                                   // reports whether this server writes
	find         func(ctx context.Context) (url string, alive bool, err error) // finds out who does
	self         string                                                        // URL of this server
	logger       *slog.Logger
	http1, http2 *httputil.ReverseProxy

	mu    sync.Mutex
	known *url.URL // who writes; nil: why says why that is not known
	why   error
	until time.Time
	told  string
}

func newToWriter(own http.Handler, writing func() bool, find func(context.Context) (string, bool, error), self string, logger *slog.Logger) *toWriter {
	t := &toWriter{own: own, writing: writing, find: find, self: self, logger: logger}
	t.http1, t.http2 = t.proxy(false), t.proxy(true)
	return t
}

// targetKey is under which the context of a request has the URL of the writing server.
type targetKey struct{}

func (t *toWriter) proxy(http2 bool) *httputil.ReverseProxy {
	p := new(http.Protocols)
	p.SetHTTP1(!http2)
	p.SetUnencryptedHTTP2(http2) // gRPC needs it, by prior knowledge
	p.SetHTTP2(true)
	dialer := postgres.Dialer() // which notices a network that takes the server away
	dialer.Timeout = writerPatience
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(p.In.Context().Value(targetKey{}).(*url.URL))
			p.SetXForwarded()
			p.Out.Header.Set(forwardedHeader, "1")
		},
		Transport: &http.Transport{Protocols: p, DialContext: dialer.DialContext, TLSHandshakeTimeout: writerPatience,
			MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: time.Minute},
		FlushInterval: -1,
		ModifyResponse: func(r *http.Response) error {
			if r.Header.Get(forwardedHeader) != "" {
				r.Header.Del(forwardedHeader)
				t.forget(errWriterChanges)
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				t.forget(err)
			}
			if errors.Is(context.Cause(r.Context()), errWriterChanges) {
				noWriter(w, errWriterChanges)
				return
			}
			noWriter(w, errNotReached)
		},
	}
}

// ServeHTTP implements [http.Handler].
func (t *toWriter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case !forWriter(r) || t.writing():
		t.own.ServeHTTP(w, r)
		return
	case r.Header.Get(forwardedHeader) != "":
		w.Header().Set(forwardedHeader, "0")
		noWriter(w, errWriterChanges)
		return
	}
	target, err := t.writer(r.Context())
	if err != nil {
		noWriter(w, err)
		return
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), targetKey{}, target))
	defer cancel(nil)
	go t.watch(ctx, target, cancel)
	r = r.WithContext(ctx)
	if r.ProtoMajor == 2 {
		t.http2.ServeHTTP(w, r)
		return
	}
	t.http1.ServeHTTP(w, r)
}

// watch ends a request to a server that no longer writes.
func (t *toWriter) watch(ctx context.Context, target *url.URL, end context.CancelCauseFunc) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := t.writer(ctx)
		if err == nil && *now != *target || errors.Is(err, errNobodyWrites) || errors.Is(err, errWriterChanges) {
			end(errWriterChanges)
			return
		}
	}
}

// writer returns where the writing server is. All ask at once, and one of them finds
// out.
func (t *toWriter) writer(ctx context.Context) (*url.URL, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Now().Before(t.until) {
		return t.known, t.why
	}
	// The others wait for the answer, whatever becomes of this request.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writerPatience)
	defer cancel()
	text, alive, err := t.find(ctx)
	t.known, t.why = nil, nil
	switch {
	case err != nil:
		t.why = errNobodyKnows
	case !alive || text == "":
		t.why = errNobodyWrites
	case text == t.self: // it takes over, or another says the same of itself
		t.why = errWriterChanges
	default:
		if t.known, err = url.Parse(text); err != nil {
			t.why = errNobodyKnows
		}
	}
	t.tell(err)
	lasts := writerTime
	if t.why != nil {
		lasts = unknownTime
	}
	t.until = time.Now().Add(lasts)
	return t.known, t.why
}

// forget has the next one ask again.
func (t *toWriter) forget(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.until = time.Time{}
	t.tell(why)
}

// tell logs why something was not handed over, once. The caller holds the lock.
func (t *toWriter) tell(why error) {
	if why != nil && why.Error() != t.told {
		t.told = why.Error()
		t.logger.Warn("a submission could not be handed to the server that writes the log", "error", why)
	}
}

// noWriter answers as the log does whose entries cannot be stored.
func noWriter(w http.ResponseWriter, err error) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("Retry-After", "1")
	w.WriteHeader(http.StatusServiceUnavailable)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "about:blank", "title": "Service Unavailable", "status": http.StatusServiceUnavailable, "detail": err.Error()})
}
