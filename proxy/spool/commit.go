package spool

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/record"
)

// batch is what one fdatasync makes durable. Whoever finds nobody committing
// leads: it writes and syncs its batch for all in it, then hands the lead to one
// of those who came meanwhile. So a lone record waits for one fdatasync only, in
// its own goroutine, and a crowd shares one.
type batch struct {
	buf    []byte
	leaves []record.Hash
	seal   bool       // the durable records before the batch are to be sealed
	opened [][16]byte // exchanges whose request records are in the batch
	closed [][16]byte // exchanges whose response records are in the batch
	lead   chan struct{}
	done   chan struct{}
	err    error
}

// What a batch takes, and how much may be unsealed before it: the records between
// two seals go to the log in one request, which has a limit.
const (
	batchRecords    = 1024
	batchBytes      = 1 << 20
	unsealedRecords = 1024
	unsealedBytes   = 1 << 20
)

func (b *batch) full() bool { return len(b.leaves) >= batchRecords || len(b.buf) >= batchBytes }

func newBatch() *batch {
	return &batch{lead: make(chan struct{}, 1), done: make(chan struct{})}
}

func (b *batch) empty() bool { return len(b.buf) == 0 && !b.seal }

func (b *batch) addRecord(entry, box []byte, leaf record.Hash) {
	start := len(b.buf)
	b.buf = startFrame(b.buf, frameRecord)
	b.buf = binary.LittleEndian.AppendUint32(b.buf, uint32(len(entry)))
	b.buf = append(b.buf, entry...)
	b.buf = append(b.buf, box...)
	endFrame(b.buf, start)
	b.leaves = append(b.leaves, leaf)
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
	s.batch = newBatch()
	s.batch.buf, s.freed = s.freed[:0], nil
	s.mu.Unlock()

	err := s.write(b)
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
	for rest := b.buf; len(rest) > 0; {
		n := fitting(rest, s.cfg.SegmentSize-s.seg.end)
		if n == 0 {
			if err := s.rotate(); err != nil {
				return err
			}
			if n = fitting(rest, s.cfg.SegmentSize-s.seg.end); n == 0 {
				return fmt.Errorf("a frame of %d bytes does not fit into a segment of %d", len(rest), s.cfg.SegmentSize)
			}
		}
		if err := s.seg.append(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(b, sealed)
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

// fitting returns how many bytes of whole frames fit into the room.
func fitting(buf []byte, room int64) int {
	if int64(len(buf)) <= room {
		return len(buf)
	}
	n := 0
	for n < len(buf) {
		end := n + 8 + int(binary.LittleEndian.Uint32(buf[n:]))
		if int64(end) > room {
			break
		}
		n = end
	}
	return n
}

// append makes frames durable at the end of the segment.
func (g *segment) append(frames []byte) error {
	sumFrames(frames, g.number, g.end)
	if _, err := g.file.WriteAt(frames, g.end); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(g.file.Fd())); err != nil {
		return fmt.Errorf("fdatasync: %w", err)
	}
	g.end += int64(len(frames))
	return checkPresent(g.file, g.end)
}

// settle takes note of a durable batch. It needs mu.
func (s *Spool) settle(b *batch, sealed record.Seal) {
	for _, leaf := range b.leaves {
		s.tree.Append(leaf, nil)
	}
	for _, id := range b.opened {
		s.open[id] = struct{}{}
	}
	for _, id := range b.closed {
		delete(s.open, id)
	}
	s.unsealedBytes += len(b.buf)
	if sealed.Size > 0 {
		s.sealed, s.root, s.unsealedBytes = sealed.Size, sealed.Root, 0
		s.stats.seals.Add(1)
	}
	s.end = position{s.seg.number, s.seg.end}
	s.stats.records.Add(uint64(len(b.leaves)))
	s.stats.commits.Add(1)
}

// rotate goes on in a new segment.
func (s *Spool) rotate() error {
	number := uint64(0)
	if s.seg != nil {
		number = s.seg.number + 1
		// The spare is in the making since the current segment was entered. Should
		// it have gone wrong, try again: there may be room by now.
		if sp := <-s.spare; sp.err == nil {
			return s.enter(sp.seg)
		}
	}
	f, err := createSegment(s.cfg.Dir, number, s.cfg.SegmentSize)
	if err != nil {
		return fmt.Errorf("making segment: %w", err)
	}
	return s.enter(&segment{number: number, file: f})
}

// enter writes the head of a new segment and makes it the current one.
func (s *Spool) enter(seg *segment) error {
	s.mu.Lock()
	h := header{
		Version: 1, Producer: s.stream.Producer.String(), Incarnation: s.stream.Incarnation,
		Sequence: s.tree.Size(), Edge: s.tree.Edge(), Sealed: s.sealed, SealedRoot: s.root,
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
	seg.end = int64(len(buf))
	s.seg = seg
	s.bytes += s.cfg.SegmentSize
	go s.prepare(seg.number + 1)
	return nil
}

// prepare makes the next segment ahead of its need. There is one at a time: the
// next is not started before this one's result was taken.
func (s *Spool) prepare(number uint64) {
	f, err := createSegment(s.cfg.Dir, number, s.cfg.SegmentSize)
	sp := spareSegment{err: err}
	if err == nil {
		sp.seg = &segment{number: number, file: f}
	}
	s.spare <- sp
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
