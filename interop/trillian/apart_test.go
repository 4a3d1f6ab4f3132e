package trillian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/interop/internal/cluster"
	"github.com/sealtap/sealtap/interop/internal/producer"
	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/tiles"
)

// The network takes the database away from the log server that writes, and from it
// alone: packets vanish, in a network namespace of its own. Another takes over; the
// former one signs nothing and acknowledges nothing meanwhile, follows once it is
// healed, and the same befalls the other. There is one history, and nothing that was
// acknowledged is lost.
func TestWriterIsCutOff(t *testing.T) {
	heads := newAskedHeads(t)
	c := up(t, cluster.Options{Logs: 2, Witnesses: 3, Proxies: 2, Apart: true, Before: heads.before})
	l := start(c)
	direct := submitters(t, c)
	grows(t, c)
	for range 2 {
		w := writer(t, c)
		check(t, c.Cut(w))
		began := time.Now()
		another(t, c, w, began)
		if err := c.Await("the former writer to know that it is none", 20*time.Second, func() bool { return !c.Writes(w) }); err != nil {
			t.Fatal(err)
		}
		signed, acked := signedSize(t, c, w), direct[w].count()
		before := c.Published(1 - w)
		if err := c.Await("the new writer to go on", 90*time.Second, func() bool { return c.Published(1-w) > before+100 }); err != nil {
			t.Fatal(err)
		}
		if now := signedSize(t, c, w); now != signed {
			t.Errorf("cut off from the database, the former writer has signed size %d after %d", now, signed)
		}
		if size := heads.from(c.Source(w)); size > signed {
			t.Errorf("the former writer has asked witnesses for size %d, and signed %d", size, signed)
		}
		if now := direct[w].count(); now != acked {
			t.Errorf("cut off from the database, the former writer has acknowledged %d entries", now-acked)
		}
		if size := heads.from(c.Source(1 - w)); size <= signed {
			t.Errorf("the new writer has asked witnesses for size %d at most; the former one for %d", size, signed)
		}
		check(t, c.Heal(w))
		healed := c.Published(1 - w)
		if err := c.Await("the former writer to follow", 90*time.Second, func() bool { return c.Published(w) >= healed }); err != nil {
			t.Fatal(err)
		}
		if !c.Writes(1 - w) {
			t.Error("the new writer has lost the lease to the one that was healed")
		}
		if err := c.Await("an acknowledgement by way of the former writer", 90*time.Second, func() bool { return direct[w].count() > acked }); err != nil {
			t.Fatal(err)
		}
	}
	l.stop()
	t.Logf("%d exchanges were answered", len(l.answered))
	l.complete(t, c)
	for _, s := range direct {
		s.stop()
		s.complete(t, c)
	}
	heads.compare(rootsOf(t, c))
	for i, s := range c.Logs {
		audit(t, c, s.URL)
		tesserasCheck(t, c, i)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// signedSize is that of the newest head in the file of what a log server has signed.
func signedSize(t *testing.T, c *cluster.Cluster, i int) uint64 {
	t.Helper()
	signed, err := os.ReadFile(filepath.Join(c.Dir, fmt.Sprintf("log%d.db.signed", i)))
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	check(t, err)
	body, err := headIn(signed)
	check(t, err)
	return body.Size
}

func headIn(signed []byte) (checkpoint.Body, error) {
	text, err := checkpoint.Text(signed)
	if err != nil {
		return checkpoint.Body{}, err
	}
	body, _, err := checkpoint.Parse(text)
	return body, err
}

// askedHeads are the heads that witnesses were asked to cosign: whatever a log server
// signs for others to see, it shows them first.
type askedHeads struct {
	t       *testing.T
	mu      sync.Mutex
	roots   map[uint64][32]byte
	largest map[string]uint64 // by who asked
	faults  []error
}

func newAskedHeads(t *testing.T) *askedHeads {
	return &askedHeads{t: t, roots: make(map[uint64][32]byte), largest: make(map[string]uint64)}
}

// before stands before a witness.
func (h *askedHeads) before(host, addr string) (string, error) {
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	forward.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			h.add(r.RemoteAddr, body)
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		forward.ServeHTTP(w, r)
	})}
	h.t.Cleanup(func() { srv.Close() })
	go func() { _ = srv.Serve(ln) }()
	return "http://" + ln.Addr().String(), nil
}

func (h *askedHeads) add(who string, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// C2SP tlog-witness, add-checkpoint: the checkpoint follows an empty line.
	_, signed, _ := bytes.Cut(body, []byte("\n\n"))
	head, err := headIn(signed)
	host, _, err2 := net.SplitHostPort(who)
	if err := errors.Join(err, err2); err != nil {
		h.faults = append(h.faults, fmt.Errorf("%s asks a witness for %q: %w", who, body, err))
		return
	}
	if root, ok := h.roots[head.Size]; ok && root != head.Root {
		h.faults = append(h.faults, fmt.Errorf("%s has signed root %x for size %d, and %x was", who, head.Root, head.Size, root))
	}
	h.roots[head.Size] = head.Root
	h.largest[host] = max(h.largest[host], head.Size)
}

