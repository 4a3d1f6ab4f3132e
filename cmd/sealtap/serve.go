package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/proxy"
	"github.com/sealtap/sealtap/proxy/spool"
	"github.com/sealtap/sealtap/query"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/serve"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/web"
	"github.com/sealtap/sealtap/witness"
)

// flushTime is how long a proxy that stops hands its last records to the log.
const flushTime = 5 * time.Second

// service is one component, ready to run: its files are open and it listens.
type service struct {
	addr  string
	run   func(ctx context.Context) error // until ctx ends
	ready func() error                    // of a log: why it publishes nothing; nil elsewhere
	mux   *serve.Mux                      // of a log: what it serves; nil elsewhere
	close func() error

	reload func(ctx context.Context, path string) error // of a proxy; nil elsewhere
	alive  func() error                                 // why only a restart helps; nil means that none does
}

// serve runs a service for as long as its command lives.
func (s *service) serve(ctx context.Context) error {
	err := s.run(ctx)
	return errors.Join(err, s.close())
}

func listen(section, addr string) (net.Listener, error) {
	l, err := listenOn(addr)
	if err != nil {
		return nil, usagef("%s.listen: %w; choose another address", section, err)
	}
	return l, nil
}

func listenOn(addr string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return listenUnix(path)
	}
	if name, ok := strings.CutPrefix(addr, "fd:"); ok {
		return listenPassed(name)
	}
	return net.Listen("tcp", addr)
}

// startLog opens a log server.
func startLog(ctx context.Context, c *config.Log, logger *slog.Logger) (_ *service, err error) {
	f, err := readLogFiles(c)
	if err != nil {
		return nil, err
	}
	ln, err := listen("log", c.Listen)
	if err != nil {
		return nil, err
	}
	logger = logger.With("component", "log")
	closers := closers{closed(ln)}
	defer func() {
		if err != nil {
			err = errors.Join(err, closers.close())
		}
	}()
	kept, err := openStorage(ctx, c, ln, logger)
	if err != nil {
		return nil, err
	}
	closers = append(closers, kept.close)
	cosigner, err := witness.NewClient(witness.ClientConfig{Policy: f.policy})
	if err != nil {
		return nil, err
	}
	closers = append(closers, cosigner.Close)
	var index *query.Index
	limits := c.Limits
	l, err := kept.openLog(ctx, tlog.Config{
		Key: f.key, PostQuantumKey: f.quantum, Operator: f.operator, Begin: f.begin, Storage: kept.log, Openings: kept.openings, Policy: f.policy, Cosigner: cosigner,
		CheckpointInterval: time.Duration(c.CheckpointInterval), PruneInterval: time.Duration(c.PruneInterval), Logger: logger,
		OnPrune:         func(uint64) { index.Trim() },
		MaxBatchEntries: int(limits.BatchEntries), MaxBatchBytes: int(limits.BatchBytes), MaxQueue: int(limits.QueueBatches), MaxQueueBytes: int(limits.QueueBytes), MaxReadingBytes: int(limits.ReadingBytes),
		ProducerBytesPerSecond: int(limits.ProducerBytesPerSecond), PublishWait: time.Duration(limits.PublishWait),
		LeafIndex: func(ctx context.Context, leaf record.Hash) (uint64, bool, error) { return index.LeafIndex(ctx, leaf) },
	})
	if err != nil {
		return nil, notAsSigned(err, c)
	}
	if signed, _, ok := l.Checkpoint(); ok {
		cosigner.Remember(signed)
	}
	if index, err = query.Open(string(c.Database)+".index", l, query.Config{Logger: logger}); err != nil {
		return nil, err
	}
	closers = append(closers, index.Close)
	handler := logHandler(c, f, l, index, kept.openings)
	return &service{
		addr: ln.Addr().String(),
		run: func(ctx context.Context) error {
			ctx, cancel := untilPublished(ctx, l)
			defer cancel()
			return together(ctx, func(ctx context.Context) error { return kept.run(ctx, l) }, index.Run,
				func(ctx context.Context) error { return serve.HTTP(ctx, ln, kept.handler(l, handler)) })
		},
		ready: l.Ready,
		mux:   handler,
		close: closers.close,
	}, nil
}

