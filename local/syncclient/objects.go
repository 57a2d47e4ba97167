package syncclient

import "time"

// Status is how an organisation's sync is.
type Status struct {
	Organization string `json:"organizationId"`
	// CloudCommunication is the master switch of the server's settings.
	CloudCommunication bool        `json:"cloudCommunication"`
	Connection         *Connection `json:"connection"`
	// The next three are nil for "Never".
	LastSponsorshipSync *time.Time `json:"lastSponsorshipSync"`
	LastLicenseSync     *time.Time `json:"lastLicenseSync"`
	LastAttempt         *time.Time `json:"lastAttempt"`
	// NextDue is nil where no schedule runs.
	NextDue  *time.Time `json:"nextDue"`
	Failures int        `json:"failures"`
	// ErrorCode is of the last run; empty unless it failed.
	ErrorCode string `json:"errorCode"`
	// LastRun and CurrentRun are nil where there is none, or none any more.
	LastRun    *Run `json:"lastRun"`
	CurrentRun *Run `json:"currentRun"`
	// KeyRefused: the schedule waits for another key.
	KeyRefused bool `json:"keyRefused"`
	// Blocked is until when the cloud's identity server is not asked again.
	Blocked *time.Time `json:"blockedUntil"`
	// Overdue is 30, 90 or 150 where the last success was that many days ago.
	Overdue       int        `json:"overdueDays"`
	Pending       int        `json:"pendingOffers"`
	OldestPending *time.Time `json:"oldestPending"`
	// Quarantined offers are not sent, and of MailUncertain ones the cloud may not
	// have mailed what it has.
	Quarantined   int `json:"quarantinedOffers"`
	MailUncertain int `json:"mailUncertainOffers"`
	// Skew is how many seconds the cloud's clock is ahead; nil: not known.
	Skew *float64 `json:"clockSkewSeconds"`
}

func (Status) required() []string { return []string{"organizationId", "cloudCommunication"} }

// Connection is how an organisation is known to the cloud.
type Connection struct {
	Enabled           bool   `json:"enabled"`
	CloudOrganization string `json:"cloudOrganizationId"`
	// Region is known in a Status only.
	Region string `json:"region,omitempty"`
	// KeyEnd is the last four characters of the billing sync key.
	KeyEnd string `json:"keyEnd"`
	Probe  *Probe `json:"probe"`
}

// Probe is what the cloud said to a key.
type Probe struct {
	// At is nil if it was not asked yet.
	At      *time.Time `json:"date"`
	Code    string     `json:"code"`
	Message string     `json:"message"`
	Hint    string     `json:"hint"`
}

// officialConnection is a connection in the original's form. What it calls the
// key is the last four characters of it.
type officialConnection struct {
	// ID is empty where there is none.
	ID      string `json:"id"`
	Enabled bool   `json:"enabled"`
	Config  struct{ BillingSyncKey, CloudOrganizationID string }
	Probe   *Probe `json:"probe"`
}

func (officialConnection) required() []string { return []string{"enabled"} }

func (o officialConnection) connection() Connection {
	return Connection{Enabled: o.Enabled, CloudOrganization: o.Config.CloudOrganizationID, KeyEnd: o.Config.BillingSyncKey, Probe: o.Probe}
}

// Statuses of runs.
const (
	Completed             = "completed"
	CompletedWithWarnings = "completedWithWarnings"
	Failed                = "failed"
)

// Run is one sync of the organisation.
type Run struct {
	ID        string     `json:"id"`
	Trigger   string     `json:"trigger,omitempty"`
	Status    string     `json:"status"`
	Requested *time.Time `json:"requestedDate,omitempty"`
	Started   *time.Time `json:"startedDate,omitempty"`
	Ended     *time.Time `json:"finishedDate,omitempty"`
	Phase     string     `json:"phase,omitempty"`
	Batch     int        `json:"batch"`
	Counts    Counts     `json:"counts"`
	// NotBefore is when it goes on, where it waits.
	NotBefore *time.Time `json:"waitingUntil,omitempty"`
	// Try is nil unless it is sending something.
	Try       *Try   `json:"try,omitempty"`
	ErrorCode string `json:"errorCode,omitempty"`
	Message   string `json:"message,omitempty"`
	Hint      string `json:"hint,omitempty"`
}

