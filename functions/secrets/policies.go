package secrets

import (
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

// policyRequest is all policies on one secret itself.
type policyRequest struct {
	smapi.PeopleRequest
	Accounts []smapi.PolicyRequest `json:"serviceAccountAccessPolicyRequests"`
}

// parse gives the policies; nil where there is nothing to change.
func (p *policyRequest) parse() (*secret.Policies, error) {
	if p == nil {
		return nil, nil
	}
	people, err := p.PeopleRequest.Read()
	if err != nil {
		return nil, err
	}
	accounts, err := smapi.RightsOf(p.Accounts, smapi.PolicyRequest.Account)
	if err != nil {
		return nil, err
	}
	return &secret.Policies{People: people, Accounts: accounts}, nil
}

type policiesAnswer struct {
	smapi.People
	Accounts []smapi.AccountPolicy `json:"serviceAccountAccessPolicies"`
	Object   string                `json:"object"`
}

func (h *handler) getPolicies(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	a, holders, err := h.secrets.Policies(r.Context(), r.Caller, id)
	if err != nil {
		return nil, err
	}
	return policiesAnswer{smapi.NewPeople(a, holders.People), smapi.NewAccountPolicies(holders.Accounts), "secretAccessPolicies"}, nil
}
