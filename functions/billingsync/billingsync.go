// Package billingsync is the scheduled function of Billing sync. A scheduler
// calls it as often as it likes: what is due, and what was begun and is not
// through, is done; with the time that is left of the call's deadline.
package billingsync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Parts are the outside systems, which a main chooses.
type Parts struct {
	Store    store.Driver
	Key      kms.Unwrapper
	Previous []kms.Unwrapper
	Logger   *slog.Logger
	// Metrics may be nil.
	Metrics sponsor.Metrics
	// Now is the clock, and Waiter lets time pass. Nil: the machine's.
	Now    func() time.Time
	Waiter sponsor.Waiter
	// Transport takes the place of the connection to the cloud. Nil: TLS.
	Transport http.RoundTripper
}

// Function is the scheduled side of Billing sync. It is safe for concurrent use.
type Function struct {
	sync   domain
	logger *slog.Logger
	now    func() time.Time
	waiter sponsor.Waiter
	// aRequest is the time that a run needs to do anything at all.
	aRequest time.Duration
}

// domain is what is used of a sponsor.Sync.
type domain interface {
	Tick(context.Context, sponsor.Tick) (sponsor.TickReport, error)
	Run(ctx context.Context, organization string) (sponsor.Run, error)
}

var _ domain = (*sponsor.Sync)(nil)

// New puts the function together. Nothing is contacted before the first call.
func New(c Config, p Parts) (*Function, error) {
	documents := store.New(p.Store)
	trust, err := sponsor.LoadTrust(c.Billing)
	if err != nil {
		return nil, err
	}
	whole, err := sponsor.New(sponsor.Config{
		Store: documents, Settings: c.Billing, Trust: trust, Logger: p.Logger, Metrics: p.Metrics, Now: p.Now, Waiter: p.Waiter, Transport: p.Transport,
		Ring: keyring.New(keyring.Config{
			Name: sponsor.RingName, Store: documents, Key: p.Key, Previous: p.Previous, MaxAge: c.DataKeyMaxAge,
		}),
	})
	if err != nil {
		return nil, err
	}
	return newFunction(whole, c, p), nil
}

func newFunction(d domain, c Config, p Parts) *Function {
	f := &Function{sync: d, logger: p.Logger, now: p.Now, waiter: p.Waiter, aRequest: c.Billing.RequestTimeout + applyTime}
	if f.logger == nil {
		f.logger = slog.New(slog.DiscardHandler)
	}
	if f.now == nil {
		f.now = time.Now
	}
	if f.waiter == nil {
		f.waiter = timers{}
	}
	return f
}

const (
	// applyTime is what a run keeps for writing down what a request brought.
	applyTime = 15 * time.Second
	// breath is between two tries of what cannot go on yet.
	breath = time.Second
)

type timers struct{}

func (timers) Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Tick is a call of the scheduler, which may come twice, and late.
type Tick = sponsor.Tick

// Run does what is due or was begun. Its error joins the runs that failed and
// what else went wrong, so that the call counts as a failed one. A run that the
// deadline stops is none of these: the next call goes on with it.
func (f *Function) Run(ctx context.Context, tick Tick) error {
	for {
		report, err := f.sync.Tick(ctx, tick)
		if err != nil {
			return f.ended(ctx, fmt.Errorf("tick %s: %w", tick.ID, err))
		}
		if report.Left == 0 || !f.goOn(ctx, report.Next) {
			return nil
		}
	}
}

// Sync does the run that somebody asked for in one organisation, in the same
// way. Where there is none to do, or somebody else does it, it does nothing.
func (f *Function) Sync(ctx context.Context, organization string) error {
	for {
		_, err := f.sync.Run(ctx, organization)
		left, isLeft := errors.AsType[*sponsor.ContinueError](err)
		_, isBusy := errors.AsType[*sponsor.BusyError](err)
		switch {
		case err == nil, isBusy, errors.Is(err, sponsor.ErrFenced):
			return nil
		case !isLeft:
			return f.ended(ctx, fmt.Errorf("organisation %s: %w", organization, err))
		case !f.goOn(ctx, left.NotBefore):
			return nil
		}
	}
}

// goOn waits until what is left can go on, if there is time for it afterwards.
// The zero time is of what somebody else does.
func (f *Function) goOn(ctx context.Context, next time.Time) bool {
	if next.IsZero() {
		return false
	}
	wait := max(next.Sub(f.now()), breath)
	if deadline, ok := ctx.Deadline(); ok && deadline.Sub(f.now()) < wait+f.aRequest {
		return false
	}
	return f.waiter.Wait(ctx, wait) == nil
}

// ended tells the end of the call's time from a failure: what it stopped is in
// the store, and goes on with the next call.
func (f *Function) ended(ctx context.Context, err error) error {
	if _, failed := sponsor.AsFailure(err); failed || ctx.Err() == nil {
		return err
	}
	f.logger.InfoContext(ctx, "the call's time is over; the next one goes on", slog.String("error", err.Error()))
	return nil
}
