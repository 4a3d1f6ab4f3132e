package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealtap/sealtap/tlog/client"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sealtap":     sealtapMain,
		"upstream":    upstream,
		"tlsupstream": tlsUpstream,
		"load":        load,
		"gets":        gets,
		"tamper":      tamper,
	})
}

// TestScript runs the stories in testdata/script. Each has the names of free
// addresses in its environment: PROXY, LOG, LOG2, MIRROR, UPSTREAM, UPSTREAM2, UPSTREAM3.
func TestScript(t *testing.T) {
	p := stories()
	p.Dir = "testdata/script"
	testscript.Run(t, p)
}

// stories are what scripts run in.
func stories() testscript.Params {
	return testscript.Params{
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"PROXY", "LOG", "LOG2", "MIRROR", "UPSTREAM", "UPSTREAM2", "UPSTREAM3"} {
				addr, err := freeAddr()
				if err != nil {
					return err
				}
				e.Setenv(name, addr)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await":      await,
			"unrecorded": unrecorded,
			"get":        get,
			"inset":      inset,
			"send":       send,
			"fetch":      fetch,
			"refused":    refused,
			"term":       terminate,
			"readme":     readme,
			"exits":      exits,
			"oneline":    oneline,
			"newest":     newest,
			"crash":      crash,
			"recorded":   recorded,
			"pruned":     pruned,
			"headed":     headed,
			"quorum":     quorum,
			"settled":    settled,
			"answered":   answered,
			"killing":    killing,
			"dump":       dump,
			"choose":     choose,
			"expand":     expand,

			"answers":    answers,
			"holding":    holding,
			"asking":     asking,
			"suspend":    suspend,
			"hup":        hup,
			"supervised": supervised,
			"reloaded":   reloaded,
			"configured": configured,
		},
		Condition: func(cond string) (bool, error) {
			if name, ok := strings.CutPrefix(cond, "has:"); ok {
				_, err := exec.LookPath(name)
				return err == nil, nil
			}
			if cond == "tmpfs" {
				return exec.Command("unshare", "-rm", "mount", "-t", "tmpfs", "none", "/tmp").Run() == nil, nil
			}
			if cond == "cluster" {
				return false, nil // see TestScriptOnTrillian
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	}
}

// await ADDR… waits until somebody listens there.
func await(ts *testscript.TestScript, neg bool, args []string) {
	for _, addr := range args {
		for end := time.Now().Add(20 * time.Second); ; {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(end) {
				ts.Fatalf("nobody listens on %s: %v", addr, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// get URL [NAME] sends a request as alice, and sets NAME to the exchange id.
// It tries for a while: what answers may just be starting.
func get(ts *testscript.TestScript, neg bool, args []string) {
	req, err := http.NewRequest("GET", args[0], nil)
	ts.Check(err)
	req.SetBasicAuth("alice", "open-sesame")
	for end := time.Now().Add(10 * time.Second); ; {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			if len(args) > 1 {
				id := resp.Header.Get("Sealtap-Exchange")
				ts.Setenv(args[1], id)
				ts.Setenv("UPPER", strings.ToUpper(id)) // people write UUIDs so, too
			}
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// fetch URL FILE writes what a GET of the URL gives into the file.
func fetch(ts *testscript.TestScript, neg bool, args []string) {
	resp, err := http.Get(args[0])
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if resp.StatusCode != http.StatusOK {
		ts.Fatalf("GET %s: %s %s", args[0], resp.Status, body)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), body, 0o644))
}

// terminate NAME sends SIGTERM to every running sealtap NAME.
func terminate(ts *testscript.TestScript, neg bool, args []string) {
	n := 0
	for _, c := range ts.BackgroundCmds() {
		if len(c.Args) > 1 && c.Args[1] == args[0] && c.Process.Signal(syscall.SIGTERM) == nil {
			n++
		}
	}
	if n == 0 {
		ts.Fatalf("no sealtap %s is running", args[0])
	}
}

// readme checks that README's quick start is what the script runs: every line
// of its first shell block that starts with "sealtap" stands in the script.
func readme(ts *testscript.TestScript, neg bool, args []string) {
	text, err := os.ReadFile(filepath.Join(repository(), "README.md"))
	ts.Check(err)
	script, err := os.ReadFile(filepath.Join(repository(), "cmd/sealtap/testdata/script", args[0]))
	ts.Check(err)
	_, block, _ := strings.Cut(string(text), "```sh\n")
	block, _, ok := strings.Cut(block, "```")
	if !ok {
		ts.Fatalf("README.md has no shell block")
	}
	n := 0
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "  #")
		if !strings.HasPrefix(line, "./sealtap ") {
			continue
		}
		n++
		if !bytes.Contains(script, []byte("# README: "+strings.TrimSpace(line)+"\n")) {
			ts.Fatalf("README.md says %q, and %s does not run it", line, args[0])
		}
	}
	if n < 3 {
		ts.Fatalf("the quick start of README.md has %d sealtap commands", n)
	}
}

func repository() string { return filepath.Join("..", "..") }

// flipBox flips a bit of the first stored opening.
func flipBox(path string) error {
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		return err
	}
	defer db.Close()
	var entry int64
	var box []byte
	if err := db.QueryRow(`SELECT entry, box FROM opening ORDER BY entry`).Scan(&entry, &box); err != nil {
		return err
	}
	box[len(box)-1] ^= 1
	_, err = db.Exec(`UPDATE opening SET box = ? WHERE entry = ?`, box, entry)
	return err
}

// upstream ADDR answers every request with its path and body.
func upstream() {
	err := http.ListenAndServe(os.Args[1], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "hello from %s %s\n", r.URL.Path, body)
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// load URL N FILE sends up to N requests, eight at a time, and appends the
// exchange id of each that was answered in full to FILE. It ends well when the
// proxy goes away.
func load() {
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	f, err := os.OpenFile(os.Args[3], os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		panic(err)
	}
	work := make(chan int)
	done := make(chan bool)
	for range 8 {
		go func() {
			defer func() { done <- true }()
			for i := range work {
				resp, err := http.Post(os.Args[1]+"/load/"+strconv.Itoa(i), "text/plain", strings.NewReader("x"))
				if err != nil {
					continue
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err == nil && resp.StatusCode == http.StatusOK && len(body) > 0 {
					fmt.Fprintln(f, resp.Header.Get("Sealtap-Exchange"))
				}
			}
		}()
	}
	for i := range n {
		work <- i
	}
	close(work)
	for range 8 {
		<-done
	}
	os.Exit(0)
}

// tamper flip DB INDEX flips a bit of a stored entry; tamper tile DB blanks the
// right edge of the stored tree; tamper box DB flips a bit of an opening; tamper drop DB NEWDB INDEX
// KEY removes an entry, rebuilds the tree and signs it with the log's key; tamper cluster does
// such things to a log on Trillian.
func tamper() {
	var err error
	ctx := context.Background()
	switch os.Args[1] {
	case "flip":
		index, _ := strconv.ParseUint(os.Args[3], 10, 64)
		err = alterEntry(ctx, os.Args[2], index, func(entry []byte) { entry[len(entry)/2] ^= 1 })
	case "tile":
		var db *sql.DB
		if db, err = sql.Open("sqlite3", os.Args[2]); err == nil {
			_, err = db.Exec(`UPDATE tile SET hashes = zeroblob(length(hashes)) WHERE id > 1`)
		}
	case "prune":
		err = pruneMore(os.Args[2], os.Args[3])
	case "box":
		err = flipBox(os.Args[2])
	case "cluster":
		err = tamperCluster(ctx, os.Args[2:])
	case "drop":
		index, _ := strconv.ParseUint(os.Args[4], 10, 64)
		key, kerr := loadKey("key", os.Args[5], 1)
		if err = kerr; err == nil {
			err = dropEntry(ctx, os.Args[2], os.Args[3], index, key)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// pruneMore moves the minimum index of a log by hand, and deletes what is below.
func pruneMore(path, minimum string) error {
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		return err
	}
	defer db.Close()
	m, err := strconv.ParseUint(minimum, 10, 63)
	if err != nil {
		return err
	}
	for _, statement := range []string{`UPDATE pruned SET minimum = ?1`, `DELETE FROM bundle WHERE n > 0 AND n < ?1 / 256`, `DELETE FROM tile WHERE id > 0 AND id < ?1 / 256`} {
		if _, err := db.Exec(statement, m); err != nil {
			return err
		}
	}
	return nil
}

// pruned URL MINIMUM waits until the log has let go of what is below an index.
func pruned(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.ParseUint(args[1], 10, 64)
	ts.Check(err)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		src, err := client.Open(args[0])
		ts.Check(err)
		r, err := src.Retention(context.Background())
		if err == nil && r.Minimum >= want {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("the log begins at %+v: %v", r, err)
		}
	}
}

// headed URL waits until the log there shows a head.
func headed(ts *testscript.TestScript, neg bool, args []string) {
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		src, err := client.Open(args[0], client.WithRetries(1, 0))
		ts.Check(err)
		if _, err = src.Checkpoint(context.Background()); err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("there is no head: %v", err)
		}
	}
}
