package cloud

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// unpaid are the states of a subscription for which there is no licence.
var unpaid = []string{"canceled", "incomplete", "incomplete_expired"}

const paymentIssue = "Unable to generate license due to a payment issue. Please update your billing information or contact support for assistance."

// License makes a licence as the API would give it to an installation, whatever
// the state of both. NotFound where there is no such organisation.
func (c *Cloud) License(organizationID, installationID string) ([]byte, error) {
	o, err := c.Organization(organizationID)
	if err != nil {
		return nil, err
	}
	return c.makeLicense(o, installationID, o.License)
}

func (c *Cloud) makeLicense(o Organization, installation string, settings LicenseSettings) ([]byte, error) {
	now := c.Now()
	o.License = settings
	l, err := (&organization{Organization: o}).newLicence(strings.ToLower(installation), now)
	if err != nil {
		return nil, err
	}
	key := c.licences
	if settings.Stranger {
		key = c.tokens.key // good for tokens, and for no licence
	}
	if err := (licenceSigner{key, settings, now}).sign(l); err != nil {
		return nil, err
	}
	document, err := json.Marshal(l.document())
	if err != nil {
		return nil, fmt.Errorf("%w: encode the licence: %w", fault.Invalid, err)
	}
	return document, nil
}

type licenceRequest struct {
	LicenseKey     *string `json:"licenseKey"`
	BillingSyncKey *string `json:"billingSyncKey"`
}

// license is the licence for an installation (§4.3): a GET with a body.
func (j *job) license() answer {
	var request licenceRequest
	if err := decode(j.body, &request); err != nil {
		return bindingError(err)
	}
	o, err := j.cloud.Organization(j.values["id"])
	if err != nil {
		return notFound()
	}
	if request.LicenseKey == nil || *request.LicenseKey != o.LicenseKey {
		if j.wait(passwordDelay) != nil {
			return closedConnection()
		}
		return refusal("Invalid license key.")
	}
	if refusal := (&organization{Organization: o}).checkSyncKey(request.BillingSyncKey); refusal != nil {
		return *refusal
	}
	return j.issue(o, j.caller.ClientSubject)
}

// downloadLicense is the licence that an owner downloads.
func (j *job) downloadLicense() answer {
	j.cloud.mu.Lock()
	o := j.owned()
	var copied Organization
	if o != nil {
		copied = o.Organization
	}
	j.cloud.mu.Unlock()
	if o == nil {
		return notFound()
	}
	return j.issue(copied, j.http.URL.Query().Get("installationId"))
}

// issue gives a licence of an organisation that may have one to an installation
// that may.
func (j *job) issue(o Organization, installation string) answer {
	c := j.cloud
	if i, err := c.Installation(installation); err != nil || i.Disabled {
		return refusal("Invalid installation id")
	}
	expired := o.Expiration == nil || o.Expiration.Before(c.Now())
	switch {
	case o.Subscription == NoSubscription && expired:
		return refusal("No active subscription found.")
	case slices.Contains(unpaid, o.Subscription):
		return refusal(paymentIssue)
	}
	settings := o.License
	if j.fault != nil && j.fault.Action == NotYetValid {
		settings.NotBeforeSeconds = int(orElse(j.fault.For(), validIn) / time.Second)
	}
	document, err := c.makeLicense(o, installation, settings)
	if err != nil {
		return serverError()
	}
	return jsonAnswer(http.StatusOK, json.RawMessage(document))
}
