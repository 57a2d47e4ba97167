package sponsor

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Trigger is why a run was begun.
type Trigger string

// Triggers.
const (
	BySchedule Trigger = "schedule"
	ByHand     Trigger = "manual"
)

// RunStatus is how far a run is.
type RunStatus string

// Statuses.
const (
	Queued                RunStatus = "queued"
	Running               RunStatus = "running"
	Completed             RunStatus = "completed"
	CompletedWithWarnings RunStatus = "completedWithWarnings"
	Failed                RunStatus = "failed"
)

// Finished tells whether nothing more will happen.
func (s RunStatus) Finished() bool {
	return s == Completed || s == CompletedWithWarnings || s == Failed
}

// Phase is what a run is sending.
type Phase string

// Phases, in order. An empty batch is sent where there was nothing else, to
// learn whether the key is still good.
const (
	PhaseDeletes Phase = "deletes"
	PhaseOffers  Phase = "offers"
	PhaseProbe   Phase = "probe"
	PhaseDone    Phase = "done"
)

// Counts are what became of the offers of a run.
type Counts struct {
	Batches  int `json:"batches"`
	Requests int `json:"requests"`
	Retries  int `json:"retries"`
	// Sent are new to the cloud, and Refreshed were known to it.
	Sent      int `json:"sent"`
	Refreshed int `json:"refreshed"`
	Removed   int `json:"removed"`
	// Kept were revoked after they had been redeemed.
	Kept int `json:"kept"`
	// NotAccepted were left out by the cloud.
	NotAccepted int `json:"notAccepted"`
	Quarantined int `json:"quarantined"`
	// Anomalies are answers that nothing asked for: unknown or doubled keys,
	// removals of what nobody revoked.
	Anomalies int `json:"anomalies"`
	// MailUncertain are stored in the cloud, which may not have mailed them.
	MailUncertain int `json:"mailUncertain"`
	// Overtaken were redeemed before they could be replaced, which nobody could
	// know any more, and are revoked now. They are of Kept, too.
	Overtaken int `json:"overtaken,omitempty"`
}

func (c *Counts) add(more Counts) {
	c.Batches += more.Batches
	c.Requests += more.Requests
	c.Retries += more.Retries
	c.Sent += more.Sent
	c.Refreshed += more.Refreshed
	c.Removed += more.Removed
	c.Kept += more.Kept
	c.NotAccepted += more.NotAccepted
	c.Quarantined += more.Quarantined
	c.Anomalies += more.Anomalies
	c.MailUncertain += more.MailUncertain
	c.Overtaken += more.Overtaken
}

func (c *Counts) warn() bool {
	return c.NotAccepted+c.Quarantined+c.Anomalies+c.MailUncertain+c.Overtaken > 0
}

// Run is one sync of an organisation, over as many invocations as it takes. It
// is stored as it is here.
type Run struct {
	ID           string    `json:"id"`
	Organization string    `json:"organization"`
	Trigger      Trigger   `json:"trigger"`
	Status       RunStatus `json:"status"`
	Requested    time.Time `json:"requested"`
	// Due is the time of the schedule that it was made for.
	Due      time.Time  `json:"due"`
	Started  *time.Time `json:"started,omitempty"`
	Finished *time.Time `json:"finished,omitempty"`
	Phase    Phase      `json:"phase"`
	// Cursor is the id of the last offer that the phase is through with.
	Cursor string `json:"cursor,omitempty"`
	// Batch is the number of the last batch that is applied.
	Batch  int    `json:"batch"`
	Counts Counts `json:"counts"`
	// Returned: the cloud gave an offer back, so that it takes offers from this
	// organisation.
	Returned bool `json:"returned,omitempty"`
	// KeyFingerprint is that of the key the run began with.
	KeyFingerprint string `json:"keyFingerprint,omitempty"`
	// CloudOrganization is whom the run began with.
	CloudOrganization string `json:"cloudOrganization,omitempty"`
	// NotBefore is when it goes on, where it has to wait longer than somebody
	// could wait for it.
	NotBefore time.Time `json:"notBefore,omitzero"`
	// WaitUntil is when whoever is at it goes on, where that takes some time. What
	// GetRun gives has it in NotBefore.
	WaitUntil time.Time `json:"waitUntil,omitzero"`
	// Try is there in what GetRun gives of a run that is sending something.
	Try *Try `json:"-"`
	// ErrorCode, Message and Hint say why it failed.
	ErrorCode string `json:"errorCode,omitempty"`
	Message   string `json:"message,omitempty"`
	Hint      string `json:"hint,omitempty"`
	Fence     int64  `json:"fence,omitempty"`
}

