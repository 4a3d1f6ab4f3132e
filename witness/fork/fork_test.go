package fork_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
	"github.com/sealtap/sealtap/keys"
	"github.com/sealtap/sealtap/witness/fork"
)

const origin = "log.example/l"

// signing is a log's key, and trees that it may sign.
type signing struct {
	signer note.Signer
	known  note.Verifiers
}

func newSigning(t testing.TB) *signing {
	t.Helper()
	k, err := keys.Generate(origin, keys.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	s, err := k.Signer()
	if err != nil {
		t.Fatal(err)
	}
	v, err := k.Verifier()
	if err != nil {
		t.Fatal(err)
	}
	return &signing{s, note.VerifierList(v)}
}

func (s *signing) head(t testing.TB, b checkpoint.Body) []byte {
	t.Helper()
	signed, err := note.Sign(&note.Note{Text: string(b.Marshal())}, s.signer)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// tree has leaves that differ from those of another tag from the index on.
func tree(tag string, from, size int) *testonly.Tree {
	t := testonly.New(rfc6962.DefaultHasher)
	for i := range size {
		if i < from {
			t.AppendData(fmt.Append(nil, i))
		} else {
			t.AppendData(fmt.Append(nil, tag, i))
		}
	}
	return t
}

func at(t *testonly.Tree, size int) checkpoint.Body {
	return checkpoint.Body{Origin: origin, Size: uint64(size), Root: [32]byte(t.HashAt(uint64(size)))}
}

func path(t testing.TB, tr *testonly.Tree, m, n int) (list [][32]byte) {
	t.Helper()
	p, err := tr.ConsistencyProof(uint64(m), uint64(n))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range p {
		list = append(list, [32]byte(h))
	}
	return list
}

var seen = time.Date(2026, 11, 24, 17, 0, 0, 0, time.UTC)

func judge(t testing.TB, s *signing, older, newer []byte, proof [][32]byte) (*fork.Judgement, error) {
	t.Helper()
	text := fork.New("w.example/1", seen, older, newer, proof).Marshal()
	e, err := fork.Parse(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return e.Judge(s.known)
}

// The log's own proof of a fork proves it, at all sizes but powers of two; the
// proof that it would give of the history before does not.
func TestPrefix(t *testing.T) {
	s := newSigning(t)
	const most = 13
	a := tree("a", 0, most)
	for m := 1; m < most; m++ {
		for split := range m {
			b := tree("b", split, most)
			older := s.head(t, at(tree("a", split, most), m))
			for n := m + 1; n <= most; n++ {
				j, err := judge(t, s, older, s.head(t, at(b, n)), path(t, b, m, n))
				want := fork.Prefix
				if m&(m-1) == 0 {
					want = fork.Unproven
				}
				if err != nil || j.Kind != want {
					t.Fatalf("from %d to %d, forked at %d: %+v, %v", m, n, split, j, err)
				}
				if j, err = judge(t, s, older, s.head(t, at(b, n)), path(t, a, m, n)); err != nil || j.Kind != fork.Unproven {
					t.Fatalf("with another proof from %d to %d: %+v, %v", m, n, j, err)
				}
			}
		}
	}
}

// Whatever proof a stranger makes up, two heads of an honest log are no fork.
func TestHonest(t *testing.T) {
	s := newSigning(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	const most = 9
	a, b := tree("a", 0, most), tree("b", 3, most)
	for m := 1; m < most; m++ {
		for n := m + 1; n <= most; n++ {
			older, newer := s.head(t, at(a, m)), s.head(t, at(a, n))
			good := path(t, a, m, n)
			if j, err := judge(t, s, older, newer, good); !errors.Is(err, fork.ErrRefuted) {
				t.Fatalf("a good proof: %+v, %v", j, err)
			}
			proofs := [][][32]byte{nil, path(t, b, m, n), append(good[:len(good):len(good)], [32]byte{})}
			for i := range good {
				changed := append([][32]byte(nil), good...)
				changed[i][rnd.IntN(32)] ^= 1 << rnd.IntN(8)
				swapped := append([][32]byte(nil), good...)
				k := rnd.IntN(len(swapped))
				swapped[i], swapped[k] = swapped[k], swapped[i]
				proofs = append(proofs, changed, good[:i], good[i:][1:])
				if k != i {
					proofs = append(proofs, swapped)
				}
			}
			for x := 1; x < most; x++ {
				for y := x + 1; y <= most; y++ {
					if x != m || y != n {
						proofs = append(proofs, path(t, a, x, y))
					}
				}
			}
			for _, p := range proofs {
				j, err := judge(t, s, older, newer, p)
				if err == nil && j.Kind != fork.Unproven || err != nil && !errors.Is(err, fork.ErrRefuted) {
					t.Fatalf("from %d to %d with %x: %+v, %v", m, n, p, j, err)
				}
			}
		}
	}
}

func TestJudge(t *testing.T) {
	s, stranger := newSigning(t), newSigning(t)
	a, b := tree("a", 0, 20), tree("b", 0, 20)
	empty, other := checkpoint.Body{Origin: origin, Root: checkpoint.EmptyRoot()}, at(a, 9)
	other.Origin = "log.example/m"
	extended, err := note.Sign(&note.Note{Text: string(at(a, 7).Marshal()) + "-- newer --\nolder 12\n"}, s.signer)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		older, newer []byte
		kind         fork.Kind
		err          error
	}{
		"two roots":           {s.head(t, at(a, 7)), s.head(t, at(b, 7)), fork.Root, nil},
		"extension lines":     {extended, s.head(t, at(b, 7)), fork.Root, nil},
		"no empty tree":       {nil, s.head(t, checkpoint.Body{Origin: origin}), fork.Empty, nil},
		"an empty tree":       {nil, s.head(t, empty), "", fork.ErrRefuted},
		"one head":            {nil, s.head(t, at(a, 7)), "", fork.ErrRefuted},
		"the same":            {s.head(t, at(a, 7)), extended, "", fork.ErrRefuted},
		"smaller":             {s.head(t, at(a, 7)), s.head(t, at(b, 6)), "", fork.ErrRefuted},
		"after nothing":       {s.head(t, empty), s.head(t, at(b, 6)), "", fork.ErrRefuted},
		"two logs":            {s.head(t, at(a, 7)), s.head(t, other), "", fork.ErrRefuted},
		"not the log's":       {s.head(t, at(a, 7)), stranger.head(t, at(b, 7)), "", checkpoint.ErrSignature},
		"older not its own":   {stranger.head(t, at(a, 7)), s.head(t, at(b, 7)), "", checkpoint.ErrSignature},
		"no proof":            {s.head(t, at(a, 7)), s.head(t, at(b, 9)), fork.Unproven, nil},
		"no signature at all": {at(a, 7).Marshal(), s.head(t, at(b, 7)), "", checkpoint.ErrMalformed},
	} {
		j, err := judge(t, s, test.older, test.newer, nil)
		if !errors.Is(err, test.err) || err == nil && j.Kind != test.kind {
			t.Errorf("%s: %+v, %v", name, j, err)
		}
	}
}

// Evidence has one spelling, and a beginning counts only as far as it is proven.
func TestParse(t *testing.T) {
	s := newSigning(t)
	a, b := tree("a", 0, 20), tree("b", 3, 20)
	good := fork.New("w.example/1", seen, s.head(t, at(a, 7)), s.head(t, at(b, 9)), path(t, b, 7, 9))
	text := good.Marshal()
	for i := range text {
		changed := bytes.Clone(text)
		changed[i] ^= 1
		e, err := fork.Parse(changed)
		if err != nil {
			continue
		}
		if j, err := e.Judge(s.known); err == nil && (e.Seen == good.Seen && e.By == good.By) {
			t.Fatalf("changed at %d it is still judged as %+v:\n%s", i, j, changed)
		}
	}
	for i := range text {
		if _, err := fork.Parse(text[:i]); !errors.Is(err, fork.ErrMalformed) {
			t.Fatalf("the first %d bytes: %v", i, err)
		}
	}
	if _, err := fork.Parse(append(text, '\n')); !errors.Is(err, fork.ErrMalformed) {
		t.Errorf("with more: %v", err)
	}
	// Made up for heads that fit, at a size where no proof can hold it.
	e := fork.New("w.example/1", seen, s.head(t, at(a, 8)), s.head(t, at(a, 9)), path(t, a, 8, 9))
	e.Beginning = &[32]byte{1}
	if j, err := e.Judge(s.known); err == nil {
		t.Errorf("a made up beginning: %+v", j)
	}
	// Where somebody has the forked tree it is proven at such a size too.
	root := at(b, 8).Root
	e = &fork.Evidence{Seen: seen, By: "m", Older: s.head(t, at(a, 8)), Newer: s.head(t, at(b, 9)), Beginning: &root, Proof: path(t, b, 8, 9)}
	if j, err := e.Judge(s.known); err != nil || j.Kind != fork.Prefix {
		t.Errorf("a fork at a power of two: %+v, %v", j, err)
	}
}

func FuzzParse(f *testing.F) {
	s := newSigning(f)
	a, b := tree("a", 0, 20), tree("b", 3, 20)
	f.Add(fork.New("w.example/1", seen, s.head(f, at(a, 7)), s.head(f, at(b, 9)), path(f, b, 7, 9)).Marshal())
	f.Add(fork.New("w", seen, nil, s.head(f, checkpoint.Body{Origin: origin}), nil).Marshal())
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := fork.Parse(text)
		if err != nil {
			return
		}
		if !bytes.Equal(e.Marshal(), text) {
			t.Fatal("two spellings")
		}
		_, _ = e.Judge(s.known)
	})
}
