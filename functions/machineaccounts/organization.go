package machineaccounts

import (
	"encoding/json"
	"time"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

type organizationAnswer struct {
	OrganizationID          string     `json:"organizationId"`
	KeyCheck                *string    `json:"keyCheck"`
	MaxTokenLifetimeSeconds *int64     `json:"maxTokenLifetimeSeconds"`
	Enabled                 bool       `json:"enabled"`
	CreationDate            *time.Time `json:"creationDate"`
	RevisionDate            *time.Time `json:"revisionDate"`
	Object                  string     `json:"object"`
}

func answerOrganization(id string, o machine.Organization) organizationAnswer {
	answer := organizationAnswer{
		OrganizationID: id, Enabled: o.Disabled == nil, Object: "secretsManagerSettings",
		CreationDate: optional(o.Created), RevisionDate: optional(o.Revised),
	}
	if o.KeyCheck != "" {
		answer.KeyCheck = &o.KeyCheck
	}
	if o.MaxTokenLifetime > 0 {
		whole := int64(o.MaxTokenLifetime / time.Second)
		answer.MaxTokenLifetimeSeconds = &whole
	}
	return answer
}

func (h *handler) getOrganization(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	settings, err := h.machines.Organization(r.Context(), a.Organization)
	if err != nil {
		return nil, err
	}
	return answerOrganization(a.Organization, settings), nil
}

type organizationRequest struct {
	KeyCheck                *string  `json:"keyCheck"`
	MaxTokenLifetimeSeconds lifetime `json:"maxTokenLifetimeSeconds"`
	Enabled                 *bool    `json:"enabled"`
}

// lifetime tells null, which takes the limit away, from a member that is absent.
type lifetime struct{ limit *time.Duration }

func (l *lifetime) UnmarshalJSON(text []byte) error {
	var n *int64
	if err := json.Unmarshal(text, &n); err != nil {
		return err
	}
	l.limit = new(time.Duration)
	if n != nil {
		*l.limit = seconds(*n)
	}
	return nil
}

func (h *handler) putOrganization(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	if !a.IsAdmin() {
		return nil, machine.NotFound()
	}
	var body organizationRequest
	if err := r.Read(&body); err != nil {
		return nil, err
	}
	settings, err := h.machines.EditOrganization(r.Context(), a, machine.OrganizationEdit{
		KeyCheck: body.KeyCheck, MaxTokenLifetime: body.MaxTokenLifetimeSeconds.limit, Enabled: body.Enabled,
	})
	if err != nil {
		return nil, err
	}
	return answerOrganization(a.Organization, settings), nil
}
