package sponsor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Codes of failures of licences that only an installation can have.
const (
	CodeLicenceMissing = "license_missing"
	CodeLicenceInUse   = "license_in_use"
	CodeLicenceOther   = "license_of_another_organization"
	CodeNoCertificate  = "license_certificate_missing"
)

// The official server's texts.
const (
	licenceInUse         = "License is already in use by another organization vault."
	commDisabledLicences = "Cloud communication is disabled in global settings"
)

// Sources of licences.
const (
	FromCloud     = "cloud"
	FromUpload    = "upload"
	FromDirectory = "directory"
)

// Licence is an organisation's installed licence.
type Licence struct {
	Organization string
	// Values are the licence's; they are there when it has expired, too.
	Values *licence.Licence
	// UsableUntil is the zero time if it never expires.
	UsableUntil time.Time
	// Problem is why it cannot be used now; nil if it can.
	Problem *Failure
	// Source is where it came from, and Installed when.
	Source    string
	Installed time.Time
	// LastSync is when it last came from the cloud; nil is "Never".
	LastSync *time.Time
	// HasPrevious: the one before it is kept.
	HasPrevious bool
	Check       *LicenceCheck
	// Used is what the organisation uses. Nil: that was never told, and a licence
	// is not checked against it.
	Used *Usage
}

// LicenceCheck is what a comparison with the cloud's licence found.
type LicenceCheck struct {
	At time.Time `json:"at"`
	// Changed are the names of what differs.
	Changed []string `json:"changed,omitempty"`
	// Code is empty unless the check failed.
	Code    string `json:"code,omitempty"`
	Applied bool   `json:"applied,omitempty"`
}

// installed is a licence as it is stored. Its look-up value is a digest of the
// license key, which no two organisations may share.
type installed struct {
	Sealed   []byte `json:"sealed"`
	Previous []byte `json:"previous,omitempty"`
	// Unfinished: the connection does not know of it yet.
	Unfinished        bool          `json:"unfinished,omitempty"`
	CloudOrganization string        `json:"cloudOrganization"`
	Enterprise        bool          `json:"enterprise,omitempty"`
	AdminOffers       bool          `json:"adminOffers,omitempty"`
	Seats             *int          `json:"seats,omitempty"`
	Source            string        `json:"source"`
	Installed         time.Time     `json:"installed"`
	LastSync          *time.Time    `json:"lastSync,omitempty"`
	Check             *LicenceCheck `json:"check,omitempty"`
}

func documentOf(organization string) keyring.Subject {
	return keyring.Subject{Collection: "licences", ID: organization, Field: "document"}
}

// fromLicence makes a failure of what the licence package says.
func fromLicence(err error) error {
	e, ok := errors.AsType[*licence.Error](err)
	if !ok {
		return err
	}
	return &Failure{Code: string(e.Code), Message: e.Text, Hint: e.Detail, Class: fault.Invalid, cause: err}
}

func noCertificate() error {
	return &Failure{
		Code: CodeNoCertificate, Message: "This server has no certificate to verify licenses with.", Class: fault.Unsupported,
		Hint: "set " + config.Prefix + "LICENSE_CERTIFICATE_FILE to licensing.cer, which the vendor publishes with its server",
	}
}

// authenticate reads a document and verifies its signature.
func (s *Sync) authenticate(document []byte, form licence.Form) (*licence.Authentic, error) {
	if s.trust == nil {
		return nil, noCertificate()
	}
	parsed, err := licence.Parse(document, form)
	if err != nil {
		return nil, fromLicence(err)
	}
	authentic, err := s.trust.Authenticate(parsed)
	if err != nil {
		return nil, fromLicence(err)
	}
	return authentic, nil
}

// installedRecord gives what is installed, after finishing what somebody who was
// stopped had begun. An error of class NotFound: there is none.
func (s *Sync) installedRecord(ctx context.Context, organization string) (store.Record[installed], error) {
	r, err := s.licences.Get(ctx, organization)
	if err != nil || !r.Value.Unfinished {
		return r, err
	}
	if err := s.finishInstall(ctx, &r); err != nil {
		return r, fmt.Errorf("finish the installation of a licence: %w", err)
	}
	return r, nil
}

