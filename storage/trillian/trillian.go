// Package trillian keeps a log in Trillian (github.com/google/trillian) and, what
// Trillian does not keep, in PostgreSQL. The tree is a PREORDERED_LOG: which entry
// stands where is decided in PostgreSQL, durably and by one writer, before Trillian
// hears of it, so that order, leaf hashes and roots are the same as on any other
// storage, and whoever sends to Trillian can only repeat what is decided.
//
// Trillian is the second pair of eyes: it computes the tree again from the entries,
// and no checkpoint is kept as signed before Trillian's root and ours are the same.
// Readers are served from PostgreSQL and never wait for Trillian.
//
// Call [Open], and keep [Log.HandOver] running while the lease is held.
package trillian

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
	"github.com/sealtap/sealtap/storage/postgres"
	"github.com/sealtap/sealtap/tlog/tiles"
)

var (
	// ErrTree is wrapped where the tree is not one that a log can be kept in.
	ErrTree = errors.New("not a tree for a log")
	// ErrDiffers is wrapped where Trillian and PostgreSQL do not hold the same log.
	// Nothing is signed from then on.
	ErrDiffers = errors.New("the log in Trillian and the one in PostgreSQL differ")
	// ErrLags is wrapped where Trillian has not taken over in time what is to be
	// signed.
	ErrLags = errors.New("the log in Trillian lags behind")
)

const (
	// maxMessage is what an answer may have: by default gRPC refuses more than 4 MiB.
	maxMessage = 64 << 20
	// signWait is how long a checkpoint waits for Trillian before that is told.
	signWait = 10 * time.Second
	callTime = 20 * time.Second
)

// Config says which tree it is.
type Config struct {
	Address string      // of the log server, host:port; required
	TreeID  int64       // required
	TLS     *tls.Config // nil: plain text
	Logger  *slog.Logger
}

// Log is the storage of a log. It implements [storage.Log] and [storage.Pruner]:
// pruning lets go of what is in PostgreSQL; Trillian keeps its leaves.
type Log struct {
	*postgres.Log
	config Config
	conn   *grpc.ClientConn
	client trillian.TrillianLogClient

	size   atomic.Uint64          // entries stored, as far as this process knows
	failed atomic.Pointer[failed] // why nothing is signed any more
	mu     sync.Mutex
	equal  uint64        // up to this size Trillian's tree is ours
	news   chan struct{} // closed when equal or failed changes
	added  chan struct{} // has room for one: something was committed
}

type failed struct{ error }

// Connect returns a connection to a server of Trillian.
func Connect(c Config) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if c.TLS != nil {
		creds = credentials.NewTLS(c.TLS)
	}
	conn, err := grpc.NewClient(c.Address, grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return postgres.Dialer().DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return nil, fmt.Errorf("connecting to Trillian at %s: %w", c.Address, err)
	}
	return conn, nil
}

// Open opens the log that is kept in both.
func Open(ctx context.Context, c Config, log *postgres.Log) (*Log, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	conn, err := Connect(c)
	if err != nil {
		return nil, err
	}
	l := &Log{Log: log, config: c, conn: conn, client: trillian.NewTrillianLogClient(conn), news: make(chan struct{}), added: make(chan struct{}, 1)}
	if err = checkTLS(ctx, c); err == nil {
		err = l.check(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("opening tree %d of Trillian at %s: %w", c.TreeID, c.Address, err)
	}
	return l, nil
}

// Close closes the connection to Trillian and what the log holds in PostgreSQL.
func (l *Log) Close() error { return errors.Join(l.conn.Close(), l.Log.Close()) }

// check refuses a tree that is of another kind, and one that has what PostgreSQL does
// not have, or something else.
func (l *Log) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	tree, err := trillian.NewTrillianAdminClient(l.conn).GetTree(ctx, &trillian.GetTreeRequest{TreeId: l.config.TreeID}, grpc.WaitForReady(true))
	switch {
	case status.Code(err) == codes.NotFound:
		return fmt.Errorf("%w: there is none of that id; make one with sealtap log init", ErrTree)
	case status.Code(err) == codes.Unimplemented:
		// A server can keep its admin interface elsewhere: the root tells enough.
	case err != nil:
		return reached(err)
	case tree.TreeType != trillian.TreeType_PREORDERED_LOG:
		return fmt.Errorf("%w: it is a %s, and has to be a PREORDERED_LOG; make one with sealtap log init", ErrTree, tree.TreeType)
	case tree.TreeState != trillian.TreeState_ACTIVE || tree.Deleted:
		return fmt.Errorf("%w: it is %s, and has to be ACTIVE", ErrTree, tree.TreeState)
	}
	root, err := l.latest(ctx)
	if err != nil {
		return err
	}
	if err := l.compare(ctx, root); err != nil {
		return err
	}
	return l.checkFill(ctx, root.TreeSize)
}

