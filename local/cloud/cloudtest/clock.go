package cloudtest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

// Epoch is when a clock begins: in the future, so that a context whose deadline
// is on that clock does not end by the machine's.
var Epoch = time.Date(2131, 3, 5, 4, 30, 0, 0, time.UTC)

// Clock stands still until somebody waits or a test lets time pass.
type Clock struct {
	mu    sync.Mutex
	at    time.Time
	waits []time.Duration
}

// NewClock begins at Epoch.
func NewClock() *Clock { return &Clock{at: Epoch} }

// Now is what the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// Wait lets the time pass at once, and remembers it.
func (c *Clock) Wait(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.waits = c.at.Add(max(d, 0)), append(c.waits, d)
	return nil
}

// Waits are the times that were waited, in order.
func (c *Clock) Waits() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.waits)
}

// Pass lets time pass that nobody waited for.
func (c *Clock) Pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// Set goes to a time.
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = t
}

// Within is a context whose deadline is so far away on this clock.
func (c *Clock) Within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithDeadline(t.Context(), c.Now().Add(d))
	t.Cleanup(cancel)
	return ctx
}
