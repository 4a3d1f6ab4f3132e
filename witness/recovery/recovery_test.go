package recovery_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/storage/sqlite"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/witness"
	"github.com/sealtap/sealtap/witness/fork"
	"github.com/sealtap/sealtap/witness/policy"
	"github.com/sealtap/sealtap/witness/recovery"
)

const origin = "log.example/l"

func newKey(t *testing.T, name string, typ keys.Type) *keys.Private {
	t.Helper()
	k, err := keys.Generate(name, typ)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// log is one history of a log, which can be shown at any size below 256.
type log struct {
	key    *keys.Private
	tree   *testonly.Tree
	leaves [][]byte
	url    string
	shown  uint64 // the size that it shows; 0: nothing
}

func newLog(t *testing.T, key *keys.Private, tag string, same, size int) *log {
	t.Helper()
	l := &log{key: key, tree: testonly.New(rfc6962.DefaultHasher)}
	for i := range size {
		data := fmt.Append(nil, tag, i)
		if i < same {
			data = fmt.Append(nil, i)
		}
		l.tree.AppendData(data)
		l.leaves = append(l.leaves, rfc6962.DefaultHasher.HashLeaf(data))
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var width int
		switch {
		case r.URL.Path == "/checkpoint" && l.shown > 0:
			_, _ = w.Write(l.checkpoint(t, l.shown))
		case strings.HasPrefix(r.URL.Path, "/tile/0/000.p/"):
			if _, err := fmt.Sscanf(r.URL.Path, "/tile/0/000.p/%d", &width); err == nil && width <= len(l.leaves) {
				for _, h := range l.leaves[:width] {
					_, _ = w.Write(h)
				}
			}
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	l.url = s.URL
	return l
}

func (l *log) checkpoint(t *testing.T, size uint64, by ...note.Signer) []byte {
	t.Helper()
	s, err := l.key.Signer()
	if err != nil {
		t.Fatal(err)
	}
	b := checkpoint.Body{Origin: l.key.Name, Size: size, Root: [32]byte(l.tree.HashAt(size))}
	signed, err := note.Sign(&note.Note{Text: string(b.Marshal())}, append([]note.Signer{s}, by...)...)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func (l *log) request(t *testing.T, from, to uint64) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "old %d\n", from)
	if from > 0 && from < to {
		p, err := l.tree.ConsistencyProof(from, to)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range p {
			b.WriteString(base64.StdEncoding.EncodeToString(h) + "\n")
		}
	}
	return b.String() + "\n" + string(l.checkpoint(t, to))
}

// party is a witness.
type party struct {
	key   *keys.Private
	store *sqlite.Witness
	logs  map[string][]keys.Public
	http  *httptest.Server
}

func newParty(t *testing.T, name string, l *log) *party {
	t.Helper()
	store, err := sqlite.OpenWitness(t.Context(), filepath.Join(t.TempDir(), "w.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	p := &party{key: newKey(t, name, keys.Cosignature), store: store, logs: map[string][]keys.Public{l.key.Name: {l.key.Public}}}
	p.start(t)
	return p
}

func (p *party) start(t *testing.T) {
	t.Helper()
	if p.http != nil {
		p.http.Close()
	}
	s, err := witness.New(t.Context(), witness.Config{Key: p.key, Logs: p.logs, Store: p.store})
	if err != nil {
		t.Fatal(err)
	}
	p.http = httptest.NewServer(s.Handler())
	t.Cleanup(p.http.Close)
}

func (p *party) add(t *testing.T, body string, want int) {
	t.Helper()
	resp, err := http.Post(p.http.URL+"/add-checkpoint", "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		t.Fatalf("%s: answer %s %s, want %d", p.key.Name, resp.Status, text, want)
	}
}

// world is a log, a witness that was put back to an older state, and two others.
type world struct {
	log       *log
	w, w2, w3 *party
	withURL   bool // the policy says where the log is read
	c         recovery.Config
}

// newWorld has a witness that cosigned size 11 and remembers 7, while the others have
// seen 10 and 13.
func newWorld(t *testing.T) *world {
	t.Helper()
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 0, 20)
	w := &world{log: l, w: newParty(t, "w1.example", l), w2: newParty(t, "w2.example", l), w3: newParty(t, "w3.example", l), withURL: true}
	l.shown = 12
	w.w.add(t, l.request(t, 0, 7), 200)
	w.w2.add(t, l.request(t, 0, 10), 200)
	w.w3.add(t, l.request(t, 0, 13), 200)
	w.c = recovery.Config{By: w.w.key.Name, Own: []keys.Public{w.w.key.Public}, Logs: w.w.logs, Store: w.w.store}
	return w
}

func (w *world) recover(t *testing.T) recovery.Outcome {
	t.Helper()
	logURL := ""
	if w.withURL {
		logURL = w.log.url
	}
	var err error
	w.c.Policy, err = policy.New([]policy.Log{{Key: w.log.key.Public, URL: logURL}}, []policy.Witness{
		{Name: "w1", Key: w.w.key.Public, URL: "http://127.0.0.1:1"}, // ourselves, who do not run
		{Name: "w2", Key: w.w2.key.Public, URL: w.w2.http.URL},
		{Name: "w3", Key: w.w3.key.Public, URL: w.w3.http.URL},
	}, nil, policy.None, nil)
	if err != nil {
		t.Fatal(err)
	}
	list, err := recovery.Run(t.Context(), w.c)
	if err != nil || len(list) != 1 {
		t.Fatalf("outcomes %+v, %v", list, err)
	}
	w.w.start(t)
	return list[0]
}

func (w *world) want(t *testing.T, o recovery.Outcome, state string, size uint64, detail string) {
	t.Helper()
	if o.State != state || o.Size != size || !strings.Contains(o.Detail, detail) {
		t.Errorf("outcome %+v, want %s at %d with %q", o, state, size, detail)
	}
	if state != recovery.Recovered {
		w.w.add(t, w.log.request(t, 7, 11), 503)
		w.w.add(t, w.log.request(t, 7, 7), 503)
	}
}

func TestRecover(t *testing.T) {
	w := newWorld(t)
	o := w.recover(t)
	w.want(t, o, recovery.Recovered, 13, "")
	if o.Before != 7 || len(o.Seen) != 3 {
		t.Errorf("outcome %+v", o)
	}
	// It signs what goes on from there, and nothing from before.
	w.w.add(t, w.log.request(t, 7, 11), 409)
	w.w.add(t, newLog(t, w.log.key, "b", 7, 20).request(t, 13, 14), 422)
	w.w.add(t, w.log.request(t, 13, 14), 200)
	// Again it changes nothing.
	w.want(t, w.recover(t), recovery.Recovered, 14, "")
}

func TestRecoverNothingStored(t *testing.T) {
	w := newWorld(t)
	lost := w.w.key
	w.w = newParty(t, "w1.example", w.log)
	w.w.key, w.c.Store = lost, w.w.store
	w.want(t, w.recover(t), recovery.Recovered, 13, "")
}

// Whoever has to answer and does not keeps the witness from signing.
func TestRecoverUnfinished(t *testing.T) {
	w := newWorld(t)
	w.w3.http.Close()
	w.want(t, w.recover(t), recovery.Unfinished, 7, "witness w3 cannot be asked")
	w.c.Without = []string{"w3"}
	w.want(t, w.recover(t), recovery.Recovered, 12, "")

	w = newWorld(t) // one that was put back itself
	if err := w.w3.store.AddDoubt(t.Context(), witness.Doubt{Why: "it was put back", Since: time.Now()}); err != nil {
		t.Fatal(err)
	}
	w.w3.start(t)
	w.want(t, w.recover(t), recovery.Unfinished, 7, "it may have cosigned more than it knows")
	w.c.Without = []string{"w3"}
	w.want(t, w.recover(t), recovery.Recovered, 13, "")

	w = newWorld(t) // nobody shows that the heads are of one history
	w.withURL = false
	w.want(t, w.recover(t), recovery.Unfinished, 13, "is not proven")
	mirror, err := client.Open(w.log.url)
	if err != nil {
		t.Fatal(err)
	}
	w.c.Copies = []*client.Source{mirror}
	w.want(t, w.recover(t), recovery.Recovered, 13, "")
}

// The log's word alone is taken only where somebody says so.
func TestRecoverTrustLog(t *testing.T) {
	l := newLog(t, newKey(t, origin, keys.Ed25519), "a", 0, 20)
	w := &world{log: l, w: newParty(t, "w1.example", l), w2: newParty(t, "w2.example", l), w3: newParty(t, "w3.example", l), withURL: true}
	w.c = recovery.Config{By: w.w.key.Name, Own: []keys.Public{w.w.key.Public}, Logs: w.w.logs, Store: w.w.store}
	w.want(t, w.recover(t), recovery.Unfinished, 0, "--trust-log")
	w.c.TrustLog = true
	w.want(t, w.recover(t), recovery.Recovered, 0, "") // it has published nothing
	l.shown = 9
	w.c.TrustLog = false
	w.want(t, w.recover(t), recovery.Unfinished, 0, "--trust-log")
	w.c.TrustLog = true
	w.want(t, w.recover(t), recovery.Recovered, 9, "")
}

// Two histories are found out, kept as proven evidence, and never signed for again.
func TestRecoverFork(t *testing.T) {
	for name, test := range map[string]struct {
		same, size int // the other history, as w3 has seen it
		kind       fork.Kind
	}{
		"same size":           {5, 10, fork.Root},
		"larger":              {5, 13, fork.Prefix},
		"from a power of two": {2, 17, fork.Prefix},
	} {
		w := newWorld(t)
		if name == "from a power of two" {
			w.w2.add(t, w.log.request(t, 10, 16), 200)
			w.log.shown = 16
		} else {
			w.log.shown = 10
		}
		other := newLog(t, w.log.key, "b", test.same, 20)
		w.w3 = newParty(t, "w3.example", w.log)
		w.w3.add(t, other.request(t, 0, uint64(test.size)), 200)
		other.shown = uint64(test.size)
		mirror, err := client.Open(other.url)
		if err != nil {
			t.Fatal(err)
		}
		w.c.Copies = []*client.Source{mirror}
		o := w.recover(t)
		w.want(t, o, recovery.Forked, o.Size, "two histories")
		forks, err := w.w.store.Forks(context.Background(), origin)
		if err != nil || len(forks) != 1 {
			t.Fatalf("%s: %d forks, %v", name, len(forks), err)
		}
		v, err := w.log.key.Verifier()
		if err != nil {
			t.Fatal(err)
		}
		e, err := fork.Parse(witness.Evidence("w1.example", forks[0]).Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if j, err := e.Judge(note.VerifierList(v)); err != nil || j.Kind != test.kind || forks[0].Kind != test.kind {
			t.Errorf("%s: the evidence is %+v, %v", name, j, err)
		}
	}
}

// A head that bears our own cosignature is one of those that have to fit.
func TestRecoverOwn(t *testing.T) {
	for _, forked := range []bool{false, true} {
		w := newWorld(t)
		signer, err := w.w.key.Signer()
		if err != nil {
			t.Fatal(err)
		}
		from := w.log
		if forked {
			from = newLog(t, w.log.key, "b", 7, 20)
		}
		w.w.add(t, "old 7\n\n"+string(from.checkpoint(t, 11, signer)), 503)
		o := w.recover(t)
		if forked {
			w.want(t, o, recovery.Forked, 13, "our own cosignature")
		} else {
			w.want(t, o, recovery.Recovered, 13, "")
		}
	}
}