func (Run) required() []string { return []string{"id", "status"} }

// Try is how far a run is with what it is sending.
type Try struct {
	// Number counts the tries so far; there are Of at the most.
	Number int `json:"number"`
	Of     int `json:"of"`
	// LastCode is what the last one failed with; empty if none has.
	LastCode string `json:"lastCode,omitempty"`
}

// Finished tells whether nothing more will happen.
func (r Run) Finished() bool {
	return r.Status == Completed || r.Status == CompletedWithWarnings || r.Status == Failed
}

// Counts are what became of the offers of a run.
type Counts struct {
	Batches     int `json:"batches"`
	Requests    int `json:"requests"`
	Retries     int `json:"retries"`
	Sent        int `json:"sent"`
	Refreshed   int `json:"refreshed"`
	Removed     int `json:"removed"`
	Kept        int `json:"kept"`
	NotAccepted int `json:"notAccepted"`
	Quarantined int `json:"quarantined"`
	// Overtaken are those of Kept that were to be replaced.
	Overtaken     int `json:"overtaken"`
	Anomalies     int `json:"anomalies"`
	MailUncertain int `json:"mailUncertain"`
}

// Offers is how many the run is through with.
func (c Counts) Offers() int {
	return c.Sent + c.Refreshed + c.Removed + c.Kept + c.NotAccepted + c.Quarantined
}

// Offer is an offer of a free Families organisation.
type Offer struct {
	ID             string      `json:"id"`
	Member         string      `json:"sponsoringOrganizationUserId"`
	Email          string      `json:"offeredToEmail"`
	Name           string      `json:"friendlyName"`
	AdminInitiated bool        `json:"isAdminInitiated"`
	Status         OfferStatus `json:"status"`
	LastSync       *time.Time  `json:"lastSyncDate"`
	ValidUntil     *time.Time  `json:"validUntil"`
	ToDelete       bool        `json:"toDelete"`
	Created        *time.Time  `json:"creationDate"`
	Outcome        string      `json:"lastOutcome"`
	Problem        string      `json:"lastError"`
	Quarantined    string      `json:"quarantined"`
	MailUncertain  bool        `json:"mailUncertain"`
}

func (Offer) required() []string { return []string{"id", "status"} }

// removedMember is how many offers of one were revoked.
type removedMember struct {
	Revoked int `json:"revokedOffers"`
}

func (removedMember) required() []string { return []string{"revokedOffers"} }

// OfferStatus is a name for programs, and what official clients show.
type OfferStatus struct {
	Key   string `json:"key"`
	Label string `json:"label"`
}

// Licence is the installed one.
type Licence struct {
	Organization string         `json:"organizationId"`
	Values       *LicenceValues `json:"license"`
	// UsableUntil is nil where it never ends.
	UsableUntil *time.Time `json:"usableUntil"`
	// Problem is why it cannot be used now; nil if it can.
	Problem   *Problem   `json:"problem"`
	Source    string     `json:"source"`
	Installed *time.Time `json:"installedDate"`
	// LastSync is nil for "Never".
	LastSync *time.Time    `json:"lastLicenseSync"`
	Check    *LicenceCheck `json:"lastCheck"`
	// Usage is what licences are checked against; nil where it was never told.
	Usage *Usage `json:"usage"`
}

func (Licence) required() []string { return []string{"organizationId", "source"} }

// LicenceValues are some of a licence, by the names of licence files.
type LicenceValues struct {
	ID      string `json:"Id"`
	Name    string
	Plan    string
	Seats   *int
	Version int
	Issued  *time.Time
	Expires *time.Time
}

// Problem is a failure with what to do about it.
type Problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

// LicenceCheck is what a comparison with the cloud's licence found.
type LicenceCheck struct {
	At time.Time `json:"date"`
	// Changed are the names of what differs.
	Changed []string `json:"changed"`
	// Code is empty unless the check failed.
	Code    string `json:"code,omitempty"`
	Applied bool   `json:"applied"`
}

func (LicenceCheck) required() []string { return []string{"date"} }
