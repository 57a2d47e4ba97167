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
	"slices"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
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
	// aProbe is how long the trial of a key takes at the most: a token comes before
	// it.
	aProbe time.Duration
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
	f := &Function{sync: d, logger: p.Logger, now: p.Now, waiter: p.Waiter, aRequest: c.Billing.RequestTimeout + sponsor.ApplyTime, aProbe: 2 * c.Billing.RequestTimeout}
	if f.logger == nil {
		f.logger = slog.New(slog.DiscardHandler)
	}
	if f.now == nil {
		f.now = time.Now
	}
	if f.waiter == nil {
		f.waiter = sponsor.Timers{}
	}
	return f
}

const (
	// breath is between two tries of what cannot go on yet.
	breath = time.Second
	// lookAgain is how long to wait for what somebody else does, before another
	// look whether it is done.
	lookAgain = 3 * time.Second
)

// Tick is a call of the scheduler, which may come twice, and late.
type Tick = sponsor.Tick

// Run does what is due or was begun. Its error joins the runs that failed and
// what else went wrong, so that the call counts as a failed one. A run that the
// deadline stops is none of these: the next call goes on with it. A deadline that
// no run could send anything before is one.
func (f *Function) Run(ctx context.Context, tick Tick) error {
	faults := []error{f.tooShort(ctx)}
	for {
		report, err := f.sync.Tick(ctx, tick)
		if err = f.ended(ctx, err); err != nil && !slices.ContainsFunc(faults, func(f error) bool { return f != nil && f.Error() == err.Error() }) {
			faults = append(faults, err)
		}
		if report.Left == 0 || !f.goOn(ctx, report.Next) {
			break
		}
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("tick %s: %w", tick.ID, err)
	}
	return nil
}

// tooShort is the error of a call that begins with less time than a request needs,
// and which no other of its kind would get further than.
func (f *Function) tooShort(ctx context.Context) error {
	deadline, ok := ctx.Deadline()
	if !ok || deadline.Sub(f.now()) >= f.aRequest {
		return nil
	}
	return fmt.Errorf("%w: the call has %s, and a run sends nothing with less than %s left: give the function more time",
		fault.Invalid, deadline.Sub(f.now()).Round(time.Second), f.aRequest)
}

// Sync does the run that somebody asked for in one organisation, in the same
// way. Where there is none to do, or somebody else does it, it does nothing. It
// waits for as long as a key can be on trial, which holds a run up, and which
// looks like another run.
func (f *Function) Sync(ctx context.Context, organization string) error {
	if err := f.tooShort(ctx); err != nil {
		return fmt.Errorf("organisation %s: %w", organization, err)
	}
	patience := f.now().Add(f.aProbe)
	for {
		_, err := f.sync.Run(ctx, organization)
		left, isLeft := errors.AsType[*sponsor.ContinueError](err)
		_, isBusy := errors.AsType[*sponsor.BusyError](err)
		switch {
		case isBusy && f.now().Before(patience) && f.goOn(ctx, f.now().Add(lookAgain)):
			continue
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
	if err == nil {
		return nil
	}
	if _, failed := sponsor.AsFailure(err); failed || ctx.Err() == nil {
		return err
	}
	f.logger.InfoContext(ctx, "the call's time is over; the next one goes on", slog.String("error", err.Error()))
	return nil
}
