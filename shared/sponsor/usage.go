package sponsor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Usage is what an organisation uses, as somebody told who knows: there is no
// data base of members, collections and groups here.
type Usage struct {
	licence.Usage
	// Told is when.
	Told time.Time `json:"told"`
}

// SetUsage tells what an organisation uses, in the place of what was told
// before.
func (s *Sync) SetUsage(ctx context.Context, organization string, used licence.Usage) (Usage, error) {
	organization, err := guid(organization)
	if err != nil {
		return Usage{}, err
	}
	if slices.Min([]int{used.Seats, used.Collections, used.Groups, used.EnabledPolicies}) < 0 {
		return Usage{}, machine.Invalid("There cannot be fewer than none of anything.")
	}
	u := Usage{Usage: used, Told: s.now().UTC()}
	if _, err := s.usages.Put(ctx, store.Record[Usage]{ID: organization, Value: u}, store.Any()); err != nil {
		return Usage{}, fmt.Errorf("note what the organisation uses: %w", err)
	}
	return u, nil
}

// Usage gives what an organisation uses; NotFound where nobody ever told it.
func (s *Sync) Usage(ctx context.Context, organization string) (Usage, error) {
	organization, err := guid(organization)
	if err != nil {
		return Usage{}, err
	}
	r, err := s.usages.Get(ctx, organization)
	if fault.Of(err) == fault.NotFound {
		return Usage{}, machine.NotFound()
	}
	return r.Value, err
}

// used is what a licence has to allow; nil where that is not known.
func (s *Sync) used(ctx context.Context, organization string) (*Usage, error) {
	u, err := s.Usage(ctx, organization)
	if fault.Of(err) == fault.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("what the organisation uses: %w", err)
	}
	return &u, nil
}

func (s *Sync) checkFit(ctx context.Context, organization string, next *licence.Licence) error {
	used, err := s.used(ctx, organization)
	if err != nil || used == nil {
		return err
	}
	unfit := next.CheckFit(used.Usage)
	if len(unfit) == 0 {
		return nil
	}
	all := make([]string, len(unfit))
	for i, e := range unfit {
		all[i] = e.Text
	}
	return &Failure{Code: string(unfit[0].Code), Message: strings.Join(all, " "), Class: fault.Invalid}
}

// checkSeat: an offer of an administrator takes a seat.
func (s *Sync) checkSeat(ctx context.Context, organization string, current *installed) error {
	if current.Seats == nil {
		return nil
	}
	used, err := s.used(ctx, organization)
	if err != nil || used == nil {
		return err
	}
	if used.Seats >= *current.Seats {
		return machine.Invalid(noAutoscale)
	}
	return nil
}