// installedLicence gives what is installed; nil if there is nothing.
func (s *Sync) installedLicence(ctx context.Context, organization string) (*installed, error) {
	r, err := s.installedRecord(ctx, organization)
	if fault.Of(err) == fault.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &r.Value, nil
}

// openLicence gives a stored document, verified anew.
func (s *Sync) openLicence(ctx context.Context, r store.Record[installed]) (*licence.Authentic, error) {
	document, err := s.ring.Open(ctx, documentOf(r.ID), r.Value.Sealed)
	if err != nil {
		return nil, fmt.Errorf("licence: %w", err)
	}
	return s.authenticate(document, licence.Wire)
}

// licenceForConnection gives a licence that can be used now. Where none is
// installed it is taken over from the licence directory.
func (s *Sync) licenceForConnection(ctx context.Context, organization string) (*installed, error) {
	r, err := s.installedRecord(ctx, organization)
	if fault.Of(err) == fault.NotFound {
		return s.takeOver(ctx, organization)
	}
	if err != nil {
		return nil, err
	}
	authentic, err := s.openLicence(ctx, r)
	if err == nil {
		err = fromLicence(authentic.CheckUse(s.settings.InstallationID, s.now()))
	}
	if err != nil {
		return nil, unverified(err)
	}
	return &r.Value, nil
}

