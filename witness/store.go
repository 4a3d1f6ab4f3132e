package witness

import (
	"context"
	"errors"
	"time"

	"github.com/sealtap/sealtap/witness/fork"
)

// ErrMoved is returned by a [Store] where a head is not the one to be replaced.
var ErrMoved = errors.New("head has moved")

// Head is the latest checkpoint of a log that a witness cosigned.
type Head struct {
	Origin string
	Size   uint64
	Root   [32]byte
	Note   []byte // signed note with the log's verified signatures only
}

// Fork is a checkpoint that the log signed and that does not fit the latest one.
type Fork struct {
	ID      int64 // tells those of a log apart; given by the store
	Kind    fork.Kind
	Offered Head
	Latest  Head // its Note is nil where there was none
	Proof   [][32]byte
	// Beginning is the root that Proof leads from where it is not Latest's, and the
	// proof alone does not show it. Nil: there is no such root, or the proof does.
	Beginning *[32]byte
	Seen      time.Time
}

// Doubt is why a witness does not sign: what it knows of a log may be older than
// what it has cosigned.
type Doubt struct {
	Origin string // "" for all logs
	Why    string
	Since  time.Time
	// Seen is a head with a cosignature by the witness that the store does not know
	// of. Nil where there is none.
	Seen []byte
}

// Store is what a witness must not forget. Its methods may be called by several
// goroutines. After an error other than [ErrMoved] a change may or may not have
// been made.
type Store interface {
	// Head returns the head last set by Advance, and reports whether there is
	// one. What it returns is durable.
	Head(ctx context.Context, origin string) (Head, bool, error)
	// Advance replaces the head from, nil for none, by the head next of the
	// same origin. Comparing and replacing are one atomic step, which is
	// durable on return. It returns ErrMoved where from is not the head.
	Advance(ctx context.Context, from *Head, next Head) error

	// Origins returns the origins of all heads and forks.
	Origins(ctx context.Context) ([]string, error)

	// Doubts returns all doubts.
	Doubts(ctx context.Context) ([]Doubt, error)
	// AddDoubt keeps a doubt durably, unless there is one of its origin.
	AddDoubt(ctx context.Context, d Doubt) error
	// SplitDoubt replaces a doubt about all logs by one for each of the origins, and
	// of those that the store knows, in one atomic step.
	SplitDoubt(ctx context.Context, origins []string) error
	// Settle ends the doubt about a log, and replaces its head, whatever it is, by
	// next unless that is nil, in one atomic step which is durable on return.
	Settle(ctx context.Context, origin string, next *Head) error

	// Publish keeps a cosigned checkpoint for Published. It need not be durable
	// before the next Advance of the origin.
	Publish(ctx context.Context, origin string, cosigned []byte) error
	// Published returns what was last published for the origin, nil for nothing.
	Published(ctx context.Context, origin string) ([]byte, error)

	// AddFork keeps the fork durably and reports whether it did: not if it has
	// it already, or has as many, or as many bytes, of the same log and kind as it
	// cares to keep.
	AddFork(ctx context.Context, f Fork) (bool, error)
	// Forks returns the forks of the origin, oldest first.
	Forks(ctx context.Context, origin string) ([]Fork, error)
	// DropFork forgets what was kept as [fork.Unproven] of a head that has turned
	// out to fit, and returns how many that were.
	DropFork(ctx context.Context, fits Head) (int, error)
	// CountForks returns how many forks are kept of each origin and kind.
	CountForks(ctx context.Context) (map[string]map[fork.Kind]int, error)
}
