package query

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/storage"
)

// madeLog makes entries when they are read, so that a log of any size fits into
// memory: four producers that take turns with batches of 64 records, and the
// seals are missing.
type madeLog struct {
	size    uint64
	streams [4]record.Stream
}

const batchOf = 64

func newMadeLog(size uint64) *madeLog {
	l := &madeLog{size: size}
	for i := range l.streams {
		l.streams[i] = record.Stream{Producer: keys.ID{byte(i)}} // the same each time, for an index that is kept
	}
	return l
}

func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (l *madeLog) entry(index uint64) []byte {
	turn := index / batchOf
	n := index / 2 // requests and responses take turns
	h := mix(n)
	var r *sealtapv1.Record
	if index%2 == 0 {
		who := fmt.Sprintf("user-%d", h%1000)
		if h%100_003 == 0 {
			who = "rare"
		}
		path := fmt.Sprintf("/api/v1/resource-%d", h>>16%300)
		if h>>24%2 == 0 {
			path = fmt.Sprintf("/api/v1/orders/%08d", h>>32%100_000_000)
		}
		r = request(int(n), who, fmt.Sprintf("service-%d", h>>8%20), []string{"GET", "GET", "GET", "POST"}[h>>12%4], path)
		r.GetRequest().Trace = slices.Concat(id(int(mix(h)))[8:], id(int(h))[8:])
	} else {
		r = response(int(n), []uint32{200, 200, 200, 200, 200, 201, 204, 404, 404, 500}[h>>40%10])
		if h%50_021 == 0 {
			r = response(int(n), 599)
		}
	}
	s := l.streams[turn%4]
	r.Producer, r.Incarnation, r.Sequence = s.Producer[:], s.Incarnation[:], turn/4*batchOf+index%batchOf
	r.Time = 1_790_000_000_000_000_000 + int64(index)*100_000 + int64(h%50_000)
	return must(record.Encode(r))
}

func (l *madeLog) Size() uint64      { return l.size }
func (l *madeLog) Published() uint64 { return l.size }

func (l *madeLog) Bundle(_ context.Context, n uint64) ([]byte, error) {
	var b []byte
	for i := n * 256; i < min(n*256+256, l.size); i++ {
		b = storage.AppendEntry(b, l.entry(i))
	}
	return b, nil
}

func (l *madeLog) Wait(ctx context.Context, _ uint64) error {
	<-ctx.Done()
	return ctx.Err()
}

// BenchmarkIndex reports how fast a log is indexed, what it takes on disk, and
// how long searches take. SEALTAP_INDEX_RECORDS sets the size, SEALTAP_INDEX_DIR
// a folder in which the index is kept for the next time.
func BenchmarkIndex(b *testing.B) {
	size := uint64(200_000)
	if s := os.Getenv("SEALTAP_INDEX_RECORDS"); s != "" {
		size = must(strconv.ParseUint(s, 10, 64))
	}
	l := newMadeLog(size)
	dir := os.Getenv("SEALTAP_INDEX_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	path := filepath.Join(dir, "index.db")
	begin := time.Now()
	ix, stop := follow(b, path, l, Config{})
	from := ix.Indexed()
	for ix.Indexed() < size {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(begin)
	b.Run("ingest", func(b *testing.B) {
		for range b.N {
		}
		b.ReportMetric(float64(size-from)/took.Seconds(), "records/s")
	})
	at := func(index uint64) string {
		return time.Unix(0, 1_790_000_000_000_000_000+int64(index)*100_000).UTC().Format(time.RFC3339Nano)
	}
	for _, q := range []struct{ name, query string }{
		{"newest", ""}, {"who", "who=user-77"}, {"who-rare", "who=rare"}, {"who-nobody", "who=nobody"}, {"service", "service=service-7"},
		{"status", "status=500"}, {"status-class", "status=4xx"}, {"status-rare", "status=599"}, {"time-old", "until=" + at(size/10)},
		{"time-window", "since=" + at(size/2) + "&until=" + at(size/2+5000)}, {"who-status", "who=user-77&status=500"},
		{"path", "path=/api/v1/resource-77"}, {"path-prefix", "path=/api/v1/orders/12*"}, {"path-prefix-none", "path=/api/v2/*"},
		{"exchange", "exchange=" + record.FormatUUID(id(int(size/7)))},
	} {
		b.Run(q.name, func(b *testing.B) { benchmarkSearch(b, ix, q.query) })
	}
	leaf := record.LeafHash(l.entry(size / 9))
	b.Run("leaf", func(b *testing.B) {
		for b.Loop() {
			if i, ok, err := ix.LeafIndex(context.Background(), leaf); !ok || i != size/9 || err != nil {
				b.Fatal(i, ok, err)
			}
		}
	})
	stop()
	b.Run("disk", func(b *testing.B) {
		for range b.N {
		}
		// The newest segment is not in the file.
		b.ReportMetric(float64(must(os.Stat(path)).Size())/float64(size/defaultSegment*defaultSegment), "B/record")
	})
}

// cpu is the processor time of this process so far.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchmarkSearch(b *testing.B, ix *Index, query string) {
	before := cpu()
	var times []time.Duration
	found := 0
	for b.Loop() {
		begin := time.Now()
		q, err := parseSearch(query, func(string) []keys.ID { return nil })
		if err != nil {
			b.Fatal(err)
		}
		list, _, err := ix.search(context.Background(), q, ix.src.Published())
		if err != nil {
			b.Fatal(err)
		}
		found = len(list)
		times = append(times, time.Since(begin))
	}
	// On a busy machine the processor time says more than the clock.
	b.ReportMetric(float64((cpu()-before).Microseconds())/1000/float64(len(times)), "cpu-ms")
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(found), "found")
}
