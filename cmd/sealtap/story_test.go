package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/client"
)

// exits CODE COMMAND… runs a command that must exit with exactly this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if want, _ := strconv.Atoi(args[0]); code != want {
		ts.Fatalf("%v exits %d, want %d; it says %s%s", args[1:], code, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// oneline TEXT wants the last command to have said one line on standard error,
// with this text in it, and nothing on standard output.
func oneline(ts *testscript.TestScript, neg bool, args []string) {
	said := ts.ReadFile("stderr")
	if strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "sealtap: ") || ts.ReadFile("stdout") != "" {
		ts.Fatalf("not one line: %q, and on standard output %q", said, ts.ReadFile("stdout"))
	}
	ts.Check(ts.Exec("grep", "-Eq", "--", "^sealtap: .*"+strings.ReplaceAll(args[0], `\d`, "[0-9]"), fileOf(ts, said)))
}

func fileOf(ts *testscript.TestScript, text string) string {
	path := ts.MkAbs("said.txt")
	ts.Check(os.WriteFile(path, []byte(text), 0o644))
	return path
}

// newest DB NAME, or newest URL NAME, sets NAME to the index of the newest record of an exchange.
func newest(ts *testscript.TestScript, neg bool, args []string) {
	var db bundles
	if strings.HasPrefix(args[0], "http://") {
		src, err := client.Open(args[0])
		ts.Check(err)
		db = src
	} else {
		file, err := sqlite.OpenLogFile(context.Background(), ts.MkAbs(args[0]))
		ts.Check(err)
		defer file.Close()
		db = file
	}
	note, err := db.Checkpoint(context.Background())
	ts.Check(err)
	text, err := checkpoint.Text(note)
	ts.Check(err)
	body, _, err := checkpoint.Parse(text)
	ts.Check(err)
	n := (body.Size - 1) / storage.BundleWidth
	bundle, err := db.Bundle(context.Background(), n, int(body.Size-n*storage.BundleWidth))
	ts.Check(err)
	index, found := n*storage.BundleWidth, ""
	for b, err := range storage.Entries(bundle) {
		ts.Check(err)
		if e, err := record.Parse(b); err == nil && e.Record != nil && len(e.Record.GetExchange()) > 0 {
			found = strconv.FormatUint(index, 10)
		}
		index++
	}
	if found == "" {
		ts.Fatalf("no record of an exchange among the last entries")
	}
	ts.Setenv(args[1], found)
}

// crash N IDS COMMAND… starts the command N times, puts load on it, and kills it
// at a random moment. IDS collects the exchanges that a client saw answered.
func crash(ts *testscript.TestScript, neg bool, args []string) {
	rounds, err := strconv.Atoi(args[0])
	ts.Check(err)
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		up := command(ts, args[2:]...)
		ts.Check(up.Start())
		await(ts, false, []string{ts.Getenv("PROXY")})
		load := command(ts, "load", "http://"+ts.Getenv("PROXY"), "100000", args[1])
		before := size(ts.MkAbs(args[1]))
		ts.Check(load.Start())
		// Not before a first answer, and then from at once to well under way.
		for end := time.Now().Add(20 * time.Second); size(ts.MkAbs(args[1])) == before && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(rand.IntN(60*(round+1))) * time.Millisecond)
		ts.Check(up.Process.Signal(syscall.SIGKILL))
		_ = up.Wait()
		ts.Check(load.Process.Kill())
		_ = load.Wait()
	}
}

func size(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

func command(ts *testscript.TestScript, args ...string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	for _, dir := range strings.Split(ts.Getenv("PATH"), ":") {
		if _, err := os.Stat(dir + "/" + args[0]); err == nil {
			cmd.Path, cmd.Err = dir+"/"+args[0], nil
			break
		}
	}
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "WORK=" + ts.Getenv("WORK")}
	for _, name := range clusterEnv {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	return cmd
}

// recorded IDS POLICY checks that each exchange has one request record and one
// response record in the log, which are proven, and that the response is known.
func recorded(ts *testscript.TestScript, neg bool, args []string) {
	f, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	var ids []string
	for s := bufio.NewScanner(f); s.Scan(); {
		ids = append(ids, s.Text())
	}
	if len(ids) < 20 {
		ts.Fatalf("only %d exchanges were answered", len(ids))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := reading{policyFile: ts.MkAbs(args[1])}
	var problem error
	for ctx.Err() == nil {
		// What is in the spool is on its way.
		if problem = allRecorded(ctx, r, ids); problem == nil {
			ts.Logf("%d exchanges, each with both records", len(ids))
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	ts.Fatalf("%v", problem)
}

func allRecorded(ctx context.Context, r reading, ids []string) error {
	rd, err := r.open(ctx)
	if err != nil {
		return err
	}
	count := make(map[string]int)
	s := search{reading: r}
	for _, stage := range []string{"request", "response"} {
		values := url.Values{"stage": {stage}, "limit": {"1000"}}
		for {
			list, next, err := s.fetch(ctx, rd, values)
			if err != nil {
				return err
			}
			for _, row := range list {
				count[stage+row.view.Exchange]++
				if p := row.entry.Record.GetResponse(); p != nil {
					count[fmt.Sprintf("%s %d", row.view.Exchange, p.GetStatus())]++
				}
			}
			if next == "" {
				break
			}
			values.Set("cursor", next)
		}
	}
	for _, id := range ids {
		if q, p, ok := count["request"+id], count["response"+id], count[id+" 200"]; q != 1 || p != 1 || ok != 1 {
			return fmt.Errorf("exchange %s was answered and has %d request records and %d response records, %d with status 200", id, q, p, ok)
		}
	}
	return nil
}
