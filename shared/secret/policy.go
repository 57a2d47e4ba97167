package secret

import (
	"context"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Policies are those on one secret itself.
type Policies struct {
	People machine.People
	// Accounts are the machine accounts', by id.
	Accounts map[string]machine.Rights
}

// Holders are who has a policy on one secret itself.
type Holders struct {
	People   machine.People
	Accounts []machine.Holder
}

// Policies gives the policies on a secret, to people who may write it.
func (s *Secrets) Policies(ctx context.Context, c machine.Caller, id string) (machine.Access, Holders, error) {
	a, view, err := s.reach(ctx, c, id, machine.ToWrite)
	if err == nil && a.IsMachine() {
		err = machine.NotFound()
	}
	if err != nil {
		return machine.Access{}, Holders{}, err
	}
	accounts, err := s.machines.SecretHolders(ctx, a.Organization, id)
	if err != nil {
		return machine.Access{}, Holders{}, err
	}
	return a, Holders{view.Head.Value.People, accounts}, nil
}

// setPolicies replaces the policies on a secret, for people who may write it:
// those of people in the head, which is still to be written, and those of
// accounts at once.
func (s *Secrets) setPolicies(ctx context.Context, a machine.Access, head *store.Record[Head], p *Policies) error {
	switch {
	case p == nil:
		return nil
	case a.IsMachine():
		return machine.NotFound()
	}
	if err := s.machines.SetSecretAccounts(ctx, a, head.ID, p.Accounts); err != nil {
		return err
	}
	head.Value.People = p.People
	return nil
}
