package spool

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/failpoint"
	"github.com/sealtap/sealtap/record"
)

// batch is what one fdatasync makes durable. Whoever finds nobody committing
// leads: it writes and syncs its batch for all in it, then hands the lead to one
// of those who came meanwhile. So a lone record waits for one fdatasync only, in
// its own goroutine, and a crowd shares one.
type batch struct {
	buf     []byte
	records []noted // in the order of their frames
	seal    bool    // the durable records before the batch are to be sealed
	last    bool    // somebody waits for all commits to have ended
	lead    chan struct{}
	done    chan struct{}
	err     error

	promises []record.Promise // for those who want receipts; not changed once it is durable
	sign     sync.Once
	signed   *record.Promises
	signErr  error
}

// noted is what is taken note of once a record is durable.
type noted struct {
	leaf     record.Hash
	exchange [16]byte
	opens    bool // it is the request record of the exchange
	closes   bool // it is the response record of the exchange
}

// What a batch takes before it is full, and how much is unsealed before a batch
// that is sealed first. The records between two seals go to the log in one request:
// up to 2047 of them, behind up to 1023 from seals before. The log takes 4096 items
// and 8 MiB.
const (
	batchRecords    = 1024
	batchBytes      = 1 << 20
	unsealedRecords = 1024
	unsealedBytes   = 1 << 20
)

func (b *batch) full() bool { return len(b.records) >= batchRecords || len(b.buf) >= batchBytes }

func newBatch() *batch {
	return &batch{lead: make(chan struct{}, 1), done: make(chan struct{})}
}

func (b *batch) empty() bool { return len(b.buf) == 0 && !b.seal && !b.last }

func (b *batch) addRecord(entry, box []byte, n noted) {
	start := len(b.buf)
	b.buf = startFrame(b.buf, frameRecord)
	b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(len(entry)))
	b.buf = append(b.buf, entry...)
	b.buf = append(b.buf, box...)
	endFrame(b.buf, start)
	b.records = append(b.records, n)
}

// await returns once the batch is durable. It is called with mu held and
// returns without it.
func (s *Spool) await(b *batch) error {
	if s.leading {
		s.mu.Unlock()
		select {
		case <-b.done:
			return b.err
		case <-b.lead:
			s.mu.Lock()
		}
	}
	s.leading = true
	// Whoever is ready to run comes first, and may still get into the batch.
	s.mu.Unlock()
	runtime.Gosched()
	s.mu.Lock()
	s.batch = newBatch()
	s.batch.buf, s.freed = s.freed[:0], nil
	s.mu.Unlock()
	return s.commit(b)
}

// commit writes the batch, tells all who wait for it, and hands on the lead.
func (s *Spool) commit(b *batch) error {
	err := errors.New("the commit did not come to its end")
	// Deferred, so that nobody waits for ever should the write panic in a goroutine
	// whose server recovers.
	defer func() {
		if err != nil {
			s.fail(fmt.Errorf("writing spool: %w", err))
		}
		s.mu.Lock()
		b.err = err
		s.freed = b.buf
		if s.batch.empty() {
			s.leading = false
		} else {
			s.batch.lead <- struct{}{}
		}
		s.mu.Unlock()
		close(b.done)
		signal(s.durable)
	}()
	err = s.write(b)
	return err
}

// write makes a batch durable and moves the tree on. Only the leader calls it.
func (s *Spool) write(b *batch) error {
	if err := s.Err(); err != nil {
		return err
	}
	sealed := record.Seal{}
	if b.seal || s.tree.Size()-s.sealed >= unsealedRecords || s.unsealedBytes >= unsealedBytes {
		var err error
		if sealed, err = s.putSeal(b); err != nil {
			return err
		}
	}
	if len(b.buf) > 0 {
		if err := s.rotateAged(); err != nil {
			return err
		}
	}
	for rest, records := b.buf, b.records; len(rest) > 0; {
		n, count := fitting(rest, s.cfg.SegmentSize-s.seg.end)
		if n == 0 {
			if err := s.rotate(); err != nil {
				return err
			}
			if n, count = fitting(rest, s.cfg.SegmentSize-s.seg.end); n == 0 {
				return fmt.Errorf("a frame of %d bytes does not fit into a segment of %d", len(rest), s.cfg.SegmentSize)
			}
		}
		if err := s.seg.append(rest[:n]); err != nil {
			return err
		}
		// Before the next segment is begun: its head says what was before it.
		s.settle(n, records[:count], sealed)
		rest, records, sealed = rest[n:], records[count:], record.Seal{}
	}
	s.stats.commits.Add(1)
	return nil
}

// putSeal puts a seal in front of the batch. All records before it are durable
// now, and no others: persist, then sign.
func (s *Spool) putSeal(b *batch) (record.Seal, error) {
	seal := record.Seal{Stream: s.stream, Size: s.tree.Size()}
	if seal.Size == s.sealed {
		return record.Seal{}, nil
	}
	seal.Root = s.tree.Root()
	entry, err := record.NewSeal(seal.Stream, seal.Size, seal.Root, s.signer)
	if err != nil {
		return record.Seal{}, err
	}
	b.buf = append(appendFrame(nil, frameSeal, entry), b.buf...)
	return seal, nil
}