// logHandler serves everything under the log's URL.
func logHandler(c *config.Log, f *logFiles, l *tlog.Log, index *query.Index, openings storage.Openings) *serve.Mux {
	search := index.Handler(query.HandlerConfig{
		Proofs: l, Openings: openings, Identities: f.identities,
		Readers: query.Readers{Loopback: c.Readers.Loopback, Tokens: f.tokens},
	})
	log, mux := l.Handler(), serve.NewMux()
	mux.Handle("/", log)
	mux.Mount(log)
	mux.Mount(search)
	mux.Handle("/{$}", web.Handler())
	mux.Handle("/explorer/", web.Handler())
	mux.Handle("/verifier", web.Handler())
	return mux
}

// publishTime is how long a log that stops tries to publish what it has taken.
const publishTime = 3 * time.Second

// untilPublished returns a context that ends some time after ctx: once what was
// stored by then is published, so that the newest entries of a log that does not
// run can be audited too.
func untilPublished(ctx context.Context, l *tlog.Log) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		defer cancel()
		size, end := l.Size(), time.Now().Add(publishTime)
		for l.Writing() && l.Published() < size && time.Now().Before(end) && later.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
	})
	return later, func() { stop(); cancel() }
}

// notAsSigned tells an operator whose log does not open, since what is stored is
// not what was signed, what to do next.
func notAsSigned(err error, c *config.Log) error {
	if errors.Is(err, tlog.ErrBehind) && c.Storage != nil {
		return fmt.Errorf("%w; if sealtap log migrate was interrupted, say it again", err)
	}
	if errors.Is(err, tlog.ErrBehind) {
		return fmt.Errorf("%w; to bring in what is missing from a mirror or another copy, run sealtap log restore --config FILE --from URL", err)
	}
	if errors.Is(err, sqlite.ErrNoSigned) {
		return fmt.Errorf("%w; or run sealtap log restore --config FILE, which asks the witnesses", err)
	}
	if !errors.Is(err, storage.ErrCorrupt) {
		return err
	}
	if c.Storage != nil {
		return failure{fmt.Errorf("%w; put back a copy of the database that is whole", err)}
	}
	return failure{fmt.Errorf("%w; to see where, run sealtap audit %s --policy %s", err, filepath.Dir(string(c.Database)), c.Policy)}
}

// startProxy opens a proxy. The log need not be there.
func startProxy(c *config.Proxy, digest [32]byte, logger *slog.Logger) (_ *service, err error) {
	f, err := readProxyFiles(c)
	if err != nil {
		return nil, err
	}
	// What can be wrong is found before the spool begins an incarnation.
	if _, err := proxy.New(proxyConfig(c, f, recordsNothing{}, nil)); err != nil {
		return nil, err
	}
	logger = logger.With("component", "proxy")
	life, err := newProxyLife(c, logger)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, life.abort())
		}
	}()
	ln, err := listen("proxy", c.Listen)
	if err != nil {
		return nil, err
	}
	socks, err := listenSOCKS(c.Forward.SOCKS, logger)
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	defer func() {
		if err != nil {
			socks.close()
		}
	}()
	log, err := client.New(c.Log.String(), f.policy, client.WithRetries(1, time.Second))
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	sp, err := spool.Open(spool.Config{
		Dir: string(c.Spool), Key: f.key, Recipients: f.recipients, Log: log, Version: version,
		MaxBytes: int64(c.SpoolMaxBytes), Heartbeat: time.Duration(c.Heartbeat), Logger: logger, ReceiptDelay: time.Duration(c.ReceiptDelay),
	})
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	closeSpool := func(reason string) error {
		ctx, cancel := context.WithTimeout(context.Background(), flushTime)
		defer cancel()
		return sp.Close(ctx, reason)
	}
	abort := func(err error) (*service, error) {
		return nil, errors.Join(err, ln.Close(), closeSpool("did not start"))
	}
	p, err := life.proxy(proxyConfig(c, f, sp, logger), life.traces.current())
	if err != nil {
		return abort(err)
	}
	if err := recordConfig(context.Background(), sp, digest); err != nil {
		return abort(err)
	}
	if err := life.begin(p, socks, sp, c, digest); err != nil {
		return abort(err)
	}
	return &service{
		addr:   ln.Addr().String(),
		run:    func(ctx context.Context) error { return life.run(ctx, ln) },
		close:  func() error { return closeSpool("stopped") },
		reload: life.reload,
		alive:  sp.Err,
	}, nil
}

