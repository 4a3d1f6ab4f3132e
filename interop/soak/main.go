// Command soak runs the whole of sealtap, each part a process of its own, under
// steady load, and watches what it takes: memory and descriptors of each process,
// and disk for each record. It fails if they grow when they should not, if an
// exchange fails, or if the audit at the end does.
//
// From make: make soak SOAK=15m.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/interop/internal/stack"
)

var (
	length = flag.Duration("for", 15*time.Minute, "how long")
	rate   = flag.Int("rate", 200, "exchanges a second")
	every  = flag.Duration("every", 5*time.Second, "time between two samples")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// part is one process of the stack.
type part struct {
	name string
	*stack.Process
}

func run() (err error) {
	tmp, err := os.MkdirTemp("", "sealtap-soak")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	bin, err := stack.Build(tmp)
	if err != nil {
		return err
	}
	upstream := httptest.NewServer(http.HandlerFunc(echo))
	defer upstream.Close()
	dir := filepath.Join(tmp, "data")
	s, err := stack.Up(bin, dir, upstream.URL) // makes everything, and enrols the proxy
	if err == nil {
		err = s.Stop()
	}
	if err != nil {
		return err
	}
	parts, err := startAll(bin, dir)
	defer func() {
		for i := len(parts) - 1; i >= 0; i-- {
			err = errors.Join(err, parts[i].Stop())
		}
		if err == nil {
			err = audit(bin, dir, dir)
		}
	}()
	if err != nil {
		return err
	}
	samples, done, err := soak(s, parts)
	if err != nil {
		return err
	}
	fmt.Printf("%d exchanges in %v\n", done, *length)
	if err := errors.Join(judge(samples, parts)...); err != nil {
		return err
	}
	return audit(bin, dir, s.Log)
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(body)
}

func startAll(bin, dir string) ([]part, error) {
	file := filepath.Join(dir, "config.yaml")
	c, err := config.Load(file)
	if err != nil {
		return nil, err
	}
	var parts []part
	add := func(name string, args ...string) error {
		p, err := stack.Start(nil, bin, append(args, "--config", file)...)
		if err != nil {
			return err
		}
		parts = append(parts, part{name, p})
		return p.Await("its address", time.Minute, func() bool { return strings.Contains(p.Output(), " listens on ") })
	}
	for _, w := range c.Witnesses {
		if err := add(w.Name, "witness", "--name", w.Name); err != nil {
			return parts, err
		}
	}
	if err := add("log", "log"); err != nil {
		return parts, err
	}
	return parts, add("proxy", "proxy")
}

// soak keeps up the load and takes samples until the time is over.
func soak(s *stack.Stack, parts []part) (list []sample, done int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), *length)
	defer cancel()
	var wg sync.WaitGroup
	var count, failed atomic.Int64
	var why atomic.Value
	const workers = 16
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}, Timeout: time.Minute}
	for range workers {
		wg.Go(func() {
			tick := time.NewTicker(workers * time.Second / time.Duration(*rate))
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				if err := exchange(client, s.Proxy, count.Add(1)); err != nil {
					failed.Add(1)
					why.Store(err)
				}
			}
		})
	}
	tick := time.NewTicker(*every)
	defer tick.Stop()
	for begin := time.Now(); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-tick.C:
			one, err := take(s, parts, time.Since(begin))
			if err != nil {
				cancel()
				wg.Wait()
				return nil, 0, err
			}
			fmt.Println(one.text(parts))
			list = append(list, one)
		}
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		return nil, 0, fmt.Errorf("%d of %d exchanges failed, the last one: %w", n, count.Load(), why.Load().(error))
	}
	return list, count.Load(), nil
}

func exchange(c *http.Client, proxy string, n int64) error {
	body := bytes.Repeat([]byte{byte(n)}, 200+int(n%800))
	resp, err := c.Post(fmt.Sprintf("%s/soak/%d?token=%d", proxy, n%50, n), "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	back, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Equal(back, body)) {
		err = fmt.Errorf("status %d, %d bytes back", resp.StatusCode, len(back))
	}
	return err
}

// published is the size of the log.
func published(s *stack.Stack) (uint64, error) {
	signed, err := s.Get(context.Background(), "/checkpoint")
	if err != nil {
		return 0, err
	}
	text, err := checkpoint.Text(signed)
	if err != nil {
		return 0, err
	}
	body, _, err := checkpoint.Parse(text)
	return body.Size, err
}

func audit(bin, dir, source string) error {
	p, err := stack.Start(nil, bin, "audit", source, "--policy", filepath.Join(dir, "policy.txt"))
	if err != nil {
		return err
	}
	if code := p.ExitCode(); code != 0 {
		return fmt.Errorf("the audit of %s ends with %d: %s", source, code, p.Output())
	}
	return nil
}
