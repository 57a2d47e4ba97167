package secret

import (
	"context"
	"sync"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

func TestPoliciesOnAProjectAreForPeopleWhoMayWriteIt(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	project := w.project(t)
	rights := func(id string, r machine.Rights) map[string]machine.Rights { return map[string]machine.Rights{id: r} }
	own := machine.People{Users: map[string]machine.Rights{"writer": machine.ToWrite, "reader": machine.ToRead}}
	if _, err := w.SetProjectPeople(ctx, w.admin, project, own); err != nil {
		t.Fatal(err)
	}
	account := w.machine(t, machine.Account{
		Projects: rights(project, machine.ToWrite), People: machine.People{Users: rights("writer", machine.ToWrite)},
	})
	for name, test := range map[string]struct {
		caller machine.Caller
		id     string
		want   fault.Class
	}{
		"an administrator":             {w.admin, project, ""},
		"one who may write it":         {person("writer", machine.Member), project, ""},
		"one who may read it":          {person("reader", machine.Member), project, fault.NotFound},
		"a member without a policy":    {person("other", machine.Member), project, fault.NotFound},
		"one who is no member":         {person("writer", machine.NoRole), project, fault.NotFound},
		"a machine that may write it":  {w.session(t, account, machine.Token{}), project, fault.NotFound},
		"nobody":                       {machine.Caller{}, project, fault.NotFound},
		"an administrator, of nothing": {w.admin, "5a1b0e52-7f3c-4f0d-9a57-b1d200c0fff0", fault.NotFound},
	} {
		a, err := w.SetProjectPeople(ctx, test.caller, test.id, own)
		wantClass(t, name, err, test.want)
		if err == nil && a.Organization != organization {
			t.Errorf("%s: %+v", name, a)
		}
		_, err = w.SetProjectAccounts(ctx, test.caller, test.id, rights(account, machine.ToRead))
		wantClass(t, name, err, test.want)
	}
	holders, err := w.machines.ProjectHolders(ctx, organization, project)
	if err != nil || len(holders) != 1 || holders[0].Rights != machine.ToRead {
		t.Errorf("%+v, %v", holders, err)
	}
}

// beforePut is a driver that does something once, before the first write.
type beforePut struct {
	store.Driver
	once sync.Once
	do   func()
}

func (d *beforePut) Put(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
	d.once.Do(d.do)
	return d.Driver.Put(ctx, doc, pre)
}

func TestWhoLostAProjectMeanwhileChangesNoPolicyOnIt(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	project := w.project(t)
	people := func(id string) machine.People {
		return machine.People{Users: map[string]machine.Rights{id: machine.ToWrite}}
	}
	if _, err := w.SetProjectPeople(ctx, w.admin, project, people("member")); err != nil {
		t.Fatal(err)
	}
	slow := New(Config{
		Store: store.New(&beforePut{Driver: w.driver, do: func() {
			if _, err := w.SetProjectPeople(ctx, w.admin, project, people("other")); err != nil {
				t.Error(err)
			}
		}}),
		Machines: w.machines, Logger: w.logger, Now: w.clock.now,
	})
	_, err := slow.SetProjectPeople(ctx, person("member", machine.Member), project, people("member"))
	wantClass(t, "a write that came too late", err, fault.NotFound)
	kept, err := w.Project(ctx, project)
	if err != nil || kept.Value.People.Users["other"] != machine.ToWrite || len(kept.Value.People.Users) != 1 {
		t.Errorf("%+v, %v", kept.Value.People, err)
	}
}
