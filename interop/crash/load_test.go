package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sealtap/sealtap/interop/internal/producer"
	"github.com/sealtap/sealtap/interop/internal/stack"
)

// load keeps every producer submitting, and looks at everything that is signed,
// until stop is called.
func (w *world) load() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	errs := make([]error, len(w.producers))
	for i, p := range w.producers {
		wg.Go(func() {
			if _, errs[i] = w.submit(ctx, w.enrolment); errs[i] == nil {
				errs[i] = w.produce(ctx, p)
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			w.look(ctx)
			time.Sleep(2 * time.Millisecond)
		}
	})
	return func() error {
		cancel()
		wg.Wait()
		for i, err := range errs {
			if errors.Is(err, context.Canceled) {
				errs[i] = nil
			}
		}
		return errors.Join(errs...)
	}
}

func (w *world) produce(ctx context.Context, p *producer.Producer) error {
	for {
		if err := w.one(ctx, p, 1+rand.IntN(12)); err != nil {
			return err
		}
	}
}

// one has one submission of the producer taken, sometimes twice.
func (w *world) one(ctx context.Context, p *producer.Producer, records int) error {
	req, err := p.Next(records, producer.Request("/"+strings.Repeat("x", rand.IntN(300))))
	if err != nil {
		return err
	}
	answer, err := w.submit(ctx, req)
	if err != nil {
		return err
	}
	if err := p.Done(answer); err != nil {
		return err
	}
	if rand.IntN(8) > 0 {
		return nil
	}
	again, err := w.submit(ctx, req)
	if err == nil && !proto.Equal(answer, again) {
		err = fmt.Errorf("submitted again, the log answers %v and not %v", again, answer)
	}
	return err
}

// settle has everything taken that waits, and returns once the log has published
// all of it and every head that anybody saw.
func (w *world) settle() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := w.submit(ctx, w.enrolment)
	for _, p := range w.producers {
		if err == nil && p.Waiting() {
			err = w.one(ctx, p, 0)
		}
	}
	w.check(err)
	var size uint64
	w.check(w.log.Await("publication", patience, func() bool {
		cp, err := stack.Fetch(ctx, w.url+"/checkpoint")
		if err != nil {
			return false
		}
		size = w.heads.show(cp)
		return size >= max(w.heads.newestSize(), w.entries())
	}))
}

// entries is how many the log should have once nothing waits: genesis, enrolment
// and what was acknowledged.
func (w *world) entries() uint64 {
	n := uint64(2)
	for _, p := range w.producers {
		n += uint64(len(p.Entries))
	}
	return n
}
