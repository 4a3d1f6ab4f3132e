package bundle

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/audit"
	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
	"github.com/sealtap/sealtap/tlog/client"
	"github.com/sealtap/sealtap/tlog/client/clienttest"
	"github.com/sealtap/sealtap/witness/policy"
)

const origin = "log.example/bundle"

// begin is when the world begins.
var begin = time.Date(2027, 1, 15, 8, 0, 0, 0, time.UTC)

// world is a log with two producers, whose records stand a little out of order.
type world struct {
	t                 testing.TB
	log, operator, w1 *keys.Private
	policy            *policy.Policy
	entries           [][]byte
	now               time.Time
	openings          map[record.Hash][]*sealtapv1.Opening
}

type producer struct {
	w      *world
	key    *keys.Private
	stream record.Stream
	tree   *record.Tree
	seq    uint64
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newKey makes the same key for a name at any time: workers of fuzzing have one world.
func newKey(t testing.TB, name string, typ keys.Type) *keys.Private {
	seed := sha256.Sum256([]byte(name))
	public := append([]byte{byte(typ)}, ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)...)
	id := sha256.Sum256(append([]byte(name+"\n"), public...))
	return must[*keys.Private](t)(keys.ParsePrivate(fmt.Sprintf("PRIVATE+KEY+%s+%x+%s", name, id[:4], base64.StdEncoding.EncodeToString(append([]byte{byte(typ)}, seed[:]...)))))
}

// newWorld writes a log of some hundred entries: 300 seconds of two producers.
func newWorld(t testing.TB) *world { return newWorldOf(t, 300) }

func newWorldOf(t testing.TB, seconds int) *world {
	w := &world{t: t, now: begin, openings: make(map[record.Hash][]*sealtapv1.Opening)}
	w.log, w.operator, w.w1 = newKey(t, origin, keys.Ed25519), newKey(t, "operator.example", keys.Ed25519), newKey(t, "w1.example", keys.Cosignature)
	text := "# sealtap-operator " + w.operator.Public.String() + "\nlog " + w.log.Public.String() + "\nwitness w1 " + w.w1.Public.String() + "\nquorum w1\n"
	w.policy = must[*policy.Policy](t)(policy.Parse([]byte(text)))
	w.put(must[[]byte](t)(record.NewGenesis(w.log.Public, w.operator, begin)))
	shop, till := w.producer("shop", 1), w.producer("till", 2)
	for s := range seconds {
		w.now = begin.Add(time.Duration(s) * time.Second)
		if s%20 == 0 {
			shop.beacon()
			till.beacon()
		}
		a, b := shop.request(fmt.Sprintf("/a/%d", s)), shop.request(fmt.Sprintf("/b/%d", s))
		if s%7 == 3 {
			a, b = b, a
		}
		w.put(a)
		if s%3 == 0 {
			w.put(till.request("/pay"))
		}
		w.put(b)
		if s == 100 {
			w.put(till.make(&sealtapv1.Record{About: &sealtapv1.Record_Gap{Gap: &sealtapv1.Gap{Since: w.now.Add(-time.Second).UnixNano(), Until: w.now.UnixNano(), Exchanges: 2, Reason: "disk"}}}))
		}
		if s%5 == 4 {
			shop.seal()
			till.seal()
		}
	}
	w.put(shop.request("/a/unsealed"))
	return w
}

func (w *world) put(entry []byte) { w.entries = append(w.entries, entry) }

func (w *world) producer(name string, number uint64) *producer {
	p := &producer{w: w, key: newKey(w.t, name, keys.Ed25519), tree: record.NewTree()}
	w.put(must[[]byte](w.t)(record.NewKeyChange(record.KeyChange{Origin: origin, Number: number, Enrol: []keys.Public{p.key.Public}}, w.operator)))
	p.stream = record.Stream{Producer: p.key.ID(), Incarnation: record.Incarnation{byte(number)}}
	w.put(p.make(&sealtapv1.Record{About: &sealtapv1.Record_Start{Start: &sealtapv1.Start{Version: "test", HeartbeatNs: uint64(20 * time.Second)}}}))
	return p
}

func (p *producer) make(r *sealtapv1.Record) []byte {
	r.Producer, r.Incarnation, r.Sequence, r.Time = p.stream.Producer[:], p.stream.Incarnation[:], p.seq, p.w.now.UnixNano()+int64(p.seq)
	entry := must[[]byte](p.w.t)(record.Encode(r))
	p.seq++
	p.tree.Append(record.LeafHash(entry), nil)
	return entry
}

