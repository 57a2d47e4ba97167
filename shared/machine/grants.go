package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/latchkey-fn/latchkey/shared/store"
)

// What the document of an account can hold: together these leave room in
// store.MaxBody for the rest.
const (
	maxGrants = 2_000     // projects and single secrets of an account
	maxPeople = 96 * 1024 // bytes of the policies of people, as JSON
	maxPerson = 256       // bytes of the id of a user or a group
)

// Check tells what of these policies cannot be kept.
func (p People) Check() error {
	for _, of := range []map[string]Rights{p.Users, p.Groups} {
		for id := range of {
			if id == "" || len(id) > maxPerson || !utf8.ValidString(id) || strings.ContainsFunc(id, unicode.IsControl) {
				return Invalid("The id of a user or a group has 1 to %d bytes and no control characters.", maxPerson)
			}
		}
	}
	encoded, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("policies of people: %w", err)
	}
	if len(encoded) > maxPeople {
		return Invalid("There are too many policies of people here: put some of the people into a group.")
	}
	return nil
}

// kind is one of the two maps of an account's grants.
type kind func(*Account) *map[string]Rights

func projects(a *Account) *map[string]Rights { return &a.Projects }
func secrets(a *Account) *map[string]Rights  { return &a.Secrets }

// set makes the rights on one thing be these, where nil is none, and tells
// whether they were others before.
func (k kind) set(a *Account, id string, rights *Rights) (changed bool, err error) {
	of := k(a)
	before, had := (*of)[id]
	switch {
	case rights == nil:
		delete(*of, id)
		return had, nil
	case had && before == *rights:
		return false, nil
	case !had && len(a.Projects)+len(a.Secrets) >= maxGrants:
		return false, Invalid("A machine account can be granted %d projects and secrets at the most.", maxGrants)
	}
	if *of == nil {
		*of = map[string]Rights{}
	}
	(*of)[id] = *rights
	return true, nil
}

// regrant changes what an account may reach. One that was deleted meanwhile
// reaches nothing, and stays so.
func (m *Machines) regrant(ctx context.Context, account string, change func(*Account) (changed bool, err error)) error {
	_, err := m.accounts.Update(ctx, account, func(r *store.Record[Account]) error {
		if r.Value.Deleted != nil {
			return store.ErrUnchanged
		}
		changed, err := change(&r.Value)
		if err != nil {
			return err
		}
		if !changed {
			return store.ErrUnchanged
		}
		r.Value.Reached = m.now().UTC()
		return nil
	})
	return absentIsNotFound("service account", err)
}

// GrantProject adds a project to what an account may reach, or replaces its
// rights there.
func (m *Machines) GrantProject(ctx context.Context, account, project string, rights Rights) error {
	return m.regrant(ctx, account, func(a *Account) (bool, error) { return kind(projects).set(a, project, &rights) })
}

// ForgetProject takes a project from every account of the organisation.
func (m *Machines) ForgetProject(ctx context.Context, organization, project string) error {
	return m.setHolders(ctx, Access{Organization: organization}, projects, project, nil)
}

