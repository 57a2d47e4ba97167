package sponsor

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// SyncStatus is how an organisation's sync is.
type SyncStatus struct {
	Organization string
	// Connection is nil if there is none.
	Connection *Connection
	// LastSponsorshipSync and LastLicenseSync are nil for "Never": see When.
	LastSponsorshipSync *time.Time
	LastLicenseSync     *time.Time
	LastAttempt         *time.Time
	// NextDue is the zero time where no schedule runs, or it waits for another key.
	NextDue time.Time
	// Failures are those of the schedule since the last success, and ErrorCode
	// is of the last run.
	Failures  int
	ErrorCode string
	// LastRun and CurrentRun are ids; empty if there is none.
	LastRun, CurrentRun string
	// KeyRefused: the cloud refused the key, and the schedule waits for another.
	KeyRefused bool
	// Blocked is until when identity is not asked again, which refused this
	// installation.
	Blocked *time.Time
	// Overdue is 30, 90 or 150 where the last success was that many days ago.
	Overdue int
	// Census is of now.
	Census
	// Skew is how far the cloud's clock was ahead at the last answer to this
	// process; nil if there was none.
	Skew *time.Duration
}

// Census counts offers that something is still to be done about.
type Census struct {
	// Pending ones await a run: to be sent, removed, or made anew. OldestPending is
	// since when; nil if there are none.
	Pending       int
	OldestPending *time.Time
	// Quarantined ones are not sent, and of MailUncertain ones the cloud may not
	// have mailed what it has: somebody has to look at them.
	Quarantined, MailUncertain int
}

// add counts an offer.
func (c *Census) add(o *offer) {
	if o.Quarantined != "" {
		c.Quarantined++
	}
	if o.MailUncertain && o.LastSync != nil && !o.toDelete() {
		c.MailUncertain++
	}
	if o.State != Pending && o.State != Revoking {
		return
	}
	c.Pending++
	if c.OldestPending == nil || o.Changed.Before(*c.OldestPending) {
		c.OldestPending = pointer(o.Changed)
	}
}

// When shows the time of a sync as clients do.
func When(t *time.Time) string {
	if t == nil {
		return "Never"
	}
	return t.UTC().Format(time.RFC3339)
}

// Status tells how an organisation's sync is.
func (s *Sync) Status(ctx context.Context, organization string) (SyncStatus, error) {
	organization, err := guid(organization)
	if err != nil {
		return SyncStatus{}, err
	}
	st := SyncStatus{Organization: organization}
	c, err := s.connections.Get(ctx, organization)
	switch {
	case err == nil:
		view := viewConnection(c)
		st.Connection = &view
	case fault.Of(err) != fault.NotFound:
		return st, err
	}
	sc, err := s.schedules.Get(ctx, organization)
	if err != nil && fault.Of(err) != fault.NotFound {
		return st, err
	}
	if err == nil {
		st.fill(sc.Value, s.now())
		st.KeyRefused = st.Connection != nil && sc.Value.refuses(st.Connection.KeyFingerprint)
	}
	if st.Connection == nil || !st.Connection.Enabled || !s.settings.CloudCommunication || st.KeyRefused {
		st.NextDue = time.Time{}
	}
	if st.LastLicenseSync, err = s.LastLicenseSync(ctx, organization); err != nil {
		return st, err
	}
	if st.Census, err = s.census(ctx, organization); err != nil {
		return st, err
	}
	until, err := s.breaker.Blocked(ctx, s.cloud.Subject(cloud.ScopeInstallation))
	if err != nil {
		return st, err
	}
	if until.After(s.now()) {
		st.Blocked = &until
	}
	if skew, known := s.cloud.Skew(); known {
		st.Skew = &skew
	}
	return st, nil
}

func (st *SyncStatus) fill(sc schedule, now time.Time) {
	st.LastSponsorshipSync, st.LastAttempt, st.NextDue = sc.LastSuccess, sc.LastAttempt, sc.NextDue
	st.Failures, st.ErrorCode, st.LastRun = sc.Failures, sc.LastCode, sc.Last
	st.Overdue = sc.overdue(now)
	if sc.Current != nil {
		st.CurrentRun = sc.Current.ID
	}
}

// LastSync is the newest date of the cloud among an organisation's offers: what
// the official route sync-status gives. Nil if nothing was ever synced.
func (s *Sync) LastSync(ctx context.Context, organization string) (*time.Time, error) {
	organization, err := guid(organization)
	if err != nil {
		return nil, machine.NotFound()
	}
	var last *time.Time
	for r, err := range s.offers.ByParent(ctx, organization) {
		if err != nil {
			return nil, err
		}
		if at := r.Value.LastSync; at != nil && (last == nil || at.After(*last)) {
			last = at
		}
	}
	return last, nil
}

// LastLicenseSync is when the organisation's licence last came from the cloud; nil
// if it never did.
func (s *Sync) LastLicenseSync(ctx context.Context, organization string) (*time.Time, error) {
	l, err := s.licences.Get(ctx, organization)
	if err != nil && fault.Of(err) != fault.NotFound {
		return nil, err
	}
	return l.Value.LastSync, nil
}

// staleAfter is the age of a last success that health is no more good with.
const staleAfter = 48 * time.Hour

// Health is the state of one organisation's sync, for a health endpoint.
type Health struct {
	Organization string     `json:"organization"`
	Good         bool       `json:"good"`
	LastRun      string     `json:"lastRun,omitempty"`
	LastAttempt  *time.Time `json:"lastAttempt"`
	LastSuccess  *time.Time `json:"lastSuccess"`
	ErrorCode    string     `json:"errorCode,omitempty"`
	// NextDue is nil where the schedule waits for another key.
	NextDue *time.Time `json:"nextDue"`
}

// healthReaders bounds the reads of schedules that a look at the health has under
// way.
const healthReaders = 8

// Health gives the state of all organisations with an enabled connection, in the
// order of their ids.
func (s *Sync) Health(ctx context.Context) ([]Health, error) {
	var enabled []store.Record[connection]
	for c, err := range s.connections.ByParent(ctx, allConnections) {
		if err != nil {
			return nil, err
		}
		if c.Value.Enabled {
			enabled = append(enabled, c)
		}
	}
	all := make([]Health, len(enabled))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(healthReaders)
	for i, c := range enabled {
		group.Go(func() (err error) {
			all[i], err = s.healthOf(ctx, c)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return all, nil
}

func (s *Sync) healthOf(ctx context.Context, c store.Record[connection]) (Health, error) {
	r, err := s.schedules.Get(ctx, c.ID)
	if err != nil && fault.Of(err) != fault.NotFound {
		return Health{}, err
	}
	sc := &r.Value
	h := Health{
		Organization: c.ID, LastRun: sc.Last, LastAttempt: sc.LastAttempt, LastSuccess: sc.LastSuccess, ErrorCode: sc.LastCode,
		Good: sc.LastCode == "" && sc.successAge(s.now()) < staleAfter,
	}
	if err == nil && !sc.refuses(c.Value.KeyFingerprint) {
		h.NextDue = &sc.NextDue
	}
	return h, nil
}
