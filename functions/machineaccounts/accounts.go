package machineaccounts

import (
	"context"
	"slices"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// maxDeleted is how many accounts can be deleted at once.
const maxDeleted = 250

type accountAnswer struct {
	ID                string    `json:"id"`
	OrganizationID    string    `json:"organizationId"`
	Name              string    `json:"name"`
	CreationDate      time.Time `json:"creationDate"`
	RevisionDate      time.Time `json:"revisionDate"`
	MayCreateProjects bool      `json:"mayCreateProjects"`
	// AccessToSecrets is how many secrets it reaches; in lists only.
	AccessToSecrets *int   `json:"accessToSecrets,omitempty"`
	Object          string `json:"object"`
}

func answerAccount(r store.Record[machine.Account]) accountAnswer {
	return accountAnswer{
		ID: r.ID, OrganizationID: r.Parent, Name: r.Value.Name, CreationDate: r.Value.Created, RevisionDate: r.Value.Revised,
		MayCreateProjects: !r.Value.NoNewProjects, Object: "serviceAccount",
	}
}

func (h *handler) listAccounts(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	reached := func(machine.Account) int { return 0 }
	if r.URL.Query().Get("includeAccessToSecrets") == "true" {
		places, err := h.places(r.Context(), a.Organization)
		if err != nil {
			return nil, err
		}
		reached = places.reached
	}
	var answers []accountAnswer
	for record, err := range h.machines.Accounts(r.Context(), a.Organization) {
		if err != nil {
			return nil, err
		}
		if !a.Account(record.Value.People).Read {
			continue
		}
		answer, count := answerAccount(record), reached(record.Value)
		answer.AccessToSecrets = &count
		answers = append(answers, answer)
	}
	return smapi.NewList(answers), nil
}

// places are where an organisation's secrets are: how many in each project, and
// the project of each.
type places struct {
	inProject map[string]int
	projectOf map[string]string
}

func (h *handler) places(ctx context.Context, organization string) (places, error) {
	p := places{map[string]int{}, map[string]string{}}
	for head, err := range h.secrets.Heads(ctx, organization) {
		if err != nil {
			return places{}, err
		}
		p.projectOf[head.ID] = head.Lookup
		p.inProject[head.Lookup]++
	}
	return p, nil
}

// reached counts the secrets that an account can read.
func (p places) reached(account machine.Account) int {
	count := 0
	for project, rights := range account.Projects {
		if rights.Read {
			count += p.inProject[project]
		}
	}
	for id, rights := range account.Secrets {
		project, exists := p.projectOf[id]
		if exists && rights.Read && !account.Projects[project].Read {
			count++
		}
	}
	return count
}

type accountRequest struct {
	Name              string `json:"name"`
	MayCreateProjects *bool  `json:"mayCreateProjects"`
}

func readAccount(r smapi.Request) (machine.AccountSettings, error) {
	var body accountRequest
	if err := r.Read(&body); err != nil {
		return machine.AccountSettings{}, err
	}
	fields := machine.Fields{}
	fields.EncString("name", body.Name, machine.MaxName)
	return machine.AccountSettings{Name: body.Name, MayCreateProjects: body.MayCreateProjects}, fields.Problem()
}

func (h *handler) createAccount(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	settings, err := readAccount(r)
	if err != nil {
		return nil, err
	}
	record, err := h.machines.CreateAccount(r.Context(), a, settings)
	if err != nil {
		return nil, err
	}
	return answerAccount(record), nil
}

func (h *handler) getAccount(r smapi.Request) (any, error) {
	_, record, err := h.account(r, machine.ToRead)
	if err != nil {
		return nil, err
	}
	return answerAccount(record), nil
}

// account is the one that the path names, for a caller who needs these rights.
func (h *handler) account(r smapi.Request, need machine.Rights) (machine.Access, store.Record[machine.Account], error) {
	id, err := r.ID("id")
	if err != nil {
		return machine.Access{}, store.Record[machine.Account]{}, err
	}
	return h.machines.AccountFor(r.Context(), r.Caller, id, need)
}

func (h *handler) putAccount(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	settings, err := readAccount(r)
	if err != nil {
		return nil, err
	}
	record, err := h.machines.EditAccount(r.Context(), r.Caller, id, settings)
	if err != nil {
		return nil, err
	}
	return answerAccount(record), nil
}

// deleteAccounts says of each account whether it is deleted. One that does not
// exist and one that the caller may not delete are not told apart.
func (h *handler) deleteAccounts(r smapi.Request) (any, error) {
	var body []string
	if err := r.Read(&body); err != nil {
		return nil, err
	}
	if len(body) > maxDeleted {
		return nil, machine.Invalid("At most %d machine accounts can be deleted at once.", maxDeleted)
	}
	ids, err := smapi.IDs(body)
	if err != nil {
		return nil, err
	}
	var results []smapi.BulkResult
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			continue
		}
		problem := ""
		if err := h.machines.DeleteAccount(r.Context(), r.Caller, id); fault.Of(err) == fault.NotFound {
			problem = smapi.AccessDenied
			h.machines.Denied(r.Context(), r.Caller, machine.AccountDeleted, id)
		} else if err != nil {
			return nil, err
		}
		results = append(results, smapi.NewBulkResult(id, problem))
	}
	return smapi.NewList(results), nil
}
