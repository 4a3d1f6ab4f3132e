package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealtap/sealtap/checkpoint"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness/policy"
)

// maxUnconfirmed bounds how many entries may be at the log without lying under
// a cosigned checkpoint: their leaf hashes stay in memory.
const maxUnconfirmed = 1 << 18

// Backing off from a log that does not answer, and asking for a checkpoint.
const (
	retryFirst = 50 * time.Millisecond
	retryLast  = 5 * time.Second
	askFirst   = 10 * time.Millisecond
	askLast    = time.Second
	// Nothing helps against what was pruned, unless somebody does something.
	retryPruned = time.Minute
	// lastConfirm is how long a spool that is closed waits for the last checkpoint, if
	// it has the time.
	lastConfirm = 10 * time.Second
)

// submitter is the state of the way to the log.
type submitter struct {
	reader  reader // used by submitting only
	backoff time.Duration

	mu          sync.Mutex
	sent        []sent // acknowledged as sequenced, oldest first
	unconfirmed int    // entries in sent
	rewinds     int    // how often everything was sent from the start: sent is another list since
	head        *policy.Checkpoint
	kick        chan struct{}
	room        chan struct{}
	first       chan struct{} // a token when the first checkpoint of this life was seen

	oldest      uint64 // segment at which sending began
	known       extent // what was confirmed, in this life or before
	kept        extent // of it, what the file says
	keptAt      time.Time
	keepFailed  bool
	confirmedIn atomic.Uint64 // one more than the newest segment of which something was confirmed in this life
	passedBy    bool          // it was said that something is not sent, because it was confirmed and pruned
	lost        position      // end of the batch of which it was said that it was pruned, but not confirmed
}

// sent is a batch that the log has sequenced: a receipt, not yet safety.
type sent struct {
	start  position
	end    position
	leaves []record.Hash
	runs   []run
}

type run struct{ first, index, count uint64 }

func (s *submitter) newestCheckpoint() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.head == nil {
		return nil
	}
	return s.head.Note
}

// submits sends and confirms until ctx ends.
func (s *Spool) submits(ctx context.Context) error {
	if s.cfg.Log == nil {
		<-ctx.Done()
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.confirms(ctx) })
	defer wg.Wait()
	for ctx.Err() == nil {
		more, err := s.submit(ctx)
		wait := time.Duration(0)
		switch {
		case err != nil && ctx.Err() == nil:
			wait = s.retry(err)
		case more:
			continue
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-timer:
		case <-s.sub.room:
		case <-ifIdle(wait, s.progress):
		}
	}
	return nil
}

// ifIdle returns c, or nil while an error is being waited out.
func ifIdle(wait time.Duration, c chan struct{}) chan struct{} {
	if wait > 0 {
		return nil
	}
	return c
}

// retry says how long to wait after an error, and reports it once in a while.
func (s *Spool) retry(err error) time.Duration {
	if errors.Is(err, client.ErrPruned) {
		s.sub.backoff = retryPruned
		return retryPruned
	}
	if s.sub.backoff == 0 && !errors.Is(err, ErrEnded) { // of which it was said more
		s.cfg.Logger.Warn("the log does not take entries; they wait in the spool", "error", err)
	}
	s.sub.backoff = min(max(2*s.sub.backoff, retryFirst), retryLast)
	if p := (*client.Problem)(nil); errors.As(err, &p) && p.RetryAfter > 0 {
		return min(p.RetryAfter, retryLast)
	}
	return s.sub.backoff
}

// submit sends the next batch and reports whether there may be more.
func (s *Spool) submit(ctx context.Context) (more bool, err error) {
	s.sub.mu.Lock()
	full, known := s.sub.unconfirmed >= maxUnconfirmed, s.sub.known
	s.sub.mu.Unlock()
	if full {
		return false, nil
	}
	s.mu.Lock()
	end := s.end
	s.mu.Unlock()
	start := s.sub.reader.pos
	if known.holds(start) {
		end = known.end // so that a batch is confirmed as a whole, or not at all
	}
	out, err := s.sub.reader.collect(end)
	if err != nil || out == nil {
		s.sub.reader.seek(start)
		if errors.Is(err, ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
			// Records that were acknowledged are gone: no better than one that could not
			// be written.
			s.fail(fmt.Errorf("reading spool: %w", err))
		}
		return false, err
	}
	resp, err := s.cfg.Log.Submit(ctx, out.req)
	if errors.Is(err, client.ErrPruned) && known.covers(start, out.end) {
		s.passBy(err)
		return true, nil
	}
	if err != nil {
		s.sub.reader.seek(start)
		return false, s.refused(err, out)
	}
	if s.sub.backoff > 0 {
		s.cfg.Logger.Info("the log takes entries again")
	}
	s.sub.backoff = 0
	s.admitted()
	b, err := place(out, resp)
	if err != nil {
		s.sub.reader.seek(start)
		return false, err
	}
	b.start = start
	s.stats.submitted.Add(uint64(len(b.leaves)))
	s.sub.mu.Lock()
	s.sub.sent = append(s.sub.sent, b)
	s.sub.unconfirmed += len(b.leaves)
	s.sub.mu.Unlock()
	signal(s.sub.kick)
	return true, nil
}

