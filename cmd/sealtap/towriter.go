package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/sealtap/sealtap/proto/sealtap/v1/sealtapv1connect"
)

// forwardedHeader marks what one log server hands to another, so that two which both
// take the other for the writer do not do it for ever.
const forwardedHeader = "Sealtap-Log-Forwarded"

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
func toWriter(own http.Handler, writing func() bool, writer func(context.Context) (string, bool, error)) http.Handler {
	over := func(http2 bool) http.RoundTripper {
		p := new(http.Protocols)
		p.SetHTTP1(!http2)
		p.SetUnencryptedHTTP2(http2) // gRPC needs it, by prior knowledge
		p.SetHTTP2(true)
		return &http.Transport{Protocols: p, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: time.Minute}
	}
	http1, http2 := over(false), over(true)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !forWriter(r) || writing() {
			own.ServeHTTP(w, r)
			return
		}
		target, err := writerURL(r.Context(), writer)
		if err == nil && r.Header.Get(forwardedHeader) != "" {
			err = fmt.Errorf("the server that writes the log is changing")
		}
		if err != nil {
			noWriter(w, err)
			return
		}
		proxy := &httputil.ReverseProxy{
			Rewrite: func(p *httputil.ProxyRequest) {
				p.SetURL(target)
				p.SetXForwarded()
				p.Out.Header.Set(forwardedHeader, "1")
			},
			Transport:     http1,
			FlushInterval: -1,
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
				noWriter(w, fmt.Errorf("the server that writes the log cannot be reached: %w", err))
			},
		}
		if r.ProtoMajor == 2 {
			proxy.Transport = http2
		}
		proxy.ServeHTTP(w, r)
	})
}

func writerURL(ctx context.Context, writer func(context.Context) (string, bool, error)) (*url.URL, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	text, alive, err := writer(ctx)
	if err != nil {
		return nil, err
	}
	if !alive || text == "" {
		return nil, fmt.Errorf("no server writes the log at present")
	}
	return url.Parse(text)
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
