package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sealtap/sealtap/storage"
)

var (
	// ErrNotWriter is wrapped where somebody changes the log who holds no lease, or
	// one that is over. Nothing has changed then, unless the error wraps ErrAway too.
	ErrNotWriter = errors.New("another log server writes this log")
	// ErrAway is wrapped where PostgreSQL takes no connections, or has ended the one in
	// use. It will be there again; a change may or may not have been made.
	ErrAway = errors.New("PostgreSQL is not to be had at present")
	// ErrForeign is wrapped where the database holds something else.
	ErrForeign = errors.New("not a database of this kind")
	// ErrNewer is wrapped where a later version of Sealtap wrote the database.
	ErrNewer = errors.New("database written by a newer version")
	// ErrUnsafe is wrapped where the server is set to lose what it has acknowledged.
	ErrUnsafe = errors.New("the server does not keep what it acknowledges")
	// ErrTLS is wrapped where an address leaves it to chance whether there is TLS.
	ErrTLS = errors.New("the address does not say whether TLS is needed")
)

// What the functions of the schema raise.
const (
	codeFenced = "SL001"
	codeMoved  = "SL002"
)

// meaning turns what PostgreSQL and the schema raise into errors with a meaning.
func meaning(err error) error {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		var connect *pgconn.ConnectError
		var dial *net.OpError
		if errors.As(err, &connect) || errors.As(err, &dial) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %w", ErrAway, err)
		}
		return err
	}
	switch e.Code {
	case codeFenced:
		return fmt.Errorf("%w: %s", ErrNotWriter, e.Message)
	case codeMoved:
		return fmt.Errorf("%w: %s", storage.ErrMoved, e.Message)
	case "53100":
		return fmt.Errorf("the disk of PostgreSQL is full: %s", e.Message)
	// It stops, has crashed or starts; it has no connection left.
	case "57P01", "57P02", "57P03", "53300":
		return fmt.Errorf("%w: %s", ErrAway, e.Message)
	}
	if strings.HasPrefix(e.Code, "08") { // the connection
		return fmt.Errorf("%w: %s", ErrAway, e.Message)
	}
	return err
}

// askTime is how long a failed change asks whether the lease was the reason.
const askTime = 2 * time.Second

// outcome says why a change failed. Whoever takes the lease over ends the connections of
// the one who had it: all that this one sees is a connection that has ended, and it asks
// who writes now.
func (db *DB) outcome(err error) error {
	if err = meaning(err); !errors.Is(err, ErrAway) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	var epoch int64
	if db.one(ctx, []any{&epoch}, `SELECT epoch FROM lease`) == nil && epoch != db.epoch.Load() {
		return fmt.Errorf("%w: it took the lease over: %w", ErrNotWriter, err)
	}
	return err
}

// damage marks errors of a database that contradicts itself.
func damage(err error) error {
	var e *pgconn.PgError
	if errors.As(err, &e) && strings.HasPrefix(e.Code, "XX") {
		return fmt.Errorf("%w: %w", storage.ErrCorrupt, err)
	}
	return err
}
