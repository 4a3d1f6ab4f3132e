package spool

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealtap/sealtap/failpoint"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// found is what the last life left behind.
type found struct {
	any       bool // there was a last life
	stream    record.Stream
	tree      *record.Tree
	sealed    uint64
	root      record.Hash
	stopped   bool // its newest record is a stop
	open      map[[16]byte]struct{}
	discarded uint64 // bytes behind the last whole frame
	next      uint64 // number for a new segment
}

// begin recovers what is in the directory and starts a new incarnation. After a
// crash and after a clean stop it is the same code.
func (s *Spool) begin() error {
	last, err := s.recover()
	if err != nil {
		return err
	}
	// They stay open, for the head of the new segment as well: this life can end, too,
	// before it has closed all of them.
	maps.Copy(s.open, last.open)
	seg, err := s.makeSegment(last.next)
	if err != nil {
		return err
	}
	if err := s.enter(seg); err != nil {
		return errors.Join(err, seg.file.Close())
	}
	start := &sealtapv1.Start{
		Version:        s.cfg.Version,
		HeartbeatNs:    uint64(s.cfg.Heartbeat),
		Reason:         sealtapv1.StartReason_START_REASON_NEW,
		DiscardedBytes: last.discarded,
		Unfinished:     uint64(len(last.open)),
	}
	if last.any {
		start.Reason = sealtapv1.StartReason_START_REASON_CRASH
		if last.stopped {
			start.Reason = sealtapv1.StartReason_START_REASON_CLEAN
		}
		start.Recovered = last.tree.Size() - last.sealed
		if err := s.sealLast(&last); err != nil {
			return err
		}
		start.Previous = &sealtapv1.Seal{Incarnation: last.stream.Incarnation[:], Size: last.sealed, Root: last.root[:]}
	}
	err = s.record(&sealtapv1.Record{About: &sealtapv1.Record_Start{Start: start}}, nil, always)
	failpoint.Here("start-recorded")
	for id := range last.open {
		if err != nil {
			break
		}
		err = s.record(&sealtapv1.Record{Exchange: id[:], About: &sealtapv1.Record_Response{Response: &sealtapv1.Response{
			Outcome: sealtapv1.Outcome_OUTCOME_UNKNOWN,
			Detail:  "the proxy ended during this exchange",
		}}}, nil, always)
	}
	if last.any {
		s.cfg.Logger.Info("spool recovered", "dir", s.cfg.Dir, "stopped_cleanly", last.stopped, "records_unsealed", start.GetRecovered(),
			"exchanges_unfinished", start.GetUnfinished(), "bytes_discarded", start.GetDiscardedBytes())
	}
	return err
}

// sealLast covers the records that the last life had not sealed.
func (s *Spool) sealLast(last *found) error {
	if last.tree.Size() == last.sealed {
		return nil
	}
	size, root := last.tree.Size(), last.tree.Root()
	entry, err := record.NewSeal(last.stream, size, root, s.signer)
	if err != nil {
		return err
	}
	s.mu.Lock()
	b := s.batch
	b.buf = appendFrame(b.buf, frameSeal, entry)
	last.sealed, last.root = size, root
	return s.await(b)
}

// recover reads the newest segment that holds records.
func (s *Spool) recover() (found, error) {
	last := found{}
	if err := s.sweep(); err != nil {
		return last, err
	}
	numbers, err := listSegments(s.cfg.Dir)
	if err != nil {
		return last, err
	}
	if len(numbers) > 0 {
		last.next = numbers[len(numbers)-1] + 1
	}
	lost := uint64(0)
	for len(numbers) > 0 {
		n := numbers[len(numbers)-1]
		numbers = numbers[:len(numbers)-1]
		empty, err := s.replay(n, &last)
		if err != nil {
			return last, err
		}
		if !empty {
			break
		}
		if err := s.discard(n, last.discarded); err != nil {
			return last, err
		}
		lost += last.discarded
		last = found{next: last.next}
	}
	last.discarded += lost
	if numbers, err = listSegments(s.cfg.Dir); err != nil {
		return last, err
	}
	for _, n := range numbers {
		s.bytes += sizeOf(s.cfg.Dir, n)
	}
	return last, nil
}

// discard removes a segment without a record that can be read: a spare that was
// never entered, or a start that was cut short before its first record. But if
// there is anything in it beyond what can be read, that may have been records,
// and is kept aside.
func (s *Spool) discard(n, unreadable uint64) error {
	path := segmentPath(s.cfg.Dir, n)
	if unreadable == 0 {
		return os.Remove(path)
	}
	s.cfg.Logger.Error("a segment of the spool cannot be read and is kept aside", "file", path+damagedSuffix, "bytes", unreadable)
	return os.Rename(path, path+damagedSuffix)
}

const damagedSuffix = ".damaged"

