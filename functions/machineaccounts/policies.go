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

// policyRequest is one policy of a list. In granted-policies grantedId names
// what is granted; elsewhere granteeId names whom to.
type policyRequest struct {
	GranteeID string `json:"granteeId"`
	GrantedID string `json:"grantedId"`
	Read      bool   `json:"read"`
	Write     bool   `json:"write"`
}

func errNotUnique() error { return machine.Invalid("Resources must be unique") }

// rightsOf reads a list of policies, whose ids id gives.
func rightsOf(policies []policyRequest, id func(policyRequest) (string, error)) (map[string]machine.Rights, error) {
	rights := make(map[string]machine.Rights, len(policies))
	for _, policy := range policies {
		id, err := id(policy)
		if err != nil {
			return nil, err
		}
		if _, twice := rights[id]; twice {
			return nil, errNotUnique()
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

func uuidOf(text string) (string, error) {
	ids, err := smapi.IDs([]string{text})
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

func granteePerson(p policyRequest) (string, error)  { return p.GranteeID, nil }
func granteeAccount(p policyRequest) (string, error) { return uuidOf(p.GranteeID) }
func grantedProject(p policyRequest) (string, error) { return uuidOf(p.GrantedID) }

// missing is the problem of a list that is not there at all. It would replace
// every policy by none.
func missing(name string) error {
	return machine.Fields{name: {"The " + name + " field is required."}}.Problem()
}

type peopleRequest struct {
	Users  []policyRequest `json:"userAccessPolicyRequests"`
	Groups []policyRequest `json:"groupAccessPolicyRequests"`
}

func readPeople(r smapi.Request) (machine.People, error) {
	var body peopleRequest
	if err := r.Read(&body); err != nil {
		return machine.People{}, err
	}
	if body.Users == nil && body.Groups == nil {
		return machine.People{}, missing("userAccessPolicyRequests")
	}
	users, err := rightsOf(body.Users, granteePerson)
	if err != nil {
		return machine.People{}, err
	}
	groups, err := rightsOf(body.Groups, granteePerson)
	if err != nil {
		return machine.People{}, err
	}
	people := machine.People{Users: users, Groups: groups}
	return people, people.Check()
}

type userPolicy struct {
	OrganizationUserID   string `json:"organizationUserId"`
	OrganizationUserName string `json:"organizationUserName"`
	CurrentUser          bool   `json:"currentUser"`
	Read                 bool   `json:"read"`
	Write                bool   `json:"write"`
}

type groupPolicy struct {
	GroupID            string `json:"groupId"`
	GroupName          string `json:"groupName"`
	CurrentUserInGroup bool   `json:"currentUserInGroup"`
	Read               bool   `json:"read"`
	Write              bool   `json:"write"`
}

type peopleAnswer struct {
	Users  []userPolicy  `json:"userAccessPolicies"`
	Groups []groupPolicy `json:"groupAccessPolicies"`
	Object string        `json:"object"`
}

// answerPeople names users and groups by their ids: there is no directory here.
func answerPeople(a machine.Access, people machine.People, object string) peopleAnswer {
	answer := peopleAnswer{Users: []userPolicy{}, Groups: []groupPolicy{}, Object: object}
	for _, id := range slices.Sorted(maps.Keys(people.Users)) {
		r := people.Users[id]
		answer.Users = append(answer.Users, userPolicy{id, id, id == a.Subject(), r.Read, r.Write})
	}
	for _, id := range slices.Sorted(maps.Keys(people.Groups)) {
		r := people.Groups[id]
		answer.Groups = append(answer.Groups, groupPolicy{id, id, slices.Contains(a.Groups(), id), r.Read, r.Write})
	}
	return answer
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
	a, record, err := h.project(r, machine.ToWrite)
	if err != nil {
		return nil, err
	}
	people, err := readPeople(r)
	if err != nil {
		return nil, err
	}
	if err := h.secrets.SetProjectPeople(r.Context(), record.ID, people); err != nil {
		return nil, err
	}
	h.machines.Record(r.Context(), a, "project.set-people", record.ID)
	return answerPeople(a, people, projectPeopleObject), nil
}

type accountPolicy struct {
	ServiceAccountID   string `json:"serviceAccountId"`
	ServiceAccountName string `json:"serviceAccountName"`
	Read               bool   `json:"read"`
	Write              bool   `json:"write"`
}

type projectAccountsAnswer struct {
	Policies []accountPolicy `json:"serviceAccountAccessPolicies"`
	Object   string          `json:"object"`
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
	answer := projectAccountsAnswer{Policies: []accountPolicy{}, Object: "projectServiceAccountsAccessPolicies"}
	for _, holder := range holders {
		answer.Policies = append(answer.Policies, accountPolicy{holder.ID, holder.Name, holder.Read, holder.Write})
	}
	return answer, nil
}

type projectAccountsRequest struct {
	Policies []policyRequest `json:"serviceAccountAccessPolicyRequests"`
}

func (h *handler) putProjectAccounts(r smapi.Request) (any, error) {
	a, record, err := h.project(r, machine.ToWrite)
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
	want, err := rightsOf(body.Policies, granteeAccount)
	if err != nil {
		return nil, err
	}
	if err := h.mayGrant(r.Context(), a, record.ID, want); err != nil {
		return nil, err
	}
	if err := h.machines.SetProjectAccounts(r.Context(), a.Organization, record.ID, want); err != nil {
		return nil, err
	}
	h.machines.Record(r.Context(), a, "project.set-service-accounts", record.ID)
	return h.answerProjectAccounts(r.Context(), a, record.ID)
}

// mayGrant tells whether the caller may administer each account that would get
// more rights on the project than it has. Taking them away needs no more than
// the right to write the project.
func (h *handler) mayGrant(ctx context.Context, a machine.Access, project string, want map[string]machine.Rights) error {
	if a.IsAdmin() || len(want) == 0 {
		return nil
	}
	granted := maps.Clone(want)
	for account, err := range h.machines.Accounts(ctx, a.Organization) {
		if err != nil {
			return err
		}
		rights := account.Value.Projects[project]
		if rights.Cover(granted[account.ID]) || a.Account(account.Value.People).Cover(machine.ToWrite) {
			delete(granted, account.ID)
		}
	}
	if len(granted) > 0 {
		return machine.NotFound()
	}
	return nil
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
	Policies []policyRequest `json:"projectGrantedPolicyRequests"`
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
	want, err := rightsOf(body.Policies, grantedProject)
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
