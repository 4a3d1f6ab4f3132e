package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/mirror"
	"github.com/sealtap/sealtap/serve"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// mirroring holds the flags of the command.
type mirroring struct {
	reading
	follow   bool
	interval time.Duration
	serve    string
	rate     string
	key      string
}

func newMirror() *cobra.Command {
	var m mirroring
	cmd := &cobra.Command{
		Use:   "mirror URL DIR",
		Short: "Copy a log to a directory, verified as it comes",
		Long: `Copies the log at URL, or in a directory, to plain files in the layout of C2SP
tlog-tiles: any web server can serve DIR, any client of such logs can read it, and
sealtap audit DIR checks it offline. Every entry is proven to stand under a checkpoint
that satisfies the policy before it is written, and DIR/checkpoint is written last. Run
it again to go on where it stopped, however that was; with --follow it does so by itself.

It stops with exit code 1, and keeps both checkpoints, when the log shows another
history than the one that was mirrored. The log is any tlog-tiles log, of Sealtap or
not; sealed fields stay sealed, for their openings are no part of a log.

With --key it is a C2SP tlog-mirror that cosigns: DIR/checkpoint carries its signature,
which says that DIR holds every entry. Each start reads them all first; where one is
missing, altered, or was pruned before the mirror began, nothing is signed.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("%s takes the URL of a log and a DIR", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return m.run(cmd, args[0], args[1]) },
	}
	m.flags(cmd)
	_ = cmd.Flags().MarkHidden("log") // it is the argument
	_ = cmd.Flags().MarkHidden("operator")
	cmd.Flags().BoolVar(&m.follow, "follow", false, "go on as the log grows, until told to stop")
	cmd.Flags().DurationVar(&m.interval, "interval", 5*time.Second, "how often to look for a new checkpoint with --follow")
	cmd.Flags().StringVar(&m.serve, "serve", "", "`ADDR` such as 127.0.0.1:8090 to serve the mirror at; means --follow")
	cmd.Flags().StringVar(&m.rate, "rate", "", "fetch at most `SIZE` a second, such as 512KiB or 10MiB")
	cmd.Flags().StringVar(&m.key, "key", "", "cosign what is held with the key in `FILE` (sealtap keygen --witness NAME)")
	return cmd
}

func (m *mirroring) run(cmd *cobra.Command, location, dir string) error {
	p, err := m.policy()
	if err != nil {
		return err
	}
	limit, err := bytesPerSecond(m.rate)
	if err != nil {
		return err
	}
	if m.interval < 100*time.Millisecond {
		return usagef("--interval %v: it is at least 100ms", m.interval)
	}
	opts, err := m.options()
	if err != nil {
		return err
	}
	src, err := client.Open(location, opts...)
	if err != nil {
		return err
	}
	var key *keys.Private
	if m.key != "" {
		if key, err = keys.Load(m.key); err != nil {
			return usagef("--key: %w", err)
		}
	}
	draw := progress(cmd.ErrOrStderr())
	mir, err := mirror.Open(mirror.Config{Source: src, Policy: p, Dir: dir, Key: key, BytesPerSecond: limit, Progress: draw,
		Logger: slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil)).With("component", "mirror")})
	if err != nil {
		return err
	}
	if m.serve != "" || m.follow {
		err = m.daemon(cmd.Context(), mir, dir, p)
		return errors.Join(err, mir.Close())
	}
	before := mir.Size()
	head, err := update(cmd.Context(), mir)
	if err = errors.Join(err, mir.Close()); err != nil {
		return err
	}
	return m.report(cmd, head, before, dir)
}

// update copies a log that may be pruned meanwhile.
func update(ctx context.Context, mir *mirror.Mirror) (head *policy.Checkpoint, err error) {
	const attempts = 3
	for range attempts {
		if head, err = mir.Update(ctx); !errors.Is(err, client.ErrPruned) {
			break
		}
	}
	return head, err
}

// daemon follows the log and serves the mirror.
func (m *mirroring) daemon(ctx context.Context, mir *mirror.Mirror, dir string, p *policy.Policy) error {
	follow := func(ctx context.Context) error { return mir.Follow(ctx, m.interval) }
	if m.serve == "" {
		return follow(ctx)
	}
	ln, err := listen("--serve", m.serve)
	if err != nil {
		return err
	}
	return together(ctx, follow, func(ctx context.Context) error { return serve.HTTP(ctx, ln, mirror.OriginHandler(dir, p)) })
}

func (m *mirroring) report(cmd *cobra.Command, head *policy.Checkpoint, before uint64, dir string) error {
	if m.json {
		return printJSON(cmd.OutOrStdout(), struct {
			Origin string `json:"origin"`
			Size   uint64 `json:"size"`
			Root   []byte `json:"root"`
			Added  uint64 `json:"added"`
			Dir    string `json:"dir"`
		}{head.Origin, head.Size, head.Root[:], head.Size - before, dir})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %d entries in %s, %d of them new; root %s\n", harmless(head.Origin), head.Size, dir, head.Size-before, base64.StdEncoding.EncodeToString(head.Root[:]))
	return err
}

func bytesPerSecond(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := config.ParseSize(text)
	if err != nil || n == 0 {
		return 0, usagef("--rate %q: it is a number of bytes such as 512KiB or 10MiB", text)
	}
	return int(n), nil
}
