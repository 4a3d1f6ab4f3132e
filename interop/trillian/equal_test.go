package trillian

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sealtap/sealtap/interop/internal/cluster"
	"github.com/sealtap/sealtap/interop/internal/producer"
	"github.com/sealtap/sealtap/keys"
	sealtapv1 "github.com/sealtap/sealtap/proto/sealtap/v1"
	"github.com/sealtap/sealtap/record"
)

var equalEntries = flag.Int("entries", 1800, "how many entries the log on Trillian and the one on SQLite are given")

// Given the same, the log on Trillian and PostgreSQL and the one in a SQLite file are
// the same log: every answer that a reader can get is the same to the byte, tiles and
// bundles of every width, proofs, heads with their signatures, refusals and what is
// pruned. Leaves, roots and proofs are computed by transparency-dev/merkle as well,
// and Trillian's own are the same.
func TestEqual(t *testing.T) {
	c := up(t, cluster.Options{Logs: 1, Twin: true, LogLines: "  prune_interval: 100ms\n  limits: {producer_bytes_per_second: 1GiB}\n"})
	p := newPair(t, c)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	p.rand = rand.New(rand.NewPCG(seed, 1))

	list := p.producers(3)
	p.edges(true)
	p.feed(list, *equalEntries*2/3, sealtapv1.Level_LEVEL_PUBLISHED)
	p.refusals(list[0])
	p.feed(list, *equalEntries, sealtapv1.Level_LEVEL_SEQUENCED)
	p.published()
	p.edges(true)
	p.trillian()
	p.everything(0, 8)
	p.restart() // what was in memory comes from the databases now
	p.everything(0, 1)
	tesserasCheck(t, c, 0)

	// The operator lets go of some.
	keep := p.size() / 3
	statement, err := record.NewRetention(p.origin, 2, record.Retention{Entries: keep}, p.operator)
	p.check(err)
	p.submit(&sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{{Entry: statement}}, Level: sealtapv1.Level_LEVEL_PUBLISHED})
	minimum := (p.size() - keep) / 256 * 256
	p.await("both to begin at the same entry", func() bool {
		want := fmt.Sprintf(`"minimum_index":%d,`, minimum)
		return strings.Contains(p.get(p.file, "/v1/retention").body, want) && strings.Contains(p.get(p.shared, "/v1/retention").body, want)
	})
	p.same([]string{"/v1/retention"})
	p.everything(minimum, 8)
	p.feed(list, int(p.size())+300, sealtapv1.Level_LEVEL_SEQUENCED)
	p.published()
	minimum = (p.size() - keep) / 256 * 256
	p.restart()
	p.await("both to begin at the same entry once more", func() bool {
		want := fmt.Sprintf(`"minimum_index":%d,`, minimum)
		return strings.Contains(p.get(p.file, "/v1/retention").body, want) && strings.Contains(p.get(p.shared, "/v1/retention").body, want)
	})
	p.everything(minimum, 4)
	p.trillian() // keeps all
	audit(t, c, p.shared)
	audit(t, c, p.file)
}

// producers enrols producers, and makes a stream of each.
func (p *pair) producers(n int) (list []*producer.Producer) {
	p.t.Helper()
	recipient, err := p.c.Recipient()
	p.check(err)
	boxes, err := record.NewOpeningSealer(recipient)
	p.check(err)
	change := record.KeyChange{Origin: p.origin, Number: 1}
	for i := range n {
		k, err := keys.Generate(fmt.Sprintf("producer%d", i), keys.Ed25519)
		p.check(err)
		change.Enrol = append(change.Enrol, k.Public)
		s, err := producer.New(k, boxes)
		p.check(err)
		p.keys = append(p.keys, k)
		list = append(list, s)
	}
	entry, err := record.NewKeyChange(change, p.operator)
	p.check(err)
	p.submit(&sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{{Entry: entry}}, Level: sealtapv1.Level_LEVEL_PUBLISHED})
	return list
}

