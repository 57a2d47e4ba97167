package sponsor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Tick is a call of the scheduler, which can come as often as it likes, twice,
// and late.
type Tick struct {
	At time.Time
	// ID names the call in the log.
	ID string
}

// TickReport tells what a tick did.
type TickReport struct {
	// Connections is how many there are.
	Connections int
	// Finished are runs that came to their end, and Failed those of them that
	// failed. Left have to be gone on with, at the earliest at Next.
	Finished, Failed, Left int
	// Next is the zero time where nothing is left, or it is not known.
	Next time.Time
}

// Tick does the runs that are due or were begun, several organisations at once.
// Its error joins what failed; runs that are left are none. After the context's
// deadline, or a little before, it returns.
func (s *Sync) Tick(ctx context.Context, tick Tick) (TickReport, error) {
	var report TickReport
	var mu sync.Mutex
	var faults []error
	if !s.settings.CloudCommunication {
		return report, nil
	}
	group := errgroup.Group{}
	group.SetLimit(max(1, s.settings.SyncParallel))
	for c, err := range s.connections.ByParent(ctx, allConnections) {
		if err != nil {
			faults = append(faults, fmt.Errorf("list the connections: %w", err))
			break
		}
		report.Connections++
		group.Go(func() error {
			run, err := s.tickOne(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			report.note(run, err)
			if err != nil && !isLeft(err) {
				faults = append(faults, fmt.Errorf("organisation %s: %w", c.ID, err))
			}
			return nil
		})
	}
	_ = group.Wait() // its functions return nil
	s.logger.InfoContext(ctx, "sync tick", slog.String("tick", tick.ID), slog.Time("at", tick.At), slog.Int("connections", report.Connections),
		slog.Int("finished", report.Finished), slog.Int("failed", report.Failed), slog.Int("left", report.Left))
	return report, errors.Join(faults...)
}

// isLeft tells whether an error says that a run is or will be gone on with.
func isLeft(err error) bool {
	_, left := errors.AsType[*ContinueError](err)
	_, busy := errors.AsType[*BusyError](err)
	return left || busy || errors.Is(err, ErrFenced)
}

func (t *TickReport) note(run Run, err error) {
	switch {
	case run.Status.Finished():
		t.Finished++
		if run.Status == Failed {
			t.Failed++
		}
	case err != nil:
		t.Left++
		var next time.Time
		if c, ok := errors.AsType[*ContinueError](err); ok {
			next = c.NotBefore
		}
		if b, ok := errors.AsType[*BusyError](err); ok {
			next = b.Until
		}
		if !next.IsZero() && (t.Next.IsZero() || next.Before(t.Next)) {
			t.Next = next
		}
	}
}

// tickOne does what there is to do for one organisation.
func (s *Sync) tickOne(ctx context.Context, c store.Record[connection]) (Run, error) {
	now := s.now()
	sc, err := s.schedules.Get(ctx, c.ID)
	if fault.Of(err) == fault.NotFound {
		// Whoever made the connection was stopped before its schedule.
		return Run{}, s.startSchedule(ctx, c)
	}
	if err != nil {
		return Run{}, err
	}
	if c.Value.Enabled {
		s.reportAges(ctx, c.ID, sc.Value)
	}
	s.warnOverdue(ctx, c.ID, sc.Value)
	due := func(sc *schedule) bool {
		return c.Value.Enabled && c.Value.Key != nil && !sc.refuses(c.Value.KeyFingerprint) && sc.due(now)
	}
	if sc.Value.Current == nil && !due(&sc.Value) {
		return Run{}, nil
	}
	queued, err := s.queue(ctx, c.ID, BySchedule, due)
	if err != nil || queued.ID == "" {
		return Run{}, err
	}
	run, err := s.Run(ctx, c.ID)
	if err == nil && run.Trigger == BySchedule && s.settings.LicenseCheck != config.LicenseCheckOff && run.Status.Finished() {
		s.checkLicence(ctx, c.ID)
	}
	return run, err
}

// checkLicence compares licences where the settings want that. It is no part of
// the run, which a failure of it does not fail.
func (s *Sync) checkLicence(ctx context.Context, organization string) {
	check, err := s.CheckLicence(ctx, organization, s.settings.LicenseCheck == config.LicenseCheckApply)
	attributes := []any{slog.String("organization", organization), slog.Any("changed", check.Changed), slog.Bool("applied", check.Applied)}
	if err != nil {
		s.logger.WarnContext(ctx, "check of the licence", append(attributes, slog.String("error", err.Error()))...)
		return
	}
	s.logger.InfoContext(ctx, "check of the licence", attributes...)
}

// warnOverdue warns, once each, of offers that have not been synced for long:
// after half a year the cloud drops those that were not redeemed.
func (s *Sync) warnOverdue(ctx context.Context, organization string, sc schedule) {
	reached := sc.overdue(s.now())
	if reached <= sc.Warned {
		return
	}
	s.logger.WarnContext(ctx, "sponsorships have not been synced for long; after 182 days the cloud drops offers that were not redeemed",
		slog.String("organization", organization), slog.Int("days", reached), slog.String("code", sc.LastCode))
	err := s.changeSchedule(ctx, organization, func(sc *schedule) error {
		sc.Warned = reached
		return nil
	})
	if err != nil {
		s.logger.WarnContext(ctx, "the warning could not be noted, and will come again", slog.String("error", err.Error()))
	}
}
