// Package postgres keeps a log in PostgreSQL, where several log servers can share
// it: one of them writes, by a lease, and all of them read. It implements the
// interfaces of package storage, and passes the same contract as package sqlite.
//
// Start with [Open]; a writer goes on with [DB.Acquire].
//
// Nothing here believes that a writer has stopped because its lease is over: it may
// have been paused and wake up. Every change names the number of the lease it is
// made under, in the transaction that makes it, and fails if there is a newer one.
package postgres

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"
)

// writeTime bounds a change: a server that cannot be reached must not hold up a
// writer for ever.
const writeTime = 30 * time.Second

// viewTime bounds a read that takes several steps, and rowTime one that takes one: to get
// a connection is part of it.
const (
	viewTime = 30 * time.Second
	rowTime  = 10 * time.Second
)

// A writer that was paused in the middle of a change holds no locks for longer than this.
// Readers hold none: theirs end only where somebody has forgotten them.
const (
	writerPause = 2 * time.Second
	readerPause = 2 * time.Minute
)

// silence is how long a server may leave unanswered that it was sent something.
const silence = 10 * time.Second

// writerConnections are enough for entries, checkpoints, openings and the lease side
// by side.
const writerConnections = 6

// readerConnections bounds the reads that are under way.
const readerConnections = 16

// Config says which database it is.
type Config struct {
	// URL is a connection string as libpq has it, without a password. Unless the server is
	// on this machine it says by sslmode whether there is TLS. Required.
	URL string
	// Password authenticates to the server; empty for none.
	Password string
}

// DB is a database, open. Many goroutines can use it.
type DB struct {
	pool   *pgxpool.Pool // for reading
	writer *pgxpool.Pool // for what is done under the lease, or to get it
	holder string        // application_name of writer's connections, of this process alone
	epoch  atomic.Int64  // of the lease that is held, or was held last; 0: none

	rowTime time.Duration // how long the read of a row may take
}

// Open connects to the database, and brings it to the newest version of the schema
// or makes it where there is none.
func Open(ctx context.Context, c Config) (*DB, error) {
	config, err := parse(c)
	if err != nil {
		return nil, fmt.Errorf("reading the address of PostgreSQL: %w", withoutSecrets(err))
	}
	db := &DB{holder: newHolder(), rowTime: rowTime}
	if db.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("opening PostgreSQL: %w", withoutSecrets(err))
	}
	config = config.Copy()
	config.MaxConns = writerConnections
	config.ConnConfig.RuntimeParams["application_name"] = db.holder
	setPause(config, writerPause)
	if db.writer, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		db.pool.Close()
		return nil, fmt.Errorf("opening PostgreSQL: %w", withoutSecrets(err))
	}
	if err = db.checkServer(ctx); err == nil {
		err = db.migrate(ctx)
	}
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("opening PostgreSQL at %s, database %q: %w", config.ConnConfig.Host, config.ConnConfig.Database, withoutSecrets(err))
	}
	return db, nil
}

// Check returns an error if a configuration cannot be right. It does not connect.
func Check(c Config) error {
	_, err := parse(c)
	return withoutSecrets(err)
}

// parse makes the configuration of the pools.
func parse(c Config) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, err
	}
	if err := checkTLS(&config.ConnConfig.Config); err != nil {
		return nil, err
	}
	config.MaxConns = readerConnections
	setPause(config, readerPause)
	conn := config.ConnConfig
	if c.Password != "" {
		conn.Password = c.Password
	}
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = 5 * time.Second
	}
	conn.DialFunc = Dialer().DialContext
	for name, value := range map[string]string{
		"application_name":   "sealtap",
		"search_path":        "sealtap",
		"synchronous_commit": "on",
		"lock_timeout":       "10000",
		"tcp_user_timeout":   "10000",
	} {
		conn.RuntimeParams[name] = value
	}
	return config, nil
}

// setPause says after how long the server ends a connection that begins a transaction and
// does not go on with it.
func setPause(config *pgxpool.Config, d time.Duration) {
	config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = strconv.FormatInt(d.Milliseconds(), 10)
}

