package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/storage/postgres/pgtest"
	"github.com/sealtap/sealtap/storage/trillian/trilliantest"
)

// TestScriptOnTrillian tells stories of testdata/script once more, with the log of sealtap
// up on Trillian and PostgreSQL, and those of testdata/cluster, which are about nothing else.
// In the environment are POSTGRES and TRILLIANDB, the databases of the log and of
// Trillian, and PGDATA, the directory of both.
func TestScriptOnTrillian(t *testing.T) {
	if testing.Short() {
		t.Skip("runs PostgreSQL and Trillian")
	}
	server := pgtest.Start(t)
	if _, err := trilliantest.Binaries(); err != nil && os.Getenv("SEALTAP_REQUIRE_CLUSTER") == "" {
		t.Skip("Trillian cannot be installed: ", err)
	}
	p := stories()
	var err error
	if p.Files, err = filepath.Glob("testdata/cluster/*.txt"); err != nil || len(p.Files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, name := range []string{"quickstart", "crash-restart"} {
		p.Files = append(p.Files, "testdata/script/"+name+".txt")
	}
	alone := p.Setup
	p.Setup = func(e *testscript.Env) error {
		trillian, err := trilliantest.New(server, e.WorkDir)
		if err != nil {
			return err
		}
		e.Defer(trillian.Close)
		database, err := server.NewDatabase()
		if err != nil {
			return err
		}
		e.Values[clusterKey{}] = &storyCluster{server, trillian}
		for name, value := range map[string]string{"POSTGRES": database, "TRILLIAN": trillian.Address, "TRILLIANDB": trillian.Database, "PGDATA": server.Dir()} {
			e.Setenv(name, value)
		}
		return alone(e)
	}
	otherwise := p.Condition
	p.Condition = func(cond string) (bool, error) {
		if cond == "cluster" {
			return true, nil
		}
		return otherwise(cond)
	}
	for name, f := range map[string]func(*testscript.TestScript, bool, []string){
		"signer": signer, "database": database, "unwritten": unwritten, "newtree": newTree, "replace": replace} {
		p.Cmds[name] = f
	}
	testscript.Run(t, p)
}

// clusterEnv is where sealtap up of a story keeps its log; empty: in a file.
var clusterEnv = []string{"POSTGRES", "TRILLIAN"}

type clusterKey struct{}

type storyCluster struct {
	postgres *pgtest.Server
	trillian *trilliantest.Cluster
}

func clusterOf(ts *testscript.TestScript) *storyCluster {
	c, ok := ts.Value(clusterKey{}).(*storyCluster)
	if !ok {
		ts.Fatalf("this story has no cluster")
	}
	return c
}

// signer kill ends Trillian's signer, signer run starts it.
func signer(ts *testscript.TestScript, neg bool, args []string) {
	s := clusterOf(ts).trillian.Signer
	if args[0] == "run" {
		ts.Check(s.Run())
		return
	}
	s.Kill()
}

// database NAME makes an empty database, and sets NAME to its address; database NAME OLD
// makes one of what is in the database at the address OLD, which nobody uses meanwhile.
func database(ts *testscript.TestScript, neg bool, args []string) {
	server := clusterOf(ts).postgres
	url, err := server.NewDatabase()
	if len(args) > 1 {
		name := func(url string) string {
			name, _, _ := strings.Cut(strings.TrimPrefix(url, "postgres:///"), "?")
			return name
		}
		for _, statement := range []string{"DROP DATABASE %s", "CREATE DATABASE %s TEMPLATE " + name(args[1])} {
			ts.Check(server.Exec(fmt.Sprintf(statement, name(url))))
		}
	}
	ts.Check(err)
	ts.Setenv(args[0], url)
}

// newtree CONFIG has sealtap log init make a new tree, and the configuration name that.
func newTree(ts *testscript.TestScript, neg bool, args []string) {
	path, id := ts.MkAbs(args[0]), regexp.MustCompile(`tree_id: \d+`)
	text, err := os.ReadFile(path)
	ts.Check(err)
	ts.Check(os.WriteFile(path, id.ReplaceAll(text, []byte("tree_id: 0")), 0o600))
	ts.Check(ts.Exec("sealtap", "log", "init", "--config", path))
	made := regexp.MustCompile(`^made tree \d+ and the tables; now set log.storage.trillian.(tree_id: \d+)\n$`).FindStringSubmatch(ts.ReadFile("stdout"))
	if made == nil {
		ts.Fatalf("sealtap log init says %q", ts.ReadFile("stdout"))
	}
	ts.Check(os.WriteFile(path, id.ReplaceAll(text, []byte(made[1])), 0o600))
}

// replace FILE OLD NEW replaces a text in a file, once.
func replace(ts *testscript.TestScript, neg bool, args []string) {
	path := ts.MkAbs(args[0])
	text, err := os.ReadFile(path)
	ts.Check(err)
	if bytes.Count(text, []byte(args[1])) != 1 {
		ts.Fatalf("%s does not have %q once", args[0], args[1])
	}
	ts.Check(os.WriteFile(path, bytes.Replace(text, []byte(args[1]), []byte(args[2]), 1), 0o600))
}

// unwritten DIR KNOWN TEXT… looks through all files below a directory for texts that must
// not be there, and for one that has to be.
func unwritten(ts *testscript.TestScript, neg bool, args []string) {
	found := false
	ts.Check(filepath.WalkDir(args[0], func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // a server is at work there
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for _, text := range args[2:] {
			if bytes.Contains(data, []byte(text)) {
				return fmt.Errorf("%s has %q in it", path, text)
			}
		}
		found = found || bytes.Contains(data, []byte(args[1]))
		return nil
	}))
	if !found {
		ts.Fatalf("nothing below %s has %q in it", args[0], args[1])
	}
}

