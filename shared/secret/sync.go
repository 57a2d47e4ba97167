package secret

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/latchkey-fn/latchkey/shared/machine"
)

// Sync tells a machine whether anything that it reaches has changed since a
// time (zero: since ever), and if so gives everything that it may read.
func (s *Secrets) Sync(ctx context.Context, a machine.Access, since time.Time) (changed bool, all Selection, err error) {
	switch {
	case !a.IsMachine():
		return false, Selection{}, machine.Invalid("Only service accounts can sync secrets.")
	case since.After(s.now()):
		return false, Selection{}, machine.Invalid("Last synced date must be in the past.")
	}
	found, err := s.survey(ctx, a)
	if err != nil {
		return false, Selection{}, err
	}
	// What left a listing after it was read is noted by now.
	if changed = found.changed(since, a.Reached()) || s.now().Sub(since) > departureLife; !changed {
		projects, _ := a.Reach()
		if changed, err = s.anythingLeft(ctx, projects, since); err != nil {
			return false, Selection{}, err
		}
	}
	if !changed {
		return false, Selection{}, nil
	}
	return true, Selection{Views: found.readable(a), access: a, secrets: s}, nil
}

// changed tells whether one of these times, or of anything that was surveyed, is
// not before since.
func (f survey) changed(since time.Time, times ...time.Time) bool {
	for _, project := range f.projects {
		times = append(times, project.Value.Revised)
	}
	for _, head := range f.heads {
		times = append(times, head.Value.Revised)
		if head.Value.Trashed != nil {
			times = append(times, head.Value.Trashed.At)
		}
	}
	for _, t := range times {
		if !t.Before(since) {
			return true
		}
	}
	return false
}

var errFound = errors.New("found")

// anythingLeft tells whether a secret left one of these projects since.
func (s *Secrets) anythingLeft(ctx context.Context, projects []string, since time.Time) (bool, error) {
	err := each(ctx, projects, func(ctx context.Context, project string) error {
		return s.leftSince(ctx, project, since)
	})
	switch {
	case errors.Is(err, errFound):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("departures of secrets: %w", err)
	}
	return false, nil
}

func (s *Secrets) leftSince(ctx context.Context, project string, since time.Time) error {
	for departure, err := range s.departures.ByParent(ctx, project) {
		if err != nil {
			return err
		}
		if !departure.Value.Until.Before(since) {
			return errFound
		}
	}
	return nil
}
