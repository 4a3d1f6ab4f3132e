// Package recovery brings a witness whose state may be older than what it has
// cosigned, such as one whose database was put back from a backup, up to the heads
// that others have seen, so that it can sign again without signing a second history.
//
// It asks the other witnesses of a policy for the newest head that they have cosigned
// (tlog-witness, "Monitor Retrieval Mechanism"), and the log and copies of it for
// theirs. The largest becomes the head of the witness once all the others, the
// stored one among them, are proven to be its beginning.
//
// What nobody has kept nobody can tell: a log that had this witness cosign a head,
// and showed it to no one else, is not found out. Only a new key closes that.
//
// Start with [Run].
package recovery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/policy"
)

// Config says what is known of the logs and who can be asked.
type Config struct {
	// By is the name of the witness's key, for evidence of forks.
	By string
	// Own are the keys of the witness, which does not ask itself.
	Own []keys.Public
	// Logs gives the keys of each log by its origin.
	Logs map[string][]keys.Public
	// Policy names the other witnesses, and where the logs are read.
	Policy *policy.Policy
	// Copies are mirrors and other copies of logs, whichever they are of.
	Copies []*client.Source
	// Without are the names of witnesses in Policy that need not answer.
	Without []string
	// TrustLog takes a log's word for its newest head where no other witness has
	// cosigned it.
	TrustLog bool
	// Store is that of the witness, which does not run.
	Store witness.Store
	// HTTP asks; nil is a client of its own. Timeout bounds each question; 0 is 10 s.
	HTTP    *http.Client
	Timeout time.Duration
}

// The outcomes of one log.
const (
	Recovered  = "recovered"  // it can be signed for again
	Forked     = "forked"     // heads that are seen are of two histories; evidence is kept
	Unfinished = "unfinished" // something that has to be known could not be had
)

// Outcome is what has become of one log.
type Outcome struct {
	Origin string `json:"origin"`
	State  string `json:"state"`
	Before uint64 `json:"before"` // size of the stored head
	Size   uint64 `json:"size"`   // of the head that the witness goes on from, or of the largest that was seen
	Seen   []Seen `json:"seen"`
	Detail string `json:"detail,omitempty"` // why it is not recovered
}

// Seen is what one party says of a log.
type Seen struct {
	Where string `json:"where"`
	Size  uint64 `json:"size"`
	Error string `json:"error,omitempty"` // why it could not say
}

// why is the doubt that a recovery begins with, so that one that is cut off leaves a
// witness that does not sign.
const why = "sealtap witness recover was begun, and has not caught up with this log"

// Run brings the witness up to date with every log of the configuration. From its
// beginning on the witness is in doubt about all logs, and for each that is
// recovered the doubt ends. Its error is about the store.
func Run(ctx context.Context, c Config) ([]Outcome, error) {
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if err := c.Store.AddDoubt(ctx, witness.Doubt{Why: why, Since: time.Now()}); err != nil {
		return nil, err
	}
	origins := slices.Sorted(maps.Keys(c.Logs))
	if err := c.Store.SplitDoubt(ctx, origins); err != nil {
		return nil, err
	}
	doubts, err := c.Store.Doubts(ctx)
	if err != nil {
		return nil, err
	}
	var all []Outcome
	for _, origin := range origins {
		r := &recovering{Config: c, Outcome: Outcome{Origin: origin, Seen: []Seen{}}}
		for _, d := range doubts {
			if d.Origin == origin {
				r.own = d.Seen
			}
		}
		err := r.run(ctx)
		var u unfinished
		switch {
		case errors.As(err, &u):
			r.State, r.Detail = Unfinished, string(u)
		case err != nil:
			return all, fmt.Errorf("log %s: %w", origin, err)
		}
		all = append(all, r.Outcome)
	}
	return all, nil
}

// unfinished says what is not known, as an error.
type unfinished string

func (u unfinished) Error() string { return string(u) }

func unfinishedf(format string, args ...any) error { return unfinished(fmt.Sprintf(format, args...)) }