// checkTLS refuses an address by which it is a matter of luck whether a connection is
// encrypted: that of sslmode=prefer, the default, and of allow. Whoever stands between
// could see to it that it is not.
func checkTLS(c *pgconn.Config) error {
	type way struct{ plain, encrypted bool }
	ways := make(map[string]way)
	for _, f := range append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...) {
		network, addr := pgconn.NetworkAddress(f.Host, f.Port)
		if network == "unix" || isLocal(f.Host) {
			continue
		}
		w := ways[addr]
		w.plain, w.encrypted = w.plain || f.TLSConfig == nil, w.encrypted || f.TLSConfig != nil
		if ways[addr] = w; w.plain && w.encrypted {
			return fmt.Errorf("%w: add sslmode=verify-full for %s, or sslmode=disable on a network that is yours alone", ErrTLS, addr)
		}
	}
	return nil
}

func isLocal(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// Close closes the database. A lease is over when it ends, or when it is released.
func (db *DB) Close() error {
	db.writer.Close()
	db.pool.Close()
	return nil
}

// Dialer makes connections that end some ten seconds after a network took the server
// away, which says nothing: the kernel would try for a quarter of an hour.
func Dialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
		Control: func(network, _ string, c syscall.RawConn) (err error) {
			if strings.HasPrefix(network, "unix") {
				return nil
			}
			outer := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
			})
			return errors.Join(outer, err)
		},
	}
}

func newHolder() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return "sealtap-" + hex.EncodeToString(b[:])
}

// withoutSecrets leaves of an error about a connection string what names no password.
func withoutSecrets(err error) error {
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) && parse.Unwrap() != nil {
		return parse.Unwrap()
	}
	// One address is tried in several ways, and the same is said of each.
	var connect *pgconn.ConnectError
	var server *pgconn.PgError
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &connect) {
		switch {
		case errors.As(err, &certificate):
			return fmt.Errorf("its certificate is not accepted: %w", certificate.Err)
		case errors.As(err, &server):
			return fmt.Errorf("it refuses the connection: %w", server)
		case errors.As(err, &dial):
			return fmt.Errorf("it cannot be reached: %w", dial)
		}
	}
	return err
}

// oldest is the oldest version of the server that this was tried with.
const oldest = 150000

// checkServer refuses a server that is too old, or acknowledges what it has not kept.
// Whether a commit waits for the disk is ours to say, and said for each connection.
func (db *DB) checkServer(ctx context.Context) error {
	var version int
	if err := db.pool.QueryRow(ctx, `SELECT current_setting('server_version_num')::integer`).Scan(&version); err != nil {
		return err
	}
	if version < oldest {
		return fmt.Errorf("%w: it is PostgreSQL %d; %d or later is needed", ErrForeign, version/10000, oldest/10000)
	}
	for _, name := range []string{"fsync", "full_page_writes"} {
		var value string
		if err := db.pool.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value); err != nil {
			return err
		}
		if value == "off" {
			return fmt.Errorf("%w: %s is %s; set it to on", ErrUnsafe, name, value)
		}
	}
	return nil
}

// change makes changes under the lease, all of them or none. What is begun is
// finished, whatever becomes of ctx.
func (db *DB) change(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	tx, err := db.writer.Begin(ctx)
	if err != nil {
		return db.outcome(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, `SELECT fence($1)`, db.epoch.Load()); err != nil {
		return db.outcome(err)
	}
	if err := f(ctx, tx); err != nil {
		return db.outcome(err)
	}
	return db.outcome(tx.Commit(ctx))
}

// one reads one row. The server, or the network, may say nothing: it does not wait for
// ever.
func (db *DB) one(ctx context.Context, dest []any, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, db.rowTime)
	defer cancel()
	return meaning(db.pool.QueryRow(ctx, query, args...).Scan(dest...))
}

// all reads rows.
func all[T any](ctx context.Context, db *DB, row pgx.RowToFunc[T], query string, args ...any) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, viewTime)
	defer cancel()
	rows, err := db.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, meaning(err)
	}
	list, err := pgx.CollectRows(rows, row)
	return list, meaning(err)
}

// view reads what was committed at one moment.
func (db *DB) view(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, viewTime)
	defer cancel()
	tx, err := db.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return meaning(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), db.rowTime)
		defer cancel()
		_ = tx.Rollback(ctx)
	}()
	return meaning(f(ctx, tx))
}
