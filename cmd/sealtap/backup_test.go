package main

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// quorum POLICY waits until every witness of the policy listens.
func quorum(ts *testscript.TestScript, neg bool, args []string) {
	p, err := loadPolicy("policy", ts.MkAbs(args[0]))
	ts.Check(err)
	for _, w := range p.Witnesses {
		u, err := url.Parse(w.URL)
		ts.Check(err)
		await(ts, false, []string{u.Host})
	}
}

// answered FILE N waits until so many exchanges have been answered.
func answered(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ids, err := os.ReadFile(ts.MkAbs(args[0])); err == nil && bytes.Count(ids, []byte("\n")) >= want {
			return
		}
	}
	ts.Fatalf("fewer than %d exchanges were answered", want)
}

// settled URL waits until the log there has published all that it holds.
func settled(ts *testscript.TestScript, neg bool, args []string) {
	size := regexp.MustCompile(`(?m)^sealtap_log_(published_)?size (\S+)$`)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(args[0] + "/metrics")
		ts.Check(err)
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		ts.Check(err)
		if m := size.FindAllSubmatch(text, -1); len(m) == 2 && bytes.Equal(m[0][2], m[1][2]) {
			return
		}
	}
	ts.Fatalf("the log does not publish all that it holds")
}

// killing N COMMAND… starts the command N times and kills it at a random moment,
// and in the end lets it finish, unless it had by then.
func killing(ts *testscript.TestScript, neg bool, args []string) {
	rounds, err := strconv.Atoi(args[0])
	ts.Check(err)
	for range rounds {
		cmd := command(ts, args[1:]...)
		ts.Check(cmd.Start())
		time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond)
		ts.Check(cmd.Process.Signal(syscall.SIGKILL))
		if cmd.Wait() == nil {
			return
		}
	}
	ts.Check(ts.Exec(args[1], args[2:]...))
}
