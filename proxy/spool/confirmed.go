package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/record"
)

// A segment that is sent again begins with frames that were confirmed long ago. The
// log may have let go of them since, and then answers 410 to them for ever. The file
// "confirmed" says up to where they were confirmed, so that they can be passed by.
// It is a hint: it counts only if what it names stands in the spool, it is used only
// for what the log says it has pruned, and without it nothing is passed by.

const (
	confirmedFile = "confirmed"
	// confirmedEvery is the least time between two writings of the file while no
	// segment is freed.
	confirmedEvery = time.Second
)

// extent says that all frames from the beginning of a segment up to a position,
// behind a seal, were found under a cosigned checkpoint. The zero value says nothing.
type extent struct {
	first uint64
	end   position
	seal  record.Hash // leaf hash of the seal: another spool has another one there
}

// holds reports whether the frame at the position was confirmed.
func (c extent) holds(p position) bool { return p.segment >= c.first && p.before(c.end) }

// covers reports whether everything between the positions was confirmed.
func (c extent) covers(start, end position) bool { return c.holds(start) && !c.end.before(end) }

func (p position) before(q position) bool {
	return p.segment < q.segment || p.segment == q.segment && p.offset < q.offset
}

// extentForm is the form of the file.
type extentForm struct {
	First   uint64      `json:"first"`
	Segment uint64      `json:"segment"`
	Offset  int64       `json:"offset"`
	Seal    record.Hash `json:"seal"`
}

func (c extent) write(dir string) error {
	b, err := json.Marshal(extentForm{c.first, c.end.segment, c.end.offset, c.seal})
	if err != nil {
		return err
	}
	return durable.Rewrite(filepath.Join(dir, confirmedFile), b, 0o600)
}

// readConfirmed returns what the file says, if it is true of this spool.
func readConfirmed(dir string) (extent, error) {
	b, err := os.ReadFile(filepath.Join(dir, confirmedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return extent{}, nil
	} else if err != nil {
		return extent{}, err
	}
	var f extentForm
	if err := json.Unmarshal(b, &f); err != nil {
		return extent{}, err
	}
	c := extent{f.First, position{f.Segment, f.Offset}, f.Seal}
	if c.first > c.end.segment {
		return extent{}, errors.New("it ends before it begins")
	}
	return c, c.check(dir)
}

// check returns an error unless the seal ends at the position.
func (c extent) check(dir string) error {
	f, err := os.Open(segmentPath(dir, c.end.segment))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	limit := min(c.end.offset, st.Size())
	w := &window{file: f, limit: limit}
	var last frame
	for last.next < c.end.offset {
		if last, err = readFrame(w, c.end.segment, last.next, limit); err != nil {
			return fmt.Errorf("segment %d at %d: %w", c.end.segment, last.next, err)
		}
	}
	if last.typ != frameSeal || record.LeafHash(last.payload) != c.seal {
		return fmt.Errorf("in segment %d another frame ends at %d", c.end.segment, c.end.offset)
	}
	return nil
}

// restoreConfirmed takes up what was confirmed in former lives.
func (s *Spool) restoreConfirmed() {
	c, err := readConfirmed(s.cfg.Dir)
	if err != nil {
		s.cfg.Logger.Warn("what the log has confirmed is not known: all that is in the spool is sent again, which does no harm unless the log has pruned it",
			"file", filepath.Join(s.cfg.Dir, confirmedFile), "error", err)
		return
	}
	s.sub.known, s.sub.kept = c, c
}

// confirm takes note of a batch that was confirmed, and of all before it. It needs
// sub.mu, and comes before the segments below are deleted: the file must never name
// one that is gone for longer than it takes to write it.
func (s *submitter) confirm(b sent) {
	if !s.known.end.before(b.end) {
		return // sent again, after more had been confirmed
	}
	s.known = extent{first: s.oldest, end: b.end, seal: b.leaves[len(b.leaves)-1]}
	s.confirmedIn.Store(b.end.segment + 1)
}

// keepConfirmed writes down what was confirmed, if it is time to. It needs sub.mu.
func (s *Spool) keepConfirmed(now bool) {
	u := &s.sub
	if u.known == u.kept || !now && u.known.end.segment == u.kept.end.segment && time.Since(u.keptAt) < confirmedEvery {
		return
	}
	err := u.known.write(s.cfg.Dir)
	if err != nil && !u.keepFailed {
		s.cfg.Logger.Error("what the log has confirmed cannot be written down; should the log prune it, a restarted proxy does not know", "dir", s.cfg.Dir, "error", err)
	}
	if u.keepFailed, u.keptAt = err != nil, time.Now(); err == nil {
		u.kept = u.known
	}
}

// rotateAged goes on in a new segment if the current one is old and some of it was
// confirmed, so that a quiet proxy does not keep it, and send it again, for ever. It
// never waits for the new segment. It cannot make the spool full: all segments before
// one of which something was confirmed are gone.
func (s *Spool) rotateAged() error {
	if time.Since(s.seg.begun) < s.cfg.SegmentAge || s.sub.confirmedIn.Load() != s.seg.number+1 {
		return nil
	}
	s.mu.Lock()
	none := s.noSpare != nil // and it is tried again from time to time
	s.mu.Unlock()
	if none {
		return nil
	}
	select {
	case sp := <-s.spare:
		if sp.err != nil {
			go s.prepare(s.seg.number + 1)
			return nil
		}
		return s.goOn(sp.seg)
	default:
		return nil
	}
}

// records says which records are in the batch.
func (o *outgoing) records() string {
	type span struct {
		of          record.Stream
		first, last uint64
	}
	var spans []span
	for _, it := range o.req.GetItems() {
		kind, body, err := record.Split(it.GetEntry())
		if err != nil || kind != record.KindRecord {
			continue
		}
		h, err := record.Scan(body)
		if err != nil {
			continue
		}
		if n := len(spans); n > 0 && spans[n-1].of == h.Stream {
			spans[n-1].last = h.Sequence
		} else {
			spans = append(spans, span{h.Stream, h.Sequence, h.Sequence})
		}
	}
	list := make([]string, len(spans))
	for i, p := range spans {
		list[i] = fmt.Sprintf("%d to %d of incarnation %s", p.first, p.last, p.of.Incarnation)
	}
	return strings.Join(list, ", ")
}
