package checkpoint

import (
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/proof"
)

// Unproven restates the error of a Merkle proof that gives another root on one
// line, with the roots in base64 as checkpoints have them: underneath they are
// printed as lists of decimal numbers. It returns other errors as they are.
func Unproven(err error) error {
	var mismatch proof.RootMismatchError
	if !errors.As(err, &mismatch) {
		return err
	}
	return fmt.Errorf("it gives the root %s, not %s", encodeRoot(mismatch.CalculatedRoot), encodeRoot(mismatch.ExpectedRoot))
}

func encodeRoot(root []byte) string { return base64.StdEncoding.EncodeToString(root) }
