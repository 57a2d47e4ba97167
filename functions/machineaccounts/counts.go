package machineaccounts

import (
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

// Counts are of what the caller can read.

type organizationCounts struct {
	Projects        int    `json:"projects"`
	Secrets         int    `json:"secrets"`
	ServiceAccounts int    `json:"serviceAccounts"`
	Object          string `json:"object"`
}

func (h *handler) countOrganization(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	counts := organizationCounts{Object: "organizationCounts"}
	projects, err := h.projects(r.Context(), a)
	if err != nil {
		return nil, err
	}
	for _, project := range projects {
		if project.Read {
			counts.Projects++
		}
	}
	for head, err := range h.secrets.Heads(r.Context(), a.Organization) {
		if err != nil {
			return nil, err
		}
		if a.Secret(head.ID, head.Lookup, projects[head.Lookup].Rights, head.Value.People).Read {
			counts.Secrets++
		}
	}
	for account, err := range h.machines.Accounts(r.Context(), a.Organization) {
		if err != nil {
			return nil, err
		}
		if a.Account(account.Value.People).Read {
			counts.ServiceAccounts++
		}
	}
	return counts, nil
}

type projectCounts struct {
	Secrets         int    `json:"secrets"`
	People          int    `json:"people"`
	ServiceAccounts int    `json:"serviceAccounts"`
	Object          string `json:"object"`
}

func (h *handler) countProject(r smapi.Request) (any, error) {
	a, record, err := h.project(r, machine.ToRead)
	if err != nil {
		return nil, err
	}
	holders, err := h.machines.ProjectHolders(r.Context(), a.Organization, record.ID)
	if err != nil {
		return nil, err
	}
	counts := projectCounts{
		People: count(record.Value.People), ServiceAccounts: len(holders), Object: "projectCounts",
	}
	// Whoever reads the project reads its secrets.
	for head, err := range h.secrets.Heads(r.Context(), a.Organization) {
		if err != nil {
			return nil, err
		}
		if head.Lookup == record.ID {
			counts.Secrets++
		}
	}
	return counts, nil
}

type accountCounts struct {
	Projects     int    `json:"projects"`
	People       int    `json:"people"`
	AccessTokens int    `json:"accessTokens"`
	Object       string `json:"object"`
}

func (h *handler) countAccount(r smapi.Request) (any, error) {
	_, record, err := h.account(r, machine.ToRead)
	if err != nil {
		return nil, err
	}
	counts := accountCounts{
		Projects: len(record.Value.Projects), People: count(record.Value.People), Object: "serviceAccountCounts",
	}
	for token, err := range h.machines.Tokens(r.Context(), record.ID) {
		if err != nil {
			return nil, err
		}
		if token.Value.Revoked == nil {
			counts.AccessTokens++
		}
	}
	return counts, nil
}

func count(people machine.People) int { return len(people.Users) + len(people.Groups) }