// checkFill refuses a tree that lacks entries which PostgreSQL has let go of: it could
// never be filled.
func (l *Log) checkFill(ctx context.Context, size uint64) error {
	p, err := l.Pruned(ctx)
	if err != nil || p.Minimum <= size {
		return err
	}
	return fmt.Errorf("%w: it has %d entries, and of those that it lacks PostgreSQL keeps none below %d: put back Trillian's database, or begin a successor log",
		ErrTree, size, p.Minimum)
}

// reached says of an error of the connection what to look after.
func reached(err error) error {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("it does not answer: %w", err)
	}
	return err
}

// latest returns Trillian's root.
func (l *Log) latest(ctx context.Context) (root types.LogRootV1, err error) {
	answer, err := l.client.GetLatestSignedLogRoot(ctx, &trillian.GetLatestSignedLogRootRequest{LogId: l.config.TreeID})
	if err != nil {
		if status.Code(err) == codes.NotFound || status.Code(err) == codes.FailedPrecondition {
			return root, fmt.Errorf("%w: it has no root yet; sealtap log init gives it one: %w", ErrTree, err)
		}
		return root, reached(err)
	}
	if err := root.UnmarshalBinary(answer.GetSignedLogRoot().GetLogRoot()); err != nil {
		return root, fmt.Errorf("%w: reading its root: %w", ErrTree, err)
	}
	return root, nil
}

// compare holds Trillian's root against our own tree, and remembers how far they are
// the same.
func (l *Log) compare(ctx context.Context, root types.LogRootV1) error {
	ours, err := l.rootAt(ctx, root.TreeSize)
	if err != nil {
		return err
	}
	if root.TreeSize > 0 && string(root.RootHash) != string(ours[:]) {
		return fmt.Errorf("%w: of %d entries Trillian has root %x, and the entries give %x; stop the log, keep both databases, and run an audit",
			ErrDiffers, root.TreeSize, root.RootHash, ours[:])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if root.TreeSize > l.equal {
		l.equal = root.TreeSize
		close(l.news)
		l.news = make(chan struct{})
	}
	return nil
}

// fail stops the signing.
func (l *Log) fail(err error) {
	l.failed.Store(&failed{err})
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.news)
	l.news = make(chan struct{})
}

// Health returns why nothing is signed any more, nil if all is well.
func (l *Log) Health() error {
	if f := l.failed.Load(); f != nil {
		return f.error
	}
	return nil
}

// Taken returns up to which size Trillian's tree is ours.
func (l *Log) Taken() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.equal
}

// Commit implements [storage.Log]. What it stores is safe in PostgreSQL; Trillian
// gets it afterwards.
func (l *Log) Commit(ctx context.Context, b *storage.Batch) error {
	if err := l.Log.Commit(ctx, b); err != nil {
		return err
	}
	l.grown(b.First + uint64(len(b.Entries)))
	select {
	case l.added <- struct{}{}:
	default:
	}
	return nil
}

// grown says how many entries are stored.
func (l *Log) grown(size uint64) {
	for {
		have := l.size.Load()
		if have >= size || l.size.CompareAndSwap(have, size) {
			return
		}
	}
}

// SetSigned implements [storage.Log]. It waits until Trillian has the same tree.
func (l *Log) SetSigned(ctx context.Context, h storage.Head) error {
	if err := l.await(ctx, h.Size); err != nil {
		return fmt.Errorf("keeping signed checkpoint of size %d: %w", h.Size, err)
	}
	return l.Log.SetSigned(ctx, h)
}

func (l *Log) await(ctx context.Context, size uint64) error {
	late := time.NewTimer(signWait)
	defer late.Stop()
	for {
		l.mu.Lock()
		equal, news := l.equal, l.news
		l.mu.Unlock()
		if err := l.Health(); err != nil {
			return err
		}
		if equal >= size {
			return nil
		}
		if size > l.size.Load() {
			stored, err := l.StoredSize(ctx)
			if err != nil {
				return err
			}
			if l.grown(stored); size > stored {
				return fmt.Errorf("%w: the log has %d entries", storage.ErrMoved, stored)
			}
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fmt.Errorf("%w: it has integrated %d of %d entries; is its signer running?", ErrLags, equal, size)
		}
	}
}

// rootAt computes our root of a size.
func (l *Log) rootAt(ctx context.Context, size uint64) (record.Hash, error) {
	state, err := l.StoredSize(ctx)
	switch {
	case err != nil:
		return record.Hash{}, err
	case size > state:
		return record.Hash{}, fmt.Errorf("%w: Trillian has %d entries, PostgreSQL %d: it is an older copy, or the tree is of another log; "+
			"put back a newer copy of the database", ErrDiffers, size, state)
	case size == 0:
		return record.Hash{}, nil
	}
	l.grown(state)
	return tiles.Root(ctx, l.Log, size)
}
