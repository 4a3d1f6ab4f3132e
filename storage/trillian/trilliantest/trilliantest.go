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
	Address string // of the log server
	Server  *Process
	Signer  *Process
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
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	_, version, _ := strings.Cut(Module, "@")
	dir := filepath.Join(cache, "sealtap", "trillian-"+version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// One of the test programs that run side by side installs, the others wait.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return dir, nil
	}
	module, version, _ := strings.Cut(Module, "@")
	cmd := exec.Command("go", "install", "-tags=postgresql", "-ldflags=-s -w",
		module+"/cmd/trillian_log_server@"+version, module+"/cmd/trillian_log_signer@"+version)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install of %s: %w\n%s", Module, err, out)
	}
	return dir, os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644)
}

// Schema makes an empty database of Trillian, and returns its address.
func Schema(t testing.TB, server *pgtest.Server) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/trillian").Output()
	if err != nil {
		t.Fatal("finding the module of Trillian: ", err)
	}
	script, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "storage", "postgresql", "schema", "storage.sql"))
	if err != nil {
		t.Fatal(err)
	}
	url := server.Database(t)
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), string(script)); err != nil {
		t.Fatal(err)
	}
	return url
}

// Start starts Trillian over a new database of the server. The test is skipped where
// Trillian cannot be installed, unless SEALTAP_REQUIRE_CLUSTER is set.
func Start(t testing.TB, server *pgtest.Server) *Cluster {
	t.Helper()
	bin, err := Binaries()
	if err != nil {
		if os.Getenv("SEALTAP_REQUIRE_CLUSTER") != "" {
			t.Fatal(err)
		}
		t.Skip("Trillian cannot be installed: ", err)
	}
	url := Schema(t, server)
	dir := t.TempDir()
	c := &Cluster{Address: freeAddr(t)}
	common := []string{"--storage_system=postgresql", "--quota_system=noop", "--postgresql_uri=" + url, "--logtostderr", "--http_endpoint="}
	c.Server = &Process{path: filepath.Join(bin, "trillian_log_server"), log: filepath.Join(dir, "server.log"),
		args: append([]string{"--rpc_endpoint=" + c.Address, "--max_msg_size_bytes=67108864"}, common...)}
	c.Signer = &Process{path: filepath.Join(bin, "trillian_log_signer"), log: filepath.Join(dir, "signer.log"),
		args: append([]string{"--rpc_endpoint=" + freeAddr(t), "--force_master", "--sequencer_interval=50ms", "--batch_size=1000", "--num_sequencers=1"}, common...)}
	for _, p := range []*Process{c.Server, c.Signer} {
		p.Run(t)
		t.Cleanup(func() {
			p.Kill()
			if out, err := os.ReadFile(p.log); err == nil && t.Failed() {
				t.Logf("%s:\n%s", filepath.Base(p.path), tail(out))
			}
		})
	}
	c.await(t)
	return c
}

func tail(out []byte) []byte { return out[max(0, len(out)-4000):] }

// await waits until the log server answers.
func (c *Cluster) await(t testing.TB) {
	t.Helper()
	conn, err := grpc.NewClient(c.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if _, err := trillian.NewTrillianAdminClient(conn).ListTrees(ctx, &trillian.ListTreesRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal("Trillian does not start: ", err)
	}
}

// Run starts the process.
func (p *Process) Run(t testing.TB) {
	t.Helper()
	out, err := os.OpenFile(p.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done, cmd := make(chan struct{}), p.cmd
	p.done = done
	go func() { _ = cmd.Wait(); close(done) }()
}

// Kill ends the process at once.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func freeAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
