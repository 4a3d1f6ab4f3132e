package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// idSource makes exchange ids: UUIDv7 (RFC 9562, section 5.7), strictly
// increasing within a process. The 12 bits behind the milliseconds count what
// comes within one of them (method 1 of section 6.2) and carry into it.
type idSource struct{ last atomic.Uint64 }

func (s *idSource) next(now time.Time) (id [16]byte) {
	stamp := uint64(now.UnixMilli()) << 12
	for {
		last := s.last.Load()
		if stamp <= last {
			stamp = last + 1
		}
		if s.last.CompareAndSwap(last, stamp) {
			break
		}
	}
	binary.BigEndian.PutUint64(id[:], stamp>>12<<16|7<<12|stamp&0xfff)
	binary.BigEndian.PutUint64(id[8:], rand.Uint64()&(1<<62-1)|1<<63)
	return id
}

func appendUUID(dst []byte, id [16]byte) []byte {
	for i, part := range [][]byte{id[0:4], id[4:6], id[6:8], id[8:10], id[10:16]} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, part)
	}
	return dst
}

// parseTraceparent returns the trace id of a W3C Trace Context traceparent
// (https://www.w3.org/TR/trace-context/, section 3.2) and reports whether it is
// valid. A later version may be longer.
func parseTraceparent(v string) (trace [16]byte, ok bool) {
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return trace, false
	}
	if v[:2] == "ff" || v[:2] == "00" && len(v) != 55 || len(v) > 55 && v[55] != '-' {
		return trace, false
	}
	var parent [8]byte
	if !lowerHex(v[:2]) || !lowerHex(v[3:35]) || !lowerHex(v[36:52]) || !lowerHex(v[53:55]) {
		return trace, false
	}
	_, _ = hex.Decode(trace[:], []byte(v[3:35]))
	_, _ = hex.Decode(parent[:], []byte(v[36:52]))
	return trace, trace != [16]byte{} && parent != [8]byte{}
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// newTraceparent starts a trace. It is marked as sampled only where this proxy keeps
// its part: else that is for those who keep traces.
func newTraceparent(sampled func(trace [16]byte) bool) (trace [16]byte, header string) {
	binary.BigEndian.PutUint64(trace[:], rand.Uint64())
	binary.BigEndian.PutUint64(trace[8:], rand.Uint64()|1) // not all zero
	var span [8]byte
	binary.BigEndian.PutUint64(span[:], rand.Uint64()|1)
	var buf [55]byte
	out := append(buf[:0], "00-"...)
	out = hex.AppendEncode(out, trace[:])
	out = append(out, '-')
	out = hex.AppendEncode(out, span[:])
	flags := "-00"
	if sampled(trace) {
		flags = "-01"
	}
	out = append(out, flags...)
	return trace, string(out)
}
