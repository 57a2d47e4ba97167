package smapi

import (
	"maps"
	"slices"

	"github.com/latchkey-fn/latchkey/shared/machine"
)

// PolicyRequest is one policy of a list. In granted-policies grantedId names
// what is granted; elsewhere granteeId names whom to.
type PolicyRequest struct {
	GranteeID string `json:"granteeId"`
	GrantedID string `json:"grantedId"`
	Read      bool   `json:"read"`
	Write     bool   `json:"write"`
}

// Person, Account and Granted give the id that a policy of such a list is about.
func (p PolicyRequest) Person() (string, error)  { return p.GranteeID, nil }
func (p PolicyRequest) Account() (string, error) { return idOf(p.GranteeID) }
func (p PolicyRequest) Granted() (string, error) { return idOf(p.GrantedID) }

func idOf(text string) (string, error) {
	ids, err := IDs([]string{text})
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

// RightsOf reads a list of policies, whose ids id gives.
func RightsOf(policies []PolicyRequest, id func(PolicyRequest) (string, error)) (map[string]machine.Rights, error) {
	rights := make(map[string]machine.Rights, len(policies))
	for _, policy := range policies {
		id, err := id(policy)
		if err != nil {
			return nil, err
		}
		if _, twice := rights[id]; twice {
			return nil, machine.Invalid("Resources must be unique")
		}
		rights[id] = machine.Rights{Read: policy.Read, Write: policy.Write}
	}
	for _, r := range rights {
		if !r.Read {
			return nil, machine.Invalid("Resources must be Read = true")
		}
	}
	return rights, nil
}

// PeopleRequest is the policies of people on one thing.
type PeopleRequest struct {
	Users  []PolicyRequest `json:"userAccessPolicyRequests"`
	Groups []PolicyRequest `json:"groupAccessPolicyRequests"`
}

// Read gives the policies.
func (p PeopleRequest) Read() (machine.People, error) {
	users, err := RightsOf(p.Users, PolicyRequest.Person)
	if err != nil {
		return machine.People{}, err
	}
	groups, err := RightsOf(p.Groups, PolicyRequest.Person)
	if err != nil {
		return machine.People{}, err
	}
	people := machine.People{Users: users, Groups: groups}
	return people, people.Check()
}

// People is the answer of the policies of people on one thing. Users and groups
// are named by their ids: there is no directory here.
type People struct {
	Users  []UserPolicy  `json:"userAccessPolicies"`
	Groups []GroupPolicy `json:"groupAccessPolicies"`
}

// UserPolicy and GroupPolicy are the policies in People.
type UserPolicy struct {
	OrganizationUserID   string `json:"organizationUserId"`
	OrganizationUserName string `json:"organizationUserName"`
	CurrentUser          bool   `json:"currentUser"`
	Read                 bool   `json:"read"`
	Write                bool   `json:"write"`
}

type GroupPolicy struct {
	GroupID            string `json:"groupId"`
	GroupName          string `json:"groupName"`
	CurrentUserInGroup bool   `json:"currentUserInGroup"`
	Read               bool   `json:"read"`
	Write              bool   `json:"write"`
}

// NewPeople makes the answer for one who asks.
func NewPeople(a machine.Access, people machine.People) People {
	answer := People{Users: []UserPolicy{}, Groups: []GroupPolicy{}}
	for _, id := range slices.Sorted(maps.Keys(people.Users)) {
		r := people.Users[id]
		answer.Users = append(answer.Users, UserPolicy{id, id, id == a.Subject(), r.Read, r.Write})
	}
	for _, id := range slices.Sorted(maps.Keys(people.Groups)) {
		r := people.Groups[id]
		answer.Groups = append(answer.Groups, GroupPolicy{id, id, slices.Contains(a.Groups(), id), r.Read, r.Write})
	}
	return answer
}

// AccountPolicy is the answer of a service account's policy on one thing.
type AccountPolicy struct {
	ServiceAccountID   string `json:"serviceAccountId"`
	ServiceAccountName string `json:"serviceAccountName"`
	Read               bool   `json:"read"`
	Write              bool   `json:"write"`
}

// NewAccountPolicies makes the answer of those who hold policies.
func NewAccountPolicies(holders []machine.Holder) []AccountPolicy {
	policies := make([]AccountPolicy, 0, len(holders))
	for _, holder := range holders {
		policies = append(policies, AccountPolicy{holder.ID, holder.Name, holder.Read, holder.Write})
	}
	return policies
}
