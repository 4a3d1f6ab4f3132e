package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// Everything that takes part in a measurement is a process of its own, so that
// neither schedulers nor garbage collectors mix. The benchmark runs itself again
// in a role: servers print where they listen, measurements print their result as
// one line of JSON.
const (
	roleUpstream = "upstream" // the service behind the proxies
	roleBare     = "bare"     // httputil.ReverseProxy as it comes, with 256 idle connections
	roleTuned    = "tuned"    // the same with a buffer pool, a large idle pool and GOGC=400
	roleFiles    = "files"    // a directory by http.FileServer
	roleLoad     = "load"
	roleAppend   = "append"  // submits batches to a log over HTTP
	roleFill     = "fill"    // submits records as a proxy makes them
	roleTessera  = "tessera" // appends to a Tessera POSIX log in process
	roleBuilder  = "builder" // Tessera's ProofBuilder
	roleAudit    = "audit"
	roleTree     = "tree"
	roleFsck     = "fsck" // Tessera's fsck
	roleMirror   = "mirror"
	roleWitness  = "witness"
	roleCosign   = "cosign"   // asks a witness
	roleHold     = "hold"     // keeps connections that do nothing
	roleSource   = "source"   // an upstream with long answers
	roleDownload = "download" // fetches one
)

const listening = "listening on "

// play runs a role until it is done or killed.
func play(role string, args []string) error {
	spec := ""
	if len(args) > 0 {
		spec = args[0]
	}
	switch role {
	case roleUpstream:
		return serve(serveUpstream)
	case roleBare, roleTuned:
		return serve(func(ln net.Listener) error { return reverseProxy(ln, spec, role == roleTuned) })
	case roleFiles:
		return serve(func(ln net.Listener) error { return serveFiles(ln, spec) })
	case roleWitness:
		return serve(func(ln net.Listener) error { return serveWitness(ln, spec) })
	case roleCosign:
		return measure(spec, cosign)
	case roleSource:
		return serve(serveSource)
	case roleDownload:
		return measure(spec, download)
	case roleHold:
		return measure(spec, hold)
	case roleMirror:
		return measure(spec, mirrorOurs)
	case roleLoad:
		return measure(spec, load)
	case roleAppend:
		return measure(spec, appendOurs)
	case roleFill:
		return measure(spec, fill)
	case roleTessera:
		return measure(spec, appendTessera)
	case roleBuilder:
		return measure(spec, buildProofs)
	case roleAudit:
		return measure(spec, auditOurs)
	case roleTree:
		return measure(spec, treeOurs)
	case roleFsck:
		return measure(spec, fsckTheirs)
	}
	return fmt.Errorf("there is no role %q", role)
}

func serve(run func(net.Listener) error) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listening + ln.Addr().String())
	return run(ln)
}

func measure[S, R any](arg string, run func(S) (R, error)) error {
	var spec S
	if err := json.Unmarshal([]byte(arg), &spec); err != nil {
		return fmt.Errorf("reading role's specification: %w", err)
	}
	result, err := run(spec)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// reverseProxy is the unaudited proxy that ours is compared with.
func reverseProxy(ln net.Listener, upstream string, tuned bool) error {
	u, err := url.Parse(upstream)
	if err != nil {
		return err
	}
	p := httputil.NewSingleHostReverseProxy(u)
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 256
	if tuned {
		debug.SetGCPercent(400)
		t.MaxIdleConns, t.MaxIdleConnsPerHost = 4096, 4096
		p.BufferPool = new(buffers)
	}
	p.Transport = t
	srv := &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	return srv.Serve(ln)
}

// buffers is an [httputil.BufferPool].
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

// ask runs a role to its end and returns its result.
func ask[R any](role string, spec any) (R, error) {
	var result R
	arg, err := json.Marshal(spec)
	if err != nil {
		return result, err
	}
	cmd, err := self("role", role, string(arg))
	if err != nil {
		return result, err
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &result)
	}
	if err != nil {
		return result, fmt.Errorf("role %s: %w", role, err)
	}
	return result, nil
}

// begin runs a role that is not waited for.
func begin(role string, spec any) (*stack.Process, error) {
	arg, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	bin, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return stack.Start(nil, bin, "role", role, string(arg))
}

// start runs a role that serves, and returns its address.
func start(role string, args ...string) (*stack.Process, string, error) {
	bin, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	p, err := stack.Start(nil, bin, append([]string{"role", role}, args...)...)
	if err != nil {
		return nil, "", err
	}
	addr := ""
	err = p.Await("its address", 10*time.Second, func() bool {
		for line := range strings.Lines(p.Output()) {
			if a, ok := strings.CutPrefix(line, listening); ok && strings.HasSuffix(a, "\n") {
				addr = strings.TrimSpace(a)
			}
		}
		return addr != ""
	})
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("role %s: %w", role, err), p.Stop())
	}
	return p, addr, nil
}

func self(args ...string) (*exec.Cmd, error) {
	bin, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}
