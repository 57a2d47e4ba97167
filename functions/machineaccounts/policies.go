package machineaccounts

import (
	"context"
	"maps"
	"slices"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// missing is the problem of a list that is not there at all. It would replace
// every policy by none.
func missing(name string) error {
	return machine.Fields{name: {"The " + name + " field is required."}}.Problem()
}

func readPeople(r smapi.Request) (machine.People, error) {
	var body smapi.PeopleRequest
	if err := r.Read(&body); err != nil {
		return machine.People{}, err
	}
	if body.Users == nil && body.Groups == nil {
		return machine.People{}, missing("userAccessPolicyRequests")
	}
	return body.Read()
}

type peopleAnswer struct {
	smapi.People
	Object string `json:"object"`
}

func answerPeople(a machine.Access, people machine.People, object string) peopleAnswer {
	return peopleAnswer{smapi.NewPeople(a, people), object}
}

// Who may see the policies of something is who may change them.

const accountPeopleObject = "serviceAccountAccessPolicies"

func (h *handler) getAccountPeople(r smapi.Request) (any, error) {
	a, record, err := h.account(r, machine.ToWrite)
	if err != nil {
		return nil, err
	}
	return answerPeople(a, record.Value.People, accountPeopleObject), nil
}

func (h *handler) putAccountPeople(r smapi.Request) (any, error) {
	a, record, err := h.account(r, machine.ToWrite)
	if err != nil {
		return nil, err
	}
	people, err := readPeople(r)
	if err != nil {
		return nil, err
	}
	for _, of := range []map[string]machine.Rights{people.Users, people.Groups} {
		for _, rights := range of {
			if rights != machine.ToWrite {
				return nil, machine.Invalid("Machine account access must be Can read, write")
			}
		}
	}
	record, err = h.machines.SetAccountPeople(r.Context(), r.Caller, record.ID, people)
	if err != nil {
		return nil, err
	}
	return answerPeople(a, record.Value.People, accountPeopleObject), nil
}

// project is the one that the path names, for a caller who needs these rights.
func (h *handler) project(r smapi.Request, need machine.Rights) (machine.Access, store.Record[secret.Project], error) {
	id, err := r.ID("id")
	if err != nil {
		return machine.Access{}, store.Record[secret.Project]{}, err
	}
	record, err := h.secrets.Project(r.Context(), id)
	if err != nil {
		return machine.Access{}, store.Record[secret.Project]{}, err
	}
	a, err := r.Caller.In(record.Parent)
	if err != nil {
		return machine.Access{}, store.Record[secret.Project]{}, err
	}
	if !a.Project(id, record.Value.People).Cover(need) {
		return machine.Access{}, store.Record[secret.Project]{}, machine.NotFound()
	}
	return a, record, nil
}

// known is a project of an organisation, as its caller sees it.
type known struct {
	name string
	machine.Rights
}

// projects are all those of the caller's organisation, with the caller's rights.
func (h *handler) projects(ctx context.Context, a machine.Access) (map[string]known, error) {
	projects := map[string]known{}
	for record, err := range h.secrets.Projects(ctx, a.Organization) {
		if err != nil {
			return nil, err
		}
		projects[record.ID] = known{record.Value.Name, a.Project(record.ID, record.Value.People)}
	}
	return projects, nil
}

const projectPeopleObject = "projectPeopleAccessPolicies"

func (h *handler) getProjectPeople(r smapi.Request) (any, error) {
	a, record, err := h.project(r, machine.ToWrite)
	if err != nil {
		return nil, err
	}
	return answerPeople(a, record.Value.People, projectPeopleObject), nil
}

func (h *handler) putProjectPeople(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	people, err := readPeople(r)
	if err != nil {
		return nil, err
	}
	a, err := h.secrets.SetProjectPeople(r.Context(), r.Caller, id, people)
	if err != nil {
		return nil, err
	}
	return answerPeople(a, people, projectPeopleObject), nil
}

type projectAccountsAnswer struct {
	Policies []smapi.AccountPolicy `json:"serviceAccountAccessPolicies"`
	Object   string                `json:"object"`
}

func (h *handler) getProjectAccounts(r smapi.Request) (any, error) {
	a, record, err := h.project(r, machine.ToWrite)
	if err != nil {
		return nil, err
	}
	return h.answerProjectAccounts(r.Context(), a, record.ID)
}

func (h *handler) answerProjectAccounts(ctx context.Context, a machine.Access, project string) (any, error) {
	holders, err := h.machines.ProjectHolders(ctx, a.Organization, project)
	if err != nil {
		return nil, err
	}
	return projectAccountsAnswer{smapi.NewAccountPolicies(holders), "projectServiceAccountsAccessPolicies"}, nil
}

type projectAccountsRequest struct {
	Policies []smapi.PolicyRequest `json:"serviceAccountAccessPolicyRequests"`
}

func (h *handler) putProjectAccounts(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	var body projectAccountsRequest
	if err := r.Read(&body); err != nil {
		return nil, err
	}
	if body.Policies == nil {
		return nil, missing("serviceAccountAccessPolicyRequests")
	}
	want, err := smapi.RightsOf(body.Policies, smapi.PolicyRequest.Account)
	if err != nil {
		return nil, err
	}
	a, err := h.secrets.SetProjectAccounts(r.Context(), r.Caller, id, want)
	if err != nil {
		return nil, err
	}
	return h.answerProjectAccounts(r.Context(), a, id)
}

type grantedPolicy struct {
	AccessPolicy  grantedProjectPolicy `json:"accessPolicy"`
	HasPermission bool                 `json:"hasPermission"`
}

type grantedProjectPolicy struct {
	GrantedProjectID   string `json:"grantedProjectId"`
	GrantedProjectName string `json:"grantedProjectName"`
	Read               bool   `json:"read"`
	Write              bool   `json:"write"`
}

type grantedAnswer struct {
	Policies []grantedPolicy `json:"grantedProjectPolicies"`
	Object   string          `json:"object"`
}

// answerGranted says of each project whether the caller may change the policy.
// One that was deleted, and is about to be forgotten, is left out.
func answerGranted(account machine.Account, projects map[string]known) grantedAnswer {
	answer := grantedAnswer{Policies: []grantedPolicy{}, Object: "serviceAccountGrantedPolicies"}
	for _, id := range slices.Sorted(maps.Keys(account.Projects)) {
		project, exists := projects[id]
		if !exists {
			continue
		}
		rights := account.Projects[id]
		answer.Policies = append(answer.Policies, grantedPolicy{
			AccessPolicy:  grantedProjectPolicy{id, project.name, rights.Read, rights.Write},
			HasPermission: project.Write,
		})
	}
	return answer
}

func (h *handler) getGranted(r smapi.Request) (any, error) {
	a, record, err := h.account(r, machine.ToWrite)
	if err != nil {
		return nil, err
	}
	projects, err := h.projects(r.Context(), a)
	if err != nil {
		return nil, err
	}
	return answerGranted(record.Value, projects), nil
}

type grantedRequest struct {
	Policies []smapi.PolicyRequest `json:"projectGrantedPolicyRequests"`
}

func (h *handler) putGranted(r smapi.Request) (any, error) {
	a, record, err := h.account(r, machine.ToWrite)
	if err != nil {
		return nil, err
	}
	var body grantedRequest
	if err := r.Read(&body); err != nil {
		return nil, err
	}
	if body.Policies == nil {
		return nil, missing("projectGrantedPolicyRequests")
	}
	want, err := smapi.RightsOf(body.Policies, smapi.PolicyRequest.Granted)
	if err != nil {
		return nil, err
	}
	projects, err := h.projects(r.Context(), a)
	if err != nil {
		return nil, err
	}
	record, err = h.machines.SetAccountProjects(r.Context(), r.Caller, record.ID, want, func(id string, rights *machine.Rights) error {
		project, exists := projects[id]
		if gone := !exists && rights == nil; !gone && !project.Write {
			return machine.NotFound()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answerGranted(record.Value, projects), nil
}
