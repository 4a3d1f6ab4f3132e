package witness

import (
	"fmt"
	"sync"
	"time"
)

// Rate is how often something may be done: PerSecond on average, and Burst times
// at once. The zero value sets no bound.
type Rate struct {
	PerSecond float64
	Burst     int // 0: as many as PerSecond, and at least one
}

// burst returns how many can be saved up.
func (r Rate) burst() float64 {
	if r.Burst > 0 {
		return float64(r.Burst)
	}
	return max(r.PerSecond, 1)
}

// bucket holds what is left of a rate. The zero value is full.
type bucket struct {
	mu    sync.Mutex
	spent float64 // of the burst, as it was then
	then  time.Time
}

// take uses one, or says how long to wait for it.
func (b *bucket) take(r Rate, now time.Time) (wait time.Duration) {
	if r.PerSecond <= 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if gone := now.Sub(b.then); gone > 0 {
		b.spent, b.then = max(0, b.spent-gone.Seconds()*r.PerSecond), now
	}
	if over := b.spent + 1 - r.burst(); over > 0 {
		return time.Duration(over / r.PerSecond * float64(time.Second))
	}
	b.spent++
	return 0
}

// limitError says that a log has had its share for now.
type limitError struct{ wait time.Duration }

func (e *limitError) Error() string {
	return fmt.Sprintf("too many requests for this log; try again in %v", e.wait.Round(time.Millisecond))
}

// seconds returns the wait as Retry-After has it (RFC 9110, section 10.2.3): whole
// seconds, rounded up.
func (e *limitError) seconds() int64 {
	return max(1, int64((e.wait+time.Second-1)/time.Second))
}

// spend takes one from a bucket of the log's.
func (s *Server) spend(b *bucket) error {
	if wait := b.take(*s.rate.Load(), time.Now()); wait > 0 {
		return &limitError{wait}
	}
	return nil
}

// SetRate changes how many requests of each log are answered.
func (s *Server) SetRate(r Rate) { s.rate.Store(&r) }
