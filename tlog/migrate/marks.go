package migrate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sealtap/sealtap/storage"
)

// marks takes along when checkpoints were published: by that a retention policy knows
// how old entries are.
func (m *migration) marks(ctx context.Context) error {
	to, ok := m.Log.(storage.Pruner)
	if !ok {
		return nil
	}
	var list []storage.Mark
	for at := time.Unix(1<<40, 0); ; {
		mark, ok, err := m.from.MarkBefore(ctx, at)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		list = append(list, mark)
		at = mark.Time.Add(-time.Second) // the largest of each second is enough
	}
	slices.Reverse(list)
	for _, mark := range list {
		if err := to.AddMark(ctx, mark); err != nil {
			return err
		}
		got, ok, err := to.MarkBefore(ctx, mark.Time)
		if err != nil {
			return err
		}
		if !ok || got.Size != mark.Size || !got.Time.Equal(mark.Time) || string(got.Note) != string(mark.Note) {
			return fmt.Errorf("%w: it has another checkpoint of %s", ErrTarget, mark.Time.UTC().Format(time.RFC3339))
		}
	}
	return nil
}