// takeOver installs the licence that an official server has in its directory.
func (s *Sync) takeOver(ctx context.Context, organization string) (*installed, error) {
	missing := &Failure{
		Code: CodeLicenceMissing, Message: cannotVerify, Class: fault.Invalid,
		Hint: "there is none: upload the license that the cloud's web vault gives for this installation",
	}
	if s.settings.LicenseDirectory == "" {
		return nil, missing
	}
	file, err := os.Open(filepath.Join(s.settings.LicenseDirectory, "organization", organization+".json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, missing
	}
	if err != nil {
		return nil, fmt.Errorf("licence directory: %w", err)
	}
	defer file.Close()
	document, err := io.ReadAll(io.LimitReader(file, licence.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("licence directory: %w", err)
	}
	r, err := s.install(ctx, installation{organization: organization, document: document, form: licence.Stored, source: FromDirectory})
	if err != nil {
		return nil, unverified(err)
	}
	return &r.Value, nil
}

// unverified says in the official server's words that there is no licence to
// connect with, and keeps the cause's code.
func unverified(err error) error {
	cause, ok := AsFailure(err)
	if !ok {
		return err
	}
	if cause.Code == string(licence.VersionUnsupported) {
		return err
	}
	return &Failure{Code: cause.Code, Message: cannotVerify, Hint: strings.TrimSuffix(cause.Message, ".") + hinted(cause.Hint), Class: cause.Class, cause: err}
}

func hinted(hint string) string {
	if hint == "" {
		return ""
	}
	return ": " + hint
}

// Upload is a licence that somebody wants installed.
type Upload struct {
	Organization string
	Document     []byte
	// Force installs one that is older than the installed one, or of another
	// organisation of the cloud than the one that the connection is of, or that
	// may know offers.
	Force bool
}

// UploadLicence verifies a licence and installs it.
func (s *Sync) UploadLicence(ctx context.Context, u Upload) (Licence, error) {
	organization, err := guid(u.Organization)
	if err != nil {
		return Licence{}, err
	}
	r, err := s.install(ctx, installation{organization: organization, document: u.Document, form: licence.Wire, source: FromUpload, force: u.Force})
	if err != nil {
		return Licence{}, err
	}
	return s.viewLicence(ctx, r)
}

// SyncLicence fetches the organisation's licence from the cloud and installs
// it. It is what somebody asks for: no schedule does.
func (s *Sync) SyncLicence(ctx context.Context, organization string) (Licence, error) {
	organization, err := guid(organization)
	if err != nil {
		return Licence{}, err
	}
	document, err := s.fetchLicence(ctx, organization)
	if err != nil {
		return Licence{}, err
	}
	r, err := s.install(ctx, installation{organization: organization, document: document, form: licence.Wire, source: FromCloud})
	if err != nil {
		return Licence{}, err
	}
	return s.viewLicence(ctx, r)
}

// licenceTries is how often the cloud is asked for a licence by one wish.
const licenceTries = 3

func (s *Sync) fetchLicence(ctx context.Context, organization string) ([]byte, error) {
	r, err := s.installedRecord(ctx, organization)
	if fault.Of(err) == fault.NotFound {
		return nil, &Failure{Code: CodeLicenceMissing, Message: "No license is installed.", Hint: "upload the license that the cloud's web vault gives for this installation", Class: fault.Invalid}
	}
	if err != nil {
		return nil, err
	}
	at, err := s.target(ctx, organization)
	if f, ok := AsFailure(err); ok && f.Code == string(cloud.CommDisabled) {
		f.Message = commDisabledLicences
	}
	if err != nil {
		return nil, err
	}
	// One that has expired is good enough to ask for its successor.
	current, err := s.openLicence(ctx, r)
	if err != nil {
		return nil, unverified(err)
	}
	for try := 1; ; try++ {
		document, err := s.cloud.License(ctx, cloud.LicenseRequest{
			CloudOrganizationID: at.cloudOrganization, LicenseKey: config.Secret(current.LicenseKey), BillingSyncKey: at.key,
		})
		e, ok := errors.AsType[*cloud.Error](err)
		switch {
		case err == nil:
			return document, nil
		case !ok:
			return nil, err
		case !e.Retryable() || try == licenceTries:
			return nil, fromCloud(e)
		}
		s.count(ctx, MetricRetries, 1, map[string]string{"code": string(e.Code)})
		wait := max(s.backoff(try), e.RetryAfter)
		if deadline, ok := ctx.Deadline(); ok && deadline.Sub(s.now()) < wait+s.settings.RequestTimeout {
			return nil, fromCloud(e)
		}
		if err := s.waiter.Wait(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// installation is a licence on its way into the store.
type installation struct {
	organization string
	document     []byte
	form         licence.Form
	source       string
	force        bool
}

// install verifies a licence and puts it in the place of the one before, which
// is kept. Who is stopped in between leaves an unfinished record, which whoever
// reads it finishes.
func (s *Sync) install(ctx context.Context, i installation) (store.Record[installed], error) {
	var none store.Record[installed]
	authentic, err := s.authenticate(i.document, i.form)
	if err != nil {
		return none, err
	}
	if err := authentic.CheckUse(s.settings.InstallationID, s.now()); err != nil {
		return none, fromLicence(err)
	}
	if err := s.checkFit(ctx, i.organization, &authentic.Licence); err != nil {
		return none, err
	}
	// Also one that somebody did not finish, and perhaps cannot.
	before, err := s.licences.Get(ctx, i.organization)
	exists := fault.Of(err) != fault.NotFound
	if err != nil && exists {
		return none, err
	}
	if exists && !i.force {
		if err := s.checkSuccessor(ctx, before, &authentic.Licence); err != nil {
			return none, err
		}
	}
	if err := s.claimLicence(ctx, licenceDigest(authentic.LicenseKey), i.organization); err != nil {
		return none, err
	}
	return s.place(ctx, i, authentic, before)
}

// place puts an organisation's licence in the place of the one before, which has
// no revision if there is none.
func (s *Sync) place(ctx context.Context, i installation, authentic *licence.Authentic, before store.Record[installed]) (store.Record[installed], error) {
	var none store.Record[installed]
	exists := before.Revision != 0
	next := store.Record[installed]{ID: i.organization, Lookup: licenceDigest(authentic.LicenseKey), Value: installed{
		Unfinished: true, CloudOrganization: authentic.Id, Enterprise: authentic.Enterprise(), AdminOffers: authentic.UseAdminSponsoredFamilies,
		Seats: authentic.Seats, Source: i.source, Installed: s.now().UTC(), LastSync: before.Value.LastSync, Previous: before.Value.Sealed,
	}}
	if i.source == FromCloud {
		next.Value.LastSync = pointer(s.now().UTC())
	}
	var err error
	if next.Value.Sealed, err = s.ring.Seal(ctx, documentOf(i.organization), i.document); err != nil {
		return none, err
	}
	pre := store.Absent()
	if exists {
		pre = store.AtRevision(before.Revision)
	}
	if next.Revision, err = s.licences.Put(ctx, next, pre); err != nil {
		if fault.Of(err) == fault.Conflict {
			return none, &machine.Problem{Class: fault.Conflict, Message: "Somebody else has just installed a license. Try again."}
		}
		return none, err
	}
	if err := s.tellConnection(ctx, next); err != nil {
		s.rollBack(ctx, next, before, exists)
		return none, fmt.Errorf("install a licence: %w", err)
	}
	// From here on it is the one: whoever reads it next finishes what fails now.
	if err := s.settleInstall(ctx, &next); err != nil {
		return none, fmt.Errorf("install a licence: %w", err)
	}
	return next, nil
}

// finishInstall tells the connection, and then the record.
func (s *Sync) finishInstall(ctx context.Context, r *store.Record[installed]) error {
	if err := s.tellConnection(ctx, *r); err != nil {
		return err
	}
	return s.settleInstall(ctx, r)
}

// tellConnection has the connection be of the licence's organisation of the
// cloud, unless somebody else here has claimed the licence.
func (s *Sync) tellConnection(ctx context.Context, r store.Record[installed]) error {
	if err := s.ownsLicence(ctx, r.Lookup, r.ID); err != nil {
		return err
	}
	_, err := s.connections.Update(ctx, r.ID, func(c *store.Record[connection]) error {
		if c.Value.CloudOrganization == r.Value.CloudOrganization {
			return store.ErrUnchanged
		}
		c.Value.CloudOrganization = r.Value.CloudOrganization
		return nil
	})
	if fault.Of(err) == fault.NotFound {
		return nil
	}
	return err
}

// settleInstall notes that the connection knows.
func (s *Sync) settleInstall(ctx context.Context, r *store.Record[installed]) error {
	done := *r
	done.Value.Unfinished = false
	revision, err := s.licences.Put(ctx, done, store.AtRevision(r.Revision))
	if fault.Of(err) == fault.Conflict {
		// Somebody else has finished it, or put another in its place.
		*r, err = s.licences.Get(ctx, r.ID)
		return err
	}
	if err != nil {
		return err
	}
	done.Revision = revision
	*r = done
	return nil
}

// rollBack puts the licence before back, unfinished: that the connection's write
// failed does not say that it was not written. Where this fails too, whoever
// reads next finishes the installation.
func (s *Sync) rollBack(ctx context.Context, failed, before store.Record[installed], existed bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	var err error
	if existed {
		before.Value.Unfinished = true
		_, err = s.licences.Put(ctx, before, store.AtRevision(failed.Revision))
	} else {
		err = s.licences.Delete(ctx, failed.ID, store.AtRevision(failed.Revision))
	}
	if err != nil {
		s.logger.WarnContext(ctx, "an installation of a licence that failed could not be undone, and will be finished",
			slog.String("organization", failed.ID), slog.String("error", err.Error()))
	}
}

// checkSuccessor refuses a licence that is older than the installed one, or of
// another organisation of the cloud than the offers went to.
func (s *Sync) checkSuccessor(ctx context.Context, before store.Record[installed], next *licence.Licence) error {
	if before.Value.CloudOrganization != next.Id {
		bound, err := s.isBound(ctx, before.ID, next.Id)
		if err != nil {
			return err
		}
		if bound {
			return &Failure{
				Code: CodeLicenceOther, Message: "The license is of another organization of the cloud than the one that offers are synced with.",
				Hint: "force it if that is meant: what that one has of the offers stays there as it is, and going back to it later is not supported", Class: fault.Invalid,
			}
		}
	}
	current, err := s.openLicence(ctx, before)
	if _, broken := AsFailure(err); broken {
		return nil // one that cannot be read is not newer than anything
	}
	if err != nil {
		return err
	}
	if err := licence.CheckNewer(&current.Licence, next); err != nil {
		return fromLicence(err)
	}
	return nil
}

// isBound tells whether an organisation is connected, or has an offer that
// another organisation of the cloud may know.
func (s *Sync) isBound(ctx context.Context, organization, cloudOrganization string) (bool, error) {
	_, err := s.connections.Get(ctx, organization)
	if fault.Of(err) != fault.NotFound {
		return err == nil, err
	}
	for r, err := range s.offers.ByParent(ctx, organization) {
		if err != nil {
			return false, err
		}
		if r.Value.FirstAttempt != nil && !strings.EqualFold(r.Value.CloudOrganization, cloudOrganization) {
			return true, nil
		}
	}
	return false, nil
}

// Licence shows the installed licence, also one that has expired. NotFound if
// there is none.
func (s *Sync) Licence(ctx context.Context, organization string) (Licence, error) {
	organization, err := guid(organization)
	if err != nil {
		return Licence{}, err
	}
	r, err := s.installedRecord(ctx, organization)
	if fault.Of(err) == fault.NotFound {
		return Licence{}, machine.NotFound()
	}
	if err != nil {
		return Licence{}, err
	}
	return s.viewLicence(ctx, r)
}

func (s *Sync) viewLicence(ctx context.Context, r store.Record[installed]) (Licence, error) {
	v := Licence{
		Organization: r.ID, Source: r.Value.Source, Installed: r.Value.Installed, LastSync: r.Value.LastSync,
		HasPrevious: r.Value.Previous != nil, Check: r.Value.Check,
	}
	var err error
	if v.Used, err = s.used(ctx, r.ID); err != nil {
		return Licence{}, err
	}
	authentic, err := s.openLicence(ctx, r)
	if err == nil {
		v.Values, v.UsableUntil = &authentic.Licence, authentic.UsableUntil()
		err = fromLicence(authentic.CheckUse(s.settings.InstallationID, s.now()))
	}
	if err != nil {
		f, ok := AsFailure(err)
		if !ok {
			return Licence{}, err
		}
		v.Problem = f
	}
	return v, nil
}

// CheckLicence compares the installed licence with the cloud's, and installs
// that only with apply.
func (s *Sync) CheckLicence(ctx context.Context, organization string, apply bool) (LicenceCheck, error) {
	organization, err := guid(organization)
	if err != nil {
		return LicenceCheck{}, err
	}
	check, document, err := s.compareLicence(ctx, organization)
	if err == nil && apply && len(check.Changed) > 0 {
		_, err = s.install(ctx, installation{organization: organization, document: document, form: licence.Wire, source: FromCloud})
		check.Applied = err == nil
	}
	if f, ok := AsFailure(err); ok {
		check.Code = f.Code
	} else if err != nil {
		return check, err
	}
	_, noteErr := s.licences.Update(ctx, organization, func(r *store.Record[installed]) error {
		r.Value.Check = &check
		return nil
	})
	if fault.Of(noteErr) == fault.NotFound {
		noteErr = nil
	}
	return check, errors.Join(err, noteErr)
}

func (s *Sync) compareLicence(ctx context.Context, organization string) (LicenceCheck, []byte, error) {
	check := LicenceCheck{At: s.now().UTC()}
	document, err := s.fetchLicence(ctx, organization)
	if err != nil {
		return check, nil, err
	}
	theirs, err := s.authenticate(document, licence.Wire)
	if err != nil {
		return check, nil, err
	}
	if err := theirs.CheckUse(s.settings.InstallationID, s.now()); err != nil {
		return check, nil, fromLicence(err)
	}
	r, err := s.installedRecord(ctx, organization)
	if err != nil {
		return check, nil, err
	}
	ours, err := s.openLicence(ctx, r)
	if err != nil {
		return check, nil, err
	}
	for _, change := range licence.Diff(&ours.Licence, &theirs.Licence) {
		check.Changed = append(check.Changed, change.Name)
	}
	return check, document, nil
}
