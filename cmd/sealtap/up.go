package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness"
)

const defaultListen = "127.0.0.1:8080"

func newUp() *cobra.Command {
	var f upFlags
	dir := defaultDir
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a proxy, a log and two witnesses in one process",
		Long: `Runs everything on this machine, out of one directory that it makes on the first run:
keys, config.yaml (what it runs, ready to be split into separate daemons) and
policy.txt (for auditors). With --upstream it is a reverse proxy to that URL; without,
a forward proxy for HTTP and CONNECT (curl -x, HTTP_PROXY).

On a directory that exists it goes on with what config.yaml says; flags change it.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkUpstream(f.upstream); err != nil {
				return err
			}
			logger, err := newLogger("text")
			if err != nil {
				return err
			}
			return up(cmd.Context(), dir, f, logger, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&f.upstream, "upstream", "", "`URL` to forward to; without it a forward proxy")
	cmd.Flags().StringVar(&dir, "dir", dir, "data `DIR`")
	cmd.Flags().StringVar(&f.listen, "listen", "", "`ADDR` of the proxy (default "+defaultListen+")")
	cmd.Flags().StringVar(&f.logListen, "log-listen", "", "`ADDR` of the log (default "+defaultLogListen+")")
	return cmd
}

func up(ctx context.Context, dir string, f upFlags, logger *slog.Logger, out io.Writer) error {
	d, err := openDataDir(dir, f)
	if err != nil {
		return err
	}
	defer d.close()
	c, err := d.prepare(f)
	if err != nil {
		return err
	}
	if err := canListen(c); err != nil {
		return err
	}
	st := new(stack)
	err = st.start(ctx, c, logger)
	if err == nil {
		st.announce(out, d, c)
		err = st.wait(ctx)
	}
	if err == nil {
		fmt.Fprintln(out, "\nsealtap: stopping")
	}
	return errors.Join(err, st.stop())
}

// canListen finds an address that somebody else has before any part is started.
func canListen(c *config.File) error {
	sections, addrs := []string{"log", "proxy"}, []string{c.Log.Listen, c.Proxy.Listen}
	for _, w := range c.Witnesses {
		sections, addrs = append(sections, "witness "+w.Name), append(addrs, w.Listen)
	}
	for i := range addrs {
		l, err := listen(sections[i], addrs[i])
		if err != nil {
			return err
		}
		l.Close()
	}
	return nil
}

// stack runs services that need each other: later ones are stopped first.
type stack struct {
	layers []layer
	failed chan error
}

type layer struct {
	cancel context.CancelFunc
	done   chan error
}

// push runs a service until the stack is stopped.
func (s *stack) push(ctx context.Context, sv *service) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := layer{cancel, make(chan error, 1)}
	s.layers = append(s.layers, l)
	go func() {
		err := sv.serve(ctx)
		if ctx.Err() == nil {
			s.failed <- fmt.Errorf("the part on %s stopped by itself: %w", sv.addr, err)
			err = nil // said once
		}
		l.done <- err
	}()
}

func (s *stack) start(ctx context.Context, c *config.File, logger *slog.Logger) error {
	s.failed = make(chan error, len(c.Witnesses)+2)
	if err := s.startLog(ctx, c, logger); err != nil {
		return err
	}
	if err := s.enrolled(ctx, c); err != nil {
		return err
	}
	p, err := startProxy(c.Proxy, c.SHA256, logger)
	if err != nil {
		return err
	}
	s.push(ctx, p)
	return nil
}

// startLog starts the witnesses and the log, and waits for its first head.
func (s *stack) startLog(ctx context.Context, c *config.File, logger *slog.Logger) error {
	for _, w := range c.Witnesses {
		sv, err := startWitness(ctx, w, logger)
		if err != nil {
			return err
		}
		s.push(ctx, sv)
	}
	log, err := startLog(ctx, c.Log, logger)
	if err != nil {
		return err
	}
	s.push(ctx, log)
	r := reading{log: c.Proxy.Log.String(), policyFile: string(c.Log.Policy)}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		_, err := r.open(ctx)
		if !errors.Is(err, client.ErrUnavailable) {
			return err
		}
		if why := log.ready(); errors.Is(why, witness.ErrWitnessAhead) {
			return failure{fmt.Errorf("the log is not the one that its witnesses have seen: %w", why)}
		}
		select {
		case ferr := <-s.failed:
			return ferr
		case <-ctx.Done():
			return fmt.Errorf("waiting for the log's first cosigned head: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// enrolled sees to it that the proxy's key is enrolled, as an operator would with
// sealtap enrol.
func (s *stack) enrolled(ctx context.Context, c *config.File) error {
	key, err := keys.Load(string(c.Proxy.Key))
	if err != nil {
		return err
	}
	return enrol(ctx, c, key.Public)
}

// enrol has the operator whose key is configured enrol a proxy's key, unless it
// is enrolled.
func enrol(ctx context.Context, c *config.File, key keys.Public) error {
	r := reading{log: c.Proxy.Log.String(), policyFile: string(c.Proxy.Policy)}
	rd, err := r.open(ctx)
	if err != nil {
		return err
	}
	if _, ok := rd.ring.Key(key.ID()); ok {
		return nil
	}
	if c.Log.OperatorKey == "" {
		return usagef("the log does not know the proxy's key %s, and log.operator_key is not set: enrol it with sealtap enrol", key.Name)
	}
	operator, err := loadKey("log.operator_key", string(c.Log.OperatorKey), keys.Ed25519)
	if err != nil {
		return err
	}
	_, err = rd.state(ctx, operator, &record.KeyChange{Enrol: []keys.Public{key}})
	return err
}

// wait returns when ctx ends, or when a service fails.
func (s *stack) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}

// stop ends the services, the last one first: the proxy hands its last records
// to the log before the log ends.
func (s *stack) stop() error {
	var err error
	for i := len(s.layers) - 1; i >= 0; i-- {
		s.layers[i].cancel()
		err = errors.Join(err, <-s.layers[i].done)
	}
	return err
}

// announce says what listens where, and what to try.
func (s *stack) announce(w io.Writer, d *dataDir, c *config.File) {
	proxyURL, logURL := "http://"+reachable(c.Proxy.Listen), "http://"+reachable(c.Log.Listen)
	if c.Proxy.TLS != nil {
		proxyURL = "https://" + reachable(c.Proxy.Listen)
	}
	var names []string
	for _, x := range c.Witnesses {
		names = append(names, x.Name+" ("+x.Listen+")")
	}
	to, try := "forward proxy", "curl -x "+proxyURL+" http://example.com/"
	if c.Proxy.Upstream.URL != nil {
		to, try = "to "+c.Proxy.Upstream.String(), "curl "+proxyURL+"/"
	}
	flags := ""
	if d.path != defaultDir && d.path != strings.TrimPrefix(defaultDir, "./") {
		flags = " --policy " + d.file("policy.txt")
	}
	fmt.Fprintf(w, `sealtap is up, in %s
  proxy      %s  (%s)
  log        %s  (the explorer, in a browser)
  witnesses  %s
These witnesses run beside the log and are not independent: add others to policy.txt.

Try:  %s
      sealtap query%s
      sealtap audit%s
`, d.path, proxyURL, to, logURL, strings.Join(names, ", "), try, flags, flags)
}
