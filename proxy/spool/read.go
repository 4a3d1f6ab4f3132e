package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"google.golang.org/protobuf/proto"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// How much is in a request to the log before no more is added; its last run of
// records may bring in more: see batchRecords.
const (
	requestItems = 1024
	requestBytes = 1 << 20
)

// reader reads the durable frames of a spool in order.
type reader struct {
	dir  string
	pos  position
	file *os.File // segment pos.segment; nil before it is opened
	size int64
	near window
	keys map[record.KeyID]*sealtapv1.WrappedKey // that were read so far: one a life
}

// outgoing is a batch for the log.
type outgoing struct {
	req    *sealtapv1.SubmitRequest
	leaves []record.Hash // of the items
	end    position
	bytes  int
}

func (o *outgoing) isSeal(i uint64) bool {
	entry := o.req.GetItems()[i].GetEntry()
	return len(entry) > 1 && record.Kind(entry[1]) == record.KindSeal
}

// window reads a file in large pieces. What lies before limit never changes; what
// lies behind it may, and is not kept.
type window struct {
	file  io.ReaderAt
	limit int64
	off   int64
	buf   []byte
}

const windowBytes = 256 << 10

// ReadAt implements [io.ReaderAt].
func (w *window) ReadAt(p []byte, off int64) (int, error) {
	if off < w.off || off+int64(len(p)) > w.off+int64(len(w.buf)) {
		room := min(w.limit-off, windowBytes)
		if int64(len(p)) > room {
			return w.file.ReadAt(p, off)
		}
		if w.buf == nil {
			w.buf = make([]byte, 0, windowBytes)
		}
		n, err := w.file.ReadAt(w.buf[:room], off)
		if w.off, w.buf = off, w.buf[:n]; n < len(p) {
			return copy(p, w.buf), err
		}
	}
	return copy(p, w.buf[off-w.off:]), nil
}

func (r *reader) seek(p position) {
	if p.segment != r.pos.segment {
		r.close()
	}
	r.pos = p
}

func (r *reader) close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}

// next returns the next frame before end, or errNoFrame.
func (r *reader) next(end position) (frame, error) {
	for {
		if r.pos.segment == end.segment && r.pos.offset >= end.offset || r.pos.segment > end.segment {
			return frame{}, errNoFrame
		}
		if r.file == nil {
			f, err := os.Open(segmentPath(r.dir, r.pos.segment))
			if err != nil {
				return frame{}, err
			}
			st, err := f.Stat()
			if err != nil {
				f.Close()
				return frame{}, err
			}
			r.file, r.size = f, st.Size()
			r.near = window{file: f, buf: r.near.buf[:0]}
		}
		limit := r.size
		if r.pos.segment == end.segment {
			limit = end.offset
		}
		r.near.limit = limit
		fr, err := readFrame(&r.near, r.pos.segment, r.pos.offset, limit)
		if err == nil {
			r.pos.offset = fr.next
			return fr, nil
		}
		if !errors.Is(err, errNoFrame) {
			return frame{}, err
		}
		if r.pos.segment == end.segment {
			return frame{}, fmt.Errorf("%w: segment %d cannot be read at %d any more", ErrDamaged, r.pos.segment, r.pos.offset)
		}
		if err := r.skip(); err != nil {
			return frame{}, err
		}
	}
}

// skip goes on to the next segment that exists: numbers have holes where a
// start was cut short.
func (r *reader) skip() error {
	numbers, err := listSegments(r.dir)
	if err != nil {
		return err
	}
	i, _ := slices.BinarySearch(numbers, r.pos.segment+1)
	if i == len(numbers) {
		return errNoFrame
	}
	r.seek(position{segment: numbers[i]})
	return nil
}

// collect reads the next batch: it ends with a seal, because a seal is what
// vouches for the records before it. It returns nil if there is none before end.
func (r *reader) collect(end position) (*outgoing, error) {
	start := r.pos
	all := &outgoing{req: new(sealtapv1.SubmitRequest)}
	var whole *outgoing
	for whole == nil || len(all.leaves) < requestItems && all.bytes < requestBytes {
		fr, err := r.next(end)
		if errors.Is(err, errNoFrame) {
			break
		} else if err != nil {
			return nil, err
		}
		sealed, err := all.add(fr, r.keys)
		if err != nil {
			return nil, err
		}
		if sealed {
			all.end = r.pos
			w := *all
			whole = &w
			whole.req = &sealtapv1.SubmitRequest{Items: all.req.GetItems(), Keys: all.req.GetKeys()}
		}
	}
	if whole != nil {
		r.seek(whole.end)
	} else {
		r.seek(start)
	}
	return whole, nil
}

// add adds a frame and reports whether it is a seal. A batch carries every data
// key that its openings need, since the log may not have kept an earlier one.
func (o *outgoing) add(fr frame, known map[record.KeyID]*sealtapv1.WrappedKey) (sealed bool, err error) {
	item := new(sealtapv1.Item)
	switch fr.typ {
	case frameKey:
		k := new(sealtapv1.WrappedKey)
		if err := proto.Unmarshal(fr.payload, k); err != nil || len(k.GetId()) != len(record.KeyID{}) {
			return false, fmt.Errorf("%w: a data key cannot be read", ErrDamaged)
		}
		known[record.KeyID(k.GetId())] = k
		return false, nil
	case frameRecord:
		if item.Entry, item.Openings, err = splitRecord(fr.payload); err != nil {
			return false, err
		}
	case frameSeal:
		item.Entry, sealed = fr.payload, true
	default:
		return false, nil
	}
	if len(item.GetOpenings()) > 0 {
		id, err := record.BoxKey(item.GetOpenings())
		if err != nil {
			return false, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if k := known[id]; k != nil && !slices.Contains(o.req.GetKeys(), k) {
			o.req.Keys = append(o.req.Keys, k)
		}
	}
	o.req.Items = append(o.req.Items, item)
	o.leaves = append(o.leaves, record.LeafHash(item.Entry))
	o.bytes += len(item.GetEntry()) + len(item.GetOpenings())
	return sealed, nil
}