// Try is how far a run is with what it is sending.
type Try struct {
	// Number counts the tries so far, with the one that is under way; there are Of
	// at the most.
	Number, Of int
	// LastCode is what the last one failed with; empty if none has.
	LastCode string
}

// CodeOrganizationChanged ends a run over which the connection became one to
// another organisation of the cloud.
const CodeOrganizationChanged = "cloud_organization_changed"

// Retention of what is only looked back at. It is on the store's clock.
const (
	keepRuns    = 90 * day
	keepBatches = 30 * day
)

// TriggerRun asks for a run of an organisation and gives it, or the one that is
// already queued or under way. It lets identity be asked again that refused this
// installation. What would make the run fail at once is refused here, as a
// *Failure; nothing is sent: that is Run's.
func (s *Sync) TriggerRun(ctx context.Context, organization string, by Trigger) (Run, error) {
	organization, err := guid(organization)
	if err != nil {
		return Run{}, err
	}
	if _, err := s.target(ctx, organization); err != nil {
		return Run{}, err
	}
	if by != BySchedule {
		if err := s.breaker.clear(ctx, s.cloud.Subject(cloud.ScopeInstallation)); err != nil {
			return Run{}, fmt.Errorf("let identity be asked again: %w", err)
		}
	}
	run, err := s.queue(ctx, organization, by, func(*schedule) bool { return true })
	if err != nil || by != ByHand || !run.NotBefore.After(s.now()) {
		return run, err
	}
	return s.hurry(ctx, run.ID)
}

// hurry lets a run go on at once that the cloud asked to wait, unless somebody is
// at it, or will be in a moment. While the cloud may still be at work on a request
// it waits nevertheless.
func (s *Sync) hurry(ctx context.Context, id string) (Run, error) {
	r, err := s.runs.Update(ctx, id, func(r *store.Record[Run]) error {
		now := s.now()
		attended := r.Value.WaitUntil.Sub(now)
		if r.Value.Status.Finished() || r.Value.NotBefore.Sub(now) < longWait || attended > 0 && attended <= maxWait {
			return store.ErrUnchanged
		}
		r.Value.NotBefore = time.Time{}
		return nil
	})
	if err != nil {
		return Run{}, fmt.Errorf("let the run go on: %w", err)
	}
	return r.Value, nil
}

// queue makes a run the current one of its organisation, if there is none and
// the schedule, as it is then, allows. It gives the current one; one without an
// id where there is none.
func (s *Sync) queue(ctx context.Context, organization string, by Trigger, allow func(*schedule) bool) (Run, error) {
	for {
		var current *currentRun
		err := s.changeSchedule(ctx, organization, func(sc *schedule) error {
			current = sc.Current
			if current != nil || !allow(sc) {
				return store.ErrUnchanged
			}
			id, err := uuid.NewV7()
			if err != nil {
				return err
			}
			sc.Current = &currentRun{ID: id.String(), Trigger: by, Requested: s.now().UTC(), Due: sc.NextDue}
			current = sc.Current
			return nil
		})
		if err != nil {
			return Run{}, fmt.Errorf("queue a run: %w", err)
		}
		if current == nil {
			return Run{}, nil
		}
		r, err := s.current(ctx, organization, *current)
		if err != nil {
			return Run{}, err
		}
		if !r.Value.Status.Finished() {
			return r.Value, nil
		}
		// Whoever finished it was stopped before the schedule knew.
		if err := s.conclude(ctx, &r.Value); err != nil {
			return Run{}, err
		}
	}
}

// current gives the record of a current run, which has a revision if it is
// stored.
func (s *Sync) current(ctx context.Context, organization string, c currentRun) (store.Record[Run], error) {
	r, err := s.runs.Get(ctx, c.ID)
	if fault.Of(err) == fault.NotFound {
		return store.Record[Run]{ID: c.ID, Parent: organization, Value: Run{
			ID: c.ID, Organization: organization, Trigger: c.Trigger, Status: Queued, Requested: c.Requested, Due: c.Due, Phase: PhaseDeletes,
		}}, nil
	}
	return r, err
}

// GetRun gives one run. Of one that is under way it tells how far it is, too.
func (s *Sync) GetRun(ctx context.Context, organization, id string) (Run, error) {
	organization, err := guid(organization)
	if err != nil {
		return Run{}, err
	}
	if id, err = guid(id); err != nil {
		return Run{}, err
	}
	r, err := s.runs.Get(ctx, id)
	if err == nil && r.Parent == organization {
		return s.watch(ctx, r.Value)
	}
	if err != nil && fault.Of(err) != fault.NotFound {
		return Run{}, err
	}
	// One that is queued may have no document yet.
	sc, err := s.schedules.Get(ctx, organization)
	if err == nil && sc.Value.Current != nil && sc.Value.Current.ID == id {
		r, err := s.current(ctx, organization, *sc.Value.Current)
		return r.Value, err
	}
	if err != nil && fault.Of(err) != fault.NotFound {
		return Run{}, err
	}
	return Run{}, machine.NotFound()
}

