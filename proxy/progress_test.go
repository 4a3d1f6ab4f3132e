package proxy

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net/http"
	"testing"
	"time"

	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
)

// progressOf returns the running records of the newest exchange.
func progressOf(m *memory) (list []*sealtapv1.Progress) {
	for _, k := range m.all() {
		if p := k.rec.GetProgress(); p != nil {
			list = append(list, p)
		}
	}
	return list
}

// prefix checks that a body is how all began.
func prefix(t *testing.T, what string, b *sealtapv1.Body, all []byte) {
	t.Helper()
	if b.GetSize() > uint64(len(all)) {
		t.Fatalf("%s: %d bytes of %d", what, b.GetSize(), len(all))
	}
	if sum := sha256.Sum256(all[:b.GetSize()]); !bytes.Equal(sum[:], b.GetSha256()) {
		t.Errorf("%s: the digest is not that of the first %d bytes", what, b.GetSize())
	}
}

// A long answer leaves records as it goes: each is of everything so far, and the
// last one is the response.
func TestStreamLeavesProgress(t *testing.T) {
	data := make([]byte, 3<<20)
	_, _ = rand.Read(data)
	next := make(chan struct{})
	up := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		for b := data; len(b) > 0; b = b[len(data)/6:] {
			_, _ = w.Write(b[:len(data)/6])
			w.(http.Flusher).Flush()
			<-next
		}
	})
	s := start(t, up, func(c *Config) { c.Progress = Progress{Bytes: 512 << 10} })
	m := s.rec
	res, err := http.Get("http://" + s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, len(data)/6)
	for i := range 6 {
		if _, err := io.ReadFull(res.Body, buf); err != nil {
			t.Fatal(err)
		}
		m.wait(t, 2+i) // the request, and a record for each part
		next <- struct{}{}
	}
	_, p := m.last(t)
	list := progressOf(m)
	if len(list) < 6 {
		t.Fatalf("%d running records", len(list))
	}
	for i, g := range list {
		if g.GetNumber() != uint64(i+1) || i > 0 && (g.GetDown().GetSize() <= list[i-1].GetDown().GetSize() || g.GetDurationNs() < list[i-1].GetDurationNs()) {
			t.Errorf("record %d: %v", i, g)
		}
		prefix(t, "down", g.GetDown(), data)
		prefix(t, "up", g.GetUp(), nil)
	}
	if r := p.rec.GetResponse(); r.GetSent().GetSize() != uint64(len(data)) || r.GetOutcome() != sealtapv1.Outcome_OUTCOME_COMPLETE {
		t.Errorf("the response: %v", r)
	}
}

// A long upload whose answer waits does too.
func TestUploadLeavesProgress(t *testing.T) {
	data := make([]byte, 1<<20)
	_, _ = rand.Read(data)
	up := backend(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	s := start(t, up, func(c *Config) { c.Progress = Progress{Every: time.Millisecond} })
	m := s.rec
	pr, pw := io.Pipe()
	go func() {
		for b := data; len(b) > 0; b = b[len(data)/8:] {
			_, _ = pw.Write(b[:len(data)/8])
			time.Sleep(5 * time.Millisecond)
		}
		pw.Close()
	}()
	res, err := http.Post("http://"+s.addr, "application/octet-stream", pr)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	m.last(t)
	list := progressOf(m)
	if len(list) < 2 {
		t.Fatalf("%d running records", len(list))
	}
	for _, g := range list {
		prefix(t, "up", g.GetUp(), data)
	}
}

// Nothing passes any more of a stream that cannot be recorded.
func TestProgressNotRecorded(t *testing.T) {
	written := make(chan int, 1000)
	up := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			n, err := w.Write(make([]byte, 1000))
			if err != nil {
				break
			}
			w.(http.Flusher).Flush()
			written <- n
			time.Sleep(time.Millisecond)
		}
		close(written)
	})
	s := start(t, up, func(c *Config) {
		c.Progress.Every = 20 * time.Millisecond
		c.Recorder.(*memory).before = func(stage string) error {
			if stage == "progress" {
				return errDisk
			}
			return nil
		}
	})
	m := s.rec
	res, err := http.Get("http://" + s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Error("the stream went on without a record to a good end")
	}
	for range written {
	}
	_, p := m.last(t)
	if r := p.rec.GetResponse(); r.GetOutcome() != sealtapv1.Outcome_OUTCOME_UNKNOWN || r.GetDetail() != errUnrecorded.Error() {
		t.Errorf("the response: %v", r)
	}
}

