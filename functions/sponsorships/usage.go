package sponsorships

import (
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
)

type usageAnswer struct {
	sponsor.Usage
	Object string `json:"object"`
}

// usageRequest is what an organisation uses. Seats have to be told, so that an
// empty body does not say that there is nobody.
type usageRequest struct {
	licence.Usage
	Seats *int `json:"seats"`
}

func (h *handler) getUsage(r smapi.Request) (any, error) {
	organization, err := h.admin(r)
	if err != nil {
		return nil, err
	}
	u, err := h.sync.Usage(r.Context(), organization)
	return usageAnswer{u, "licenseUsage"}, err
}

// putUsage is for owners: a licence that what was told does not fit is not
// installed.
func (h *handler) putUsage(r smapi.Request) (string, any, error) {
	organization, err := h.owner(r, r.PathValue("org"))
	if err != nil {
		return "", nil, err
	}
	var body usageRequest
	if err := r.Read(&body); err != nil {
		return "", nil, err
	}
	if body.Seats == nil {
		return "", nil, machine.Fields{"Seats": {"The Seats field is required."}}.Problem()
	}
	body.Usage.Seats = *body.Seats
	u, err := h.sync.SetUsage(r.Context(), organization, body.Usage)
	return organization, usageAnswer{u, "licenseUsage"}, err
}
