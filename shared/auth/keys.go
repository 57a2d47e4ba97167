package auth

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

const (
	// onDemandEvery is how often tokens of unknown keys can make us fetch.
	onDemandEvery = 10 * time.Second
	// justLoaded is the completeFor of keys that others make: they can sign with
	// a new key at any moment.
	justLoaded = time.Second
	// byAgeEvery is how often a fetch because of age is tried.
	byAgeEvery = time.Minute
	// failureLasts is how long a fetch that failed answers for those after it
	// while there are no keys.
	failureLasts = time.Second
	// maxAge is when keys that could not be fetched again are used no more.
	// Until then an identity server that is down stops nobody.
	maxAge = 24 * time.Hour
	// ageWait is how long a request waits for keys that are much too old.
	ageWait = time.Second
	// firstTries and firstPause are of a first fetch, where somebody waits and
	// there is nothing else to serve.
	firstTries = 4
	firstPause = 100 * time.Millisecond
)

// keyCache holds the latest key set and decides when to fetch another.
//
// One fetch is under way at a time, and all who need it wait for it. It is not
// bound to the request that began it.
type keyCache struct {
	source       source
	refreshAfter time.Duration
	// completeFor is how young keys are that a token's not being among them says
	// it is not valid. Older ones may have been overtaken by a new key; then
	// only another fetch can tell.
	completeFor time.Duration
	timeout     time.Duration
	log         *slog.Logger
	now         func() time.Time
	onDemand    *rate.Limiter

	held   atomic.Pointer[heldSet]
	flight singleflight.Group

	mu        sync.Mutex
	nextByAge time.Time
	failedAt  time.Time
	failure   error
}

type heldSet struct {
	*keySet
	loaded time.Time
}

// current gives the keys to use now: those at hand, except where there are none
// or they are older than maxAge. Errors are of class Transient.
func (c *keyCache) current(ctx context.Context) (*keySet, error) {
	held := c.held.Load()
	if held == nil {
		return c.mustFetch(ctx)
	}
	age := c.now().Sub(held.loaded)
	switch {
	case age < c.refreshAfter:
	case age >= maxAge:
		return c.mustFetch(ctx)
	case c.dueByAge():
		// The fetch goes on beside the request. A platform that freezes a
		// function between two requests may never let it end, so a request
		// waits for it a little once it is long overdue.
		wait := time.Duration(0)
		if age >= 4*c.refreshAfter {
			wait = ageWait
		}
		if set, err := c.fetchFor(ctx, wait); err == nil {
			return set, nil
		}
	}
	return held.keySet, nil
}

// newerThan gives a key set other than tried, fetching one unless that was done
// a moment ago. It gives tried itself when that is known to be the latest, and
// an error of class Transient when it cannot be known.
func (c *keyCache) newerThan(ctx context.Context, tried *keySet) (*keySet, error) {
	return c.join(ctx, func(ctx context.Context) (*keySet, error) {
		held := c.held.Load()
		if held.keySet != tried {
			return held.keySet, nil
		}
		now := c.now()
		// Where there are none, which only our own can be, the first may have been
		// made just now, and signs at once.
		if len(tried.keys) == 0 || c.onDemand.AllowN(now, 1) {
			return c.fetch(ctx)
		}
		if now.Sub(held.loaded) < c.completeFor {
			return tried, nil
		}
		return nil, fmt.Errorf("%w: the key of a token is not known, and the identity server's keys could not be fetched again", fault.Transient)
	})
}

// mustFetch is for when there is nothing to serve with.
func (c *keyCache) mustFetch(ctx context.Context) (*keySet, error) {
	return c.join(ctx, func(ctx context.Context) (*keySet, error) {
		if held := c.held.Load(); held != nil && c.now().Sub(held.loaded) < maxAge {
			return held.keySet, nil
		}
		if err := c.recentFailure(); err != nil {
			return nil, err
		}
		pause := backoff.NewExponentialBackOff()
		pause.InitialInterval = firstPause
		var set *keySet
		var failure error
		_, err := backoff.Retry(ctx, func() (struct{}, error) {
			set, failure = c.fetch(ctx)
			return struct{}{}, failure
		}, backoff.WithBackOff(pause), backoff.WithMaxTries(firstTries))
		if err != nil {
			// Retry gives the end of the context; what was wrong says more.
			return nil, failure
		}
		return set, nil
	})
}

// fetchFor begins a fetch and waits at most so long for it. That it failed, or
// is not done yet, matters to nobody who has keys; fetch says it in the log.
func (c *keyCache) fetchFor(ctx context.Context, wait time.Duration) (*keySet, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return c.join(ctx, c.fetch)
}

// join runs work, or waits for the work that is being run.
func (c *keyCache) join(ctx context.Context, work func(context.Context) (*keySet, error)) (*keySet, error) {
	done := c.flight.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
		defer cancel()
		return work(ctx)
	})
	select {
	case result := <-done:
		if result.Err != nil {
			return nil, result.Err
		}
		return result.Val.(*keySet), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: wait for the identity server's keys: %w", fault.Transient, ctx.Err())
	}
}

// fetch asks the source once and keeps what it gave.
func (c *keyCache) fetch(ctx context.Context) (*keySet, error) {
	set, err := c.source.load(ctx)
	now := c.now()
	if err != nil {
		// Whatever it was, it was so a moment ago and may be otherwise soon.
		err = fmt.Errorf("%w: %w", fault.Transient, err)
		c.mu.Lock()
		c.failedAt, c.failure = now, err
		c.mu.Unlock()
		if held := c.held.Load(); held != nil {
			c.log.LogAttrs(ctx, slog.LevelWarn, "the identity server's keys could not be fetched again",
				slog.Duration("age", now.Sub(held.loaded)), slog.String("error", err.Error()))
		}
		return nil, err
	}
	c.held.Store(&heldSet{keySet: set, loaded: now})
	return set, nil
}

func (c *keyCache) dueByAge() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if now.Before(c.nextByAge) {
		return false
	}
	c.nextByAge = now.Add(byAgeEvery)
	return true
}

func (c *keyCache) recentFailure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure == nil || c.now().Sub(c.failedAt) >= failureLasts {
		return nil
	}
	return c.failure
}
