package interop

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/interop/internal/stack"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

// producer is a program that writes to a log without being a proxy.
type producer struct {
	t      *testing.T
	signer note.Signer
	stream record.Stream
	tree   *record.Tree
}

// enrol has the operator of a log enrol a new producer, with the real command.
func enrol(t *testing.T, s *stack.Stack, name string) *producer {
	t.Helper()
	k, err := keys.Generate(name, keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(s.Bin, "enrol", k.Public.String(), "--policy", filepath.Join(s.Dir, "policy.txt"),
		"--operator-key", filepath.Join(s.Dir, "keys", "operator.key")).CombinedOutput()
	if err != nil {
		t.Fatalf("sealtap enrol: %v: %s", err, out)
	}
	return newProducer(t, k)
}

func newProducer(t *testing.T, k *keys.Private) *producer {
	t.Helper()
	signer, err := k.Signer()
	if err != nil {
		t.Fatal(err)
	}
	return &producer{t: t, signer: signer, stream: record.NewStream(k.ID()), tree: record.NewTree()}
}

// clone returns a producer that goes on from the same state on its own.
func (p *producer) clone() *producer {
	c := *p
	c.tree = p.tree.Clone()
	return &c
}

// batch returns n records with a text, and their seal.
func (p *producer) batch(n int, text string) *sealtapv1.SubmitRequest {
	p.t.Helper()
	req := new(sealtapv1.SubmitRequest)
	add := func(entry []byte, err error) {
		if err != nil {
			p.t.Fatal(err)
		}
		req.Items = append(req.Items, &sealtapv1.Item{Entry: entry})
	}
	for range n {
		r := &sealtapv1.Record{Producer: p.stream.Producer[:], Incarnation: p.stream.Incarnation[:], Sequence: p.tree.Size(),
			Time: time.Now().UnixNano(), About: &sealtapv1.Record_Stop{Stop: &sealtapv1.Stop{Reason: text}}}
		if p.tree.Size() == 0 {
			r.About = &sealtapv1.Record_Start{Start: &sealtapv1.Start{Reason: sealtapv1.StartReason_START_REASON_NEW, HeartbeatNs: 10e9}}
		}
		entry, err := record.Encode(r)
		add(entry, err)
		p.tree.Append(record.LeafHash(entry), nil)
	}
	add(record.NewSeal(p.stream, p.tree.Size(), p.tree.Root(), p.signer))
	return req
}

func wantPublished(req *sealtapv1.SubmitRequest) *sealtapv1.SubmitRequest {
	req.Level = sealtapv1.Level_LEVEL_PUBLISHED
	return req
}
