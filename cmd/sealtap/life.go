package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealtap/sealtap/config"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/proxy"
	"github.com/sealtap/sealtap/proxy/spool"
	"github.com/sealtap/sealtap/serve"
)

// proxyLife is one proxy from its start to its end: it can be looked at, and
// its configuration can change.
type proxyLife struct {
	live     *proxy.Live
	socks    *socksListener
	spool    *spool.Spool
	metrics  *proxy.Metrics
	registry *prometheus.Registry
	log      *slog.Logger
	admin    net.Listener // nil without one
	access   *accessLog   // nil without one
	traces   tracings
	fixed    [2][sha256.Size]byte

	running  atomic.Pointer[running]
	draining atomic.Bool
	good     atomic.Uint64 // reloads
	bad      atomic.Uint64
}

// running is the configuration at work.
type running struct {
	proxy  *config.Proxy
	digest [sha256.Size]byte
	since  time.Time
}

// newProxyLife prepares the life of a proxy, and listens for operators.
func newProxyLife(c *config.Proxy, logger *slog.Logger) (*proxyLife, error) {
	f := &proxyLife{registry: prometheus.NewRegistry(), log: logger}
	var err error
	if f.metrics, err = proxy.NewMetrics(f.registry); err != nil {
		return nil, err
	}
	if f.fixed, err = fixedFiles(c); err != nil {
		return nil, err
	}
	if f.access, err = openAccessLog(string(c.AccessLog), logger); err != nil {
		return nil, err
	}
	if f.traces.now, err = newTracing(c.Telemetry.Traces, nil, logger); err != nil {
		return nil, err
	}
	if c.Admin.Listen != "" {
		f.admin, err = listen("proxy.admin", c.Admin.Listen)
	}
	return f, err
}

// abort gives back what newProxyLife took.
func (f *proxyLife) abort() error {
	if f.admin == nil {
		return nil
	}
	return f.admin.Close()
}

// proxy makes a proxy of this life.
func (f *proxyLife) proxy(c proxy.Config, traces *tracing) (*proxy.Proxy, error) {
	c.Metrics = f.metrics
	if f.access != nil {
		c.Access = f.access.entry
	}
	if f.admin != nil {
		if own, err := netip.ParseAddrPort(f.admin.Addr().String()); err == nil {
			c.Forward.Own = append(c.Forward.Own, own)
		}
	}
	traces.of(&c)
	return proxy.New(c)
}

// begin has the first proxy run.
func (f *proxyLife) begin(p *proxy.Proxy, socks *socksListener, sp *spool.Spool, c *config.Proxy, digest [sha256.Size]byte) error {
	f.live, f.socks, f.spool = proxy.NewLive(p), socks, sp
	socks.live = f.live
	f.running.Store(&running{c, digest, time.Now()})
	return f.watchSpool()
}

// run keeps the spool running for as long as exchanges finish, and operators
// informed.
func (f *proxyLife) run(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { f.draining.Store(true) })
	defer stop()
	later, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	parts := []func(context.Context) error{f.spool.Run, f.traces.run}
	if f.admin != nil {
		parts = append(parts, func(ctx context.Context) error { return serve.HTTP(ctx, f.admin, f.handler()) })
	}
	if f.access != nil {
		parts = append(parts, f.access.run)
	}
	others := make(chan error, 1)
	go func() { others <- together(later, parts...) }()
	err := together(ctx, func(ctx context.Context) error { return f.live.Run(ctx, ln) }, f.socks.run)
	end()
	return errors.Join(err, <-others)
}

// recordConfig leaves a record of the configuration from which what follows comes.
func recordConfig(ctx context.Context, sp *spool.Spool, digest [sha256.Size]byte) error {
	return sp.Record(ctx, &sealtapv1.Record{About: &sealtapv1.Record_Config{Config: &sealtapv1.Config{Sha256: digest[:]}}}, nil)
}

// fixedFiles are the digests of the files that the spool was opened with.
func fixedFiles(c *config.Proxy) (sums [2][sha256.Size]byte, err error) {
	for i, path := range []config.Path{c.Key, c.Policy} {
		data, err := os.ReadFile(string(path))
		if err != nil {
			return sums, fmt.Errorf("reading configuration: %w", err)
		}
		sums[i] = sha256.Sum256(data)
	}
	return sums, nil
}

// reload has what is in the file now take effect, or changes nothing: it is read
// with all that it names, then recorded, and then it counts for exchanges that begin.
func (f *proxyLife) reload(ctx context.Context, path string) (err error) {
	f.access.reopen()
	defer func() {
		if err != nil {
			f.bad.Add(1)
			f.log.Error("the configuration was not reloaded, the one before stays", "error", err)
		}
	}()
	file, err := config.Load(path)
	if err != nil {
		return err
	}
	if file.Proxy == nil {
		return usagef("%s has no proxy section", path)
	}
	if err := f.canFollow(file); err != nil {
		return err
	}
	files, err := readProxyFiles(file.Proxy)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	traces, err := newTracing(file.Proxy.Telemetry.Traces, f.traces.current(), f.log)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	next, err := f.proxy(proxyConfig(file.Proxy, files, f.spool, f.log), traces)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	move, abandon, err := f.socks.prepare(file.Proxy.Forward.SOCKS)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := recordConfig(ctx, f.spool, file.SHA256); err != nil {
		abandon()
		return fmt.Errorf("recording the configuration: %w", err)
	}
	f.traces.follow(traces, f.live.Replace(next))
	move()
	f.running.Store(&running{file.Proxy, file.SHA256, time.Now()})
	f.good.Add(1)
	f.log.Info("configuration reloaded", "file", path, "sha256", fmt.Sprintf("%x", file.SHA256))
	return nil
}

// canFollow refuses a configuration that differs in what is settled at the start.
func (f *proxyLife) canFollow(file *config.File) error {
	was, is := f.running.Load().proxy, file.Proxy
	sums, err := fixedFiles(is)
	if err != nil {
		return err
	}
	for _, k := range []struct {
		key  string
		same bool
	}{
		{"listen", was.Listen == is.Listen},
		{"tls", (was.TLS == nil) == (is.TLS == nil)},
		{"key", was.Key == is.Key && f.fixed[0] == sums[0]},
		{"log", was.Log.String() == is.Log.String()},
		{"policy", was.Policy == is.Policy && f.fixed[1] == sums[1]},
		{"spool", was.Spool == is.Spool},
		{"spool_max_bytes", was.SpoolMaxBytes == is.SpoolMaxBytes},
		{"heartbeat", was.Heartbeat == is.Heartbeat},
		{"openings_to", reflect.DeepEqual(was.OpeningsTo, is.OpeningsTo)},
		{"proxy_protocol", reflect.DeepEqual(was.ProxyProtocol, is.ProxyProtocol)},
		{"access_log", was.AccessLog == is.AccessLog},
		{"admin", was.Admin == is.Admin},
	} {
		if !k.same {
			return file.Fault("proxy."+k.key, ": it cannot change while the proxy runs: restart the proxy")
		}
	}
	return nil
}
