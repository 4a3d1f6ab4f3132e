// Package trilliantest runs the servers of Trillian for tests, over a PostgreSQL of
// package pgtest. No other package than a test imports it.
package trilliantest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/trillian"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sealtap/sealtap/storage/postgres/pgtest"
)

// Module is where the servers come from, with the version that is tested.
const Module = "github.com/google/trillian@v1.8.0"

// Cluster is a log server and a signer over one database.
type Cluster struct {
	Address  string // of the log server
	Database string // of both, as an address
	Server   *Process
	Signer   *Process
}

// Process is a server as a process of its own.
type Process struct {
	path string
	args []string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

var (
	buildOnce sync.Once
	buildDir  string
	buildErr  error
)

// Binaries returns the directory of Trillian's servers: $SEALTAP_TRILLIAN_BIN, or one
// in the user's cache, where they are installed from the module proxy if need be.
func Binaries() (string, error) {
	buildOnce.Do(func() { buildDir, buildErr = install() })
	return buildDir, buildErr
}

func install() (string, error) {
	if dir := os.Getenv("SEALTAP_TRILLIAN_BIN"); dir != "" {
		return dir, nil
	}
	module, version, _ := strings.Cut(Module, "@")
	return Install("trillian-"+version, "-tags=postgresql", "-ldflags=-s -w", module+"/cmd/trillian_log_server@"+version, module+"/cmd/trillian_log_signer@"+version)
}

// schema makes an empty database of Trillian, and returns its address.
func schema(server *pgtest.Server) (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/trillian").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module of Trillian: %w", err)
	}
	script, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "storage", "postgresql", "schema", "storage.sql"))
	if err != nil {
		return "", err
	}
	url, err := server.NewDatabase()
	if err != nil {
		return "", err
	}
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), string(script)); err != nil {
		return "", err
	}
	// Without statistics from the first writes on the planner chooses to read whole
	// tables for every batch, some 10,000 entries later.
	for _, table := range []string{"leafdata", "sequencedleafdata", "subtree", "treehead", "unsequenced"} {
		if _, err := conn.Exec(context.Background(), "ALTER TABLE "+table+" SET (autovacuum_analyze_threshold = 500, autovacuum_analyze_scale_factor = 0.5)"); err != nil {
			return "", err
		}
	}
	// A batch is joined with all leaves by a temporary table that has no statistics: the
	// planner takes it for large, and reads all leaves for each batch until there are
	// some 400,000 of them.
	for _, method := range []string{"hashjoin", "mergejoin"} {
		if _, err := conn.Exec(context.Background(), "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET enable_"+method+" = off', current_database()); END $$"); err != nil {
			return "", err
		}
	}
	return url, nil
}

// Start starts Trillian over a new database of the server, until the end of the test.
// The test is skipped where Trillian cannot be installed, unless
// SEALTAP_REQUIRE_CLUSTER is set.
func Start(t testing.TB, server *pgtest.Server) *Cluster {
	t.Helper()
	if _, err := Binaries(); err != nil && os.Getenv("SEALTAP_REQUIRE_CLUSTER") == "" {
		t.Skip("Trillian cannot be installed: ", err)
	}
	c, err := New(server, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		for _, p := range []*Process{c.Server, c.Signer} {
			if out, err := os.ReadFile(p.log); err == nil && t.Failed() {
				t.Logf("%s:\n%s", filepath.Base(p.path), tail(out))
			}
		}
	})
	return c
}

// New starts Trillian over a new database of the server. Its servers log in a
// directory.
func New(server *pgtest.Server, dir string) (*Cluster, error) {
	bin, err := Binaries()
	if err != nil {
		return nil, err
	}
	url, err := schema(server)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Database: url}
	var signer string
	for _, addr := range []*string{&c.Address, &signer} {
		if *addr, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	common := []string{"--storage_system=postgresql", "--quota_system=noop", "--postgresql_uri=" + url, "--logtostderr", "--http_endpoint="}
	c.Server = &Process{path: filepath.Join(bin, "trillian_log_server"), log: filepath.Join(dir, "trillian_log_server.log"),
		args: append([]string{"--rpc_endpoint=" + c.Address, "--max_msg_size_bytes=67108864"}, common...)}
	c.Signer = &Process{path: filepath.Join(bin, "trillian_log_signer"), log: filepath.Join(dir, "trillian_log_signer.log"),
		args: append([]string{"--rpc_endpoint=" + signer, "--force_master", "--sequencer_interval=50ms", "--batch_size=1000", "--num_sequencers=1"}, common...)}
	if err := c.Server.Run(); err != nil {
		return nil, err
	}
	if err := c.Signer.Run(); err != nil {
		c.Server.Kill()
		return nil, err
	}
	if err := c.await(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends both servers.
func (c *Cluster) Close() {
	c.Server.Kill()
	c.Signer.Kill()
}

func tail(out []byte) []byte { return out[max(0, len(out)-4000):] }

// await waits until the log server answers.
func (c *Cluster) await() error {
	conn, err := grpc.NewClient(c.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if _, err := trillian.NewTrillianAdminClient(conn).ListTrees(ctx, &trillian.ListTreesRequest{}, grpc.WaitForReady(true)); err != nil {
		return fmt.Errorf("the servers of Trillian do not start: %w", err)
	}
	return nil
}

// Run starts the process.
func (p *Process) Run() error {
	out, err := os.OpenFile(p.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() { _ = cmd.Wait(); close(done) }()
	return nil
}

// Kill ends the process at once.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Signal sends the process a signal.
func (p *Process) Signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
