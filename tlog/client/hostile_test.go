package client_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// Every call to a log that stalls, sends a byte now and then, or never stops sending
// comes to an end, soon and at a bounded cost.
func TestHostileLog(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds of waiting for a log that does not answer")
	}
	const limit = 100 * time.Millisecond
	huge := bytes.Repeat([]byte("A"), 64<<10)
	send := func(rw http.ResponseWriter, r *http.Request, chunk []byte, pause time.Duration) {
		for r.Context().Err() == nil {
			if _, err := rw.Write(chunk); err != nil {
				return
			}
			if pause > 0 {
				rw.(http.Flusher).Flush()
				time.Sleep(pause)
			}
		}
	}
	for name, serve := range map[string]http.HandlerFunc{
		"stalls":     func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"slow bytes": func(rw http.ResponseWriter, r *http.Request) { send(rw, r, []byte("A"), 10*time.Millisecond) },
		"huge body":  func(rw http.ResponseWriter, r *http.Request) { send(rw, r, huge, 0) },
		"huge error": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "application/problem+json")
			rw.WriteHeader(http.StatusServiceUnavailable)
			send(rw, r, huge, 0)
		},
		"far too long a pause": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Retry-After", "65535")
			rw.WriteHeader(http.StatusBadRequest)
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(serve)
			t.Cleanup(srv.Close)
			t.Cleanup(srv.CloseClientConnections)
			key, err := keys.Generate("log.example/hostile", keys.Ed25519)
			if err != nil {
				t.Fatal(err)
			}
			p, err := policy.Parse([]byte("log " + key.Public.String() + "\nquorum none\n"))
			if err != nil {
				t.Fatal(err)
			}
			c, err := client.New(srv.URL, p, client.WithRetries(2, time.Millisecond), client.WithTimeout(limit))
			if err != nil {
				t.Fatal(err)
			}
			for call, f := range map[string]func(context.Context) error{
				"checkpoint": func(ctx context.Context) error { _, err := c.Checkpoint(ctx); return err },
				"tile":       func(ctx context.Context) error { _, err := c.Source().Tile(ctx, 0, 0, 256); return err },
				"bundle":     func(ctx context.Context) error { _, err := c.Source().Bundle(ctx, 0, 7); return err },
				"search":     func(ctx context.Context) error { _, err := c.Search(ctx, url.Values{}); return err },
				"evidence":   func(ctx context.Context) error { _, err := c.Evidence(ctx, 1); return err },
				"retention":  func(ctx context.Context) error { _, err := c.Source().Retention(ctx); return err },
				"submit":     func(ctx context.Context) error { _, err := c.Submit(ctx, &sealtapv1.SubmitRequest{}); return err },
			} {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				begin := time.Now()
				err := f(t.Context())
				took := time.Since(begin)
				runtime.ReadMemStats(&after)
				if err == nil {
					t.Errorf("%s succeeds", call)
				}
				var problem *client.Problem
				if !errors.Is(err, client.ErrUnavailable) && !errors.Is(err, client.ErrVerification) && !errors.As(err, &problem) {
					t.Errorf("%s: %v, which says neither that it cannot be had nor that it is wrong", call, err)
				}
				if took > 30*time.Second {
					t.Errorf("%s took %v", call, took)
				}
				if cost := after.TotalAlloc - before.TotalAlloc; cost > 256<<20 {
					t.Errorf("%s: %d MiB were allocated", call, cost>>20)
				}
			}
		})
	}
}
