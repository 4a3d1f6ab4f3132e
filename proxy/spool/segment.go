package spool

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealtap/sealtap/durable"
	"github.com/sealtap/sealtap/record"
)

// A segment is a file of frames, written from the front into space that was
// filled with zeros beforehand, so that an append changes no metadata of the
// file and one fdatasync makes it durable. A frame is
//
//	uint32 length of type and payload | uint32 CRC-32C | type | payload
//
// in little-endian order. The checksum covers the segment's number and the
// frame's offset too, so that a frame is valid in its place only. The frames of
// a segment end at the first one that is not valid.

type frameType byte

const (
	frameHeader frameType = 1 // JSON of header: the first frame of a segment
	frameRecord frameType = 2 // uint32 entry length | entry | encrypted openings
	frameSeal   frameType = 3 // a seal entry
	frameKey    frameType = 4 // a wrapped data key (protobuf WrappedKey)
)

const (
	frameOverhead = 4 + 4 + 1
	maxFrame      = 16 << 20
	segmentSuffix = ".seg"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header makes a segment readable without the ones before it.
type header struct {
	Version     int                `json:"version"`
	Producer    string             `json:"producer"`
	Incarnation record.Incarnation `json:"incarnation"`
	Sequence    uint64             `json:"sequence"` // of the first record in the segment
	Edge        []record.Hash      `json:"edge"`     // of the producer's tree at that sequence
	Sealed      uint64             `json:"sealed"`   // size of the newest seal before the segment
	SealedRoot  record.Hash        `json:"sealed_root"`
	Open        [][]byte           `json:"open"`    // exchanges with a request record and no response record
	Stopped     bool               `json:"stopped"` // the newest record before the segment is a stop
}

func frameSum(segment uint64, offset int64, body []byte) uint32 {
	var place [16]byte
	binary.LittleEndian.PutUint64(place[:], segment)
	binary.LittleEndian.PutUint64(place[8:], uint64(offset))
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, body)
}

// startFrame appends the room for a frame's head; endFrame fills it in once the
// payload is known. The checksum waits until the offset is: see sumFrames.
func startFrame(buf []byte, t frameType) []byte {
	return append(buf, 0, 0, 0, 0, 0, 0, 0, 0, byte(t))
}

func endFrame(buf []byte, start int) {
	binary.LittleEndian.PutUint32(buf[start:], uint32(len(buf)-start-8))
}

func appendFrame(buf []byte, t frameType, payload []byte) []byte {
	start := len(buf)
	buf = append(startFrame(buf, t), payload...)
	endFrame(buf, start)
	return buf
}

// sumFrames fills in the checksums of the frames in buf, which will stand at
// offset in the segment.
func sumFrames(buf []byte, segment uint64, offset int64) {
	for p := 0; p < len(buf); {
		end := p + 8 + int(binary.LittleEndian.Uint32(buf[p:]))
		binary.LittleEndian.PutUint32(buf[p+4:], frameSum(segment, offset+int64(p), buf[p+8:end]))
		p = end
	}
}

// frame is a frame that was read back.
type frame struct {
	typ     frameType
	payload []byte
	next    int64 // offset of the frame after it
}

// errNoFrame says that no valid frame stands at an offset.
var errNoFrame = errors.New("no frame")

// readFrame reads the frame at offset. limit is where the known frames end, or
// the size of the file while that is still to be found out.
func readFrame(f io.ReaderAt, segment uint64, offset, limit int64) (frame, error) {
	var head [8]byte
	if offset+frameOverhead > limit {
		return frame{}, errNoFrame
	}
	if _, err := f.ReadAt(head[:], offset); err != nil {
		if errors.Is(err, io.EOF) {
			return frame{}, errNoFrame
		}
		return frame{}, err
	}
	n := int64(binary.LittleEndian.Uint32(head[:]))
	if n < 1 || n > maxFrame || offset+8+n > limit {
		return frame{}, errNoFrame
	}
	body := make([]byte, n)
	if _, err := f.ReadAt(body, offset+8); err != nil {
		if errors.Is(err, io.EOF) {
			return frame{}, errNoFrame
		}
		return frame{}, err
	}
	if frameSum(segment, offset, body) != binary.LittleEndian.Uint32(head[4:]) {
		return frame{}, errNoFrame
	}
	return frame{typ: frameType(body[0]), payload: body[1:], next: offset + 8 + n}, nil
}

// splitRecord returns the parts of a record frame.
func splitRecord(payload []byte) (entry, box []byte, err error) {
	if len(payload) >= 4 {
		if n := binary.LittleEndian.Uint32(payload); uint64(n) <= uint64(len(payload)-4) {
			return payload[4 : 4+n], payload[4+n:], nil
		}
	}
	return nil, nil, fmt.Errorf("%w: a record frame is too short", ErrDamaged)
}

func parseHeader(f frame) (header, error) {
	var h header
	if f.typ != frameHeader {
		return h, fmt.Errorf("%w: a segment starts with a frame of type %d", ErrDamaged, f.typ)
	}
	if err := json.Unmarshal(f.payload, &h); err != nil {
		return h, fmt.Errorf("%w: reading the head of a segment: %w", ErrDamaged, err)
	}
	if h.Version != 1 {
		return h, fmt.Errorf("%w: a segment of version %d, this program knows version 1", ErrDamaged, h.Version)
	}
	return h, nil
}

// createSegment makes a file of zeros, durable together with its name.
func createSegment(dir string, number uint64, size int64) (*os.File, error) {
	path := segmentPath(dir, number)
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	zeros := make([]byte, 1<<20)
	for off := int64(0); off < size && err == nil; off += int64(len(zeros)) {
		_, err = f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = durable.SyncDir(dir)
	}
	if err != nil {
		f.Close()
		os.Remove(path + ".new")
		os.Remove(path)
		return nil, err
	}
	return f, nil
}

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", number, segmentSuffix))
}

// listSegments returns the numbers of the segments in dir, oldest first.
func listSegments(dir string) ([]uint64, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []uint64
	for _, d := range names {
		if hex, ok := strings.CutSuffix(d.Name(), segmentSuffix); ok && len(hex) == 16 {
			if n, err := strconv.ParseUint(hex, 16, 64); err == nil {
				list = append(list, n)
			}
		}
	}
	slices.Sort(list)
	return list, nil
}

// checkPresent returns an error if the file was deleted or truncated under us:
// what an fdatasync then makes durable is lost all the same.
func checkPresent(f *os.File, size int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("looking at segment: %w", err)
	}
	if st.Nlink == 0 {
		return fmt.Errorf("%w: %s was deleted", ErrDamaged, strings.TrimSuffix(f.Name(), ".new"))
	}
	if st.Size < size {
		return fmt.Errorf("%w: %s was truncated to %d bytes", ErrDamaged, strings.TrimSuffix(f.Name(), ".new"), st.Size)
	}
	return nil
}
