package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// LicenseRequest says whose licence is wanted.
type LicenseRequest struct {
	CloudOrganizationID string
	LicenseKey          config.Secret
	BillingSyncKey      config.Secret
}

// License fetches an organisation's licence, bound to this installation. What
// it gives is a JSON object, not yet verified. The request is a GET with a
// body, which some proxies take away.
func (c *Client) License(ctx context.Context, r LicenseRequest) ([]byte, error) {
	if r.BillingSyncKey == "" {
		return nil, &Error{Code: KeyMissing, Stage: StageLicense, Detail: "there is no billing sync key", Hint: "paste the one that the cloud's web vault shows"}
	}
	id, err := uuid.Parse(r.CloudOrganizationID)
	if err != nil || id == uuid.Nil {
		return nil, fmt.Errorf("%w: the organisation's id in the cloud is no GUID", fault.Invalid)
	}
	body, err := json.Marshal(struct {
		LicenseKey     string `json:"licenseKey"`
		BillingSyncKey string `json:"billingSyncKey"`
	}{r.LicenseKey.Reveal(), r.BillingSyncKey.Reveal()})
	if err != nil {
		return nil, fmt.Errorf("%w: encode the wish for a licence: %w", fault.Invalid, err)
	}
	var license []byte
	err = c.callAPI(ctx, request{
		stage: StageLicense, scope: ScopeLicensing, method: http.MethodGet,
		url: c.api.JoinPath("licenses", "organization", id.String()), body: body,
		contentType: "application/json", secrets: []string{r.BillingSyncKey.Reveal(), r.LicenseKey.Reveal()},
		decode: func(data []byte) error {
			var object map[string]json.RawMessage
			if err := decodeJSON(data, &object); err != nil {
				return err
			}
			if object == nil {
				return errors.New("the answer is null")
			}
			license = data
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return license, nil
}
