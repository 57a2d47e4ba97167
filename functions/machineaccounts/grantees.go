package machineaccounts

import (
	"maps"
	"slices"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

// Potential grantees are whom, or what, a policy can name. There is no directory
// of users here: of people, the caller and those are known whom a policy on a
// project or an account of the organisation names already. Others can be given a
// policy by their ids all the same. Policies on single secrets are not searched;
// there can be very many.

type grantee struct {
	ID                 string  `json:"id"`
	Name               string  `json:"name"`
	Type               string  `json:"type"`
	Email              *string `json:"email"`
	CurrentUser        bool    `json:"currentUser"`
	CurrentUserInGroup bool    `json:"currentUserInGroup"`
	Object             string  `json:"object"`
}

func newGrantee(kind, id, name string) grantee {
	return grantee{ID: id, Name: name, Type: kind, Object: "potentialGrantee"}
}

func (h *handler) potentialPeople(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	users, groups := map[string]bool{a.Subject(): true}, map[string]bool{}
	for _, group := range a.Groups() {
		groups[group] = true
	}
	note := func(people machine.People) {
		for id := range people.Users {
			users[id] = true
		}
		for id := range people.Groups {
			groups[id] = true
		}
	}
	for account, err := range h.machines.Accounts(r.Context(), a.Organization) {
		if err != nil {
			return nil, err
		}
		note(account.Value.People)
	}
	for project, err := range h.secrets.Projects(r.Context(), a.Organization) {
		if err != nil {
			return nil, err
		}
		note(project.Value.People)
	}
	var grantees []grantee
	for _, id := range slices.Sorted(maps.Keys(users)) {
		g := newGrantee("user", id, id)
		g.CurrentUser = id == a.Subject()
		grantees = append(grantees, g)
	}
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		g := newGrantee("group", id, id)
		g.CurrentUserInGroup = slices.Contains(a.Groups(), id)
		grantees = append(grantees, g)
	}
	return smapi.NewList(grantees), nil
}

func (h *handler) potentialAccounts(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	var grantees []grantee
	for account, err := range h.machines.Accounts(r.Context(), a.Organization) {
		if err != nil {
			return nil, err
		}
		if a.Account(account.Value.People).Write {
			grantees = append(grantees, newGrantee("serviceAccount", account.ID, account.Value.Name))
		}
	}
	return smapi.NewList(grantees), nil
}

func (h *handler) potentialProjects(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	var grantees []grantee
	for project, err := range h.secrets.Projects(r.Context(), a.Organization) {
		if err != nil {
			return nil, err
		}
		if a.Project(project.ID, project.Value.People).Write {
			grantees = append(grantees, newGrantee("project", project.ID, project.Value.Name))
		}
	}
	return smapi.NewList(grantees), nil
}
