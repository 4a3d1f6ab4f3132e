package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestToWriter(t *testing.T) {
	own := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "own "+r.URL.Path) })
	var forwarded string
	writer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		forwarded = r.Header.Get(forwardedHeader)
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "writer "+r.URL.RequestURI()+" "+string(body))
	}))
	defer writer.Close()
	writing, url, alive := false, writer.URL, true
	var err error
	var asked atomic.Int64
	handler := newToWriter(own, func() bool { return writing }, func(context.Context) (string, bool, error) {
		asked.Add(1)
		return url, alive, err
	}, "http://self.example", slog.New(slog.DiscardHandler))
	server := httptest.NewServer(handler)
	defer server.Close()
	ask := func(path, from string) (int, string, http.Header) {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, server.URL+path, strings.NewReader("batch"))
		if err != nil {
			t.Fatal(err)
		}
		if from != "" {
			r.Header.Set(forwardedHeader, from)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body), resp.Header
	}
	if status, body, _ := ask("/v1/entries?wait=1", ""); status != http.StatusAccepted || body != "writer /v1/entries?wait=1 batch" || forwarded != "1" {
		t.Errorf("a submission to one that follows: %d, %q", status, body)
	}
	if _, body, _ := ask("/checkpoint", ""); body != "own /checkpoint" {
		t.Errorf("a read: %q", body)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times who writes", n)
	}
	for range 50 {
		ask("/v1/entries", "")
	}
	if n := asked.Load(); n > 10 { // once a second
		t.Errorf("asked %d times who writes, for 50 submissions", n)
	}
	refused := func(what string, from string) {
		t.Helper()
		handler.forget(nil)
		status, body, h := ask("/v1/entries", from)
		if strings.Contains(body, "secret") || strings.Contains(body, "127.0.0.1") {
			t.Errorf("%s: strangers are told of what is behind it: %s", what, body)
		}
		if status != http.StatusServiceUnavailable || h.Get("Retry-After") == "" || h.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d, %q", what, status, body)
		}
	}
	refused("forwarded once already", "1")
	alive = false
	refused("nobody writes", "")
	alive, err = true, errors.New("secret.example:5432 is away")
	refused("nobody knows who writes", "")
	err, url = nil, "http://127.0.0.1:1"
	refused("the writer is away", "")
	url = "http://self.example"
	refused("this server takes over", "")
	writing = true
	if _, body, _ := ask("/v1/entries", "1"); body != "own /v1/entries" {
		t.Errorf("a submission to the one that writes: %q", body)
	}
}

// Once the writer has changed it takes one submission to notice, and none is handed
// around.
func TestWriterChanges(t *testing.T) {
	own := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "stored") })
	var first, second *httptest.Server
	var writes atomic.Pointer[httptest.Server]
	find := func(context.Context) (string, bool, error) { return writes.Load().URL, true, nil }
	serve := func(s **httptest.Server) *httptest.Server {
		*s = httptest.NewServer(newToWriter(own, func() bool { return writes.Load() == *s }, find, "", slog.New(slog.DiscardHandler)))
		t.Cleanup((*s).Close)
		return *s
	}
	serve(&first)
	serve(&second)
	third := httptest.NewServer(newToWriter(own, func() bool { return false }, find, "", slog.New(slog.DiscardHandler)))
	defer third.Close()
	ask := func() int {
		resp, err := http.Post(third.URL+"/v1/entries", "text/plain", strings.NewReader("batch"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if h := resp.Header.Get(forwardedHeader); h != "" {
			t.Errorf("the answer has a mark of log servers: %q", h)
		}
		return resp.StatusCode
	}
	writes.Store(first)
	if status := ask(); status != http.StatusOK {
		t.Fatalf("%d", status)
	}
	writes.Store(second) // third remembers the first
	if status := ask(); status != http.StatusServiceUnavailable && status != http.StatusOK {
		t.Errorf("right after the change: %d", status)
	}
	if status := ask(); status != http.StatusOK {
		t.Errorf("the next one: %d", status)
	}
	second.Close()
	writes.Store(first)
	ask()
	if status := ask(); status != http.StatusOK {
		t.Errorf("after the writer has gone: %d", status)
	}
}

// A submission to a server that is paused waits no longer than until another writes.
func TestWriterIsPaused(t *testing.T) {
	woken := make(chan struct{})
	paused := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-woken }))
	defer paused.Close()
	defer close(woken)
	var asked atomic.Int64
	find := func(context.Context) (string, bool, error) {
		if asked.Add(1) == 1 {
			return paused.URL, true, nil
		}
		return "http://another.example", true, nil
	}
	server := httptest.NewServer(newToWriter(http.NotFoundHandler(), func() bool { return false }, find, "", slog.New(slog.DiscardHandler)))
	defer server.Close()
	client := &http.Client{Timeout: 40 * time.Second} // less than the transport waits by itself
	resp, err := client.Post(server.URL+"/v1/entries", "text/plain", strings.NewReader("batch"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(body), "is changing") {
		t.Errorf("%s: %s", resp.Status, body)
	}
}
