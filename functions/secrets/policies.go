package secrets

import (
	"maps"
	"slices"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

// policyRequest is all policies on one secret itself.
type policyRequest struct {
	Users    []grantRequest `json:"userAccessPolicyRequests"`
	Groups   []grantRequest `json:"groupAccessPolicyRequests"`
	Accounts []grantRequest `json:"serviceAccountAccessPolicyRequests"`
}

type grantRequest struct {
	GranteeID string `json:"granteeId"`
	Read      bool   `json:"read"`
	Write     bool   `json:"write"`
}

// parse gives the policies; nil where there is nothing to change.
func (p *policyRequest) parse() (*secret.Policies, error) {
	if p == nil {
		return nil, nil
	}
	for i, grant := range p.Accounts {
		ids, err := smapi.IDs([]string{grant.GranteeID})
		if err != nil {
			return nil, err
		}
		p.Accounts[i].GranteeID = ids[0]
	}
	var (
		policies secret.Policies
		err      error
	)
	for _, list := range []struct {
		grants []grantRequest
		into   *map[string]machine.Rights
	}{{p.Users, &policies.People.Users}, {p.Groups, &policies.People.Groups}, {p.Accounts, &policies.Accounts}} {
		if *list.into, err = rights(list.grants); err != nil {
			return nil, err
		}
	}
	return &policies, nil
}

func rights(grants []grantRequest) (map[string]machine.Rights, error) {
	byID := map[string]machine.Rights{}
	for _, grant := range grants {
		if _, twice := byID[grant.GranteeID]; twice {
			return nil, machine.Invalid("Resources must be unique")
		}
		if !grant.Read {
			return nil, machine.Invalid("Resources must be Read = true")
		}
		byID[grant.GranteeID] = machine.Rights{Read: true, Write: grant.Write}
	}
	return byID, nil
}

type policiesAnswer struct {
	Users    []userPolicy    `json:"userAccessPolicies"`
	Groups   []groupPolicy   `json:"groupAccessPolicies"`
	Accounts []accountPolicy `json:"serviceAccountAccessPolicies"`
	Object   string          `json:"object"`
}

type userPolicy struct {
	ID      string `json:"organizationUserId"`
	Name    string `json:"organizationUserName"`
	Current bool   `json:"currentUser"`
	Read    bool   `json:"read"`
	Write   bool   `json:"write"`
}

type groupPolicy struct {
	ID      string `json:"groupId"`
	Name    string `json:"groupName"`
	Current bool   `json:"currentUserInGroup"`
	Read    bool   `json:"read"`
	Write   bool   `json:"write"`
}

type accountPolicy struct {
	ID    string `json:"serviceAccountId"`
	Name  string `json:"serviceAccountName"`
	Read  bool   `json:"read"`
	Write bool   `json:"write"`
}

// getPolicies names users and groups by their ids: there is no directory here.
func (h *handler) getPolicies(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	a, holders, err := h.secrets.Policies(r.Context(), r.Caller, id)
	if err != nil {
		return nil, err
	}
	answer := policiesAnswer{Users: []userPolicy{}, Groups: []groupPolicy{}, Accounts: []accountPolicy{}, Object: "secretAccessPolicies"}
	for _, id := range slices.Sorted(maps.Keys(holders.People.Users)) {
		has := holders.People.Users[id]
		answer.Users = append(answer.Users, userPolicy{id, id, id == a.Subject(), has.Read, has.Write})
	}
	for _, id := range slices.Sorted(maps.Keys(holders.People.Groups)) {
		has := holders.People.Groups[id]
		answer.Groups = append(answer.Groups, groupPolicy{id, id, slices.Contains(a.Groups(), id), has.Read, has.Write})
	}
	for _, holder := range holders.Accounts {
		answer.Accounts = append(answer.Accounts, accountPolicy{holder.ID, holder.Name, holder.Read, holder.Write})
	}
	return answer, nil
}
