package main

import (
	"context"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// hup NAME sends SIGHUP to every running sealtap NAME.
func hup(ts *testscript.TestScript, neg bool, args []string) {
	for _, c := range ts.BackgroundCmds() {
		if len(c.Args) > 1 && c.Args[1] == args[0] {
			ts.Check(c.Process.Signal(syscall.SIGHUP))
		}
	}
}

// reloaded RESULT N waits until the proxy counts so many reloads.
func reloaded(ts *testscript.TestScript, neg bool, args []string) {
	want := `sealtap_proxy_reloads_total{result="` + args[0] + `"} ` + args[1] + "\n"
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		res, err := http.Get("http://" + ts.Getenv("MIRROR") + "/metrics")
		ts.Check(err)
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		ts.Check(err)
		if strings.Contains(string(body), want) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("not %q: %s", want, body)
		}
	}
}

// configured N POLICY wants the newest N records of a proxy's configurations since
// its start to be in the log, the last of them with the digest in running.json.
func configured(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	running := ts.ReadFile("running.json")
	r := reading{policyFile: ts.MkAbs(args[1])}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		sums, err := configs(r)
		ts.Check(err)
		if len(sums) == n+1 && strings.Contains(running, sums[0]) { // and that of sealtap up
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("there are %q, running is %s", sums, running)
		}
	}
}

// configs are the digests of the configurations in the log, the newest first.
func configs(r reading) (sums []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rd, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	s := search{reading: r}
	list, _, err := s.fetch(ctx, rd, url.Values{"stage": {"config"}, "limit": {"100"}})
	for _, row := range list {
		sums = append(sums, hex.EncodeToString(row.entry.Record.GetConfig().GetSha256()))
	}
	return sums, err
}

// TestWatch: a change counts once it is settled, and a bad file only once.
func TestWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("1")
	ctx, cancel := context.WithCancel(t.Context())
	asked, reloads, done := make(chan os.Signal), atomic.Int64{}, make(chan bool)
	go func() {
		defer close(done)
		watch(ctx, path, asked, 10*time.Millisecond, func(context.Context, string) error {
			reloads.Add(1)
			return io.ErrUnexpectedEOF
		})
	}()
	until := func(n int64) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); reloads.Load() != n; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d reloads, want %d", reloads.Load(), n)
			}
		}
	}
	asked <- syscall.SIGHUP
	until(1)
	write("12")
	until(2)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	until(2)
	write("123")
	until(3)
	time.Sleep(50 * time.Millisecond)
	until(3)
	asked <- syscall.SIGHUP
	until(4)
	cancel()
	<-done
}
