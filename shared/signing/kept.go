package signing

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// loadTimeout bounds one loading, whoever waits for it.
	loadTimeout = 20 * time.Second
	// patience is how long a caller waits for a loading where there is
	// something to go on with, and retryEvery how often he is made to.
	patience   = time.Second
	retryEvery = time.Second
)

// kept is a value that is loaded when it is first needed and again when it is
// no longer fresh, once for all who wait. Where that fails, the one at hand
// serves until it has reached maxAge.
type kept[T any] struct {
	load func(context.Context) (T, error)
	now  func() time.Time

	held   atomic.Pointer[loaded[T]]
	tried  atomic.Int64 // when a loading was last begun, Unix nanoseconds
	flight singleflight.Group
}

type loaded[T any] struct {
	value T
	at    time.Time
}

func newKept[T any](now func() time.Time, load func(context.Context) (T, error)) *kept[T] {
	return &kept[T]{load: load, now: now}
}

// get gives a value that is fresh, or the best there is.
func (k *kept[T]) get(ctx context.Context, fresh func(value T, age time.Duration) bool) (T, error) {
	held := k.held.Load()
	if held == nil {
		return k.renew(ctx)
	}
	now := k.now()
	age := now.Sub(held.at)
	switch {
	case fresh(held.value, age):
		return held.value, nil
	case age >= maxAge:
		return k.renew(ctx)
	}
	tried := k.tried.Load()
	if now.UnixNano()-tried < int64(retryEvery) || !k.tried.CompareAndSwap(tried, now.UnixNano()) {
		return held.value, nil
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if value, err := k.renew(waiting); err == nil {
		return value, nil
	}
	return held.value, nil
}

// keep holds a value that was loaded at a time, unless a later one is held.
func (k *kept[T]) keep(value T, at time.Time) {
	for {
		held := k.held.Load()
		if held != nil && held.at.After(at) || k.held.CompareAndSwap(held, &loaded[T]{value, at}) {
			return
		}
	}
}

// renew loads the value, or waits for the loading that is under way, which is
// not undone by one who gives up.
func (k *kept[T]) renew(ctx context.Context) (T, error) {
	done := k.flight.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		begin := k.now()
		value, err := k.load(ctx)
		if err != nil {
			return nil, err
		}
		k.keep(value, begin)
		return value, nil
	})
	var none T
	select {
	case <-ctx.Done():
		return none, fmt.Errorf("signing keys: %w", ctx.Err())
	case got := <-done:
		if got.Err != nil {
			return none, got.Err
		}
		return got.Val.(T), nil
	}
}
