package sponsorships

import (
	"context"
	"strconv"
	"time"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

type lastSyncAnswer struct {
	Object   string     `json:"object"`
	LastSync *time.Time `json:"lastSyncDate"`
}

// syncStatus is the original's.
func (h *handler) syncStatus(r smapi.Request) (any, error) {
	organization, err := h.owner(r, r.PathValue("org"))
	if err != nil {
		return nil, err
	}
	last, err := h.sync.LastSync(r.Context(), organization)
	return lastSyncAnswer{"syncStatus", last}, err
}

// statusOfSync is all that is known of an organisation's sync. Labels are what
// clients show for dates: "Never" for none.
type statusOfSync struct {
	Object         string `json:"object"`
	OrganizationID string `json:"organizationId"`
	// CloudCommunication is the master switch of the settings.
	CloudCommunication       bool             `json:"cloudCommunication"`
	Connection               *connectionState `json:"connection"`
	LastSponsorshipSync      *time.Time       `json:"lastSponsorshipSync"`
	LastSponsorshipSyncLabel string           `json:"lastSponsorshipSyncLabel"`
	LastLicenseSync          *time.Time       `json:"lastLicenseSync"`
	LastLicenseSyncLabel     string           `json:"lastLicenseSyncLabel"`
	LastAttempt              *time.Time       `json:"lastAttempt"`
	NextDue                  *time.Time       `json:"nextDue"`
	Failures                 int              `json:"failures"`
	ErrorCode                *string          `json:"errorCode"`
	LastRun                  *runAnswer       `json:"lastRun"`
	CurrentRun               *runAnswer       `json:"currentRun"`
	KeyRefused               bool             `json:"keyRefused"`
	BlockedUntil             *time.Time       `json:"blockedUntil"`
	OverdueDays              int              `json:"overdueDays"`
	PendingOffers            int              `json:"pendingOffers"`
	OldestPending            *time.Time       `json:"oldestPending"`
	// Somebody has to look at these.
	QuarantinedOffers   int      `json:"quarantinedOffers"`
	MailUncertainOffers int      `json:"mailUncertainOffers"`
	ClockSkewSeconds    *float64 `json:"clockSkewSeconds"`
}

type connectionState struct {
	Enabled           bool         `json:"enabled"`
	CloudOrganization string       `json:"cloudOrganizationId"`
	Region            string       `json:"region"`
	KeyEnd            string       `json:"keyEnd"`
	KeyFingerprint    string       `json:"keyFingerprint"`
	KeyRevision       int          `json:"keyRevision"`
	KeyChanged        time.Time    `json:"keyRevisionDate"`
	Created           time.Time    `json:"creationDate"`
	Probe             *probeAnswer `json:"probe"`
}

func (h *handler) status(r smapi.Request) (any, error) {
	organization, err := h.admin(r)
	if err != nil {
		return nil, err
	}
	s, err := h.sync.Status(r.Context(), organization)
	if err != nil {
		return nil, err
	}
	answer := statusOfSync{
		Object: "billingSyncStatus", OrganizationID: organization, CloudCommunication: h.communicates,
		LastSponsorshipSync: s.LastSponsorshipSync, LastSponsorshipSyncLabel: sponsor.When(s.LastSponsorshipSync),
		LastLicenseSync: s.LastLicenseSync, LastLicenseSyncLabel: sponsor.When(s.LastLicenseSync),
		LastAttempt: s.LastAttempt, Failures: s.Failures, ErrorCode: optional(s.ErrorCode), KeyRefused: s.KeyRefused,
		BlockedUntil: s.Blocked, OverdueDays: s.Overdue, PendingOffers: s.Pending, OldestPending: s.OldestPending,
		QuarantinedOffers: s.Quarantined, MailUncertainOffers: s.MailUncertain,
	}
	if !s.NextDue.IsZero() {
		answer.NextDue = &s.NextDue
	}
	if s.Skew != nil {
		seconds := s.Skew.Seconds()
		answer.ClockSkewSeconds = &seconds
	}
	if c := s.Connection; c != nil {
		answer.Connection = &connectionState{
			c.Enabled, c.CloudOrganization, c.Region, c.KeyEnd, c.KeyFingerprint, c.KeyRevision, c.KeyChanged, c.Created, answerProbe(c.Probe),
		}
	}
	if answer.LastRun, err = h.run(r.Context(), organization, s.LastRun); err != nil {
		return nil, err
	}
	answer.CurrentRun, err = h.run(r.Context(), organization, s.CurrentRun)
	return answer, err
}

// run gives a run that a status names; nil where it names none, or one that is
// forgotten by now.
func (h *handler) run(ctx context.Context, organization, id string) (*runAnswer, error) {
	if id == "" {
		return nil, nil
	}
	run, err := h.sync.GetRun(ctx, organization, id)
	if _, gone := machine.AsProblem(err); gone {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	answer := answerRun(run)
	return &answer, nil
}

type runAnswer struct {
	Object         string     `json:"object"`
	ID             string     `json:"id"`
	OrganizationID string     `json:"organizationId"`
	Trigger        string     `json:"trigger"`
	Status         string     `json:"status"`
	Requested      time.Time  `json:"requestedDate"`
	Started        *time.Time `json:"startedDate"`
	Finished       *time.Time `json:"finishedDate"`
	Phase          string     `json:"phase"`
	// Batch is the number of the last one that the run is through with.
	Batch int `json:"batch"`
	// Try is null where nothing is being sent.
	Try *tryAnswer `json:"try"`
	// WaitingUntil is null where the run does not wait.
	WaitingUntil *time.Time  `json:"waitingUntil"`
	Counts       countAnswer `json:"counts"`
	// The next three are null unless it failed.
	ErrorCode *string `json:"errorCode"`
	Message   *string `json:"message"`
	Hint      *string `json:"hint"`
}

type tryAnswer struct {
	Number int `json:"number"`
	Of     int `json:"of"`
	// LastCode is what the try before failed with; null if none has.
	LastCode *string `json:"lastCode"`
}

// countAnswer has the members of a sponsor.Counts.
type countAnswer struct {
	Batches       int `json:"batches"`
	Requests      int `json:"requests"`
	Retries       int `json:"retries"`
	Sent          int `json:"sent"`
	Refreshed     int `json:"refreshed"`
	Removed       int `json:"removed"`
	Kept          int `json:"kept"`
	NotAccepted   int `json:"notAccepted"`
	Quarantined   int `json:"quarantined"`
	Anomalies     int `json:"anomalies"`
	MailUncertain int `json:"mailUncertain"`
	Overtaken     int `json:"overtaken"`
}

func answerRun(r sponsor.Run) runAnswer {
	answer := runAnswer{
		Object: "billingSyncRun", ID: r.ID, OrganizationID: r.Organization, Trigger: string(r.Trigger), Status: string(r.Status),
		Requested: r.Requested, Started: r.Started, Finished: r.Finished, Phase: string(r.Phase), Batch: r.Batch,
		Counts: countAnswer(r.Counts), ErrorCode: optional(r.ErrorCode), Message: optional(r.Message), Hint: optional(r.Hint),
	}
	if r.Try != nil {
		answer.Try = &tryAnswer{r.Try.Number, r.Try.Of, optional(r.Try.LastCode)}
	}
	if !r.NotBefore.IsZero() {
		answer.WaitingUntil = &r.NotBefore
	}
	return answer
}

// trigger asks for a run and does not wait for it.
func (h *handler) trigger(r smapi.Request) (string, any, error) {
	organization, err := h.owner(r, r.PathValue("org"))
	if err != nil {
		return "", nil, err
	}
	run, err := h.sync.TriggerRun(r.Context(), organization, sponsor.ByHand)
	if err != nil {
		return "", nil, err
	}
	h.begin(r.Context(), organization)
	return run.ID, smapi.Accepted{Body: answerRun(run)}, nil
}

// Runs of a list.
const (
	usualRuns = 20
	maxRuns   = 100
)

func (h *handler) listRuns(r smapi.Request) (any, error) {
	organization, err := h.admin(r)
	if err != nil {
		return nil, err
	}
	limit, err := numberOf(r, "limit", usualRuns, maxRuns)
	if err != nil {
		return nil, err
	}
	runs, err := h.sync.Runs(r.Context(), organization, limit)
	if err != nil {
		return nil, err
	}
	answers := make([]runAnswer, len(runs))
	for i, run := range runs {
		answers[i] = answerRun(run)
	}
	return smapi.NewList(answers), nil
}

// numberOf reads a number of the query. More than most is most.
func numberOf(r smapi.Request, name string, usual, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, machine.Invalid("The %s of the query is not a number.", name)
	}
	return min(n, most), nil
}

const (
	// maxWait is how many seconds a request waits for a run's end.
	maxWait = 20
	// lookAgain is how long it waits between two looks.
	lookAgain = 500 * time.Millisecond
)

// getRun gives a run; with ?wait=seconds when it is through, if that is in time.
func (h *handler) getRun(r smapi.Request) (any, error) {
	organization, err := h.admin(r)
	if err != nil {
		return nil, err
	}
	seconds, err := numberOf(r, "wait", 0, maxWait)
	if err != nil {
		return nil, err
	}
	patience := time.Duration(seconds) * time.Second
	if deadline, ok := r.Context().Deadline(); ok {
		patience = min(patience, time.Until(deadline)/2) // the rest is for the answer
	}
	enough := time.NewTimer(patience)
	defer enough.Stop()
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		run, err := h.sync.GetRun(r.Context(), organization, r.PathValue("id"))
		if err != nil || run.Status.Finished() || patience <= 0 {
			return answerRun(run), err
		}
		select {
		case <-look.C:
		case <-enough.C:
			patience = 0
		}
	}
}
