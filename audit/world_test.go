package audit_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
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
	"github.com/sealtap/sealtap/tlog/client/clienttest"
	"github.com/sealtap/sealtap/witness/policy"
)

const (
	origin = "log.example/audit"
	epoch  = int64(1_800_000_000) // when the world begins, Unix seconds
)

// world is a log as its writers make it, entry by entry, with all their keys: so
// with everything that an attacker could ever get hold of.
type world struct {
	t         testing.TB
	log       *keys.Private
	quantum   *keys.Private // the log's second key; nil: it has none
	operator  *keys.Private
	witnesses []*keys.Private
	policy    *policy.Policy
	entries   [][]byte
	now       int64 // Unix nanoseconds; every record moves it on
	changes   uint64
}

func key(t testing.TB, name string, typ keys.Type) *keys.Private {
	t.Helper()
	k, err := keys.Generate(name, typ)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newWorld returns a log with its genesis. Two witnesses must cosign.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, now: epoch * int64(time.Second)}
	w.log, w.operator = key(t, origin, keys.Ed25519), key(t, "operator.example", keys.Ed25519)
	w.witnesses = []*keys.Private{key(t, "w1.example", keys.Cosignature), key(t, "w2.example", keys.Cosignature)}
	text := "# sealtap-operator " + w.operator.Public.String() + "\nlog " + w.log.Public.String() + "\n"
	for i, k := range w.witnesses {
		text += fmt.Sprintf("witness w%d %s\n", i+1, k.Public)
	}
	var err error
	if w.policy, err = policy.Parse([]byte(text + "group both all w1 w2\nquorum both\n")); err != nil {
		t.Fatal(err)
	}
	w.put(record.NewGenesis(w.log.Public, w.operator, time.Unix(epoch, 0)))
	return w
}

// put appends an entry and returns its index.
func (w *world) put(entry []byte, err error) int {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	w.entries = append(w.entries, entry)
	return len(w.entries) - 1
}

// change appends a statement of the operator.
func (w *world) change(c record.KeyChange) int {
	w.t.Helper()
	w.changes++
	c.Origin, c.Number = origin, w.changes
	return w.put(record.NewKeyChange(c, w.operator))
}

// checkpoint signs the first size entries, cosigned at now by the witnesses given.
func (w *world) checkpoint(size int, witnesses ...*keys.Private) []byte {
	w.t.Helper()
	_, root := clienttest.Tiles(w.entries[:size])
	return w.sign(checkpoint.Body{Origin: origin, Size: uint64(size), Root: root}, witnesses...)
}

// headAs signs all entries as the head of a log with this origin.
func (w *world) headAs(origin string, witnesses ...*keys.Private) []byte {
	w.t.Helper()
	_, root := clienttest.Tiles(w.entries)
	return w.sign(checkpoint.Body{Origin: origin, Size: uint64(len(w.entries)), Root: root}, witnesses...)
}

func (w *world) sign(body checkpoint.Body, witnesses ...*keys.Private) []byte {
	w.t.Helper()
	signer, err := w.log.Signer()
	if err != nil {
		w.t.Fatal(err)
	}
	signers := []note.Signer{signer}
	if w.quantum != nil {
		more, err := w.quantum.Signer()
		if err != nil {
			w.t.Fatal(err)
		}
		signers = append(signers, more)
	}
	signed, err := note.Sign(&note.Note{Text: string(body.Marshal())}, signers...)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, k := range witnesses {
		signed = append(signed, cosign(w.t, k, body, w.now/int64(time.Second))...)
	}
	return signed
}

// cosign makes a cosignature line of any time. (tlog-cosignature)
func cosign(t testing.TB, k *keys.Private, body checkpoint.Body, unix int64) string {
	t.Helper()
	return cosignText(t, k, string(body.Marshal()), unix)
}

