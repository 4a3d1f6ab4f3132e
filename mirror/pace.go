package mirror

import (
	"context"
	"fmt"

	"golang.org/x/time/rate"

	"github.com/sealtap/sealtap/tlog/client"
)

// pace is a reader that fetches no more than so many bytes a second.
type pace struct {
	client.Reader
	limit *rate.Limiter
}

// burst is what may be fetched at once, beside the largest bundle.
const burst = 1 << 20

func paced(r client.Reader, bytesPerSecond int) client.Reader {
	if bytesPerSecond <= 0 {
		return r
	}
	return &pace{r, rate.NewLimiter(rate.Limit(bytesPerSecond), burst)}
}

// Tile implements [client.Reader].
func (p *pace) Tile(ctx context.Context, level uint, n uint64, width int) ([]byte, error) {
	b, err := p.Reader.Tile(ctx, level, n, width)
	return b, p.wait(ctx, len(b), err)
}

// Bundle implements [client.Reader].
func (p *pace) Bundle(ctx context.Context, n uint64, width int) ([]byte, error) {
	b, err := p.Reader.Bundle(ctx, n, width)
	return b, p.wait(ctx, len(b), err)
}

// wait pays for what was fetched before more is.
func (p *pace) wait(ctx context.Context, n int, err error) error {
	for ; n > 0 && err == nil; n -= burst {
		if err = p.limit.WaitN(ctx, min(n, burst)); err != nil {
			return fmt.Errorf("%w: %w", client.ErrUnavailable, err)
		}
	}
	return err
}
