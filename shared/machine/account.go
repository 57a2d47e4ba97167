package machine

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Account reads an account; NotFound where there is none, or none any more.
func (m *Machines) Account(ctx context.Context, id string) (store.Record[Account], error) {
	record, err := m.findAccount(ctx, id)
	if err == nil && record.Value.Deleted != nil {
		return store.Record[Account]{}, NotFound()
	}
	return record, err
}

// findAccount reads an account, deleted or not.
func (m *Machines) findAccount(ctx context.Context, id string) (store.Record[Account], error) {
	record, err := m.accounts.Get(ctx, id)
	return record, absentIsNotFound("service account", err)
}

// absentIsNotFound turns the store's NotFound into the answer to clients.
func absentIsNotFound(what string, err error) error {
	if problem, told := AsProblem(err); told {
		return problem
	}
	switch fault.Of(err) {
	case "":
		return err
	case fault.NotFound:
		return NotFound()
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// AccountFor reads an account for a caller who needs these rights on it;
// NotFound where he has them not.
func (m *Machines) AccountFor(ctx context.Context, c Caller, id string, need Rights) (Access, store.Record[Account], error) {
	record, err := m.Account(ctx, id)
	if err != nil {
		return Access{}, store.Record[Account]{}, err
	}
	a, err := c.over(record, need)
	if err != nil {
		return Access{}, store.Record[Account]{}, err
	}
	return a, record, nil
}

// Accounts walks the accounts of an organisation in the order of their making.
func (m *Machines) Accounts(ctx context.Context, organization string) iter.Seq2[store.Record[Account], error] {
	return func(yield func(store.Record[Account], error) bool) {
		for record, err := range m.accounts.ByParent(ctx, organization) {
			if err != nil {
				yield(record, fmt.Errorf("service accounts: %w", err))
				return
			}
			if record.Value.Deleted == nil && !yield(record, nil) {
				return
			}
		}
	}
}

// AccountSettings are what can be said of an account itself.
type AccountSettings struct {
	Name string // an EncString
	// MayCreateProjects: nil leaves it as it is, which is true at first.
	MayCreateProjects *bool
}

func (s AccountSettings) apply(to *Account) {
	to.Name = s.Name
	if s.MayCreateProjects != nil {
		to.NoNewProjects = !*s.MayCreateProjects
	}
}

// CreateAccount makes an account, which its maker may administer.
func (m *Machines) CreateAccount(ctx context.Context, a Access, settings AccountSettings) (store.Record[Account], error) {
	if a.person == nil {
		return store.Record[Account]{}, NotFound()
	}
	id, err := uuid.NewV7()
	if err != nil {
		return store.Record[Account]{}, fmt.Errorf("service account: %w", err)
	}
	now := m.now().UTC()
	record := store.Record[Account]{ID: id.String(), Parent: a.Organization, Value: Account{
		Created: now, Revised: now, Reached: now,
		People: People{Users: map[string]Rights{a.Subject(): ToWrite}},
	}}
	settings.apply(&record.Value)
	if err := record.Value.People.Check(); err != nil {
		return store.Record[Account]{}, err
	}
	if record.Revision, err = m.accounts.Put(ctx, record, store.Absent()); err != nil {
		return store.Record[Account]{}, fmt.Errorf("service account: %w", err)
	}
	m.Done(ctx, a, AccountCreated, record.ID, "", record.ID)
	return record, nil
}

// EditAccount changes what can be said of an account itself.
func (m *Machines) EditAccount(ctx context.Context, c Caller, id string, settings AccountSettings) (store.Record[Account], error) {
	a, record, err := m.administer(ctx, c, id, func(_ Access, account *Account) error {
		settings.apply(account)
		account.Revised = m.now().UTC()
		return nil
	})
	if err != nil {
		return store.Record[Account]{}, err
	}
	m.Record(ctx, a, "service-account.edit", id)
	return record, nil
}

// administer changes an account for somebody who may, which is looked at
// together with what is changed.
func (m *Machines) administer(ctx context.Context, c Caller, id string, change func(Access, *Account) error) (a Access, record store.Record[Account], err error) {
	record, err = m.accounts.Update(ctx, id, func(r *store.Record[Account]) (err error) {
		if r.Value.Deleted != nil {
			return NotFound()
		}
		if a, err = c.over(*r, ToWrite); err != nil {
			return err
		}
		return change(a, &r.Value)
	})
	return a, record, absentIsNotFound("service account", err)
}

// DeleteAccount ends every session of an account at its next request, and then
// revokes its tokens. What was begun is gone on with when it is called again.
// The record stays, without what it granted, so that sessions can be told why.
func (m *Machines) DeleteAccount(ctx context.Context, c Caller, id string) error {
	var a Access
	fresh := false
	_, err := m.accounts.Update(ctx, id, func(r *store.Record[Account]) (err error) {
		if a, err = c.over(*r, ToWrite); err != nil {
			return err
		}
		if fresh = r.Value.Deleted == nil; !fresh {
			return store.ErrUnchanged
		}
		r.Value.Deleted = &Deletion{Deed{m.now().UTC(), a.Actor()}, r.Parent}
		r.Value.Projects, r.Value.Secrets, r.Parent = nil, nil, ""
		return nil
	})
	if err != nil {
		return absentIsNotFound("service account", err)
	}
	if fresh {
		m.Done(ctx, a, AccountDeleted, id, "", id)
	}
	var tokens []string
	for token, err := range m.Tokens(ctx, id) {
		if err != nil {
			return err
		}
		if token.Value.Revoked == nil {
			tokens = append(tokens, token.ID)
		}
	}
	return m.revoke(ctx, a, id, tokens)
}

// SetAccountPeople replaces the policies of people on an account.
func (m *Machines) SetAccountPeople(ctx context.Context, c Caller, id string, people People) (store.Record[Account], error) {
	if err := people.Check(); err != nil {
		return store.Record[Account]{}, err
	}
	var before People
	a, record, err := m.administer(ctx, c, id, func(_ Access, account *Account) error {
		before, account.People = account.People, people
		return nil
	})
	if err != nil {
		return store.Record[Account]{}, err
	}
	for _, difference := range []struct {
		what      Type
		with, not map[string]Rights
	}{
		{AccountPeopleAdded, people.Users, before.Users}, {AccountPeopleRemoved, before.Users, people.Users},
		{AccountGroupAdded, people.Groups, before.Groups}, {AccountGroupRemoved, before.Groups, people.Groups},
	} {
		for _, who := range slices.Sorted(maps.Keys(difference.with)) {
			if _, both := difference.not[who]; !both {
				m.Done(ctx, a, difference.what, id, "", who)
			}
		}
	}
	return record, nil
}
