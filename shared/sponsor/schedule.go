package sponsor

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

const (
	day = 24 * time.Hour
	// clockSlack is how far ahead the clock may have been that noted a time, and
	// farOff more than is ever waited for by the schedule or a run. What is further
	// away was noted by a clock that was wrong, and waiting for it could take years.
	clockSlack = time.Hour
	farOff     = day + clockSlack
	// onTime is how late a run may succeed and still keep its organisation's time
	// of the day. Ticks come every quarter of an hour.
	onTime = time.Hour
	// firstRetry doubles with each failure, up to a day.
	firstRetry = time.Hour
	// retryJitter is the part of a wait that is left to chance.
	retryJitter = 0.2
)

// schedule is when an organisation is synced, and which run is at it.
type schedule struct {
	NextDue time.Time `json:"nextDue"`
	// Began is when the organisation was first connected.
	Began       time.Time  `json:"began"`
	LastSuccess *time.Time `json:"lastSuccess,omitempty"`
	LastAttempt *time.Time `json:"lastAttempt,omitempty"`
	// Failures are those of the schedule since its last success.
	Failures int `json:"failures,omitempty"`
	// Last is the run before, and LastCode why it failed.
	Last     string `json:"last,omitempty"`
	LastCode string `json:"lastCode,omitempty"`
	// RefusedKey is the fingerprint of the key that the cloud refused.
	RefusedKey string `json:"refusedKey,omitempty"`
	// Warned is the age of the last success, in days, that was warned of.
	Warned int `json:"warned,omitempty"`
	// Pending and OldestPending are of the end of the last run.
	Pending       int        `json:"pending,omitempty"`
	OldestPending *time.Time `json:"oldestPending,omitempty"`
	// Current is the run that is queued or under way. Its document may not be
	// there yet.
	Current *currentRun `json:"current,omitempty"`
}

type currentRun struct {
	ID        string    `json:"id"`
	Trigger   Trigger   `json:"trigger"`
	Requested time.Time `json:"requested"`
	// Due is the time of the schedule that it was made for.
	Due time.Time `json:"due"`
}

// firstSlot is the first time that an organisation is due after now. The time of
// the day is its own, so that installations do not all come at once.
func firstSlot(installation, organization string, now time.Time) time.Time {
	digest := sha256.Sum256([]byte(installation + "/" + organization))
	offset := time.Duration(binary.BigEndian.Uint64(digest[:8])%uint64(day/time.Second)) * time.Second
	slot := now.UTC().Truncate(day).Add(offset)
	if !slot.After(now) {
		slot = slot.Add(day)
	}
	return slot
}

// succeed notes a success. A run that was on time keeps the time of the day; a
// late one, or one by hand, moves it.
func (sc *schedule) succeed(run *Run, at time.Time) {
	sc.NextDue = at.Add(day)
	if late := at.Sub(run.Due); run.Trigger == BySchedule && late >= 0 && late < onTime {
		sc.NextDue = run.Due.Add(day)
	}
	sc.LastSuccess, sc.Failures, sc.LastCode, sc.RefusedKey, sc.Warned = &at, 0, "", "", 0
}

// due tells whether the time of a run has come.
func (sc *schedule) due(now time.Time) bool {
	wait := sc.NextDue.Sub(now)
	return wait <= 0 || wait > farOff
}

// refuses tells whether the cloud refused the key of a fingerprint, so that the
// schedule waits for another.
func (sc *schedule) refuses(keyFingerprint string) bool {
	return sc.RefusedKey != "" && sc.RefusedKey == keyFingerprint
}

// fail notes a failure. One of a run by hand does not move the schedule.
func (sc *schedule) fail(run *Run, at time.Time, random float64) {
	sc.LastCode = run.ErrorCode
	if run.Trigger != BySchedule {
		return
	}
	wait := day
	if sc.Failures < 5 {
		wait = min(day, firstRetry<<sc.Failures)
	}
	sc.Failures++
	sc.NextDue = at.Add(wait - time.Duration(random*retryJitter*float64(wait)))
}

// startSchedule gives a new connection its schedule, and a good key another
// chance.
func (s *Sync) startSchedule(ctx context.Context, c store.Record[connection]) error {
	return s.changeSchedule(ctx, c.ID, func(sc *schedule) error {
		if sc.RefusedKey == "" || !c.Value.Probe.Good() {
			return store.ErrUnchanged
		}
		sc.RefusedKey = ""
		return nil
	})
}

// changeSchedule changes an organisation's schedule, which it begins where there
// is none.
func (s *Sync) changeSchedule(ctx context.Context, organization string, change func(*schedule) error) error {
	now := s.now().UTC()
	begun := store.Record[schedule]{ID: organization, Value: schedule{
		NextDue: firstSlot(s.settings.InstallationID, organization, now), Began: now,
	}}
	_, err := s.schedules.Update(ctx, organization, func(r *store.Record[schedule]) error { return change(&r.Value) })
	if fault.Of(err) != fault.NotFound {
		return err
	}
	if _, err := s.schedules.Put(ctx, begun, store.Absent()); err != nil && fault.Of(err) != fault.Conflict {
		return err
	}
	_, err = s.schedules.Update(ctx, organization, func(r *store.Record[schedule]) error { return change(&r.Value) })
	return err
}

// warnings are the ages of the last success that are warned of, in days.
var warnings = []int{30, 90, 150}

// overdue gives the greatest of these ages that was reached; 0 for none.
func (sc *schedule) overdue(now time.Time) int {
	reached := 0
	for _, days := range warnings {
		if sc.successAge(now) >= time.Duration(days)*day {
			reached = days
		}
	}
	return reached
}

// successAge counts from the first connection where there was no success.
func (sc *schedule) successAge(now time.Time) time.Duration {
	since := sc.Began
	if sc.LastSuccess != nil {
		since = *sc.LastSuccess
	}
	return now.Sub(since)
}
