package main

import (
	"context"
	"log/slog"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealtap/sealtap/proxy"
)

const (
	accessEvery = time.Second
	accessSoon  = 256 << 10 // bytes that are not left to wait
	accessMost  = 8 << 20   // bytes that wait; lines beyond them are dropped
)

// accessLog writes a line for each exchange, in JSON. Whoever has one to write
// waits for memory only, never for the file: that is run's.
type accessLog struct {
	path    string // - for standard output
	handler slog.Handler
	log     *slog.Logger
	dropped atomic.Uint64 // lines
	soon    chan struct{}
	anew    chan struct{}

	mu  sync.Mutex
	buf []byte

	file   *os.File // belongs to run
	failed bool     // the last write; belongs to run
}

// openAccessLog opens an access log; nil if there is to be none.
func openAccessLog(path string, logger *slog.Logger) (*accessLog, error) {
	if path == "" {
		return nil, nil
	}
	l := &accessLog{path: path, log: logger, soon: make(chan struct{}, 1), anew: make(chan struct{}, 1)}
	l.handler = slog.NewJSONHandler(l, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey || a.Key == slog.MessageKey {
			return slog.Attr{} // the same in all lines
		}
		return a
	}})
	var err error
	if l.file, err = l.open(); err != nil {
		return nil, usagef("proxy.access_log: %w", err)
	}
	return l, nil
}

func (l *accessLog) open() (*os.File, error) {
	if l.path == "-" {
		return os.Stdout, nil
	}
	return os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// entry writes the line of an exchange.
func (l *accessLog) entry(a *proxy.Access) {
	r := slog.NewRecord(a.Time, slog.LevelInfo, "", 0)
	r.AddAttrs(slog.String("exchange", a.Exchange), slog.String("trace", a.Trace), slog.String("service", a.Service))
	if a.Who != "" {
		r.AddAttrs(slog.String("who", a.Who), slog.Bool("verified", a.Verified))
	}
	r.AddAttrs(slog.String("method", a.Method), slog.String("authority", a.Authority))
	if a.Path != "" {
		r.AddAttrs(slog.String("path", a.Path))
	}
	ms := math.Round(float64(a.Duration)/float64(time.Microsecond)) / 1000
	r.AddAttrs(slog.Int("status", a.Status), slog.String("outcome", a.Outcome), slog.Uint64("bytes", a.Bytes), slog.Float64("duration_ms", ms))
	_ = l.handler.Handle(context.Background(), r) // it goes to memory
}

// Write keeps a line until it is flushed.
func (l *accessLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf)+len(line) > accessMost {
		l.dropped.Add(1)
		return len(line), nil
	}
	l.buf = append(l.buf, line...)
	if len(l.buf) >= accessSoon {
		notify(l.soon)
	}
	return len(line), nil
}

// reopen has the file opened anew, so that it can be moved away.
func (l *accessLog) reopen() {
	if l != nil {
		notify(l.anew)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run flushes until ctx ends, and once more.
func (l *accessLog) run(ctx context.Context) error {
	tick := time.NewTicker(accessEvery)
	defer tick.Stop()
	defer func() { l.close() }()
	var spare []byte
	for {
		select {
		case <-ctx.Done():
			l.flush(spare)
			return nil
		case <-l.soon:
		case <-tick.C:
		case <-l.anew:
			spare = l.flush(spare)
			f, err := l.open()
			if err != nil {
				l.log.Error("the access log was not opened anew, the file before goes on", "error", err)
				continue
			}
			l.close()
			l.file = f
			continue
		}
		spare = l.flush(spare)
	}
}

// flush writes what waits, and returns its memory.
func (l *accessLog) flush(spare []byte) []byte {
	l.mu.Lock()
	lines := l.buf
	l.buf = spare[:0]
	l.mu.Unlock()
	if len(lines) == 0 {
		return lines
	}
	_, err := l.file.Write(lines)
	if err != nil && !l.failed {
		l.log.Error("writing the access log failed: lines are lost, until it works again", "error", err)
	}
	l.failed = err != nil
	if cap(lines) > 4*accessSoon {
		return nil // a rare crowd needs no memory for ever
	}
	return lines
}

func (l *accessLog) close() {
	if l.path != "-" {
		l.file.Close()
	}
}
