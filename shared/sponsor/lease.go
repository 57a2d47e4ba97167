package sponsor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// ErrFenced is what a run ends with that was taken for dead, and whose place
// another has taken. It has written nothing since.
var ErrFenced = errors.New("another run has taken this one's place")

// BusyError says that a run of the organisation is at work elsewhere.
type BusyError struct{ Until time.Time }

// Error implements error.
func (e *BusyError) Error() string {
	return "a sync of the organisation is at work elsewhere, until " + e.Until.UTC().Format(time.RFC3339) + " at the longest"
}

// Unwrap gives the class.
func (*BusyError) Unwrap() error { return fault.Conflict }

// leaseState is who may send requests for an organisation of the cloud. Its
// document stays, so that tokens only grow.
type leaseState struct {
	Holder string `json:"holder"`
	// Token grows with each holder; it is about the time in microseconds, so that
	// it grows across organisations too.
	Token int64     `json:"token"`
	Until time.Time `json:"until"`
	// QuietUntil is when the cloud can no longer be at work on a request whose
	// answer did not come.
	QuietUntil time.Time `json:"quietUntil"`
}

// lease is one holder's.
type lease struct {
	record     store.Record[leaseState]
	quietUntil time.Time
}

func (l *lease) token() int64 { return l.record.Value.Token }

// leaseTerm is how long a lease lasts that is not extended; leaseMin is what has
// to be left of it before a request: a request takes at most callTimes the limit
// of one (a token, the request, a token again, the request again).
func (s *Sync) leaseTerm() time.Duration { return 2 * s.leaseMin() }

func (s *Sync) leaseMin() time.Duration { return s.callLimit() + time.Minute }

// leaseMost is more than is ever left of a lease, also of a machine whose clock is
// a little ahead: what lasts longer was taken with a clock that was wrong.
func (s *Sync) leaseMost() time.Duration { return maxWait + 2*s.leaseMin() + clockSlack }

// quiet is a time to be quiet until, which with a clock that was right is not
// further away than quietTime.
func (s *Sync) quiet(until time.Time) time.Time {
	if most := s.now().Add(quietTime); until.After(most) {
		return most
	}
	return until
}

const callTimes = 4

// callLimit bounds a call of the cloud's client.
func (s *Sync) callLimit() time.Duration { return callTimes * s.settings.RequestTimeout }

// acquire takes the lease of an organisation of the cloud, or says with a
// *BusyError that it is taken.
func (s *Sync) acquire(ctx context.Context, cloudOrganization string) (*lease, error) {
	holder := uuid.NewString()
	l := &lease{}
	var taken time.Time // until when, by another
	err := store.Retry(ctx, func() error {
		now := s.now()
		r, err := s.leases.Get(ctx, cloudOrganization)
		pre := store.AtRevision(r.Revision)
		switch {
		case fault.Of(err) == fault.NotFound:
			r, pre = store.Record[leaseState]{ID: cloudOrganization}, store.Absent()
		case err != nil:
			return err
		case r.Value.Until.After(now) && r.Value.Until.Sub(now) <= s.leaseMost():
			taken = r.Value.Until
			return nil
		}
		r.Value = leaseState{holder, max(r.Value.Token+1, now.UnixMicro()), now.Add(s.leaseTerm()).UTC(), s.quiet(r.Value.QuietUntil).UTC()}
		r.Revision, err = s.leases.Put(ctx, r, pre)
		l.record, l.quietUntil = r, r.Value.QuietUntil
		return err
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("take the lease: %w", err)
	case !taken.IsZero():
		return nil, &BusyError{taken}
	}
	return l, nil
}

// hold makes sure that a lease lasts for d, or ends with ErrFenced.
func (s *Sync) hold(ctx context.Context, l *lease, d time.Duration) error {
	now := s.now()
	if l.record.Value.Until.Sub(now) >= d {
		return nil
	}
	r := l.record
	r.Value.Until = now.Add(d + s.leaseMin()).UTC()
	revision, err := s.leases.Put(ctx, r, store.AtRevision(r.Revision))
	if fault.Of(err) == fault.Conflict {
		return ErrFenced
	}
	if err != nil {
		return fmt.Errorf("extend the lease: %w", err)
	}
	r.Revision = revision
	l.record = r
	return nil
}

// check makes sure that a lease is still its holder's.
func (s *Sync) check(ctx context.Context, l *lease) error {
	r, err := s.leases.Get(ctx, l.record.ID)
	if fault.Of(err) == fault.NotFound {
		return ErrFenced
	}
	if err != nil {
		return fmt.Errorf("check the lease: %w", err)
	}
	if r.Value.Holder != l.record.Value.Holder || r.Value.Token != l.token() {
		return ErrFenced
	}
	l.record = r
	return s.hold(ctx, l, s.leaseMin())
}

// releaseTimeout bounds the giving back of a lease after its holder was stopped.
const releaseTimeout = 5 * time.Second

// letGo gives a lease back. That it failed is no harm but a delay.
func (s *Sync) letGo(ctx context.Context, l *lease, quietUntil time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	_, err := s.leases.Update(ctx, l.record.ID, func(r *store.Record[leaseState]) error {
		if r.Value.Holder != l.record.Value.Holder {
			return store.ErrUnchanged
		}
		r.Value.Holder, r.Value.Until = "", time.Time{}
		if quietUntil.After(r.Value.QuietUntil) {
			r.Value.QuietUntil = quietUntil.UTC()
		}
		return nil
	})
	if err != nil {
		s.logger.WarnContext(ctx, "the lease could not be given back, and runs out by itself",
			slog.String("cloudOrganization", l.record.ID), slog.String("error", err.Error()))
	}
}