// sealtapMain is the command. On a cluster the log of sealtap up is kept there: the
// first run makes the directory as any first run does, and then does what docs/scaling.md
// says.
func sealtapMain() {
	if os.Getenv("POSTGRES") != "" && len(os.Args) > 1 && os.Args[1] == "up" {
		if err := upOnCluster(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "sealtap on a cluster:", err)
			os.Exit(exitUnfinished)
		}
	}
	main()
}

func upOnCluster(args []string) error {
	cmd := newUp()
	if err := cmd.ParseFlags(args); err != nil {
		return err
	}
	flag := func(name string) string { return cmd.Flag(name).Value.String() }
	dir := flag("dir")
	file := filepath.Join(dir, "config.yaml")
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	f := upFlags{upstream: flag("upstream"), listen: flag("listen"), logListen: flag("log-listen")}
	d, err := openDataDir(dir, f)
	if err != nil {
		return err
	}
	defer d.close()
	if _, err := d.prepare(f); err != nil {
		return err
	}
	if err := moveStorage(file, 0); err != nil {
		return err
	}
	c, err := config.Load(file)
	if err != nil {
		return err
	}
	id, _, err := initTree(context.Background(), c.Log)
	if err != nil {
		return err
	}
	return moveStorage(file, id)
}

// moveStorage has a configuration say that the log is on Trillian, in a tree.
func moveStorage(file string, tree int64) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	const before = "  database: log.db\n"
	begin, end := bytes.Index(text, []byte(before)), bytes.Index(text, []byte("  key: keys/log.key\n"))
	if begin < 0 || end < begin {
		return fmt.Errorf("%s has no %q", file, before)
	}
	storage := fmt.Sprintf("  storage:\n    trillian:\n      address: %s\n      tree_id: %d\n      postgres: %s\n", os.Getenv("TRILLIAN"), tree, os.Getenv("POSTGRES"))
	text = append(append(append([]byte(nil), text[:begin+len(before)]...), storage...), text[end:]...)
	return os.WriteFile(file, text, 0o600)
}
