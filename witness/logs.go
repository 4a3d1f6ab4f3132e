package witness

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness/fork"
)

// logSet is the logs that a witness knows. It does not change; another one takes
// its place.
type logSet struct {
	origins map[string]*logState
	hashes  map[string]*logState // by origin hash, see [OriginHash]
}

// logState is one log that the witness knows, with the keys that count now.
type logState struct {
	origin string
	keys   note.Verifiers // nil: it is no longer cosigned, and what there is of it is still served
	*logLife
}

// logLife is what of a log outlives changes of its keys.
type logLife struct {
	// turn is held from reading the head to signing the next one, so that a
	// cosignature never states a smaller tree than one made before it.
	turn chan struct{}
	// cosigned is the latest cosigned checkpoint, nil for none. Whoever has
	// the turn writes it.
	cosigned atomic.Pointer[[]byte]
	// unproven is how many forks of that kind are kept. Whoever has the turn
	// writes it.
	unproven int
	// Heads that go on from the latest one have a bucket of their own. They are the
	// log's to make, while everything else can be sent by anybody who has seen a
	// head of it, and shall not keep the log from going on.
	advances, others bucket
}

// SetLogs changes which logs are cosigned, and with which keys: for each origin
// those that its checkpoints may be signed with. It changes all or, with an error,
// nothing. A log that is no longer among them is not cosigned, but its size is
// remembered, and what was cosigned and kept of it is still served.
func (s *Server) SetLogs(ctx context.Context, logs map[string][]keys.Public) error {
	s.setting.Lock()
	defer s.setting.Unlock()
	before := s.logs.Load()
	next := &logSet{origins: make(map[string]*logState, len(logs)), hashes: make(map[string]*logState, len(logs))}
	add := func(l *logState) {
		next.origins[l.origin], next.hashes[OriginHash(l.origin)] = l, l
	}
	for origin, ks := range logs {
		vs, err := logVerifiers(origin, ks)
		if err == nil && len(s.signersFor(origin)) == 0 {
			err = fmt.Errorf("its origin is longer than the %d bytes that the witness's key can sign for", maxMLDSAName)
		}
		if err != nil {
			return fmt.Errorf("log %s: %w", origin, err)
		}
		add(&logState{origin: origin, keys: vs})
	}
	known, err := s.store.Origins(ctx)
	if err != nil {
		return err
	}
	for _, origin := range known {
		if next.origins[origin] == nil {
			add(&logState{origin: origin})
		}
	}
	for origin, l := range next.origins {
		if before != nil && before.origins[origin] != nil {
			l.logLife = before.origins[origin].logLife
			continue
		}
		l.logLife = &logLife{turn: make(chan struct{}, 1), unproven: s.kept.of(origin, fork.Unproven)}
		if err := s.restore(ctx, l); err != nil {
			return fmt.Errorf("log %s: restoring: %w", origin, err)
		}
	}
	s.logs.Store(next)
	return nil
}

// cosigned returns how many logs are cosigned.
func (s *Server) cosigned() (n int) {
	for _, l := range s.logs.Load().origins {
		if l.keys != nil {
			n++
		}
	}
	return n
}

// Reloaded counts that somebody has tried to change the configuration of the
// witness.
func (s *Server) Reloaded(good bool) {
	if good {
		s.counts.reloaded.Add(1)
	} else {
		s.counts.notReloaded.Add(1)
	}
}

// logVerifiers prepares the keys of one log.
func logVerifiers(origin string, ks []keys.Public) (note.Verifiers, error) {
	if origin == "" || strings.Contains(origin, "\n") {
		return nil, errors.New("the origin is empty or more than one line")
	}
	if len(ks) == 0 {
		return nil, errors.New("no key is given")
	}
	var vs []note.Verifier
	for i, k := range ks {
		// tlog-cosignature: a type 0x06 signature commits to origins of at most 255 bytes.
		if k.Type != keys.Ed25519 && (k.Type != keys.MLDSA44 || len(origin) > maxMLDSAName) {
			return nil, fmt.Errorf("key %s: type 0x%02x cannot sign its checkpoints", k.Name, byte(k.Type))
		}
		v, err := k.Verifier()
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k.Name, err)
		}
		for _, other := range vs {
			if other.Name() == v.Name() && other.KeyHash() == v.KeyHash() {
				return nil, fmt.Errorf("key %d, %s+%08x, is given twice", i+1, v.Name(), v.KeyHash())
			}
		}
		vs = append(vs, v)
	}
	return note.VerifierList(vs...), nil
}

// restore finds the cosigned checkpoint of a log, or signs the head anew: a
// crash may have come between keeping the head and publishing it, and the key
// may have changed.
func (s *Server) restore(ctx context.Context, l *logState) error {
	head, ok, err := s.store.Head(ctx, l.origin)
	if err != nil || !ok {
		return err
	}
	cosigned, err := s.store.Published(ctx, l.origin)
	if err != nil {
		return err
	}
	b, n, err := checkpoint.Open(cosigned, s.own)
	if err == nil && len(n.Sigs) == len(s.signersFor(l.origin)) && b == (checkpoint.Body{Origin: head.Origin, Size: head.Size, Root: head.Root}) {
		l.cosigned.Store(&cosigned)
		return nil
	}
	if l.keys == nil || s.doubt(l.origin) != nil {
		if len(cosigned) > 0 {
			l.cosigned.Store(&cosigned)
		}
		return nil
	}
	n, err = checkpoint.Verify(head.Note, l.keys)
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
