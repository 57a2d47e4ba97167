package auth

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/latchkey-fn/latchkey/shared/httpx"
)

// maxAddresses bounds what a Limiter remembers, at some 150 bytes each.
const maxAddresses = 10_000

// Limiter counts failed authentications by client address, in this process.
//
// It never stands in the way of a valid token, nor (see Genuine) hides from an
// expired one that it has expired, so that nobody is locked out by others behind
// the same address or reverse proxy; it is asked after a failure, and decides only
// whether the answer says what failed (401) or no more than 429. It takes no
// work off the verifier: it keeps those who try from learning anything.
type Limiter struct {
	every rate.Limit
	burst int
	now   func() time.Time

	mu sync.Mutex
	// Addresses move from older to newer when they are seen; when newer is
	// full, it becomes older, and what was there is forgotten.
	newer, older map[netip.Prefix]*rate.Limiter
}

// NewLimiter allows burst failures at once, and perMinute afterwards. A nil
// clock is time.Now.
func NewLimiter(perMinute, burst int, now func() time.Time) *Limiter {
	if now == nil {
		now = time.Now
	}
	return &Limiter{
		every: rate.Limit(float64(perMinute) / time.Minute.Seconds()), burst: burst, now: now,
		newer: map[netip.Prefix]*rate.Limiter{},
	}
}

// Allow counts one failure and tells whether the client may be told of it; if
// not, the answer is 429. The address is an IP address, perhaps with a port; all
// that are neither count as one.
func (l *Limiter) Allow(address string) bool {
	from := httpx.Network(address)
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket, ok := l.newer[from]
	if !ok {
		if bucket, ok = l.older[from]; !ok {
			bucket = rate.NewLimiter(l.every, l.burst)
		}
		if len(l.newer) >= maxAddresses/2 {
			l.older, l.newer = l.newer, map[netip.Prefix]*rate.Limiter{}
		}
		l.newer[from] = bucket
	}
	return bucket.AllowN(l.now(), 1)
}
