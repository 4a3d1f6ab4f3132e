package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/serve"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog"
)

// kept is where a log is kept, open.
type kept struct {
	log      storage.Log
	openings storage.Openings
	cluster  *cluster // nil: this server alone has it
	closers  closers
}

func (k *kept) close() error { return k.closers.close() }

// openStorage opens what the configuration says.
func openStorage(ctx context.Context, c *config.Log, ln net.Listener, logger *slog.Logger) (_ *kept, err error) {
	k := new(kept)
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if c.Storage != nil {
		if k.cluster, err = openCluster(ctx, c, ln.Addr().String(), logger); err != nil {
			return nil, err
		}
		k.closers = append(k.closers, k.cluster.close)
		k.log, k.openings = k.cluster.trillian, k.cluster.db.Openings()
		return k, nil
	}
	log, err := sqlite.OpenLog(ctx, string(c.Database))
	if err != nil {
		return nil, err
	}
	k.log, k.closers = log, append(k.closers, log.Close)
	openings, err := sqlite.OpenOpenings(ctx, string(c.Database)+".openings")
	if err != nil {
		return nil, err
	}
	k.openings, k.closers = openings, append(k.closers, openings.Close)
	return k, nil
}

// openLog opens the log that is kept there.
func (k *kept) openLog(ctx context.Context, c tlog.Config) (*tlog.Log, error) {
	if k.cluster != nil {
		return k.cluster.open(ctx, c)
	}
	return tlog.Open(ctx, c)
}

// run runs the log.
func (k *kept) run(ctx context.Context, l *tlog.Log) error {
	if k.cluster != nil {
		return k.cluster.run(ctx, l)
	}
	return l.Run(ctx)
}

// handler serves the log, what this server cannot do included.
func (k *kept) handler(l *tlog.Log, own *serve.Mux) http.Handler {
	if k.cluster != nil {
		return newToWriter(own, l.Writing, k.cluster.db.Writer, k.cluster.url, k.cluster.logger)
	}
	return own
}
