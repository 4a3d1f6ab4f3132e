// Package witness cosigns checkpoints of transparency logs, so that everybody
// is shown the same log, and collects such cosignatures for a log. Both sides
// speak C2SP tlog-witness (https://c2sp.org/tlog-witness).
//
// To run a witness, call [New] and then [Server.Serve]. To have checkpoints
// cosigned, call [NewClient] and then [Client.Cosign].
//
// BUG: a witness whose store is restored from an old copy may cosign a second
// history of what a log did since that copy; from the store alone it cannot
// know. Cosigned checkpoints that others keep show both.
package witness

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/failpoint"
	"github.com/sealtap/sealtap/keys"
)

// Config is what a witness is made of.
type Config struct {
	// Key signs the cosignatures. Its type is [keys.Cosignature]. Required.
	Key *keys.Private
	// Logs gives, for each log origin, the keys that its checkpoints may be
	// signed with. Empty: no log is known.
	Logs map[string][]keys.Public
	// Store keeps the latest checkpoints. Required. The server must be the
	// only one to use it.
	Store Store
	// Logger is told of forks and failures. Nil: nobody is.
	Logger *slog.Logger
}

// Server is a witness.
type Server struct {
	signer note.Signer
	logs   map[string]*logState // by origin
	hashes map[string]*logState // by origin hash, see [OriginHash]
	store  Store
	logger *slog.Logger
	counts counters
}

// logState is one log that the witness knows.
type logState struct {
	origin string
	keys   note.Verifiers
	// turn is held from reading the head to signing the next one, so that a
	// cosignature never states a smaller tree than one made before it.
	turn chan struct{}
	// cosigned is the latest cosigned checkpoint, nil for none. Whoever has
	// the turn writes it.
	cosigned atomic.Pointer[[]byte]
}

// New makes a witness and restores what the store knows.
func New(ctx context.Context, c Config) (*Server, error) {
	if c.Key == nil || c.Store == nil {
		return nil, errors.New("a witness needs a key and a store")
	}
	if c.Key.Type != keys.Cosignature {
		return nil, fmt.Errorf("key %s has type 0x%02x; a witness needs type 0x%02x", c.Key.Name, byte(c.Key.Type), byte(keys.Cosignature))
	}
	signer, err := c.Key.Signer()
	if err != nil {
		return nil, fmt.Errorf("preparing key %s: %w", c.Key.Name, err)
	}
	own, err := c.Key.Verifier()
	if err != nil {
		return nil, fmt.Errorf("preparing key %s: %w", c.Key.Name, err)
	}
	s := &Server{
		signer: signer,
		logs:   make(map[string]*logState, len(c.Logs)),
		hashes: make(map[string]*logState, len(c.Logs)),
		store:  c.Store,
		logger: c.Logger,
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	for origin, ks := range c.Logs {
		l, err := newLog(origin, ks)
		if err != nil {
			return nil, fmt.Errorf("log %s: %w", origin, err)
		}
		if err := s.restore(ctx, l, own); err != nil {
			return nil, fmt.Errorf("log %s: restoring: %w", origin, err)
		}
		s.logs[origin] = l
		s.hashes[OriginHash(origin)] = l
	}
	return s, nil
}

// newLog prepares the keys of one log.
func newLog(origin string, ks []keys.Public) (*logState, error) {
	if origin == "" || strings.Contains(origin, "\n") {
		return nil, errors.New("the origin is empty or more than one line")
	}
	if len(ks) == 0 {
		return nil, errors.New("no key is given")
	}
	var vs []note.Verifier
	for _, k := range ks {
		// tlog-cosignature: a type 0x06 signature commits to origins of at most 255 bytes.
		if k.Type != keys.Ed25519 && (k.Type != keys.MLDSA44 || len(origin) > 255) {
			return nil, fmt.Errorf("key %s: type 0x%02x cannot sign its checkpoints", k.Name, byte(k.Type))
		}
		v, err := k.Verifier()
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k.Name, err)
		}
		vs = append(vs, v)
	}
	return &logState{origin: origin, keys: note.VerifierList(vs...), turn: make(chan struct{}, 1)}, nil
}

