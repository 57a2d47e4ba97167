package cloud

import (
	"sync"
	"time"
)

// clock runs along with another clock at a distance, or stands still.
type clock struct {
	base func() time.Time

	mu     sync.Mutex
	offset time.Duration
	frozen *time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read()
}

func (c *clock) read() time.Time {
	if c.frozen != nil {
		return *c.frozen
	}
	return c.base().Add(c.offset).UTC().Round(0)
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t = t.UTC().Round(0)
	if c.frozen != nil {
		c.frozen = &t
		return
	}
	c.offset = t.Sub(c.base().Round(0))
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen != nil {
		later := c.frozen.Add(d)
		c.frozen = &later
		return
	}
	c.offset += d
}

func (c *clock) freeze(frozen bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.read()
	switch {
	case frozen:
		c.frozen = &now
	case c.frozen != nil:
		c.frozen, c.offset = nil, now.Sub(c.base().Round(0))
	}
}

func (c *clock) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset, c.frozen = 0, nil
}

// Now is the emulator's time, in UTC.
func (c *Cloud) Now() time.Time { return c.clock.now() }

// SetClock sets the emulator's time. It runs on from there along with
// Config.Now, unless it is frozen.
func (c *Cloud) SetClock(t time.Time) { c.clock.set(t) }

// Advance moves the emulator's time, backwards too, and leaves Config.Now.
func (c *Cloud) Advance(d time.Duration) { c.clock.advance(d) }

// Freeze makes the emulator's time stand still, or run on from where it stands.
func (c *Cloud) Freeze(frozen bool) { c.clock.freeze(frozen) }

func (c *clock) isFrozen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.frozen != nil
}
