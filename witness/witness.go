// Package witness cosigns checkpoints of transparency logs, so that everybody
// is shown the same log, and collects such cosignatures for a log. Both sides
// speak C2SP tlog-witness (https://c2sp.org/tlog-witness).
//
// To run a witness, call [New] and then [Server.Serve]. To have checkpoints
// cosigned, call [NewClient] and then [Client.Cosign].
//
// A witness whose store was put back from an old copy could cosign a second history
// of what a log did since. It does not sign while its store is in doubt, see
// [Doubt], and it stops where it sees its own cosignature on a head that the store
// does not know. Package recovery ends doubts.
package witness

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/failpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness/bastion"
)

// maxMLDSAName is the longest origin or cosigner name that an ML-DSA-44 signature
// can commit to (tlog-cosignature, "ML-DSA-44 signed message").
const maxMLDSAName = 255

// Config is what a witness is made of.
type Config struct {
	// Key signs the cosignatures. Its type is [keys.Cosignature], or [keys.MLDSA44]
	// for a witness that signs so only. Required.
	Key *keys.Private
	// PostQuantumKey signs beside it. Its type is [keys.MLDSA44]. Nil: nothing does.
	PostQuantumKey *keys.Private
	// Logs gives, for each log origin, the keys that its checkpoints may be
	// signed with. Empty: no log is known. [Server.SetLogs] changes them.
	Logs map[string][]keys.Public
	// Rate bounds how many signed requests of each log are answered, twice: those
	// that go on from its latest checkpoint, and all others. What is above it is
	// refused with 429. Zero: no bound.
	Rate Rate
	// Bastions make the witness reachable besides, see [Server.ServeBastions].
	Bastions []*bastion.Bastion
	// Store keeps the latest checkpoints. Required. The server must be the
	// only one to use it.
	Store Store
	// Logger is told of forks and failures. Nil: nobody is.
	Logger *slog.Logger
}

// Server is a witness.
type Server struct {
	name     string // of the key
	signers  []signer
	own      note.Verifiers
	store    Store
	logger   *slog.Logger
	bastions []*bastion.Bastion
	counts   counters
	kept     keptForks
	rate     atomic.Pointer[Rate]
	logs     atomic.Pointer[logSet]
	setting  sync.Mutex // is held while logs is replaced

	doubts   atomic.Pointer[doubts]
	doubting sync.Mutex // is held while doubts is replaced
}

// New makes a witness and restores what the store knows.
func New(ctx context.Context, c Config) (*Server, error) {
	if c.Key == nil || c.Store == nil {
		return nil, errors.New("a witness needs a key and a store")
	}
	s := &Server{name: c.Key.Name, bastions: c.Bastions, store: c.Store, logger: c.Logger}
	if err := s.setKeys(c.Key, c.PostQuantumKey); err != nil {
		return nil, err
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.SetRate(c.Rate)
	if err := s.restoreForks(ctx); err != nil {
		return nil, err
	}
	if err := s.restoreDoubts(ctx); err != nil {
		return nil, err
	}
	if err := s.SetLogs(ctx, c.Logs); err != nil {
		return nil, err
	}
	return s, nil
}

// sign cosigns a checkpoint that is the durable head of the log already,
// publishes it, and returns the signature lines.
func (s *Server) sign(ctx context.Context, l *logState, n *note.Note) ([]byte, error) {
	signers := s.signersFor(l.origin)
	cosigned, err := note.Sign(&note.Note{Text: n.Text, Sigs: n.Sigs}, signers...)
	if err != nil {
		return nil, fmt.Errorf("cosigning: %w", err)
	}
	failpoint.Here("head-cosigned")
	l.cosigned.Store(&cosigned)
	if err := s.store.Publish(ctx, l.origin, cosigned); err != nil {
		return nil, fmt.Errorf("publishing: %w", err)
	}
	// The signatures made last stand last, and behind them what follows the newline.
	lines := strings.SplitAfter(string(cosigned), "\n")
	return []byte(strings.Join(lines[len(lines)-1-len(signers):], "")), nil
}

// OriginHash returns the name of a log in the monitoring interface (tlog-witness,
// "Monitor Retrieval Mechanism"): the SHA-256 of its origin in lower-case hex.
func OriginHash(origin string) string {
	h := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(h[:])
}

// Counters say how often a witness did what since it was made.
type Counters struct {
	Advanced     uint64 // cosigned a larger checkpoint
	Repeated     uint64 // cosigned the latest checkpoint again
	Subtrees     uint64 // signed a subtree
	Malformed    uint64 // refused with 400
	UnknownLog   uint64 // refused with 404
	BadSignature uint64 // refused with 403
	Conflict     uint64 // refused with 409
	Inconsistent uint64 // refused with 422
	Limited      uint64 // refused with 429
	Doubted      uint64 // refused with 503, since the state may be old
	Failed       uint64 // could not say: the store or the signer failed
	Forks        uint64 // kept a checkpoint as evidence
}

// counters are the live form of Counters.
type counters struct {
	advanced, repeated, malformed, unknownLog, badSignature atomic.Uint64
	conflict, inconsistent, limited, failed, forks          atomic.Uint64
	subtrees, doubted, reloaded, notReloaded                atomic.Uint64
}

// Counters returns the counters as they are now.
func (s *Server) Counters() Counters {
	c := &s.counts
	return Counters{
		Advanced:     c.advanced.Load(),
		Repeated:     c.repeated.Load(),
		Subtrees:     c.subtrees.Load(),
		Malformed:    c.malformed.Load(),
		UnknownLog:   c.unknownLog.Load(),
		BadSignature: c.badSignature.Load(),
		Conflict:     c.conflict.Load(),
		Inconsistent: c.inconsistent.Load(),
		Limited:      c.limited.Load(),
		Doubted:      c.doubted.Load(),
		Failed:       c.failed.Load(),
		Forks:        c.forks.Load(),
	}
}
