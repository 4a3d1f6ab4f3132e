package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// leaseTime is how long a lease lasts that is not renewed, by the clock of the
	// database.
	leaseTime = 2 * time.Second
	// renewEvery is the time between two renewals, and between two looks of those who
	// wait.
	renewEvery = 500 * time.Millisecond
)

const lookForLease = `SELECT id FROM alive WHERE id = 0 AND expires < clock_timestamp() FOR UPDATE SKIP LOCKED`

// Lease is the right to write.
type Lease struct {
	// Context ends when the lease is over: released, lost, or not renewed in time. It
	// does not end with that of Acquire.
	Context context.Context

	db     *DB
	epoch  int64
	cancel context.CancelCauseFunc
	done   chan struct{}
	once   sync.Once
}

// Acquire waits until nobody holds the lease, and takes it. url is where its holder
// takes submissions, for the others to know.
func (db *DB) Acquire(ctx context.Context, url string) (*Lease, error) {
	for {
		asked := time.Now()
		epoch, err := db.tryAcquire(ctx, url)
		if err != nil {
			return nil, fmt.Errorf("taking the lease of the log: %w", meaning(err))
		}
		if epoch > 0 {
			return db.hold(ctx, epoch, asked), nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(renewEvery):
		}
	}
}

// tryAcquire takes the lease if it is over, and returns its number; 0 if somebody
// holds it.
func (db *DB) tryAcquire(ctx context.Context, url string) (epoch int64, err error) {
	tx, err := db.writer.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	// A lease that is not over is not locked: one who is paused right here must not keep
	// its holder from renewing it.
	var id int
	err = tx.QueryRow(ctx, lookForLease).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	// The former writer may have been paused in the middle of a change, with a lock on
	// the lease. Its connections go before the lease does.
	_, err = tx.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = (SELECT holder FROM lease WHERE holder <> '') AND application_name <> $1
		AND datname = current_database()`, db.holder)
	if notAllowed(err) {
		return 0, fmt.Errorf("the connections of the server that held it last cannot be ended; all log servers use one role of PostgreSQL: %w", err)
	}
	if err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, `UPDATE lease SET epoch = epoch + 1, holder = $1, url = $2 WHERE id = 0 RETURNING epoch`, db.holder, url).Scan(&epoch)
	if err != nil {
		return 0, err
	}
	if _, err = tx.Exec(ctx, `UPDATE alive SET expires = clock_timestamp() + $1 * interval '1 second'`, leaseTime.Seconds()); err != nil {
		return 0, err
	}
	return epoch, tx.Commit(ctx)
}

// notAllowed reports whether the role may not do what it was to do.
func notAllowed(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "42501" // insufficient_privilege
}

// hold keeps a lease that was taken at some time after since.
func (db *DB) hold(ctx context.Context, epoch int64, since time.Time) *Lease {
	db.epoch.Store(epoch)
	l := &Lease{db: db, epoch: epoch, done: make(chan struct{})}
	l.Context, l.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	go l.renew(since)
	return l
}

// renew keeps the lease, which was taken or renewed last at some time after last, until
// it is lost.
func (l *Lease) renew(last time.Time) {
	defer close(l.done)
	for {
		select {
		case <-l.Context.Done():
			return
		case <-time.After(renewEvery):
		}
		began := time.Now()
		ctx, cancel := context.WithDeadline(l.Context, last.Add(leaseTime))
		held, err := l.expire(ctx, fmt.Sprintf("clock_timestamp() + interval '%d milliseconds'", leaseTime.Milliseconds()))
		cancel()
		switch {
		case err == nil && held:
			last = began
		case err == nil:
			l.cancel(fmt.Errorf("%w: it took the lease over", ErrNotWriter))
		case time.Since(last) >= leaseTime:
			l.cancel(fmt.Errorf("%w: the lease could not be renewed: %w", ErrNotWriter, err))
		}
	}
}

// Release gives the lease up, for another to take at once.
func (l *Lease) Release(ctx context.Context) error {
	var err error
	l.once.Do(func() {
		l.cancel(errors.New("the lease was released"))
		<-l.done
		_, err = l.expire(ctx, `'-infinity'`)
	})
	return err
}

// expire sets when the lease is over, and reports whether it is still this one. Who
// takes it locks the same row first: whose lease it is, is asked behind that lock, by a
// statement that sees what was committed meanwhile.
func (l *Lease) expire(ctx context.Context, when string) (held bool, err error) {
	batch := new(pgx.Batch)
	batch.Queue(`SELECT id FROM alive WHERE id = 0 FOR UPDATE`)
	batch.Queue(`UPDATE alive SET expires = `+when+` WHERE id = 0 AND (SELECT epoch FROM lease) = $1`, l.epoch).Exec(func(tag pgconn.CommandTag) error {
		held = tag.RowsAffected() == 1
		return nil
	})
	return held, l.db.writer.SendBatch(ctx, batch).Close()
}

// Writer returns where the holder of the lease takes submissions, and reports whether
// there is one that is alive.
func (db *DB) Writer(ctx context.Context) (url string, alive bool, err error) {
	err = db.one(ctx, []any{&url, &alive}, `SELECT url, expires >= clock_timestamp() FROM lease, alive`)
	if err != nil {
		return "", false, fmt.Errorf("reading the lease of the log: %w", err)
	}
	return url, alive, nil
}