// watch adds to a run what its open batch tells. A time to wait for that is over
// is left out.
func (s *Sync) watch(ctx context.Context, run Run) (Run, error) {
	if run.Status.Finished() {
		return run, nil
	}
	run.NotBefore = maxTime(run.NotBefore, run.WaitUntil)
	if !run.NotBefore.After(s.now()) {
		run.NotBefore = time.Time{}
	}
	b, err := s.batches.Get(ctx, batchID(run.ID, run.Batch+1))
	if fault.Of(err) == fault.NotFound {
		return run, nil
	}
	if err != nil {
		return Run{}, fmt.Errorf("find the batch: %w", err)
	}
	run.Counts.Requests += b.Value.Counts.Requests
	run.Counts.Retries += b.Value.Counts.Retries
	if b.Value.Status == sending {
		run.Try = &Try{b.Value.Attempts, maxTries, b.Value.LastCode}
	}
	return run, nil
}

// Runs gives the last runs of an organisation, the newest first, as GetRun does.
func (s *Sync) Runs(ctx context.Context, organization string, limit int) ([]Run, error) {
	organization, err := guid(organization)
	if err != nil {
		return nil, err
	}
	var runs []Run
	for r, err := range s.runs.ByParent(ctx, organization) {
		if err != nil {
			return nil, err
		}
		runs = append(runs, r.Value)
	}
	sc, err := s.schedules.Get(ctx, organization)
	if err != nil && fault.Of(err) != fault.NotFound {
		return nil, err
	}
	if c := sc.Value.Current; c != nil && !slices.ContainsFunc(runs, func(r Run) bool { return r.ID == c.ID }) {
		r, err := s.current(ctx, organization, *c)
		if err != nil {
			return nil, err
		}
		runs = append(runs, r.Value)
	}
	slices.SortFunc(runs, func(a, b Run) int {
		return cmp.Or(b.Requested.Compare(a.Requested), cmp.Compare(b.ID, a.ID))
	})
	runs = runs[:min(limit, len(runs))]
	for i := range runs {
		if runs[i], err = s.watch(ctx, runs[i]); err != nil {
			return nil, err
		}
	}
	return runs, nil
}

// ContinueError says that a run is not through, and when it can go on. It is no
// failure: the run goes on with the next call of Run or Tick.
type ContinueError struct{ NotBefore time.Time }

// Error implements error.
func (e *ContinueError) Error() string {
	return "the run is not through, and goes on from " + e.NotBefore.UTC().Format(time.RFC3339) + " on"
}

// Unwrap gives the class.
func (*ContinueError) Unwrap() error { return fault.Transient }

// Run does the current run of an organisation until it is through, or until the
// context's deadline comes so near that another request might not end before it:
// then the error is a *ContinueError. It is a *BusyError while somebody else does
// the run, and a *Failure where the run failed. Other errors are of the store or
// of the context; the run goes on with the next call. Where no run was asked for
// the Run has no id.
func (s *Sync) Run(ctx context.Context, organization string) (Run, error) {
	organization, err := guid(organization)
	if err != nil {
		return Run{}, err
	}
	sc, err := s.schedules.Get(ctx, organization)
	if fault.Of(err) == fault.NotFound || err == nil && sc.Value.Current == nil {
		return Run{}, nil
	}
	if err != nil {
		return Run{}, err
	}
	at, err := s.target(ctx, organization)
	if f, ok := AsFailure(err); ok {
		return s.failEarly(ctx, organization, *sc.Value.Current, f)
	}
	if err != nil {
		return Run{}, err
	}
	l, err := s.acquire(ctx, at.cloudOrganization)
	if err != nil {
		return Run{}, err
	}
	w := &worker{Sync: s, lease: l, at: at, quietUntil: l.quietUntil}
	defer func() { s.letGo(ctx, l, w.quietUntil) }()
	// It may have come to its end before the lease was free.
	if sc, err = s.schedules.Get(ctx, organization); err != nil || sc.Value.Current == nil {
		return Run{}, err
	}
	if w.run, err = s.current(ctx, organization, *sc.Value.Current); err != nil {
		return Run{}, err
	}
	err = w.perform(ctx)
	return w.run.Value, err
}

