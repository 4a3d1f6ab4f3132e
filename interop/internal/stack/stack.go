// Package stack runs the real sealtap binary for the foreign checkers and the
// benchmarks of this module: it builds the command from the module beside it,
// starts processes and waits until they serve.
//
// Start with Build, then Up.
package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/witness/policy"
)

const module = "github.com/sealtap/sealtap"

// Build builds the sealtap command with the dependencies of its own module, and
// returns the path of the binary in dir.
func Build(dir string) (string, error) { return BuildTagged(dir, "") }

// BuildTagged builds it with build tags.
func BuildTagged(dir, tags string) (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("finding module %s: %w", module, err)
	}
	bin := filepath.Join(dir, "sealtap")
	return bin, goBuild("-C", strings.TrimSpace(string(root)), "-tags", tags, "-o", bin, "./cmd/sealtap")
}

// BuildForeign builds a command of somebody else's, in the version that this
// module's go.mod names.
func BuildForeign(dir, pkg string) (string, error) {
	bin := filepath.Join(dir, filepath.Base(pkg))
	return bin, goBuild("-o", bin, pkg)
}

func goBuild(args ...string) error {
	out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("building %s: %w: %s", args[len(args)-1], err, bytes.TrimSpace(out))
	}
	return nil
}

// Process is a running program.
type Process struct {
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
	err  error // once done is closed
}

// output keeps what a program printed.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Start starts a program. Its goroutine ends with the program.
func Start(env []string, bin string, args ...string) (*Process, error) {
	return start(&syscall.SysProcAttr{}, "", env, bin, args)
}

// StartIn starts a program in a directory.
func StartIn(dir, bin string, args ...string) (*Process, error) {
	return start(&syscall.SysProcAttr{}, dir, nil, bin, args)
}

// StartInGroup starts a program in a process group, or with group 0 as the leader
// of a new one, whose number is then its PID.
func StartInGroup(group int, env []string, bin string, args ...string) (*Process, error) {
	return start(&syscall.SysProcAttr{Setpgid: true, Pgid: group}, "", env, bin, args)
}

// StartAs starts a program with the rights of another user, which only root can.
func StartAs(uid, gid int, env []string, bin string, args ...string) (*Process, error) {
	return start(&syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, "", env, bin, args)
}

func start(attr *syscall.SysProcAttr, dir string, env []string, bin string, args []string) (*Process, error) {
	p := &Process{cmd: exec.Command(bin, args...), out: new(output), done: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	// A program that was forgotten must not outlive its parent.
	attr.Pdeathsig = syscall.SIGKILL
	p.cmd.SysProcAttr = attr
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", filepath.Base(bin), err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Output is what the program has printed so far.
func (p *Process) Output() string { return p.out.String() }

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Killed reports whether the program was ended by SIGKILL. It waits for the end.
func (p *Process) Killed() bool {
	<-p.done
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signal() == syscall.SIGKILL
}

// ExitCode returns that of a program that has ended, -1 for one that a signal ended.
func (p *Process) ExitCode() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Kill ends the program with SIGKILL, and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// Signal sends the program a signal.
func (p *Process) Signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) } // it may have ended

// Stop asks the program to end, and waits for it. A program that does not end
// within 20 s is killed, which is an error.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended: Wait tells
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not stop: %s", filepath.Base(p.cmd.Path), p.Output())
	}
	var exit *exec.ExitError
	if errors.As(p.err, &exit) && exit.ExitCode() == -1 {
		return nil // ended by the signal
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(p.cmd.Path), p.err, p.Output())
	}
	return nil
}

// Await waits until ready reports true. It gives up when the program ends or
// after the time.
func (p *Process) Await(what string, limit time.Duration, ready func() bool) error {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if ready() {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended while waiting for %s: %v: %s", filepath.Base(p.cmd.Path), what, p.err, p.Output())
		default:
		}
		if time.Now().After(end) {
			return fmt.Errorf("waiting for %s of %s: not after %v: %s", what, filepath.Base(p.cmd.Path), limit, p.Output())
		}
	}
}

// Stack is a running sealtap up.
type Stack struct {
	*Process
	Bin, Dir string
	Proxy    string // URL
	Log      string // URL
	Policy   *policy.Policy
	PolicyTx []byte // policy.txt
}

// Up runs sealtap up on a directory, and waits until it serves. An empty
// upstream makes a forward proxy. On a directory that exists everything listens
// where it did before.
func Up(bin, dir, upstream string) (*Stack, error) {
	args := []string{"up", "--dir", dir}
	if _, err := os.Stat(filepath.Join(dir, "config.yaml")); errors.Is(err, os.ErrNotExist) {
		args = append(args, "--listen", "127.0.0.1:0", "--log-listen", "127.0.0.1:0")
		if upstream != "" {
			args = append(args, "--upstream", upstream)
		}
	}
	p, err := Start(nil, bin, args...)
	if err != nil {
		return nil, err
	}
	s := &Stack{Process: p, Bin: bin, Dir: dir}
	err = p.Await("sealtap up", 30*time.Second, func() bool { return strings.Contains(p.Output(), "sealtap is up") })
	if err == nil {
		err = s.read()
	}
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return s, nil
}

// Stop closes the connections that Fetch keeps, and then stops sealtap up.
func (s *Stack) Stop() error {
	http.DefaultClient.CloseIdleConnections()
	return s.Process.Stop()
}

// read learns from the directory what runs.
func (s *Stack) read() error {
	c, err := config.Load(filepath.Join(s.Dir, "config.yaml"))
	if err != nil {
		return err
	}
	s.Proxy, s.Log = "http://"+c.Proxy.Listen, "http://"+c.Log.Listen
	if s.PolicyTx, err = os.ReadFile(string(c.Proxy.Policy)); err != nil {
		return fmt.Errorf("reading policy: %w", err)
	}
	s.Policy, err = policy.Parse(s.PolicyTx)
	return err
}

// LogKey is the vkey of the log, as policy.txt gives it.
func (s *Stack) LogKey() string { return s.Policy.Logs[0].Key.String() }

// Origin is the log's.
func (s *Stack) Origin() string { return s.Policy.Logs[0].Key.Name }

// Get fetches a path of the log.
func (s *Stack) Get(ctx context.Context, path string) ([]byte, error) {
	return Fetch(ctx, s.Log+path)
}

// Fetch fetches a URL. Every status but 200 is an error.
func Fetch(ctx context.Context, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("fetching: %w", err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("fetching: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(body))
	}
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", url, err)
	}
	return body, nil
}