// ForgetSecrets takes secrets from every account of the organisation.
func (m *Machines) ForgetSecrets(ctx context.Context, organization string, ids []string) error {
	var holders []string
	for record, err := range m.Accounts(ctx, organization) {
		if err != nil {
			return err
		}
		if slices.ContainsFunc(ids, func(id string) bool { _, ok := record.Value.Secrets[id]; return ok }) {
			holders = append(holders, record.ID)
		}
	}
	for _, holder := range holders {
		err := m.regrant(ctx, holder, func(a *Account) (bool, error) {
			before := len(a.Secrets)
			for _, id := range ids {
				delete(a.Secrets, id)
			}
			return len(a.Secrets) != before, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// SetSecretAccounts makes these accounts, and no others, have a policy on a
// secret, for a caller who may write it. Whoever gives an account more than it
// has needs to administer that; taking away is free. Where one of them does not
// exist in the organisation, or must not be given it, nothing changes.
func (m *Machines) SetSecretAccounts(ctx context.Context, a Access, secret string, want map[string]Rights) error {
	return m.setHolders(ctx, a, secrets, secret, want)
}

// SetProjectAccounts does so on a project.
func (m *Machines) SetProjectAccounts(ctx context.Context, a Access, project string, want map[string]Rights) error {
	return m.setHolders(ctx, a, projects, project, want)
}

// setHolders changes one account after the other; broken off, it is gone on
// with when it is called again. Whether the caller may is looked at together with
// what is changed; where nothing is wanted it is not asked.
func (m *Machines) setHolders(ctx context.Context, a Access, of kind, id string, want map[string]Rights) error {
	hand := func(account string, to *Account) (changed bool, err error) {
		rights, has := wanted(want, account), (*of(to))[id]
		if rights != nil && !has.Cover(*rights) && !a.Account(to.People).Cover(ToWrite) {
			return false, NotFound()
		}
		return of.set(to, id, rights)
	}
	var changing []string
	missing := maps.Clone(want)
	for record, err := range m.Accounts(ctx, a.Organization) {
		if err != nil {
			return err
		}
		delete(missing, record.ID)
		// The record is ours: trying the change tells whether it can be made.
		changed, err := hand(record.ID, &record.Value)
		if err != nil {
			return err
		}
		if changed {
			changing = append(changing, record.ID)
		}
	}
	for account := range missing {
		if !a.IsAdmin() {
			return NotFound() // as if it were one that he may not see
		}
		return Invalid("There is no machine account %s in this organization.", account)
	}
	for _, account := range changing {
		if err := m.regrant(ctx, account, func(to *Account) (bool, error) { return hand(account, to) }); err != nil {
			return err
		}
	}
	return nil
}

func wanted(want map[string]Rights, account string) *Rights {
	if rights, ok := want[account]; ok {
		return &rights
	}
	return nil
}

// SetAccountProjects makes an account reach these projects, and no others, for
// a caller who may administer the account. mayChange is asked for each project
// whose rights change, which are then new there, or nil where it is taken away.
func (m *Machines) SetAccountProjects(ctx context.Context, c Caller, id string, want map[string]Rights, mayChange func(project string, rights *Rights) error) (store.Record[Account], error) {
	a, record, err := m.administer(ctx, c, id, func(_ Access, account *Account) error {
		before := maps.Clone(account.Projects)
		change := func(project string, rights *Rights) error {
			changed, err := kind(projects).set(account, project, rights)
			if err != nil || !changed {
				return err
			}
			return mayChange(project, rights)
		}
		for _, project := range slices.Sorted(maps.Keys(before)) {
			if rights := wanted(want, project); rights == nil {
				if err := change(project, nil); err != nil {
					return err
				}
			}
		}
		for _, project := range slices.Sorted(maps.Keys(want)) {
			if err := change(project, wanted(want, project)); err != nil {
				return err
			}
		}
		if maps.Equal(before, account.Projects) {
			return store.ErrUnchanged
		}
		account.Reached = m.now().UTC()
		return nil
	})
	if err != nil {
		return store.Record[Account]{}, err
	}
	m.Record(ctx, a, "service-account.grant", id)
	return record, nil
}

// Holder is an account that has a policy on something.
type Holder struct {
	ID, Name string
	Rights
}

// ProjectHolders are the accounts of an organisation with a policy on a project.
func (m *Machines) ProjectHolders(ctx context.Context, organization, project string) ([]Holder, error) {
	return m.holders(ctx, organization, projects, project)
}

// SecretHolders are those with a policy on the secret itself.
func (m *Machines) SecretHolders(ctx context.Context, organization, secret string) ([]Holder, error) {
	return m.holders(ctx, organization, secrets, secret)
}

func (m *Machines) holders(ctx context.Context, organization string, of kind, id string) ([]Holder, error) {
	var holders []Holder
	for record, err := range m.Accounts(ctx, organization) {
		if err != nil {
			return nil, err
		}
		if rights, ok := (*of(&record.Value))[id]; ok {
			holders = append(holders, Holder{record.ID, record.Value.Name, rights})
		}
	}
	return holders, nil
}