// failEarly ends a run that there is nothing to sync with for.
func (s *Sync) failEarly(ctx context.Context, organization string, c currentRun, why *Failure) (Run, error) {
	r, err := s.current(ctx, organization, c)
	if err != nil {
		return Run{}, err
	}
	w := &worker{Sync: s, run: r}
	err = w.fail(ctx, why)
	return w.run.Value, err
}

// conclude tells the schedule what came of a run, once.
func (s *Sync) conclude(ctx context.Context, run *Run) error {
	var left Census
	if run.Status != Completed { // else the cloud has confirmed all of them
		var err error
		if left, err = s.census(ctx, run.Organization); err != nil {
			return err
		}
	}
	at := *run.Finished
	concluded := false
	var after schedule
	err := s.changeSchedule(ctx, run.Organization, func(sc *schedule) error {
		concluded = sc.Current != nil && sc.Current.ID == run.ID
		if !concluded {
			return store.ErrUnchanged
		}
		sc.Current, sc.Last, sc.LastAttempt, sc.Pending, sc.OldestPending = nil, run.ID, &at, left.Pending, left.OldestPending
		if run.Status == Failed {
			sc.fail(run, at, s.random())
			if run.ErrorCode == string(cloud.KeyInvalid) {
				sc.RefusedKey = run.KeyFingerprint
			}
		} else {
			sc.succeed(run, at)
		}
		after = *sc
		return nil
	})
	if err != nil || !concluded {
		return err
	}
	s.report(ctx, run, after)
	return nil
}

// report writes the run's end into log and metrics.
func (s *Sync) report(ctx context.Context, run *Run, sc schedule) {
	level := slog.LevelInfo
	switch run.Status {
	case Failed:
		level = slog.LevelError
	case CompletedWithWarnings:
		level = slog.LevelWarn
	}
	c := run.Counts
	s.logger.LogAttrs(ctx, level, "sync run", slog.String("runId", run.ID), slog.String("organization", run.Organization),
		slog.String("trigger", string(run.Trigger)), slog.String("status", string(run.Status)), slog.String("code", run.ErrorCode),
		slog.String("message", run.Message), slog.Int("batches", c.Batches), slog.Int("requests", c.Requests), slog.Int("sent", c.Sent),
		slog.Int("refreshed", c.Refreshed), slog.Int("removed", c.Removed), slog.Int("kept", c.Kept), slog.Int("notAccepted", c.NotAccepted),
		slog.Int("quarantined", c.Quarantined), slog.Int("anomalies", c.Anomalies), slog.Int("mailUncertain", c.MailUncertain),
		slog.Int("overtaken", c.Overtaken), slog.Time("nextDue", sc.NextDue))
	if c.MailUncertain > 0 {
		s.logger.WarnContext(ctx, "mail may not have been sent for some offers; reissue those whose recipients wait for it",
			slog.String("runId", run.ID), slog.Int("offers", c.MailUncertain))
	}
	if c.Overtaken > 0 {
		s.logger.WarnContext(ctx, "offers were redeemed before they could be replaced, and are revoked now",
			slog.String("runId", run.ID), slog.Int("offers", c.Overtaken))
	}
	s.count(ctx, MetricRuns, 1, map[string]string{"status": string(run.Status), "trigger": string(run.Trigger)})
	for outcome, n := range map[Outcome]int{
		OutcomeSent: c.Sent, OutcomeRefreshed: c.Refreshed, OutcomeRemoved: c.Removed, OutcomeKept: c.Kept,
		OutcomeNotAccepted: c.NotAccepted, OutcomeQuarantined: c.Quarantined, OutcomeAnomaly: c.Anomalies,
	} {
		s.count(ctx, MetricItems, n, map[string]string{"outcome": string(outcome)})
	}
	s.reportAges(ctx, run.Organization, sc)
}

func (s *Sync) reportAges(ctx context.Context, organization string, sc schedule) {
	now, labels := s.now(), map[string]string{"organization": organization}
	s.gauge(ctx, MetricSuccessAge, sc.successAge(now).Seconds(), labels)
	s.gauge(ctx, MetricPending, float64(sc.Pending), labels)
	oldest := time.Duration(0)
	if sc.OldestPending != nil {
		oldest = now.Sub(*sc.OldestPending)
	}
	s.gauge(ctx, MetricOldestPending, oldest.Seconds(), labels)
}

// census counts an organisation's offers.
func (s *Sync) census(ctx context.Context, organization string) (Census, error) {
	var c Census
	for r, err := range s.offers.ByParent(ctx, organization) {
		if err != nil {
			return Census{}, fmt.Errorf("count the offers: %w", err)
		}
		c.add(&r.Value)
	}
	return c, nil
}