// restore finds the cosigned checkpoint of a log, or signs the head anew: a
// crash may have come between keeping the head and publishing it, and the key
// may have changed.
func (s *Server) restore(ctx context.Context, l *logState, own note.Verifier) error {
	head, ok, err := s.store.Head(ctx, l.origin)
	if err != nil || !ok {
		return err
	}
	cosigned, err := s.store.Published(ctx, l.origin)
	if err != nil {
		return err
	}
	b, _, err := checkpoint.Open(cosigned, note.VerifierList(own))
	if err == nil && b == (checkpoint.Body{Origin: head.Origin, Size: head.Size, Root: head.Root}) {
		l.cosigned.Store(&cosigned)
		return nil
	}
	n, err := checkpoint.Verify(head.Note, l.keys)
	if errors.Is(err, checkpoint.ErrSignature) {
		// The log's key was replaced since. The size still counts.
		s.logger.Warn("latest checkpoint is not by a current key of the log", "origin", l.origin, "size", head.Size)
		return nil
	}
	if err != nil {
		return err
	}
	_, err = s.sign(ctx, l, n)
	return err
}

// sign cosigns a checkpoint that is the durable head of the log already,
// publishes it, and returns the signature line.
func (s *Server) sign(ctx context.Context, l *logState, n *note.Note) ([]byte, error) {
	cosigned, err := note.Sign(&note.Note{Text: n.Text, Sigs: n.Sigs}, s.signer)
	if err != nil {
		return nil, fmt.Errorf("cosigning: %w", err)
	}
	failpoint.Here("head-cosigned")
	l.cosigned.Store(&cosigned)
	if err := s.store.Publish(ctx, l.origin, cosigned); err != nil {
		return nil, fmt.Errorf("publishing: %w", err)
	}
	// The signature made last stands last.
	lines := strings.SplitAfter(string(cosigned), "\n")
	return []byte(lines[len(lines)-2]), nil
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
	Malformed    uint64 // refused with 400
	UnknownLog   uint64 // refused with 404
	BadSignature uint64 // refused with 403
	Conflict     uint64 // refused with 409
	Inconsistent uint64 // refused with 422
	Failed       uint64 // could not say: the store or the signer failed
	Forks        uint64 // kept a checkpoint as evidence
}

// counters are the live form of Counters.
type counters struct {
	advanced, repeated, malformed, unknownLog, badSignature atomic.Uint64
	conflict, inconsistent, failed, forks                   atomic.Uint64
}

// Counters returns the counters as they are now.
func (s *Server) Counters() Counters {
	c := &s.counts
	return Counters{
		Advanced:     c.advanced.Load(),
		Repeated:     c.repeated.Load(),
		Malformed:    c.malformed.Load(),
		UnknownLog:   c.unknownLog.Load(),
		BadSignature: c.badSignature.Load(),
		Conflict:     c.conflict.Load(),
		Inconsistent: c.inconsistent.Load(),
		Failed:       c.failed.Load(),
		Forks:        c.forks.Load(),
	}
}

// addFork keeps a checkpoint that the log signed and that does not fit. The
// answer to the client is the same whether or not that works.
func (s *Server) addFork(ctx context.Context, kind string, offered, latest Head) {
	f := Fork{Kind: kind, Offered: offered, Latest: latest, Seen: time.Now()}
	added, err := s.store.AddFork(context.WithoutCancel(ctx), f)
	if err != nil {
		s.logger.Error("fork evidence could not be kept", "origin", offered.Origin, "size", offered.Size, "err", err)
	}
	if added {
		s.counts.forks.Add(1)
		s.logger.Error("log signed a checkpoint that does not fit", "origin", offered.Origin, "kind", kind,
			"size", offered.Size, "latest", latest.Size)
	}
}
