// Package rate bounds how often clients may do something, in constant memory
// however many clients there are.
//
// Each client has a token bucket, kept as the one number of the generic cell rate
// algorithm (ITU-T I.371): when its bucket will be full again. The buckets lie in
// a table of fixed size. Where there is no room for another client, the one in its
// neighbourhood whose bucket is nearest to full makes way: at worst it gets its
// burst once more.
//
// Start with [New], then call [Limiter.Take].
package rate

import (
	"hash/maphash"
	"math"
	"sync"
	"time"
)

const (
	sets  = 1 << 14
	ways  = 4
	locks = 64

	// Clients is of how many the limiter knows at once, at a cost of 16 bytes each.
	Clients = sets * ways
)

// Limiter holds the buckets of all clients. Its methods can be called from many
// goroutines.
type Limiter struct {
	interval int64 // nanoseconds in which one token comes
	depth    int64 // nanoseconds in which an empty bucket fills
	seed     maphash.Seed
	epoch    time.Time
	mu       [locks]sync.Mutex
	table    [sets][ways]bucket
}

// bucket is one client's. Zero is nobody's.
type bucket struct {
	client uint64
	full   int64 // when, in nanoseconds since the epoch
}

// New returns a limiter of perSecond tokens a second for each client, of which up
// to burst may be taken at once: from 0.001 to 1e6, and from 1 to 1e6.
func New(perSecond float64, burst int) *Limiter {
	interval := int64(math.Max(1, 1e9/perSecond))
	return &Limiter{interval: interval, depth: interval * int64(max(burst, 1)), seed: maphash.MakeSeed(), epoch: time.Now()}
}

// Take takes a token of a client's, if there is one; else it returns after how
// long there will be.
func (l *Limiter) Take(client string) (wait time.Duration, ok bool) {
	return l.take(client, int64(time.Since(l.epoch)))
}

func (l *Limiter) take(client string, now int64) (wait time.Duration, ok bool) {
	// Nobody outside knows the seed, and so not who shares a bucket with whom.
	h := maphash.String(l.seed, client) | 1
	set := h >> 32 % sets
	mu := &l.mu[set%locks]
	mu.Lock()
	defer mu.Unlock()
	b := l.bucket(set, h)
	full := max(b.full, now) + l.interval
	if over := full - now - l.depth; over > 0 {
		return time.Duration(over), false
	}
	b.full = full
	return 0, true
}

// bucket returns the bucket of a client, which may be a new one.
func (l *Limiter) bucket(set, client uint64) *bucket {
	row := &l.table[set]
	least := &row[0]
	for i := range row {
		b := &row[i]
		if b.client == client {
			return b
		}
		if b.full < least.full {
			least = b
		}
	}
	*least = bucket{client: client}
	return least
}
