package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	tessera "github.com/transparency-dev/tessera/client"

	"github.com/sealtap/sealtap/interop/internal/producer"
	"github.com/sealtap/sealtap/interop/internal/stack"
)

// view is a log as Tessera's client and transparency-dev/merkle see it.
type view struct {
	leaves [][]byte
	roots  [][]byte // roots[n] is that of the first n leaves
	at     map[string]uint64
	edge   *compact.Range
	each   func(entry []byte) error // is shown every entry; nil: nobody looks
}

func newView() view {
	return view{
		roots: [][]byte{rfc6962.DefaultHasher.EmptyRoot()}, at: make(map[string]uint64),
		edge: (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0),
	}
}

func unbundle(b []byte) ([][]byte, error) {
	var bundle api.EntryBundle
	err := bundle.UnmarshalText(b)
	return bundle.Entries, err
}

// extend reads the log from where the view ends to the checkpoint.
func (v *view) extend(ctx context.Context, base string, cp *log.Checkpoint) error {
	u, err := url.Parse(base + "/")
	if err != nil {
		return err
	}
	f, err := tessera.NewHTTPFetcher(u, nil)
	if err != nil {
		return err
	}
	from := uint64(len(v.leaves))
	if cp.Size > from {
		size := func(context.Context) (uint64, error) { return cp.Size, nil }
		for e, err := range tessera.Entries(tessera.EntryBundles(ctx, 2, size, f.ReadEntryBundle, from, cp.Size-from), unbundle) {
			if err != nil {
				return err
			}
			if e.Index < from { // the bundle begins before
				continue
			}
			if err := v.append(e.Entry); err != nil {
				return err
			}
			if uint64(len(v.leaves)) == cp.Size {
				break
			}
		}
	}
	if uint64(len(v.leaves)) != cp.Size || !bytes.Equal(v.roots[cp.Size], cp.Hash) {
		return fmt.Errorf("%d entries give root %x; the log publishes size %d with %x", len(v.leaves), v.roots[len(v.roots)-1], cp.Size, cp.Hash)
	}
	return nil
}

func (v *view) append(entry []byte) error {
	leaf := rfc6962.DefaultHasher.HashLeaf(entry)
	if at, ok := v.at[string(leaf)]; ok {
		return fmt.Errorf("entry %d stands at %d as well", at, len(v.leaves))
	}
	v.at[string(leaf)] = uint64(len(v.leaves))
	if v.each != nil {
		if err := v.each(entry); err != nil {
			return err
		}
	}
	if err := v.edge.Append(leaf, nil); err != nil {
		return err
	}
	root, err := v.edge.GetRootHash(nil)
	v.leaves, v.roots = append(v.leaves, leaf), append(v.roots, root)
	return err
}

// verify checks everything that must hold of a log on which nothing waits.
func (w *world) verify() error {
	if w.checked.edge == nil {
		w.checked = newView()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	signed, err := stack.Fetch(ctx, w.url+"/checkpoint")
	if err != nil {
		return err
	}
	w.heads.show(signed)
	cp, _, _, err := log.ParseCheckpoint(signed, w.heads.verifier.Name(), w.heads.verifier)
	if err != nil {
		return err
	}
	if err := w.checked.extend(ctx, w.url, cp); err != nil {
		return err
	}
	if err := w.heads.compare(w.checked.roots); err != nil {
		return err
	}
	if want := w.entries(); cp.Size != want {
		return fmt.Errorf("the log has %d entries, and %d were acknowledged", cp.Size, want)
	}
	for _, p := range w.producers {
		if err := w.checkStream(ctx, p); err != nil {
			return fmt.Errorf("stream %s: %w", p.Stream.Origin(), err)
		}
	}
	for _, p := range append([]*stack.Process{w.log}, w.witnesses...) {
		for _, bad := range []string{"panic:", "DATA RACE", "does not fit", "has been altered", "contradicts what is stored"} {
			if strings.Contains(p.Output(), bad) {
				return fmt.Errorf("a process says %q: %s", bad, p.Output())
			}
		}
	}
	_, err = w.sealtap("audit", w.url, "--policy", w.file("policy.txt"), "--state", w.file("audit.state"))
	return err
}

// checkStream checks that every entry stands where the log said, in order, and
// that the newest openings can be had.
func (w *world) checkStream(ctx context.Context, p *producer.Producer) error {
	last := uint64(0)
	for i, e := range p.Entries {
		at, ok := w.checked.at[string(rfc6962.DefaultHasher.HashLeaf(e.Bytes))]
		if !e.Acked || !ok || at != e.Index {
			return fmt.Errorf("entry %d was acknowledged (%v) as %d, and stands (%v) at %d", i, e.Acked, e.Index, ok, at)
		}
		if at <= last {
			return fmt.Errorf("entry %d stands at %d, behind its successor", i, at)
		}
		last = at
	}
	looked := 0
	for i := len(p.Entries) - 1; i >= 0 && looked < 3; i-- {
		e := p.Entries[i]
		if !e.Opened {
			continue
		}
		looked++
		body, err := stack.Fetch(ctx, fmt.Sprintf("%s/v1/records/%d", w.url, e.Index))
		if err != nil {
			return err
		}
		var answer struct {
			Sequence uint64
			Query    struct{ Value string }
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return err
		}
		if want := fmt.Sprintf("secret=%d", answer.Sequence); answer.Query.Value != want {
			return fmt.Errorf("entry %d has the opening %q, want %q: %s", e.Index, answer.Query.Value, want, body)
		}
	}
	return nil
}

// verifyAll reads the whole log anew, and audits the directory with its openings.
func (w *world) verifyAll() error {
	w.t.Helper()
	w.startLog("")
	w.settle()
	before := w.checked
	w.checked = view{}
	if err := w.verify(); err != nil {
		return err
	}
	for i, leaf := range before.leaves {
		if !bytes.Equal(leaf, w.checked.leaves[i]) {
			return fmt.Errorf("entry %d has changed", i)
		}
	}
	if err := w.log.Stop(); err != nil {
		return err
	}
	out, err := w.sealtap("audit", w.dir, "--policy", w.file("policy.txt"), "--json")
	if err != nil {
		return err
	}
	var report struct{ Checked struct{ Openings uint64 } }
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return fmt.Errorf("reading the report: %w: %s", err, out)
	}
	want := uint64(0)
	for _, p := range w.producers {
		for _, e := range p.Entries {
			if e.Opened {
				want++
			}
		}
	}
	if report.Checked.Openings != want {
		return fmt.Errorf("%d openings were checked, and %d were acknowledged", report.Checked.Openings, want)
	}
	return nil
}
