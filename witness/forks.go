package witness

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/witness/fork"
)

// typeFork is the media type of one evidence of a fork: plain text in ASCII, but
// for the notes in it.
const typeFork = typeText

// keptForks counts the evidence in the store.
type keptForks struct {
	mu     sync.Mutex
	counts map[string]map[fork.Kind]int
}

func (k *keptForks) add(origin string, kind fork.Kind, n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.counts[origin] == nil {
		k.counts[origin] = make(map[fork.Kind]int)
	}
	k.counts[origin][kind] += n
}

func (k *keptForks) of(origin string, kind fork.Kind) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.counts[origin][kind]
}

func (k *keptForks) total(kind fork.Kind) (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range k.counts {
		n += m[kind]
	}
	return n
}

// restoreForks counts what is kept from before.
func (s *Server) restoreForks(ctx context.Context) (err error) {
	s.kept.counts, err = s.store.CountForks(ctx)
	return err
}

// addFork keeps a checkpoint that the log signed and that does not fit. The
// answer to the client is the same whether or not that works. The caller has the
// log's turn.
func (s *Server) addFork(ctx context.Context, l *logState, offered, latest Head, proof [][32]byte) {
	f := Fork{Offered: offered, Latest: latest, Proof: proof, Seen: time.Now()}
	if f.Offered.Size == 0 {
		f.Latest, f.Proof = Head{Origin: l.origin}, nil // it contradicts itself
	} else if c := l.cosigned.Load(); c != nil && isOf(*c, latest) {
		f.Latest.Note = *c // our own cosignature tells since when it was known
	}
	var err error
	if f.Kind, err = s.evidence(f).Compare(); err != nil {
		s.logger.Error("fork evidence makes no sense", "origin", offered.Origin, "size", offered.Size, "err", err)
		return
	}
	added, err := s.store.AddFork(context.WithoutCancel(ctx), f)
	if err != nil {
		s.logger.Error("fork evidence could not be kept", "origin", offered.Origin, "size", offered.Size, "err", err)
	}
	if !added {
		return
	}
	s.counts.forks.Add(1)
	s.kept.add(l.origin, f.Kind, 1)
	if f.Kind.Proven() {
		s.logger.Error("the log has forked: it signed two heads of two histories", "origin", offered.Origin, "kind", f.Kind,
			"size", offered.Size, "latest", latest.Size, "evidence", forkPath(l.origin))
		return
	}
	l.unproven++
	s.logger.Warn("a head that the log signed came with a proof that fails; it is not cosigned, and either may be wrong", "origin", offered.Origin,
		"size", offered.Size, "latest", latest.Size, "evidence", forkPath(l.origin))
}

// isOf reports whether a cosigned note is of the head.
func isOf(cosigned []byte, h Head) bool {
	text, err := checkpoint.Text(cosigned)
	if err != nil {
		return false
	}
	b, _, err := checkpoint.Parse(text)
	return err == nil && b == checkpoint.Body{Origin: h.Origin, Size: h.Size, Root: h.Root}
}

// dropForks forgets that a head was not proven to fit, now that it was. The caller
// has the log's turn.
func (s *Server) dropForks(ctx context.Context, l *logState, fits Head) {
	if l.unproven == 0 {
		return
	}
	n, err := s.store.DropFork(context.WithoutCancel(ctx), fits)
	if err != nil {
		s.logger.Error("outdated fork evidence could not be dropped", "origin", l.origin, "err", err)
		return
	}
	l.unproven -= n
	s.kept.add(l.origin, fork.Unproven, -n)
}

// Evidence returns what a witness, or who acts for it, hands out of a fork.
func Evidence(by string, f Fork) *fork.Evidence {
	e := fork.New(by, f.Seen, f.Latest.Note, f.Offered.Note, f.Proof)
	if f.Beginning != nil {
		e.Beginning = f.Beginning
	}
	return e
}

// evidence returns what is handed out of a fork.
func (s *Server) evidence(f Fork) *fork.Evidence {
	return Evidence(s.name, f)
}

// forkPath is where the evidence of a log is listed, below the monitoring prefix.
func forkPath(origin string) string { return "/" + OriginHash(origin) + "/forks" }

// forkInfo is a fork in the answer of GET /<origin hash>/forks.
type forkInfo struct {
	ID     int64     `json:"id"`
	Kind   fork.Kind `json:"kind"`
	Proven bool      `json:"proven"`
	Older  uint64    `json:"older"`
	Newer  uint64    `json:"newer"`
	Seen   string    `json:"seen"`
	Path   string    `json:"path"` // of the evidence, below the monitoring prefix
}

// serveForks lists the evidence of a log.
func (s *Server) serveForks(w http.ResponseWriter, r *http.Request) {
	l, list, ok := s.forks(w, r)
	if !ok {
		return
	}
	out := struct {
		Origin string     `json:"origin"`
		Forks  []forkInfo `json:"forks"`
	}{l.origin, []forkInfo{}}
	for _, f := range list {
		out.Forks = append(out.Forks, forkInfo{f.ID, f.Kind, f.Kind.Proven(), f.Latest.Size, f.Offered.Size,
			f.Seen.UTC().Format(time.RFC3339), fmt.Sprintf("%s/%d", forkPath(l.origin), f.ID)})
	}
	b, err := json.Marshal(out)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	answer(w, http.StatusOK, "application/json", append(b, '\n'))
}

// serveFork serves one evidence file.
func (s *Server) serveFork(w http.ResponseWriter, r *http.Request) {
	_, list, ok := s.forks(w, r)
	if !ok {
		return
	}
	for _, f := range list {
		if strconv.FormatInt(f.ID, 10) == r.PathValue("id") {
			answer(w, http.StatusOK, typeFork, s.evidence(f).Marshal())
			return
		}
	}
	answer(w, http.StatusNotFound, typeText, []byte("no such evidence is kept here\n"))
}

// forks reads the forks of the log that a request names, or answers it.
func (s *Server) forks(w http.ResponseWriter, r *http.Request) (*logState, []Fork, bool) {
	l := s.logs.Load().hashes[r.PathValue("hash")]
	if l == nil {
		answer(w, http.StatusNotFound, typeText, []byte("no such log is known here\n"))
		return nil, nil, false
	}
	list, err := s.store.Forks(r.Context(), l.origin)
	if err != nil {
		s.refuse(w, r, err)
		return nil, nil, false
	}
	return l, list, true
}