func sizeOf(dir string, n uint64) int64 {
	st, err := os.Stat(segmentPath(dir, n))
	if err != nil {
		return 0
	}
	return st.Size()
}

// sweep removes segments that were in the making when the last life ended.
func (s *Spool) sweep() error {
	names, err := filepath.Glob(filepath.Join(s.cfg.Dir, "*"+segmentSuffix+".new"))
	for _, n := range names {
		err = errors.Join(err, os.Remove(n))
	}
	return err
}

// replay reads segment n to its end and reports whether it holds no records.
func (s *Spool) replay(n uint64, last *found) (empty bool, err error) {
	f, err := os.OpenFile(segmentPath(s.cfg.Dir, n), os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	fr, err := readFrame(f, n, 0, st.Size())
	if errors.Is(err, errNoFrame) {
		last.discarded, err = nonZero(f, 0, st.Size())
		return true, err
	} else if err != nil {
		return false, err
	}
	h, err := parseHeader(fr)
	if err != nil {
		return false, fmt.Errorf("segment %s: %w", filepath.Base(f.Name()), err)
	}
	if h.Producer != s.cfg.Key.ID().String() {
		return false, fmt.Errorf("%w: it holds records of producer %s, the key is of %s (%s): give a new key a spool of its own", ErrDamaged, h.Producer, s.cfg.Key.ID(), s.cfg.Key.Name)
	}
	if err := last.enter(h, s.cfg.Key.ID()); err != nil {
		return false, err
	}
	for {
		next, err := readFrame(f, n, fr.next, st.Size())
		if errors.Is(err, errNoFrame) {
			break
		} else if err != nil {
			return false, err
		}
		if err := last.replay(next); err != nil {
			return false, fmt.Errorf("segment %s at %d: %w", filepath.Base(f.Name()), fr.next, err)
		}
		fr = next
	}
	if last.discarded, err = nonZero(f, fr.next, st.Size()); err != nil {
		return false, err
	}
	return last.tree.Size() == 0, rewrite(f, fr.next)
}

// rewrite makes the file durable as far as it was read. What the last life wrote
// but did not get to sync counts from now on. An fdatasync alone would not do:
// after one that failed, pages that never reached the disk pass for clean.
func rewrite(f *os.File, end int64) error {
	buf := make([]byte, 1<<20)
	for p := int64(0); p < end; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-p)], p)
		if err == nil {
			_, err = f.WriteAt(buf[:n], p)
		}
		if err != nil {
			return fmt.Errorf("writing segment again: %w", err)
		}
		p += int64(n)
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return fmt.Errorf("fdatasync: %w", err)
	}
	return nil
}

func (l *found) enter(h header, producer [32]byte) error {
	l.any, l.sealed, l.root, l.stopped = true, h.Sealed, h.SealedRoot, h.Stopped
	l.stream = record.Stream{Producer: producer, Incarnation: h.Incarnation}
	l.open = make(map[[16]byte]struct{})
	for _, id := range h.Open {
		if len(id) != 16 {
			return fmt.Errorf("%w: an exchange id of %d bytes", ErrDamaged, len(id))
		}
		l.open[[16]byte(id)] = struct{}{}
	}
	var err error
	l.tree, err = record.RestoreTree(h.Sequence, h.Edge)
	return err
}

func (l *found) replay(fr frame) error {
	switch fr.typ {
	case frameRecord:
		entry, _, err := splitRecord(fr.payload)
		if err != nil {
			return err
		}
		e, err := record.Parse(entry)
		if err != nil {
			return err
		}
		r := e.Record
		if r == nil || r.Stream != l.stream || r.GetSequence() != l.tree.Size() {
			return fmt.Errorf("%w: a record out of its sequence", ErrDamaged)
		}
		l.tree.Append(e.Leaf, nil)
		l.stopped = r.GetStop() != nil
		if id, ok := exchangeOf(r.Record); ok && r.GetRequest() != nil {
			l.open[id] = struct{}{}
		} else if ok && r.GetResponse() != nil {
			delete(l.open, id)
		}
	case frameSeal:
		e, err := record.Parse(fr.payload)
		if err != nil {
			return err
		}
		if e.Seal != nil && e.Seal.Stream == l.stream {
			l.sealed, l.root = e.Seal.Size, e.Seal.Root
		}
	}
	return nil
}

// nonZero counts the bytes from offset to the last one that is not zero.
func nonZero(f *os.File, offset, size int64) (uint64, error) {
	buf := make([]byte, 1<<20)
	last := offset
	for p := offset; p < size; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-p)], p)
		if n == 0 && err != nil {
			return 0, err
		}
		if i := len(strings.TrimRight(string(buf[:n]), "\x00")); i > 0 {
			last = p + int64(i)
		}
		p += int64(n)
	}
	return uint64(last - offset), nil
}