// from is the largest size that somebody has asked for.
func (h *askedHeads) from(host string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.largest[host]
}

// compare compares all of them with the roots of the one history.
func (h *askedHeads) compare(roots [][]byte) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for size, root := range h.roots {
		if size < uint64(len(roots)) && !bytes.Equal(root[:], roots[size]) {
			h.faults = append(h.faults, fmt.Errorf("root %x was signed for size %d; the entries give %x", root, size, roots[size]))
		}
	}
	h.t.Logf("witnesses were asked for %d heads", len(h.roots))
	for _, err := range h.faults {
		h.t.Error(err)
	}
}

// rootsOf recomputes the root of each size of the log with transparency-dev/merkle.
func rootsOf(t *testing.T, c *cluster.Cluster) [][]byte {
	t.Helper()
	edge := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	roots := [][]byte{rfc6962.DefaultHasher.EmptyRoot()}
	for n, size := uint64(0), c.Published(0); n*256 < size; n++ {
		leaves, err := hashes(bundleOf(t, c, n, size))
		check(t, err)
		for _, leaf := range leaves {
			check(t, edge.Append(leaf, nil))
			root, err := edge.GetRootHash(nil)
			check(t, err)
			roots = append(roots, root)
		}
	}
	return roots
}

func bundleOf(t *testing.T, c *cluster.Cluster, n, size uint64) []byte {
	t.Helper()
	b, err := stack.Fetch(context.Background(), c.Logs[0].URL+"/"+tiles.Path{Entries: true, N: n, Width: int(min(256, size-n*256))}.String())
	check(t, err)
	return b
}

// submitter submits to one log server, and remembers what that has acknowledged.
type submitter struct {
	mu     sync.Mutex
	p      *producer.Producer
	acked  int
	fault  error
	cancel func()
	done   chan struct{}
}

// submitters enrols one for each log server, and has them submit until they are stopped.
func submitters(t *testing.T, c *cluster.Cluster) (list []*submitter) {
	t.Helper()
	for i, n := range c.Logs {
		k, err := keys.Generate(fmt.Sprintf("direct%d", i), keys.Ed25519)
		check(t, err)
		if _, err := c.Run("enrol", k.Public.String(), "--log", c.Logs[0].URL, "--policy", c.PolicyFile, "--operator-key", filepath.Join(c.Dir, "keys", "operator.key")); err != nil {
			t.Fatal(err)
		}
		p, err := producer.New(k, nil)
		check(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		s := &submitter{p: p, done: make(chan struct{})}
		s.cancel = sync.OnceFunc(func() { cancel(); <-s.done })
		t.Cleanup(s.cancel)
		go s.run(ctx, n.URL)
		list = append(list, s)
	}
	return list
}

func (s *submitter) run(ctx context.Context, url string) {
	defer close(s.done)
	for n := 0; ctx.Err() == nil && s.fault == nil; n++ {
		time.Sleep(20 * time.Millisecond)
		req, err := s.p.Next(1+n%5, producer.Request("/direct"))
		if err != nil {
			s.fault = err
			return
		}
		answer, err := submit(ctx, url, req)
		if err != nil {
			continue // the same again
		}
		s.mu.Lock()
		s.fault = s.p.Done(answer)
		s.acked = len(s.p.Entries)
		s.mu.Unlock()
	}
}

func submit(ctx context.Context, url string, req *sealtapv1.SubmitRequest) (*sealtapv1.SubmitResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	body, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/entries", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	answer := new(sealtapv1.SubmitResponse)
	if err == nil {
		err = proto.Unmarshal(body, answer)
	}
	return answer, err
}

// count is how many entries were acknowledged.
func (s *submitter) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

func (s *submitter) stop() { s.cancel() }

// complete checks that every entry that was acknowledged stands where that was said.
func (s *submitter) complete(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	check(t, s.fault)
	var last uint64
	for _, e := range s.p.Entries {
		last = max(last, e.Index)
	}
	if err := c.Await("what was acknowledged", time.Minute, func() bool { return c.Published(0) > last }); err != nil {
		t.Fatal(err)
	}
	bundles, size := make(map[uint64][][]byte), c.Published(0)
	n := 0
	for _, e := range s.p.Entries {
		if !e.Acked {
			continue
		}
		b, ok := bundles[e.Index/256]
		if !ok {
			var err error
			b, err = hashes(bundleOf(t, c, e.Index/256, size))
			check(t, err)
			bundles[e.Index/256] = b
		}
		if leaf := record.LeafHash(e.Bytes); !bytes.Equal(b[e.Index%256], leaf[:]) {
			t.Fatalf("an entry was acknowledged as %d, where another one stands", e.Index)
		}
		n++
	}
	if n == 0 {
		t.Error("nothing was acknowledged")
	}
	t.Logf("%d entries were acknowledged, and stand where that was said", n)
}