// fitting returns how many bytes of whole frames fit into the room, and how many
// of these frames are records.
func fitting(buf []byte, room int64) (n, records int) {
	for n < len(buf) {
		end := n + 8 + int(binary.LittleEndian.Uint32(buf[n:]))
		if int64(end) > room {
			break
		}
		if frameType(buf[n+8]) == frameRecord {
			records++
		}
		n = end
	}
	return n, records
}

// append makes frames durable at the end of the segment.
func (g *segment) append(frames []byte) error {
	sumFrames(frames, g.number, g.end)
	if _, err := g.file.WriteAt(frames, g.end); err != nil {
		return err
	}
	failpoint.Here("spool-written")
	if err := unix.Fdatasync(int(g.file.Fd())); err != nil {
		return fmt.Errorf("fdatasync: %w", err)
	}
	failpoint.Here("spool-synced")
	g.end += int64(len(frames))
	return checkPresent(g.file, g.size)
}

// settle takes note of n durable bytes at the end of the segment: of the records
// in them, and of the seal if there is one.
func (s *Spool) settle(n int, records []noted, sealed record.Seal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		s.tree.Append(r.leaf, nil)
		if r.opens {
			s.open[r.exchange] = struct{}{}
		} else if r.closes {
			delete(s.open, r.exchange)
		}
	}
	s.unsealedBytes += n
	if sealed.Size > 0 {
		s.sealed, s.root, s.unsealedBytes = sealed.Size, sealed.Root, 0
		s.stats.seals.Add(1)
	}
	s.end = position{s.seg.number, s.seg.end}
	s.stats.records.Add(uint64(len(records)))
}

// rotate goes on in a new segment.
func (s *Spool) rotate() error {
	sp := <-s.spare
	s.preparing = false
	if sp.err != nil {
		// Should it have gone wrong, try once more: there may be room by now.
		sp.seg, sp.err = s.makeSegment(s.seg.number + 1)
	}
	if sp.err != nil {
		return sp.err
	}
	return s.goOn(sp.seg)
}

func (s *Spool) goOn(seg *segment) error {
	s.preparing = false
	if err := s.enter(seg); err != nil {
		return errors.Join(err, seg.file.Close())
	}
	return nil
}

func (s *Spool) makeSegment(number uint64) (*segment, error) {
	f, err := createSegment(s.cfg.Dir, number, s.cfg.SegmentSize)
	if err != nil {
		return nil, fmt.Errorf("making segment: %w", err)
	}
	return &segment{number: number, file: f, size: s.cfg.SegmentSize}, nil
}

// enter writes the head of a new segment and makes it the current one.
func (s *Spool) enter(seg *segment) error {
	s.mu.Lock()
	h := header{
		Version: 1, Producer: s.stream.Producer.String(), Incarnation: s.stream.Incarnation,
		Sequence: s.tree.Size(), Edge: s.tree.Edge(), Sealed: s.sealed, SealedRoot: s.root, Stopped: s.stopped,
	}
	for id := range s.open {
		h.Open = append(h.Open, id[:])
	}
	s.mu.Unlock()
	payload, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("encoding the head of a segment: %w", err)
	}
	buf := appendFrame(nil, frameHeader, payload)
	if s.sealer != nil {
		// In every segment, since the ones before it may be gone when it is sent.
		key, err := proto.Marshal(s.sealer.WrappedKey())
		if err != nil {
			return fmt.Errorf("encoding data key: %w", err)
		}
		buf = appendFrame(buf, frameKey, key)
	}
	if int64(len(buf)) > s.cfg.SegmentSize {
		return fmt.Errorf("the head of a segment needs %d bytes, a segment has %d", len(buf), s.cfg.SegmentSize)
	}
	// Made durable together with the first frames behind it.
	sumFrames(buf, seg.number, 0)
	if _, err := seg.file.WriteAt(buf, 0); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seg != nil {
		s.seg.file.Close()
	}
	seg.end, seg.begun = int64(len(buf)), time.Now()
	s.seg = seg
	s.bytes += s.cfg.SegmentSize
	s.preparing = true
	go s.prepare(seg.number + 1)
	return nil
}

// prepareAgain is how long to wait before the next segment is tried again.
const prepareAgain = time.Second

// prepare makes the next segment ahead of its need and hands it over. As long as
// there is no room for it no exchange begins: those under way can still end in
// the current segment, and nothing has to be restarted once there is room.
func (s *Spool) prepare(number uint64) {
	for {
		seg, err := s.makeSegment(number)
		s.setSpare(err)
		if err == nil {
			s.spare <- spareSegment{seg: seg}
			return
		}
		select {
		case s.spare <- spareSegment{err: err}:
			return
		case <-time.After(prepareAgain):
		}
	}
}

// setSpare notes whether there is a next segment.
func (s *Spool) setSpare(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.noSpare == nil {
		s.cfg.Logger.Error("spool has no room: no exchange begins until there is some", "dir", s.cfg.Dir, "error", err)
	} else if err == nil && s.noSpare != nil {
		s.cfg.Logger.Info("spool has room again", "dir", s.cfg.Dir)
	}
	s.noSpare = err
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
