package storagetest

import (
	"context"
	"errors"
	"sync"

	"github.com/sealtap/sealtap/storage"
)

// ErrInjected is what a [Faulty] storage fails with.
var ErrInjected = errors.New("injected failure")

// Fault says how a call goes wrong.
type Fault int

// The faults of a call.
const (
	Failed    Fault = iota // nothing was stored
	Persisted              // an error is returned, but it was stored
	Cancelled              // the call was made under a cancelled context
)

// Faulty is a working storage that fails when told to.
type Faulty struct {
	storage.Log

	mu     sync.Mutex
	faults map[string][]Fault // by the name of the method
	held   map[string]*hold
}

// hold makes calls wait.
type hold struct {
	reached, release chan struct{}
	once             sync.Once
}

// NewFaulty returns a storage that keeps everything in s.
func NewFaulty(s storage.Log) *Faulty {
	return &Faulty{Log: s, faults: make(map[string][]Fault), held: make(map[string]*hold)}
}

// Fail makes the next calls of a method fail, one for each fault.
func (f *Faulty) Fail(method string, faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[method] = append(f.faults[method], faults...)
}

// Hold makes calls of a method wait until the function that it returns is
// called. The channel is closed when the first call waits.
func (f *Faulty) Hold(method string) (reached <-chan struct{}, release func()) {
	h := &hold{reached: make(chan struct{}), release: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held[method] = h
	return h.reached, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.held, method)
		close(h.release)
	}
}

func (f *Faulty) call(ctx context.Context, method string, do func(context.Context) error) error {
	f.mu.Lock()
	held := f.held[method]
	fault, faulty := Failed, false
	if list := f.faults[method]; len(list) > 0 {
		fault, faulty = list[0], true
		f.faults[method] = list[1:]
	}
	f.mu.Unlock()
	if held != nil {
		held.once.Do(func() { close(held.reached) })
		<-held.release
	}
	switch {
	case !faulty:
		return do(ctx)
	case fault == Persisted:
		return errors.Join(ErrInjected, do(ctx))
	case fault == Cancelled:
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		return do(ctx)
	}
	return ErrInjected
}

// Load implements [storage.Log].
func (f *Faulty) Load(ctx context.Context) (state *storage.State, err error) {
	err = f.call(ctx, "Load", func(ctx context.Context) error {
		state, err = f.Log.Load(ctx)
		return err
	})
	return state, err
}

// Commit implements [storage.Log].
func (f *Faulty) Commit(ctx context.Context, b *storage.Batch) error {
	return f.call(ctx, "Commit", func(ctx context.Context) error { return f.Log.Commit(ctx, b) })
}

// SetSigned implements [storage.Log].
func (f *Faulty) SetSigned(ctx context.Context, h storage.Head) error {
	return f.call(ctx, "SetSigned", func(ctx context.Context) error { return f.Log.SetSigned(ctx, h) })
}

// SetPublished implements [storage.Log].
func (f *Faulty) SetPublished(ctx context.Context, h storage.Head) error {
	return f.call(ctx, "SetPublished", func(ctx context.Context) error { return f.Log.SetPublished(ctx, h) })
}

// PackedBundle passes on what the storage can do beside its contract.
func (f *Faulty) PackedBundle(ctx context.Context, n uint64) ([]byte, error) {
	if p, ok := f.Log.(interface {
		PackedBundle(context.Context, uint64) ([]byte, error)
	}); ok {
		return p.PackedBundle(ctx, n)
	}
	return nil, storage.ErrNotFound
}
