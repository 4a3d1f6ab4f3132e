package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/monitor"
	"github.com/sealtap/sealtap/serve"
)

// monitoring holds the flags of the command.
type monitoring struct {
	reading
	state, webhook, secret, run, metrics string
	rules                                []string
	every, patience                      time.Duration
	once, full                           bool
}

func newMonitor() *cobra.Command {
	var m monitoring
	cmd := &cobra.Command{
		Use:   "monitor [SOURCE]",
		Short: "Follow a log, verify it as it grows, and alert",
		Long: `Audits the log at SOURCE (default: the one in the policy), and from then on every new
entry as it comes: hashes, seals, completeness, keys, times. It compares the head that the
log shows with those that its witnesses have seen, watches the heartbeats of producers and
the gaps they declare, and asks rules about each new record.

Each alert is a line of JSON on standard error, once, beside the monitor's own messages, which
have a level; --webhook and --exec are told too.
What was verified and told is remembered beside the state file, across restarts: a monitor that
starts anew reads only what is new, unless --full is given. It goes on after a finding. --once looks once and exits: 0 all is well, 1 something is not, 3 the log
could not be read.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one SOURCE at most", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return m.start(cmd, args) },
	}
	m.flags(cmd)
	_ = cmd.Flags().MarkHidden("json") // it is always
	f := cmd.Flags()
	f.StringVar(&m.state, "state", "", "`FILE` for what was verified, with FILE.known for what is known of it and FILE.alerts for what was told (default: next to the policy)")
	f.DurationVar(&m.every, "interval", 5*time.Second, "how often to look for a new head")
	f.DurationVar(&m.patience, "patience", time.Minute, "how long the log may be away, or behind a witness, before there is an alert")
	f.StringVar(&m.webhook, "webhook", "", "`URL` to post alerts to")
	f.StringVar(&m.secret, "webhook-secret", "", "`FILE` with the secret under which posts are signed (HMAC-SHA-256, header Sealtap-Signature)")
	f.StringVar(&m.run, "exec", "", "`PROGRAM` to run for each alert, which it gets on standard input")
	f.StringArrayVar(&m.rules, "rule", nil, "`NAME=EXPRESSION`: alert to records r for which it is true, in CEL, such as 'refunds=r.stage == \"request\" && r.path == \"/refund\"'; can be repeated")
	f.StringVar(&m.metrics, "metrics", "", "`ADDR` such as 127.0.0.1:9102 for /metrics, /healthz and /readyz")
	f.BoolVar(&m.full, "full", false, "read everything at the start, also what an earlier monitor with this state file has verified")
	f.BoolVar(&m.once, "once", false, "look once")
	return cmd
}

func (m *monitoring) start(cmd *cobra.Command, args []string) error {
	p, err := m.policy()
	if err != nil {
		return err
	}
	location := m.location(p)
	if len(args) == 1 {
		location = args[0]
	}
	if m.every < 100*time.Millisecond {
		return usagef("--interval %v: it is at least 100ms", m.every)
	}
	sinks, err := m.sinks(cmd)
	if err != nil {
		return err
	}
	rules, err := monitor.NewRules(m.rules)
	if err != nil {
		return usagef("--rule: %w", err)
	}
	if len(m.rules) == 0 {
		rules = nil
	}
	src, err := m.openSource(cmd.Context(), location)
	if err != nil {
		return err
	}
	defer src.close()
	if m.state == "" {
		m.state = strings.TrimSuffix(m.defaultState(p), ".state") + ".monitor"
	}
	logger := slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil)).With("component", "monitor")
	mon, err := monitor.New(monitor.Config{Source: src.Source, Policy: p, State: m.state, Full: m.full, Every: m.every, Patience: m.patience, Sinks: sinks, Rules: rules, Logger: logger})
	if err != nil {
		return err
	}
	if m.once {
		return once(cmd.Context(), mon)
	}
	return m.follow(cmd.Context(), mon)
}

func once(ctx context.Context, mon *monitor.Monitor) error {
	r, err := mon.Look(ctx)
	switch {
	case err != nil:
		return err
	case r.Verdict == audit.Fail:
		return failure{errReported}
	case r.Verdict == audit.Incomplete:
		return codeError{fmt.Errorf("the log could not be audited: %s", strings.Join(r.Unfinished, "; ")), exitUnfinished}
	}
	return nil
}

func (m *monitoring) follow(ctx context.Context, mon *monitor.Monitor) error {
	if m.metrics == "" {
		return mon.Run(ctx)
	}
	ln, err := listen("--metrics", m.metrics)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(mon.Metrics().Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := mon.Ready(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return together(ctx, mon.Run, func(ctx context.Context) error { return serve.HTTP(ctx, ln, mux) })
}

func (m *monitoring) sinks(cmd *cobra.Command) ([]monitor.Sink, error) {
	list := []monitor.Sink{monitor.NewLines(cmd.ErrOrStderr())}
	if m.webhook != "" {
		u, err := url.Parse(m.webhook)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, usagef("--webhook %q is not an http or https URL", m.webhook)
		}
		h := &monitor.Webhook{URL: m.webhook}
		if m.secret != "" {
			b, err := os.ReadFile(m.secret)
			if err != nil {
				return nil, usagef("--webhook-secret: %w", err)
			}
			if h.Secret = []byte(strings.TrimSpace(string(b))); len(h.Secret) < 16 {
				return nil, usageError{errors.New("--webhook-secret: the file holds less than 16 bytes")}
			}
		}
		list = append(list, h)
	} else if m.secret != "" {
		return nil, usagef("--webhook-secret is of use with --webhook only")
	}
	if m.run != "" {
		list = append(list, &monitor.Command{Path: m.run})
	}
	return list, nil
}