// place says where the log put the entries of a batch. Of seals it may keep none:
// one over fewer records than a seal that it has proves nothing more.
func place(out *outgoing, resp *sealtapv1.SubmitResponse) (sent, error) {
	b := sent{end: out.end, leaves: out.leaves}
	next := uint64(0)
	skip := func(to uint64) error {
		for ; next < to; next++ {
			if next >= uint64(len(out.leaves)) || !out.isSeal(next) {
				return fmt.Errorf("the log's answer does not place item %d", next)
			}
		}
		return nil
	}
	for _, r := range resp.GetRuns() {
		if err := skip(r.GetFirstItem()); err != nil {
			return sent{}, err
		}
		if r.GetFirstItem() < next || r.GetCount() > uint64(len(out.leaves))-next {
			return sent{}, fmt.Errorf("the log's answer places %d items from item %d on", r.GetCount(), r.GetFirstItem())
		}
		b.runs = append(b.runs, run{r.GetFirstItem(), r.GetFirstIndex(), r.GetCount()})
		next += r.GetCount()
	}
	return b, skip(uint64(len(out.leaves)))
}

// passBy says that a batch is not sent again.
func (s *Spool) passBy(err error) {
	if !s.sub.passedBy {
		s.cfg.Logger.Info("the log has pruned records that this proxy has seen under a cosigned checkpoint: they are not sent again", "answer", err)
	}
	s.sub.passedBy = true
}

// refused sees to a conflict: the log knows less, or other things, than we
// thought. It recognises what it has, so everything is sent again.
func (s *Spool) refused(err error, out *outgoing) error {
	if errors.Is(err, client.ErrPruned) {
		if s.sub.lost != out.end {
			s.cfg.Logger.Error("the log has pruned records that this proxy never saw under a cosigned checkpoint: "+
				"nothing behind them is sent, and the spool will fill. Look for them in a mirror or backup of the log, then stop the proxy, "+
				"move the segment away and start it again", "records", out.records(), "segment", segmentPath(s.cfg.Dir, out.end.segment), "error", err)
		}
		s.sub.lost = out.end
		return err
	}
	p := (*client.Problem)(nil)
	if !errors.As(err, &p) {
		return err
	}
	if p.Revoked || p.Unknown && s.wasEnrolled() {
		return s.notAdmitted(p)
	}
	if p.Status != http.StatusConflict {
		return err
	}
	s.cfg.Logger.Error("the log disagrees about what it holds of this proxy: sending again all that is in the spool", "error", err)
	return errors.Join(err, s.rewind())
}

// rewind starts over at the oldest segment, whatever was sent.
func (s *Spool) rewind() error {
	s.sub.mu.Lock() // free deletes segments under it
	defer s.sub.mu.Unlock()
	s.sub.sent, s.sub.unconfirmed = nil, 0
	s.sub.passedBy = false
	s.sub.rewinds++
	numbers, err := listSegments(s.cfg.Dir)
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return fmt.Errorf("%w: its segments are gone", ErrDamaged)
	}
	s.sub.oldest = numbers[0]
	s.sub.reader.seek(position{segment: numbers[0]})
	return nil
}

// confirms looks for what was sent under cosigned checkpoints and frees it.
func (s *Spool) confirms(ctx context.Context) {
	ask, pruned := askFirst, false
	for ctx.Err() == nil {
		s.sub.mu.Lock()
		waiting := len(s.sub.sent) > 0
		s.sub.mu.Unlock()
		progress, err := s.confirm(ctx)
		switch {
		case err != nil && ctx.Err() == nil && errors.Is(err, client.ErrVerification):
			s.cfg.Logger.Error("the log does not hold what it acknowledged, or shows another history: nothing is freed", "error", err)
			ask = askLast
		case err != nil && ctx.Err() == nil && errors.Is(err, client.ErrPruned):
			if !pruned {
				s.cfg.Logger.Error("the log let go of entries before this proxy could prove them: nothing is freed, and the spool will fill", "error", err)
			}
			pruned, ask = true, askLast
		case progress:
			pruned, ask = false, askFirst
		default:
			ask = min(2*ask, askLast)
		}
		wait := ask
		if !waiting && err == nil {
			wait = max(s.cfg.Heartbeat/2, ask)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		case <-s.sub.kick:
			ask = askFirst
		}
	}
}

