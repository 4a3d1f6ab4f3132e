// Command cluster runs a log on Trillian on one machine, until it is interrupted:
// PostgreSQL, Trillian's servers, two log servers, three witnesses and two proxies in
// front of a small upstream. scripts/cluster calls it.
package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sealtap/sealtap/interop/internal/cluster"
	"github.com/sealtap/sealtap/interop/internal/stack"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("say the DIR of its files, which is made")
	}
	dir, err := filepath.Abs(os.Args[1])
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("%w; say a DIR that is not there", err)
	}
	fmt.Println("building sealtap, and Trillian if it was not built before")
	bin, err := stack.Build(dir)
	if err != nil {
		return err
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %s\n", r.URL.Path) }))
	defer upstream.Close()
	c, err := cluster.Up(bin, dir, cluster.Options{Logs: 2, Witnesses: 3, Proxies: 2, Upstream: upstream.URL})
	if err != nil {
		return err
	}
	for what, list := range map[string][]*cluster.Node{"proxy": c.Proxies, "log server": c.Logs, "witness": c.Witnesses} {
		for _, n := range list {
			fmt.Printf("%-10s  %s  pid %d  %s\n", what, n.URL, n.PID(), n.Config)
		}
	}
	fmt.Printf("policy      %s\ntry: curl %s/hello; kill -9 the log server that writes (sealtap_log_writing 1 in its /metrics)\nCtrl-C ends it all\n",
		c.PolicyFile, c.Proxies[0].URL)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	<-stop
	return c.Down()
}
