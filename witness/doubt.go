package witness

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
)

// errDoubt is wrapped where a witness does not sign because its state may be older
// than what it has cosigned: it could sign a second history.
var errDoubt = errors.New("this witness does not sign: what it knows may be older than what it has cosigned; its operator is to run sealtap witness recover")

// doubtHeader stands in answers of the monitoring interface of a witness that may
// have cosigned more than it shows.
const doubtHeader = "Sealtap-Doubt"

// doubts are those of the store, by origin.
type doubts map[string]Doubt

// restoreDoubts reads what the store doubts.
func (s *Server) restoreDoubts(ctx context.Context) error {
	list, err := s.store.Doubts(ctx)
	if err != nil {
		return err
	}
	d := make(doubts, len(list))
	for _, x := range list {
		d[x.Origin] = x
		about := x.Origin
		if about == "" {
			about = "all logs"
		}
		s.logger.Error("the witness does not sign until sealtap witness recover has caught up", "about", about, "why", x.Why)
	}
	s.doubts.Store(&d)
	return nil
}

// doubt returns why the witness does not sign for a log, nil if it does.
func (s *Server) doubt(origin string) *Doubt {
	all := *s.doubts.Load()
	for _, about := range []string{"", origin} {
		if d, ok := all[about]; ok {
			return &d
		}
	}
	return nil
}

// trusted returns an error where the witness must not sign for a log.
func (s *Server) trusted(origin string) error {
	if s.doubt(origin) != nil {
		return errDoubt
	}
	return nil
}

// checkOwn looks for our own cosignature on a checkpoint that is newer than, or
// another one than, the latest: then the state is older than what was cosigned, of
// this log and very likely of all. The caller has the log's turn.
func (s *Server) checkOwn(ctx context.Context, l *logState, n *note.Note, b checkpoint.Body, latest Head) error {
	if b.Size < latest.Size || b.Size == latest.Size && b.Root == latest.Root || !s.signedBy(n) {
		return nil
	}
	why := fmt.Sprintf("a checkpoint of %s with %d entries and root %s bears our own cosignature, and the latest that is known here has %d entries and root %s",
		l.origin, b.Size, base64.StdEncoding.EncodeToString(b.Root[:]), latest.Size, base64.StdEncoding.EncodeToString(latest.Root[:]))
	seen, err := note.Sign(&note.Note{Text: n.Text, Sigs: n.Sigs, UnverifiedSigs: n.UnverifiedSigs})
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	// It stops at once, and for good: should the store fail to remember it, it is
	// seen again after a restart, or was never asked.
	next := doubts{"": {Why: why, Since: time.Now()}, l.origin: {Origin: l.origin, Why: why, Since: time.Now(), Seen: seen}}
	s.doubting.Lock()
	for origin, d := range *s.doubts.Load() {
		next[origin] = d
	}
	s.doubts.Store(&next)
	s.doubting.Unlock()
	s.logger.Error("the witness stops signing: its state is older than what it has cosigned; run sealtap witness recover", "why", why)
	for _, d := range []Doubt{next[l.origin], next[""]} {
		if err := s.store.AddDoubt(ctx, d); err != nil {
			return err
		}
	}
	return errDoubt
}

// signedBy reports whether a note bears a valid cosignature by us, which is none of
// the log's keys and so stands among those that are not verified.
func (s *Server) signedBy(n *note.Note) bool {
	for _, sig := range n.UnverifiedSigs {
		v, err := s.own.Verifier(sig.Name, sig.Hash)
		if err != nil {
			continue
		}
		one, err := note.Sign(&note.Note{Text: n.Text, UnverifiedSigs: []note.Signature{sig}})
		if err != nil {
			continue
		}
		if _, err := note.Open(one, note.VerifierList(v)); err == nil {
			return true
		}
	}
	return false
}

// serveReady says whether the witness signs.
func (s *Server) serveReady(w http.ResponseWriter, _ *http.Request) {
	all := *s.doubts.Load()
	if len(all) == 0 {
		answer(w, http.StatusOK, typeText, []byte("ready\n"))
		return
	}
	var b []byte
	for origin, d := range all {
		if origin == "" {
			origin = "all logs"
		}
		b = fmt.Appendf(b, "%s: not signed since %s: %s; run sealtap witness recover\n", origin, d.Since.UTC().Format(time.RFC3339), d.Why)
	}
	answer(w, http.StatusServiceUnavailable, typeText, b)
}