// confirm fetches the newest checkpoint and takes from what was sent that which
// it proves to be in the log.
func (s *Spool) confirm(ctx context.Context) (progress bool, err error) {
	cp, err := s.cfg.Log.Checkpoint(ctx)
	if err != nil {
		return false, err
	}
	tree := s.cfg.Log.Tree(cp)
	s.sub.mu.Lock()
	head := s.sub.head
	s.sub.mu.Unlock()
	// A head that was seen before can prove what was acknowledged since: what is
	// sent again makes the log no larger.
	if head != nil && (head.Size != cp.Size || head.Root != cp.Root) {
		err := tree.Consistent(ctx, checkpoint.Body{Origin: head.Origin, Size: head.Size, Root: head.Root})
		if errors.Is(err, client.ErrPruned) {
			// The log has let go of what would prove it. That the new head is of the same
			// history the witnesses vouch for, as at every start.
			s.cfg.Logger.Warn("the log was pruned beyond the last head that was seen", "seen", head.Size, "head", cp.Size)
			err = nil
		}
		if err != nil {
			return false, err
		}
	}
	s.sub.mu.Lock()
	s.sub.head = cp
	s.sub.mu.Unlock()
	if head == nil {
		signal(s.sub.first)
	}
	for ctx.Err() == nil {
		s.sub.mu.Lock()
		if len(s.sub.sent) == 0 {
			s.sub.mu.Unlock()
			return progress, nil
		}
		b, rewinds, known := s.sub.sent[0], s.sub.rewinds, s.sub.known
		s.sub.mu.Unlock()
		ok, err := proven(ctx, tree, cp.Size, b)
		if errors.Is(err, client.ErrPruned) && known.covers(b.start, b.end) {
			ok, err = true, nil // pruned since it was sent again
		}
		if err != nil || !ok {
			return progress, err
		}
		progress = true
		if !s.letGo(b, rewinds) {
			return progress, nil
		}
		signal(s.sub.room)
	}
	return progress, ctx.Err()
}

// letGo frees the oldest batch that was sent, unless everything is being sent
// again since the given number of rewinds.
func (s *Spool) letGo(b sent, rewinds int) bool {
	s.sub.mu.Lock()
	defer s.sub.mu.Unlock()
	if s.sub.rewinds != rewinds {
		return false
	}
	s.sub.sent = s.sub.sent[1:]
	s.sub.unconfirmed -= len(b.leaves)
	s.stats.confirmed.Add(uint64(len(b.leaves)))
	s.sub.confirm(b)
	s.keepConfirmed(false)
	s.free(b.end)
	return true
}

// proven reports whether every entry of the batch lies in the tree, at the
// place where the log said.
func proven(ctx context.Context, tree *client.Tree, size uint64, b sent) (bool, error) {
	for _, r := range b.runs {
		if r.index+r.count > size {
			return false, nil
		}
	}
	for _, r := range b.runs {
		leaves, err := tree.Leaves(ctx, r.index, r.index+r.count)
		if err != nil {
			return false, err
		}
		for i, leaf := range leaves {
			if leaf != b.leaves[r.first+uint64(i)] {
				return false, fmt.Errorf("%w: index %d holds another entry than the one that was acknowledged there", client.ErrVerification, r.index+uint64(i))
			}
		}
	}
	return true, nil
}

// free deletes the segments before the position. It needs sub.mu: a rewind must
// not start at a segment that is about to go.
func (s *Spool) free(end position) {
	numbers, err := listSegments(s.cfg.Dir)
	for _, n := range numbers {
		if n >= end.segment || err != nil {
			break
		}
		size := sizeOf(s.cfg.Dir, n)
		if err = os.Remove(segmentPath(s.cfg.Dir, n)); err == nil {
			s.mu.Lock()
			s.bytes -= size
			s.mu.Unlock()
		}
	}
	if err != nil {
		s.cfg.Logger.Error("freeing spool", "error", err)
	}
}

// flush sends what is left, as far as ctx allows, and waits for a moment to see it
// confirmed: the log may have let go of it by the next start.
func (s *Spool) flush(ctx context.Context) {
	if s.cfg.Log == nil {
		return
	}
	var err error
	for more := true; more && err == nil && ctx.Err() == nil; {
		more, err = s.submit(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, lastConfirm)
	defer cancel()
	for ask := askFirst; err == nil && ctx.Err() == nil; ask = min(2*ask, askLast) {
		if _, err = s.confirm(ctx); err != nil {
			break
		}
		s.sub.mu.Lock()
		waiting := len(s.sub.sent) > 0
		s.sub.mu.Unlock()
		if !waiting {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(ask):
		}
	}
	s.sub.mu.Lock()
	defer s.sub.mu.Unlock()
	s.keepConfirmed(true)
}