// request makes a record with a sealed query.
func (p *producer) request(path string) []byte {
	salt := sha256.Sum256([]byte(path))
	o := &sealtapv1.Opening{Field: "query", Type: "string", Salt: salt[:], Value: []byte("q=" + path)}
	c := record.Commitment(p.stream, p.seq, o)
	id := make([]byte, 16)
	binary.BigEndian.PutUint64(id, p.seq+1)
	entry := p.make(&sealtapv1.Record{Exchange: id, Sealed: []*sealtapv1.SealedField{{Field: "query", Commitment: c[:]}},
		About: &sealtapv1.Record_Request{Request: &sealtapv1.Request{Service: p.key.Name, Method: "GET", Path: path}}})
	p.w.openings[record.LeafHash(entry)] = []*sealtapv1.Opening{o}
	return entry
}

func (p *producer) beacon() {
	p.w.put(p.make(&sealtapv1.Record{About: &sealtapv1.Record_Beacon{Beacon: &sealtapv1.Beacon{Checkpoint: p.w.checkpoint(len(p.w.entries))}}}))
}

func (p *producer) seal() {
	s := must[note.Signer](p.w.t)(p.key.Signer())
	p.w.put(must[[]byte](p.w.t)(record.NewSeal(p.stream, p.tree.Size(), p.tree.Root(), s)))
}

// checkpoint signs and cosigns the first entries.
func (w *world) checkpoint(size int) []byte {
	w.t.Helper()
	tree := record.NewTree()
	for _, e := range w.entries[:size] {
		tree.Append(record.LeafHash(e), nil)
	}
	body := checkpoint.Body{Origin: origin, Size: uint64(size), Root: tree.Root()}
	signed := must[[]byte](w.t)(note.Sign(&note.Note{Text: string(body.Marshal())}, must[note.Signer](w.t)(w.log.Signer())))
	// tlog-cosignature, of any time.
	f := strings.Split(w.w1.Encode(), "+")
	raw := must[[]byte](w.t)(base64.StdEncoding.DecodeString(strings.Join(f[4:], "+")))
	at := w.now.Unix()
	sig := ed25519.Sign(ed25519.NewKeyFromSeed(raw[1:]), fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, body.Marshal()))
	blob := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, w.w1.KeyID()), uint64(at))
	return append(signed, "— "+w.w1.Name+" "+base64.StdEncoding.EncodeToString(append(blob, sig...))+"\n"...)
}

// options select the records of paths that begin so.
func (w *world) options(prefix string) Options {
	w.t.Helper()
	files, _ := clienttest.Tiles(w.entries)
	files["checkpoint"] = w.checkpoint(len(w.entries))
	src := files.Source()
	o := Options{Policy: w.policy, Filter: map[string]string{"path": prefix + "*"}}
	o.Head = must[*policy.Checkpoint](w.t)(w.policy.Verify(files["checkpoint"]))
	o.Tree = client.NewTree(src, o.Head.Size, o.Head.Root)
	o.Report = must[*audit.Report](w.t)(audit.Run(context.Background(), src, audit.Options{Policy: w.policy, Coverage: true}))
	if o.Report.Verdict != audit.Pass {
		w.t.Fatalf("the world is not in good order: %s", o.Report.Text())
	}
	o.Select = func(p client.Proven) (bool, error) {
		e, err := record.Parse(p.Entry)
		return err == nil && e.Record != nil && strings.HasPrefix(e.Record.GetRequest().GetPath(), prefix), nil
	}
	return o
}

// make makes a bundle and returns its path.
func (w *world) make(name string, o Options) string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), name)
	must[*Made](w.t)(Make(context.Background(), path, o))
	return path
}

func (w *world) verify(path string) *Report {
	w.t.Helper()
	return must[*Report](w.t)(Verify(path, VerifyOptions{Policy: w.policy}))
}

// forge changes the members of a bundle in a directory as somebody does who knows the
// format: the manifest fits what they left.
func forge(t testing.TB, dir string, change func(files map[string]string, m *Manifest)) {
	t.Helper()
	m := new(Manifest)
	if err := json.Unmarshal(must[[]byte](t)(os.ReadFile(filepath.Join(dir, ManifestName))), m); err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, x := range m.Members {
		files[x.Name] = string(must[[]byte](t)(os.ReadFile(filepath.Join(dir, x.Name))))
	}
	change(files, m)
	s := &stage{dir: filepath.Join(t.TempDir(), "s"), out: filepath.Join(t.TempDir(), "out"), members: make(map[string]Member)}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := s.put(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.finish(*m); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.out, dir); err != nil {
		t.Fatal(err)
	}
}

// copyDir copies a bundle.
func copyDir(t testing.TB, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(out, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return out
}

func lines(s string) []string { return strings.SplitAfter(strings.TrimSuffix(s, "\n"), "\n") }

func unlines(list []string) string {
	s := strings.Join(list, "")
	if !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return s
}

// without leaves out one line.
func without(s string, i int) string { return unlines(slices.Delete(lines(s), i, i+1)) }
