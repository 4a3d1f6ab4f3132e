package interop

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealtap/sealtap/interop/internal/stack"
)

// understood is a request as a server understands it.
type understood struct {
	method, target, host, body string
	whole, last                bool // the body came to its end; the connection is closed after it
}

// reader is a server that remembers what it understood.
type reader struct {
	network, addr string

	mu   sync.Mutex
	seen []understood
}

func (r *reader) add(u understood) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, u)
}

// read sends an input over a connection of its own, and returns what was understood
// and what was answered. One goroutine asks at a time.
func (r *reader) read(t *testing.T, input []byte) (list []understood, answers string) {
	t.Helper()
	r.mu.Lock()
	r.seen = nil
	r.mu.Unlock()
	c, err := net.Dial(r.network, r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = c.Write(input) // it may have heard enough before the end
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	text, err := io.ReadAll(c)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Fatalf("no end of the answers to %q: %q", input, text)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen, string(text)
}

const nginxConf = `
daemon off;
master_process off;
worker_processes 1;
pid %[1]s/pid;
error_log %[1]s/error.log crit;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  underscores_in_headers on;
  client_max_body_size 16m;
  large_client_header_buffers 8 64k;
  server {
    listen unix:%[1]s/nginx.sock;
    location / {
      proxy_pass http://unix:%[1]s/seen.sock:/seen;
      proxy_http_version 1.1;
      proxy_method POST;
      proxy_pass_request_headers off;
      proxy_ignore_client_abort on;
      proxy_set_header Host seen;
      proxy_set_header Connection close;
      proxy_set_header X-Seen-Method $request_method;
      proxy_set_header X-Seen-Target $request_uri;
      proxy_set_header X-Seen-Host $host;
    }
  }
}
`

// newNginx runs nginx until the test ends.
func newNginx(t *testing.T) *reader {
	t.Helper()
	bin, err := exec.LookPath("nginx")
	if err != nil {
		if bin = "/usr/sbin/nginx"; !fileExists(bin) {
			skip(t, "nginx is not installed")
		}
	}
	dir, err := os.MkdirTemp("", "ngx") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &reader{network: "unix", addr: filepath.Join(dir, "nginx.sock")}
	l, err := net.Listen("unix", filepath.Join(dir, "seen.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		h := q.Header
		r.add(understood{method: h.Get("X-Seen-Method"), target: h.Get("X-Seen-Target"), host: h.Get("X-Seen-Host"), body: string(body), whole: err == nil})
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	p, err := stack.Start(nil, bin, "-p", dir, "-c", conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if err := p.Await("its socket", 30*time.Second, func() bool {
		c, err := net.Dial("unix", r.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "error.log"))
		t.Fatalf("%v: %s", err, log)
	}
	return r
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// gaveUp reports whether answers say that the server refused something, or that it
// closes the connection, which is never a misunderstanding.
func gaveUp(answers string) bool {
	for line := range strings.Lines(answers) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "HTTP/1.1 4") || strings.HasPrefix(line, "HTTP/1.1 5") || strings.EqualFold(line, "Connection: close") {
			return true
		}
	}
	return answers == ""
}