// feed has the producers submit in turns, one of five submissions twice, until there are
// so many entries.
func (p *pair) feed(list []*producer.Producer, size int, level sealtapv1.Level) {
	p.t.Helper()
	most := max(40, min(4000, size/8))
	var former *sealtapv1.SubmitRequest
	for n := 0; int(p.size()) < size; n++ {
		s := list[n%len(list)]
		records := 1 + p.rand.IntN(12)
		if n%4 == 3 {
			records = 1 + p.rand.IntN(most)
		}
		req, err := s.Next(records, producer.Request("/"+strings.Repeat("x", p.rand.IntN(300))))
		p.check(err)
		req.Level = level
		answer := p.submit(req)
		p.check(s.Done(answer))
		if level == sealtapv1.Level_LEVEL_PUBLISHED {
			p.edges(n%8 == 0)
		}
		if p.rand.IntN(5) == 0 {
			p.submit(req)
		}
		if former != nil && p.rand.IntN(5) == 0 {
			p.submit(former)
		}
		former = req
	}
}

// refusals submits what no log may take.
func (p *pair) refusals(s *producer.Producer) {
	p.t.Helper()
	signer, err := p.keys[0].Signer()
	p.check(err)
	request := func(sequence uint64, st record.Stream) *sealtapv1.SubmitRequest {
		r := &sealtapv1.Record{Producer: st.Producer[:], Incarnation: st.Incarnation[:], Sequence: sequence, Time: time.Now().UnixNano(),
			About: &sealtapv1.Record_Start{Start: &sealtapv1.Start{Version: "another"}}}
		entry, err := record.Encode(r)
		p.check(err)
		tree := record.NewTree()
		tree.Append(record.LeafHash(entry), nil)
		seal, err := record.NewSeal(st, 1, tree.Root(), signer)
		p.check(err)
		return &sealtapv1.SubmitRequest{Items: []*sealtapv1.Item{{Entry: entry}, {Entry: seal}}}
	}
	stranger, err := keys.Generate("stranger", keys.Ed25519)
	p.check(err)
	for name, req := range map[string]*sealtapv1.SubmitRequest{
		"a second record of one sequence": request(0, s.Stream),
		"a hole":                          request(100_000, s.Stream),
		"a stranger":                      request(0, record.NewStream(stranger.ID())),
		"no entry":                        {Items: []*sealtapv1.Item{{Entry: []byte("no entry")}}},
	} {
		file, shared := p.post(p.file, req), p.post(p.shared, req)
		if file != shared || file.status < 400 {
			p.t.Errorf("%s: from the file %+v, from Trillian %+v", name, file, shared)
		}
	}
}

// restart stops both log servers, and starts them again.
func (p *pair) restart() {
	p.t.Helper()
	for _, n := range []*cluster.Node{p.c.Twin, p.c.Logs[0]} {
		p.check(n.Stop())
		p.check(n.Start())
	}
	p.published()
}

// published waits until both show all entries.
func (p *pair) published() {
	p.t.Helper()
	p.await(fmt.Sprintf("%d entries to be shown", p.size()), func() bool {
		for _, url := range []string{p.file, p.shared} {
			lines := bytes.SplitN([]byte(p.get(url, "/checkpoint").body), []byte("\n"), 3)
			if len(lines) < 3 || string(lines[1]) != fmt.Sprint(p.size()) {
				return false
			}
		}
		return true
	})
	// The search index follows a moment later.
	p.await("the newest entry to be found", func() bool {
		return p.get(p.file, p.byLeaf(p.size()-1)).status == 200 && p.get(p.shared, p.byLeaf(p.size()-1)).status == 200
	})
}

func (p *pair) await(what string, ready func() bool) {
	p.t.Helper()
	p.check(p.c.Await(what, 2*time.Minute, ready))
}

func (p *pair) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}
