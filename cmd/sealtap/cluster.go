package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sealtap/sealtap/config"
	"github.com/sealtap/sealtap/storage/postgres"
	"github.com/sealtap/sealtap/storage/trillian"
	"github.com/sealtap/sealtap/tlog"
)

const (
	// clusterRetry is the time between two attempts at what another server, or a
	// database, is in the way of.
	clusterRetry = time.Second
	// releaseTime is how long a server that stops tries to give the lease up.
	releaseTime = 2 * time.Second
)

// cluster is one of the log servers that share a log in PostgreSQL and Trillian. The
// one that holds the lease writes, the others follow.
type cluster struct {
	db       *postgres.DB
	trillian *trillian.Log
	url      string // where others reach this one
	logger   *slog.Logger
	lease    *postgres.Lease // that it has from the start, nil if none
}

func (c *cluster) close() error {
	err := c.release()
	return errors.Join(err, c.trillian.Close(), c.db.Close())
}

func (c *cluster) release() error {
	if c.lease == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	err := c.lease.Release(ctx)
	c.lease = nil
	return err
}

const trillianSection = "log.storage.trillian"

// openDB opens the database of a log that is kept in Trillian.
func openDB(ctx context.Context, t *config.Trillian) (*postgres.DB, error) {
	c, err := databaseConfig(t)
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, c)
}

// databaseConfig says where the database is, and reads the password.
func databaseConfig(t *config.Trillian) (c postgres.Config, err error) {
	c.URL = t.Postgres
	if c.Password, err = readPassword(t.PasswordFile); err != nil {
		return c, err
	}
	if err := postgres.Check(c); err != nil {
		return c, usagef("%s.postgres: %w", trillianSection, err)
	}
	return c, nil
}

// checkStorage reads what the configuration says of where the log is kept, and the files
// that it names. Nothing is opened.
func checkStorage(c *config.Log) error {
	if c.Storage == nil {
		return nil
	}
	if _, err := databaseConfig(c.Storage.Trillian); err != nil {
		return err
	}
	_, err := trillianConfig(c.Storage.Trillian, slog.New(slog.DiscardHandler))
	return err
}

func readPassword(path config.Path) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(string(path))
	if err != nil {
		return "", usagef("%s.password_file: %w", trillianSection, err)
	}
	password := strings.TrimRight(string(b), "\r\n")
	if password == "" || strings.ContainsAny(password, "\r\n") {
		return "", usagef("%s.password_file: %s has to hold one line, the password", trillianSection, path)
	}
	return password, nil
}

// trillianConfig says where Trillian is.
func trillianConfig(t *config.Trillian, logger *slog.Logger) (trillian.Config, error) {
	c := trillian.Config{Address: t.Address, TreeID: int64(t.TreeID), Logger: logger}
	if t.TLS == nil {
		return c, nil
	}
	c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if t.TLS.CA != "" {
		pem, err := os.ReadFile(string(t.TLS.CA))
		if err != nil {
			return c, usagef("%s.tls.ca: %w", trillianSection, err)
		}
		if c.TLS.RootCAs = x509.NewCertPool(); !c.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return c, usagef("%s.tls.ca: %s has no certificate in PEM form", trillianSection, t.TLS.CA)
		}
	}
	if t.TLS.Cert != "" {
		pair, err := tls.LoadX509KeyPair(string(t.TLS.Cert), string(t.TLS.Key))
		if err != nil {
			return c, usagef("%s.tls: %w", trillianSection, err)
		}
		c.TLS.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func openCluster(ctx context.Context, c *config.Log, addr string, logger *slog.Logger) (_ *cluster, err error) {
	t := c.Storage.Trillian
	if t.TreeID == 0 {
		return nil, usagef("%s.tree_id is not set: make a tree with sealtap log init --config FILE, and set it to the id that this prints", trillianSection)
	}
	tc, err := trillianConfig(t, logger)
	if err != nil {
		return nil, err
	}
	k := &cluster{url: "http://" + addr, logger: logger}
	if t.Advertise.URL != nil {
		k.url = t.Advertise.String()
	}
	if k.db, err = openDB(ctx, t); err != nil {
		return nil, err
	}
	inner, err := k.db.Log(string(c.Database) + ".signed")
	if err == nil {
		k.trillian, err = trillian.Open(ctx, tc, inner)
	}
	if err != nil {
		return nil, errors.Join(err, k.db.Close())
	}
	return k, nil
}

// open opens the log. One that is empty is begun by the server that gets the lease;
// the others wait for that.
func (c *cluster) open(ctx context.Context, config tlog.Config) (*tlog.Log, error) {
	config.Follow = true
	for told := false; ; told = true {
		if c.lease != nil && c.lease.Context.Err() != nil {
			_ = c.release() // it is another's
		}
		if c.lease == nil {
			short, cancel := context.WithTimeout(ctx, clusterRetry)
			lease, err := c.db.Acquire(short, c.url)
			cancel()
			switch {
			case err == nil:
				c.lease = lease
			case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
				return nil, err
			}
		}
		l, err := tlog.Open(ctx, config)
		if !errors.Is(err, postgres.ErrNotWriter) {
			return l, err
		}
		if !told {
			c.logger.Info("waiting for another server to begin the log")
		}
		pause(ctx, clusterRetry)
	}
}

// run writes while it has the lease, and follows while it has not, until the context
// ends.
func (c *cluster) run(ctx context.Context, l *tlog.Log) error {
	for ctx.Err() == nil {
		if c.lease == nil {
			c.follow(ctx, l)
			continue
		}
		c.logger.Info("this server writes the log", "size", l.Size())
		err := c.write(ctx, l)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = context.Cause(c.lease.Context)
		}
		c.logger.Warn("this server no longer writes the log", "error", errors.Join(err, c.release()))
		pause(ctx, clusterRetry) // for another to be first
	}
	return nil
}

// follow follows until this server has the lease. Whatever keeps it from the lease, it goes
// on looking for what is published, and tells if it cannot.
func (c *cluster) follow(ctx context.Context, l *tlog.Log) {
	following, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { l.Follow(following) })
	c.lease = c.acquire(ctx)
	stop()
	wg.Wait()
}

// acquire waits for the lease. It returns nil when the context has ended.
func (c *cluster) acquire(ctx context.Context) *postgres.Lease {
	for told := ""; ; pause(ctx, clusterRetry) {
		lease, err := c.db.Acquire(ctx, c.url)
		if err == nil || ctx.Err() != nil {
			return lease
		}
		if why := err.Error(); why != told {
			c.logger.Warn("the lease of the log cannot be had; it is tried again", "error", err)
			told = why
		}
	}
}

// write writes until the lease is over.
func (c *cluster) write(ctx context.Context, l *tlog.Log) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.lease.Context, cancel)()
	if err := together(ctx, l.Run, c.trillian.HandOver); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
