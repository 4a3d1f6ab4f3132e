package fork

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealtap/sealtap/checkpoint"
)

// Kind is what two heads show.
type Kind string

const (
	// Root: two roots are signed for one size.
	Root Kind = "root"
	// Empty: a root is signed for no entries that is not that of an empty tree.
	Empty Kind = "empty"
	// Prefix: the tree under the newer head begins with other entries than the
	// older head has.
	Prefix Kind = "prefix"
	// Unproven: nothing shows that the heads fit, and nothing that they do not. A
	// proof that fails may be anybody's.
	Unproven Kind = "unproven"
)

// Kinds returns all kinds.
func Kinds() []Kind { return []Kind{Root, Empty, Prefix, Unproven} }

// Proven reports whether heads of the kind prove a fork to everybody who has the
// log's key.
func (k Kind) Proven() bool { return k == Root || k == Empty || k == Prefix }

// Judgement is what evidence comes to.
type Judgement struct {
	Kind         Kind
	Older, Newer checkpoint.Body
	// OlderBy and NewerBy are the log's signatures that verify.
	OlderBy, NewerBy []note.Signature
}

// Judge verifies that heads of one log are signed by keys of it, and says what
// they show together. Only the signatures and the hashes count. It returns an
// error that wraps [checkpoint.ErrSignature] where a head is not the log's, and one
// that wraps [ErrRefuted] where the heads fit.
func (e *Evidence) Judge(known note.Verifiers) (*Judgement, error) {
	j := new(Judgement)
	var err error
	if j.Newer, j.NewerBy, err = open(e.Newer, known); err != nil {
		return nil, fmt.Errorf("the newer head: %w", err)
	}
	if e.Older != nil {
		if j.Older, j.OlderBy, err = open(e.Older, known); err != nil {
			return nil, fmt.Errorf("the older head: %w", err)
		}
	}
	if j.Kind, err = e.Compare(); err != nil {
		return nil, err
	}
	return j, nil
}

func open(signed []byte, known note.Verifiers) (checkpoint.Body, []note.Signature, error) {
	n, err := checkpoint.Verify(signed, known)
	if err != nil {
		return checkpoint.Body{}, nil, err
	}
	b, _, err := checkpoint.Parse([]byte(n.Text))
	return b, n.Sigs, err
}

// Compare says what the heads show if they are both the log's, of which it verifies
// nothing. Its error wraps [ErrRefuted] where they fit.
func (e *Evidence) Compare() (Kind, error) {
	older, newer, err := e.bodies()
	switch {
	case err != nil:
		return "", err
	case e.Older == nil && newer.CheckEmpty() == nil:
		return "", fmt.Errorf("%w: there is one, and nothing is wrong with it", ErrRefuted)
	case e.Older == nil:
		return Empty, nil
	}
	return e.compare(older, newer)
}

// compare says what two heads of one log show, and the proof between them.
func (e *Evidence) compare(older, newer checkpoint.Body) (Kind, error) {
	switch {
	case older.Origin != newer.Origin:
		return "", fmt.Errorf("%w: they are of two logs, %q and %q", ErrRefuted, older.Origin, newer.Origin)
	case newer.CheckEmpty() != nil || older.CheckEmpty() != nil:
		return Empty, nil
	case newer.Size < older.Size:
		return "", fmt.Errorf("%w: the newer head is the smaller one, which a slow reader can see of any log", ErrRefuted)
	case newer.Size == older.Size && newer.Root == older.Root:
		return "", fmt.Errorf("%w: they are the same", ErrRefuted)
	case newer.Size == older.Size:
		return Root, nil
	case older.Size == 0:
		return "", fmt.Errorf("%w: every tree begins with the empty one", ErrRefuted)
	case e.Beginning != nil:
		if err := consistent(older.Size, newer, e.Proof, *e.Beginning); err != nil {
			return "", fmt.Errorf("%w: the beginning is not proven: %w", ErrMalformed, err)
		}
		if *e.Beginning == older.Root {
			return "", fmt.Errorf("%w: the newer one begins with the older one", ErrRefuted)
		}
		return Prefix, nil
	case consistent(older.Size, newer, e.Proof, older.Root) == nil:
		return "", fmt.Errorf("%w: the proof between them holds", ErrRefuted)
	}
	return Unproven, nil
}

// beginning returns the root that the tree under the newer head has at the size
// of the older one, if the proof shows it, and it is not the older head's. A proof
// that chains up to the newer root holds no hash but those of that tree, whoever
// sent it, since nobody finds two inputs of one hash; so the root of its beginning
// is the tree's too. At sizes that are a power of two the proof does not hold that
// root, and shows nothing.
func beginning(older, newer checkpoint.Body, path [][32]byte) *[32]byte {
	err := consistent(older.Size, newer, path, older.Root)
	var mismatch proof.RootMismatchError
	if !errors.As(err, &mismatch) || len(mismatch.CalculatedRoot) != 32 || bytes.Equal(mismatch.ExpectedRoot, newer.Root[:]) {
		return nil
	}
	root := [32]byte(mismatch.CalculatedRoot)
	if root == older.Root || consistent(older.Size, newer, path, root) != nil {
		return nil
	}
	return &root
}

// consistent verifies a proof from a root of a size to a head.
func consistent(size uint64, newer checkpoint.Body, path [][32]byte, root [32]byte) error {
	hashes := make([][]byte, len(path))
	for i := range path {
		hashes[i] = path[i][:]
	}
	return proof.VerifyConsistency(rfc6962.DefaultHasher, size, newer.Size, hashes, root[:], newer.Root[:])
}