func proxyConfig(c *config.Proxy, f *proxyFiles, sp proxy.Recorder, logger *slog.Logger) proxy.Config {
	p := proxy.Config{
		Upstream: c.Upstream.URL, TLS: f.tls, Service: c.Service, Recorder: sp, DigestKey: f.digestKey, OpenHeaders: c.OpenHeaders,
		Seal: c.Seal, Operations: c.Operations, UserHeader: c.UserHeader, BufferLimit: int(c.BufferLimit), Logger: logger,
		Receipts: c.Receipts.Signed(),
		Progress: proxy.Progress{Every: time.Duration(c.Progress.Every), Bytes: int64(c.Progress.Bytes)},
	}
	if p.Service == "" && c.Upstream.URL != nil {
		p.Service = c.Upstream.Host
	}
	p.FailOpen, p.GapFile = c.OnFailure == config.FailOpen, filepath.Join(string(c.Spool), "gap")
	addRoutes(&p, c, f)
	for _, t := range c.TrustedPeers {
		p.TrustedPeers = append(p.TrustedPeers, t.Prefix)
	}
	addForward(&p, &c.Forward, &f.forward)
	setIdentity(&p, c, f)
	setPolicy(&p, c)
	setBounds(&p, c)
	return p
}

// closers are closed in reverse order.
type closers []func() error

func (c closers) close() error {
	var err error
	for i := len(c) - 1; i >= 0; i-- {
		err = errors.Join(err, c[i]())
	}
	return err
}

// closed closes a listener that a server may have closed already.
func closed(ln net.Listener) func() error {
	return func() error {
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

// together runs functions until ctx ends or the first of them returns, and waits
// for all.
func together(ctx context.Context, run ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, len(run))
	for _, f := range run {
		go func() { done <- f(ctx) }()
	}
	var err error
	for range run {
		err = errors.Join(err, <-done)
		cancel()
	}
	return err
}

// newLogger logs in text for people and in JSON for machines.
func newLogger(format string) (*slog.Logger, error) {
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, nil)), nil
	}
	return nil, usagef("--log-format %q: it is text or json", format)
}

// daemon makes the command of one component.
func daemon(use, short, long string, section func(context.Context, *config.File, *slog.Logger) (string, *service, error)) *cobra.Command {
	var file, format string
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("say --config FILE: sealtap up writes a config.yaml to start from")
			}
			logger, err := newLogger(format)
			if err != nil {
				return err
			}
			f, err := config.Load(file)
			if err != nil {
				return err
			}
			name, s, err := section(cmd.Context(), f, logger)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "sealtap %s listens on %s\n", name, s.addr)
			return s.follow(cmd.Context(), file)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration `FILE`")
	cmd.Flags().StringVar(&format, "log-format", "text", "of the messages on standard error: text or json")
	return cmd
}

func newProxy() *cobra.Command {
	return daemon("proxy", "Run one proxy", "Runs the proxy of the configuration. The log need not be reachable: records wait in the spool.",
		func(_ context.Context, f *config.File, logger *slog.Logger) (string, *service, error) {
			if f.Proxy == nil {
				return "", nil, usagef("%s has no proxy section", f.Path)
			}
			collectLess(garbageOfProxy)
			s, err := startProxy(f.Proxy, f.SHA256, logger)
			return "proxy", s, err
		})
}

// How far the heap of a server grows between two collections, in per cent of what
// lives in it. A proxy's heap is so small that collecting it costs next to nothing.
const (
	garbageOfLog   = 400
	garbageOfProxy = 150
)

// collectLess lets the heap of a server, of which little lives long, grow further
// between two collections, as long as it is small. GOGC and GOMEMLIMIT win.
func collectLess(percent int) {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(216 << 20)
	}
}

func newLog() *cobra.Command {
	cmd := daemon("log", "Run one log server", "Runs the log server of the configuration.",
		func(ctx context.Context, f *config.File, logger *slog.Logger) (string, *service, error) {
			if f.Log == nil {
				return "", nil, usagef("%s has no log section", f.Path)
			}
			collectLess(garbageOfLog)
			s, err := startLog(ctx, f.Log, logger)
			return "log", s, err
		})
	cmd.AddCommand(newLogInit(), newLogMigrate(), newRetention(), newSuccessor(), newLogBackup(), newLogRestore())
	return cmd
}