// A quiet stream leaves nothing: only what has passed is worth a record.
func TestQuietStream(t *testing.T) {
	done := make(chan struct{})
	up := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte("data: 1\n\n"))
		w.(http.Flusher).Flush()
		<-done
	})
	s := start(t, up, func(c *Config) { c.Progress = Progress{Every: time.Millisecond} })
	m := s.rec
	res, err := http.Get("http://" + s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	m.wait(t, 2) // the request, and what was sent
	time.Sleep(50 * time.Millisecond)
	if n := len(progressOf(m)); n != 1 {
		t.Errorf("%d running records of one event", n)
	}
	close(done)
	m.last(t)
}

func TestMessages(t *testing.T) {
	frame := func(first byte, masked bool, size int) []byte {
		b := []byte{first}
		mask := byte(0)
		if masked {
			mask = 0x80
		}
		switch {
		case size < 126:
			b = append(b, mask|byte(size))
		case size < 1<<16:
			b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(size))
		default:
			b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(size))
		}
		if masked {
			b = append(b, 1, 2, 3, 4)
		}
		return append(b, make([]byte, size)...)
	}
	grpc := func(size int) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(size)), make([]byte, size)...)
	}
	for name, tc := range map[string]struct {
		kind   framing
		frames [][]byte
		want   uint64
	}{
		"text":               {framingWebSocket, [][]byte{frame(0x81, true, 5), frame(0x81, true, 0), frame(0x82, false, 70_000)}, 3},
		"fragments and ping": {framingWebSocket, [][]byte{frame(0x01, true, 5), frame(0x89, true, 3), frame(0x00, true, 200), frame(0x80, true, 1)}, 1},
		"close":              {framingWebSocket, [][]byte{frame(0x88, true, 2)}, 0},
		"compressed":         {framingWebSocket, [][]byte{frame(0xc1, true, 9)}, 1},
		"no WebSocket":       {framingWebSocket, [][]byte{[]byte("HTTP/1.1 200 OK\r\n\r\n")}, 0},
		"cut":                {framingWebSocket, [][]byte{frame(0x81, true, 9)[:8]}, 0},
		"grpc":               {framingGRPC, [][]byte{grpc(0), grpc(1), grpc(70_000)}, 3},
		"grpc cut":           {framingGRPC, [][]byte{grpc(10)[:9]}, 0},
		"none":               {framingNone, [][]byte{grpc(0)}, 0},
	} {
		for _, step := range []int{1, 3, 1 << 20} {
			m := messages{kind: tc.kind}
			for b := bytes.Join(tc.frames, nil); len(b) > 0; {
				n := min(step, len(b))
				m.feed(b[:n])
				b = b[n:]
			}
			if m.count != tc.want {
				t.Errorf("%s, %d bytes at a time: %d messages, want %d", name, step, m.count, tc.want)
			}
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte{0x81, 0x01, 0, 0x81, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		for _, kind := range []framing{framingGRPC, framingWebSocket} {
			whole, parts := messages{kind: kind}, messages{kind: kind}
			whole.feed(data)
			n := min(int(cut), len(data))
			parts.feed(data[:n])
			parts.feed(data[n:])
			if whole != parts {
				t.Fatalf("%v in one piece, %v in two", whole, parts)
			}
		}
	})
}
