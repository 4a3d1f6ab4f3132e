package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
	server := httptest.NewServer(toWriter(own, func() bool { return writing },
		func(context.Context) (string, bool, error) { return url, alive, err }))
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
	refused := func(what string, from string) {
		t.Helper()
		status, body, h := ask("/v1/entries", from)
		if status != http.StatusServiceUnavailable || h.Get("Retry-After") == "" || h.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d, %q", what, status, body)
		}
	}
	refused("forwarded once already", "1")
	alive = false
	refused("nobody writes", "")
	alive, err = true, errors.New("the database is away")
	refused("nobody knows who writes", "")
	err, url = nil, "http://127.0.0.1:1"
	refused("the writer is away", "")
	writing = true
	if _, body, _ := ask("/v1/entries", "1"); body != "own /v1/entries" {
		t.Errorf("a submission to the one that writes: %q", body)
	}
}