func cosignText(t testing.TB, k *keys.Private, text string, unix int64) string {
	t.Helper()
	f := strings.Split(k.Encode(), "+")
	raw, err := base64.StdEncoding.DecodeString(strings.Join(f[4:], "+")) // base64 has plus signs too
	if err != nil {
		t.Fatal(err)
	}
	sig := ed25519.Sign(ed25519.NewKeyFromSeed(raw[1:]), fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", unix, text))
	blob := binary.BigEndian.AppendUint32(nil, k.KeyID())
	blob = binary.BigEndian.AppendUint64(blob, uint64(unix))
	return "— " + k.Name + " " + base64.StdEncoding.EncodeToString(append(blob, sig...)) + "\n"
}

// publish returns the log as it is served, under a head with everybody's signature.
func (w *world) publish() clienttest.Files {
	w.t.Helper()
	files, _ := clienttest.Tiles(w.entries)
	files["checkpoint"] = w.checkpoint(len(w.entries), w.witnesses...)
	return files
}

// alsoTrusting returns the policy with another log in it, whose key it sets.
func (w *world) alsoTrusting(other **keys.Private) *policy.Policy {
	w.t.Helper()
	*other = key(w.t, "log.example/other", keys.Ed25519)
	p := w.policy
	p, err := policy.New(append(slices.Clone(p.Logs), policy.Log{Key: (*other).Public}), p.Witnesses, p.Groups, p.Quorum, p.Operator)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// without removes an entry: what an operator can do who rebuilds the tree.
func (w *world) without(index int) { w.entries = slices.Delete(w.entries, index, index+1) }

func (w *world) audit(files clienttest.Files, o audit.Options) *audit.Report {
	w.t.Helper()
	if o.Policy == nil {
		o.Policy = w.policy
	}
	r, err := audit.Run(context.Background(), files.Source(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// producer writes one stream after another with one key.
type producer struct {
	w       *world
	key     *keys.Private
	stream  record.Stream
	tree    *record.Tree
	seq     uint64
	entries [][]byte // of the stream
}

// producer enrols a new producer, which writes its start record.
func (w *world) producer(name string) *producer {
	w.t.Helper()
	p := &producer{w: w, key: key(w.t, name, keys.Ed25519)}
	w.change(record.KeyChange{Enrol: []keys.Public{p.key.Public}})
	p.restart(nil)
	return p
}

// restart begins a new incarnation.
func (p *producer) restart(previous *sealtapv1.Seal) int {
	p.stream, p.tree, p.seq, p.entries = record.NewStream(p.key.ID()), record.NewTree(), 0, nil
	return p.start(previous)
}

func (p *producer) start(previous *sealtapv1.Seal) int {
	return p.write(&sealtapv1.Record{About: &sealtapv1.Record_Start{Start: &sealtapv1.Start{Version: "test", HeartbeatNs: uint64(10 * time.Second), Previous: previous}}})
}

// head names the newest seal.
func (p *producer) head() *sealtapv1.Seal {
	root, incarnation := p.tree.Root(), p.stream.Incarnation
	return &sealtapv1.Seal{Incarnation: incarnation[:], Size: p.tree.Size(), Root: root[:]}
}

// make returns the next record, not yet in the log.
func (p *producer) make(r *sealtapv1.Record) []byte {
	p.w.t.Helper()
	p.w.now += int64(time.Millisecond)
	r.Producer, r.Incarnation, r.Sequence = p.stream.Producer[:], p.stream.Incarnation[:], p.seq
	if r.GetTime() == 0 {
		r.Time = p.w.now
	}
	entry, err := record.Encode(r)
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.seq++
	p.tree.Append(record.LeafHash(entry), nil)
	p.entries = append(p.entries, entry)
	return entry
}

func (p *producer) write(r *sealtapv1.Record) int { return p.w.put(p.make(r), nil) }

// request writes a record about an exchange.
func (p *producer) request(path string) int { return p.write(request(path)) }

func request(path string) *sealtapv1.Record {
	return &sealtapv1.Record{
		Exchange: make([]byte, 16),
		About:    &sealtapv1.Record_Request{Request: &sealtapv1.Request{Service: "shop", Method: "GET", Path: path}},
	}
}

// beacon writes a beacon with the log's cosigned head, as it is now.
func (p *producer) beacon() int {
	return p.write(beacon(p.w.checkpoint(len(p.w.entries), p.w.witnesses...)))
}

func beacon(signed []byte) *sealtapv1.Record {
	return &sealtapv1.Record{About: &sealtapv1.Record_Beacon{Beacon: &sealtapv1.Beacon{Checkpoint: signed}}}
}

func (p *producer) stop() int {
	return p.write(&sealtapv1.Record{About: &sealtapv1.Record_Stop{Stop: &sealtapv1.Stop{}}})
}

// seal seals all records so far.
func (p *producer) seal() int {
	p.w.t.Helper()
	return p.w.put(p.sealWith(p.key, p.tree.Size(), p.tree.Root()), nil)
}

func (p *producer) sealWith(k *keys.Private, size uint64, root record.Hash) []byte {
	p.w.t.Helper()
	signer, err := k.Signer()
	if err != nil {
		p.w.t.Fatal(err)
	}
	entry, err := record.NewSeal(p.stream, size, root, signer)
	if err != nil {
		p.w.t.Fatal(err)
	}
	return entry
}

// shop is a small world in good order, whose producer has stopped.
func shop(t testing.TB) (*world, *producer) {
	t.Helper()
	w := newWorld(t)
	p := w.producer("shop")
	p.request("/a")
	p.seal()
	p.beacon()
	p.request("/b")
	p.request("/c")
	p.stop()
	p.seal()
	return w, p
}
