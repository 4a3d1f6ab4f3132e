// Package pgtest runs a PostgreSQL server for tests: the one that is installed, with
// its files in memory where there is room. No other package than a test imports it.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a running server.
type Server struct {
	dir    string
	bin    string
	cred   *syscall.Credential // nil: as this process
	cmd    *exec.Cmd
	exited chan struct{}
	next   atomic.Int64

	settings []string
}

// Binaries returns the directory of PostgreSQL's programs, "" if there is none.
func Binaries() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1])
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path)
	}
	return ""
}

// ErrNotInstalled says that there is no PostgreSQL on this machine.
var ErrNotInstalled = errors.New("PostgreSQL is not installed (apt install postgresql)")

// Start makes a cluster and starts its server, until the end of the test. The test is
// skipped where PostgreSQL is not installed, unless SEALTAP_REQUIRE_CLUSTER is set.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := New("")
	if errors.Is(err, ErrNotInstalled) && os.Getenv("SEALTAP_REQUIRE_CLUSTER") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// New makes a cluster in a new directory under base, or if that is empty in memory
// where there is any to be had, and starts its server.
func New(base string) (*Server, error) {
	bin := Binaries()
	if bin == "" {
		return nil, ErrNotInstalled
	}
	if _, err := os.Stat("/dev/shm"); err == nil && base == "" {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "sealtap-pg") // short: the path of a socket has 107 bytes
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, bin: bin}
	if err := s.init(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

func (s *Server) init() (err error) {
	if os.Geteuid() == 0 { // the server does not run as root
		if s.cred, err = unprivileged(); err != nil {
			return err
		}
		if err := os.Chown(s.dir, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
			return err
		}
	}
	cmd := s.command("initdb", "-D", filepath.Join(s.dir, "data"), "-U", "sealtap", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return s.Run()
}

// Close ends the server and removes its files.
func (s *Server) Close() {
	s.Stop(syscall.SIGQUIT)
	os.RemoveAll(s.dir)
}

func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no other user")
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	// The server dies with the test, even with one that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Pdeathsig: syscall.SIGQUIT}
	return cmd
}

// Run starts the server, which was stopped, and waits until it takes connections.
func (s *Server) Run() error {
	output := new(bytes.Buffer)
	args := []string{"-D", filepath.Join(s.dir, "data"), "-k", s.dir, "-c", "listen_addresses=",
		"-c", "max_connections=200", "-c", "shared_buffers=64MB", "-c", "max_wal_size=1GB", "-c", "autovacuum_naptime=1s"}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	s.cmd = s.command("postgres", args...)
	s.cmd.Stdout, s.cmd.Stderr = output, output
	if err := s.cmd.Start(); err != nil {
		return err
	}
	exited, cmd := make(chan struct{}), s.cmd
	s.exited = exited
	go func() { _ = cmd.Wait(); close(exited) }()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		conn, err := pgx.Connect(context.Background(), s.URL("postgres"))
		if err == nil {
			return conn.Close(context.Background())
		}
		select {
		case <-exited:
			return fmt.Errorf("PostgreSQL has ended: %s", output)
		default:
		}
		if time.Now().After(end) {
			return fmt.Errorf("PostgreSQL does not start: %w", err)
		}
	}
}

// Stop ends the server: with SIGINT in good order, with SIGQUIT as a crash would.
func (s *Server) Stop(sig syscall.Signal) {
	_ = s.cmd.Process.Signal(sig)
	<-s.exited
}

// URL is the address of a database of the server.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres:///%s?host=%s&user=sealtap", database, s.dir)
}

// Socket is the path of the socket on which the server listens.
func (s *Server) Socket() string { return filepath.Join(s.dir, ".s.PGSQL.5432") }

// Database makes an empty database, and returns its address.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	url, err := s.NewDatabase()
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// NewDatabase makes an empty database, and returns its address.
func (s *Server) NewDatabase() (url string, err error) {
	name, err := s.NewName()
	return s.URL(name), err
}

// NewName makes an empty database, and returns its name.
func (s *Server) NewName() (string, error) {
	name := fmt.Sprintf("test%d", s.next.Add(1))
	conn, err := pgx.Connect(context.Background(), s.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	return name, nil
}
