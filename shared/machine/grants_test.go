package machine_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

type rights = map[string]machine.Rights

func (w *world) read(t testing.TB, account string) machine.Account {
	t.Helper()
	record, err := w.Account(t.Context(), account)
	ok(t, err)
	return record.Value
}

func TestGrantsMadeAtOnceAreAllKept(t *testing.T) {
	const grants = 30
	w := newWorld(t)
	account := w.account(t, w.admin())
	errs := make([]error, grants)
	var group sync.WaitGroup
	for i := range grants {
		group.Go(func() {
			errs[i] = w.instance(w.driver).GrantProject(t.Context(), account, fmt.Sprint("project-", i), machine.ToRead)
		})
	}
	group.Wait()
	ok(t, errors.Join(errs...))
	if got := len(w.read(t, account).Projects); got != grants {
		t.Errorf("%d of %d grants are there", got, grants)
	}
}

func TestReachedChangesWhenTheReachDoes(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	account, bystander := w.account(t, w.admin()), w.account(t, w.admin())
	made := w.now()
	for _, step := range []struct {
		name    string
		run     func() error
		changes bool
	}{
		{"a project", func() error { return w.GrantProject(ctx, account, "p", machine.ToRead) }, true},
		{"the same again", func() error { return w.GrantProject(ctx, account, "p", machine.ToRead) }, false},
		{"more rights", func() error { return w.GrantProject(ctx, account, "p", machine.ToWrite) }, true},
		{"a secret", func() error {
			return w.SetSecretAccounts(ctx, access(t, w.admin(), w.organization), "s", rights{account: machine.ToRead})
		}, true},
		{"the same secret", func() error {
			return w.SetSecretAccounts(ctx, access(t, w.admin(), w.organization), "s", rights{account: machine.ToRead})
		}, false},
		{"another secret is forgotten", func() error { return w.ForgetSecrets(ctx, w.organization, []string{"x", "y"}) }, false},
		{"the secret is forgotten", func() error { return w.ForgetSecrets(ctx, w.organization, []string{"x", "s"}) }, true},
		{"another project is forgotten", func() error { return w.ForgetProject(ctx, w.organization, "q") }, false},
		{"the project is forgotten", func() error { return w.ForgetProject(ctx, w.organization, "p") }, true},
		{"projects", func() error {
			return w.SetProjectAccounts(ctx, access(t, w.admin(), w.organization), "p", rights{account: machine.ToRead})
		}, true},
		{"no projects", func() error { return w.SetProjectAccounts(ctx, access(t, w.admin(), w.organization), "p", nil) }, true},
	} {
		before := w.read(t, account).Reached
		w.wait(time.Second)
		if err := step.run(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		after := w.read(t, account)
		if after.Reached.After(before) != step.changes || !after.Revised.Equal(made) {
			t.Errorf("%s: reached was %s and is %s", step.name, before, after.Reached)
		}
	}
	if a := w.read(t, account); len(a.Projects)+len(a.Secrets) != 0 {
		t.Errorf("%+v", a)
	}
	if !w.read(t, bystander).Reached.Equal(made) {
		t.Error("another account changed as well")
	}
}

func TestAPolicyOfAnAccountThatIsNotThereChangesNothing(t *testing.T) {
	w, elsewhere := newWorld(t), newWorld(t)
	ctx := t.Context()
	account, gone := w.account(t, w.admin()), w.account(t, w.admin())
	ok(t, w.DeleteAccount(ctx, w.admin(), gone))
	foreign := elsewhere.account(t, elsewhere.admin())
	for name, id := range map[string]string{"unknown": uuid.NewString(), "deleted": gone, "foreign": foreign} {
		for set, run := range map[string]func(want rights) error{
			"project": func(want rights) error {
				return w.SetProjectAccounts(ctx, access(t, w.admin(), w.organization), "p", want)
			},
			"secret": func(want rights) error {
				return w.SetSecretAccounts(ctx, access(t, w.admin(), w.organization), "s", want)
			},
		} {
			err := run(rights{account: machine.ToRead, id: machine.ToRead})
			if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), id) {
				t.Errorf("%s, %s: %v", name, set, err)
			}
		}
	}
	if a := w.read(t, account); len(a.Projects)+len(a.Secrets) != 0 {
		t.Errorf("%+v", a)
	}
	want(t, w.GrantProject(ctx, uuid.NewString(), "p", machine.ToRead), fault.NotFound, "")
	ok(t, w.GrantProject(ctx, gone, "p", machine.ToRead)) // reaches nothing all the same
	_, err := w.Account(ctx, gone)
	want(t, err, fault.NotFound, "")
}

func TestAnAccountIsGivenMoreByThoseWhoAdministerItAlone(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	mine, other := w.account(t, w.admin()), w.account(t, w.admin())
	bob := w.person(machine.Member, "bob")
	administers := func(people machine.People) {
		t.Helper()
		_, err := w.SetAccountPeople(ctx, w.admin(), mine, people)
		ok(t, err)
	}
	byBob := machine.People{Users: rights{"bob": machine.ToWrite}}
	administers(byBob)
	for what, over := range map[string]func(*machine.Machines, machine.Caller, rights) error{
		"project": func(m *machine.Machines, c machine.Caller, want rights) error {
			return m.SetProjectAccounts(ctx, access(t, c, w.organization), "x", want)
		},
		"secret": func(m *machine.Machines, c machine.Caller, want rights) error {
			return m.SetSecretAccounts(ctx, access(t, c, w.organization), "x", want)
		},
	} {
		t.Run(what, func(t *testing.T) {
			set := func(c machine.Caller, want rights) error { return over(w.Machines, c, want) }
			granted := func(account string) rights {
				t.Helper()
				if what == "secret" {
					return w.read(t, account).Secrets
				}
				return w.read(t, account).Projects
			}
			nothing := func() {
				t.Helper()
				if len(granted(mine))+len(granted(other)) != 0 {
					t.Errorf("something was granted: %v, %v", granted(mine), granted(other))
				}
			}
			want(t, set(bob, rights{mine: machine.ToWrite, other: machine.ToRead}), fault.NotFound, "")
			nothing()
			want(t, set(bob, rights{mine: machine.ToWrite, uuid.NewString(): machine.ToRead}), fault.NotFound, "")
			nothing()
			// The right is taken away after it was looked at, and before it is used.
			slow := w.instance(&interleaved{Driver: w.driver, collection: "service-accounts", put: true, run: func() {
				administers(machine.People{})
			}})
			want(t, over(slow, bob, rights{mine: machine.ToWrite}), fault.NotFound, "")
			nothing()
			administers(byBob)

			ok(t, set(bob, rights{mine: machine.ToWrite}))
			ok(t, set(w.admin(), rights{mine: machine.ToWrite, other: machine.ToWrite}))
			ok(t, set(bob, rights{mine: machine.ToWrite, other: machine.ToRead})) // less than before
			if granted(other)["x"] != machine.ToRead {
				t.Errorf("%v", granted(other))
			}
			want(t, set(bob, rights{mine: machine.ToWrite, other: machine.ToWrite}), fault.NotFound, "")
			ok(t, set(bob, nil))
			nothing()
		})
	}
}

func TestHoldersAreThoseWithAPolicy(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	reader, writer := w.account(t, w.admin()), w.account(t, w.admin())
	w.account(t, w.admin())
	ok(t, w.SetProjectAccounts(ctx, access(t, w.admin(), w.organization), "p", rights{reader: machine.ToRead, writer: machine.ToWrite}))
	ok(t, w.SetSecretAccounts(ctx, access(t, w.admin(), w.organization), "s", rights{writer: machine.ToWrite}))
	ok(t, w.SetProjectAccounts(ctx, access(t, w.admin(), w.organization), "p", rights{reader: machine.ToWrite}))
	holders, err := w.ProjectHolders(ctx, w.organization, "p")
	if err != nil || len(holders) != 1 || holders[0].ID != reader || holders[0].Rights != machine.ToWrite || holders[0].Name == "" {
		t.Errorf("%+v %v", holders, err)
	}
	if holders, err = w.SecretHolders(ctx, w.organization, "s"); err != nil || len(holders) != 1 || holders[0].ID != writer {
		t.Errorf("%+v %v", holders, err)
	}
}

func TestSettingHoldersGoesOnWhereItBrokeOff(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	all := rights{}
	for range 5 {
		all[w.account(t, w.admin())] = machine.ToRead
	}
	w.driver.Inject(storetest.Fault{Method: storetest.Put, Collection: "service-accounts", Skip: 2})
	want(t, w.SetProjectAccounts(ctx, access(t, w.admin(), w.organization), "p", all), fault.Transient, "")
	ok(t, w.SetProjectAccounts(ctx, access(t, w.admin(), w.organization), "p", all))
	holders, err := w.ProjectHolders(ctx, w.organization, "p")
	if err != nil || len(holders) != len(all) {
		t.Errorf("%d holders of %d: %v", len(holders), len(all), err)
	}
}

func TestTheProjectsOfAnAccountChangeWhereEachMay(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	account := w.account(t, w.admin())
	var asked []string
	set := func(want rights, refuse string) error {
		asked = nil
		_, err := w.SetAccountProjects(ctx, w.admin(), account, want, func(project string, r *machine.Rights) error {
			asked = append(asked, fmt.Sprint(project, r != nil))
			if project == refuse {
				return machine.NotFound()
			}
			return nil
		})
		return err
	}
	start := rights{"a": machine.ToRead, "b": machine.ToRead, "c": machine.ToRead}
	ok(t, set(start, ""))
	want(t, set(rights{"a": machine.ToRead, "b": machine.ToWrite, "d": machine.ToRead}, "d"), fault.NotFound, "")
	if !slices.Equal(asked, []string{"cfalse", "btrue", "dtrue"}) {
		t.Errorf("asked for %v", asked)
	}
	if got := w.read(t, account).Projects; !maps.Equal(got, start) {
		t.Errorf("a refused change was made: %v", got)
	}
	want(t, set(rights{"b": machine.ToRead, "c": machine.ToRead}, "a"), fault.NotFound, "") // taken away
	ok(t, set(start, "a"))
	if len(asked) != 0 {
		t.Errorf("asked for %v where nothing changes", asked)
	}
}

// The largest account that is let be is one that the store takes.
func TestTheLargestAccountFits(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	account := w.account(t, w.admin())
	const most = 2000
	many := rights{}
	for range most {
		many[uuid.NewString()] = machine.Rights{Read: true}
	}
	setAll := func(want rights) error {
		_, err := w.SetAccountProjects(ctx, w.admin(), account, want, func(string, *machine.Rights) error { return nil })
		return err
	}
	ok(t, setAll(many))
	const full = "A machine account can be granted 2000 projects and secrets at the most."
	want(t, w.GrantProject(ctx, account, uuid.NewString(), machine.ToRead), fault.Invalid, full)
	want(t, w.SetSecretAccounts(ctx, access(t, w.admin(), w.organization), uuid.NewString(), rights{account: machine.ToRead}), fault.Invalid, full)
	want(t, w.SetProjectAccounts(ctx, access(t, w.admin(), w.organization), uuid.NewString(), rights{account: machine.ToRead}), fault.Invalid, full)
	others := rights{}
	for range most {
		others[uuid.NewString()] = machine.Rights{Read: true}
	}
	ok(t, setAll(others)) // those taken away make room
	others[uuid.NewString()] = machine.ToRead
	want(t, setAll(others), fault.Invalid, full)

	_, err := w.EditAccount(ctx, w.admin(), account, machine.AccountSettings{Name: strings.Repeat("x", machine.MaxName)})
	ok(t, err)
	people, last := machine.People{Users: rights{}}, ""
	for people.Check() == nil {
		last = strings.Repeat("<", 200) + uuid.NewString() // each < is six bytes of JSON
		people.Users[last] = machine.ToWrite
	}
	_, err = w.SetAccountPeople(ctx, w.admin(), account, people)
	want(t, err, fault.Invalid, "too many policies of people")
	delete(people.Users, last)
	_, err = w.SetAccountPeople(ctx, w.admin(), account, people)
	ok(t, err)
	doc, err := w.driver.Get(ctx, "service-accounts", account)
	ok(t, err)
	if len(doc.Body) < store.MaxBody*8/10 {
		t.Errorf("the largest document has %d bytes of %d: this is not the largest", len(doc.Body), store.MaxBody)
	}
}

func TestIDsOfPeopleThatCannotBeKeptAreRefused(t *testing.T) {
	for _, id := range []string{"", strings.Repeat("x", 257), "a\x00b", "a\nb", "\xff"} {
		for _, people := range []machine.People{{Users: rights{id: machine.ToWrite}}, {Groups: rights{id: machine.ToWrite}}} {
			want(t, people.Check(), fault.Invalid, "The id of a user or a group")
		}
	}
	ok(t, machine.People{Users: rights{"auth0|5f7c8ec7c33c6c004bbafe82": machine.ToRead}, Groups: rights{"Entwickler (Köln)": machine.ToRead}}.Check())
}

// model is what a machine or a person may do with a secret, written down without
// a look at how Access finds it out.
type model struct {
	machine, admin, readOnly bool
	limited                  []string // projects
	onProject, onSecret      machine.Rights
	users, groups, direct    machine.Rights
}

func (m model) secret(project string) machine.Rights {
	if m.machine {
		if len(m.limited) > 0 && !slices.Contains(m.limited, project) {
			return machine.Rights{}
		}
		r := machine.Rights{Read: m.onSecret.Read, Write: m.onSecret.Write}
		if project != "" {
			r.Read, r.Write = r.Read || m.onProject.Read, r.Write || m.onProject.Write
		}
		r.Write = r.Write && !m.readOnly
		return r
	}
	if m.admin {
		return machine.Rights{Read: true, Write: true}
	}
	r := m.direct
	if project != "" {
		r = machine.Rights{Read: r.Read || m.users.Read || m.groups.Read, Write: r.Write || m.users.Write || m.groups.Write}
	}
	return r
}

func TestAccessIsWhatTheModelSays(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func() machine.Rights { return machine.Rights{Read: random.IntN(2) == 0, Write: random.IntN(2) == 0} }
	for range 300 {
		m := model{
			machine: random.IntN(2) == 0, admin: random.IntN(4) == 0, readOnly: random.IntN(2) == 0,
			onProject: pick(), onSecret: pick(), users: pick(), groups: pick(), direct: pick(),
		}
		switch random.IntN(3) {
		case 0:
			m.limited = []string{"other"}
		case 1:
			m.limited = []string{"other", "project"}
		}
		w := newWorld(t)
		var caller machine.Caller
		if m.machine {
			account := w.account(t, w.admin())
			ok(t, w.GrantProject(t.Context(), account, "project", m.onProject))
			ok(t, w.SetSecretAccounts(t.Context(), access(t, w.admin(), w.organization), "secret", rights{account: m.onSecret}))
			request := w.newToken()
			request.ReadOnly, request.Projects = m.readOnly, m.limited
			record, _, err := w.CreateToken(t.Context(), w.admin(), account, request)
			ok(t, err)
			caller = w.machine(t, account, record.ID)
		} else {
			role := machine.Member
			if m.admin {
				role = machine.Admin
			}
			caller = w.person(role, "bob", "staff", "ops")
		}
		a := access(t, caller, w.organization)
		onProject := machine.People{Users: rights{"bob": m.users, "eve": machine.ToWrite}, Groups: rights{"ops": m.groups, "others": machine.ToWrite}}
		onSecret := machine.People{Users: rights{"bob": m.direct}}
		for _, project := range []string{"project", ""} {
			var through machine.Rights
			if project != "" {
				through = a.Project(project, onProject)
			}
			if got, want := a.Secret("secret", project, through, onSecret), m.secret(project); got != want {
				t.Fatalf("%+v in %q: %+v, want %+v", m, project, got, want)
			}
		}
		if got := a.Secret("another secret", "another project", a.Project("another project", machine.People{}), machine.People{}); got != (machine.Rights{}) && !a.IsAdmin() {
			t.Fatalf("%+v: %+v on what no policy names", m, got)
		}
		projects, secrets := a.Reach()
		if reads := slices.Contains(projects, "project"); reads != (m.machine && a.Project("project", onProject).Read) {
			t.Fatalf("%+v reaches %v", m, projects)
		}
		// Where to look must hold all that can be read.
		if reads := a.Secret("secret", "", machine.Rights{}, machine.People{}).Read; m.machine && reads && !slices.Contains(secrets, "secret") {
			t.Fatalf("%+v reaches %v", m, secrets)
		}
		if got := a.Account(onSecret); m.machine && got != (machine.Rights{}) {
			t.Fatalf("a machine may manage accounts: %+v", got)
		}
		wantCreate := !m.machine || (!m.readOnly && len(m.limited) == 0)
		if err := a.CreateProject(); (err == nil) != wantCreate || (err != nil && fault.Of(err) != fault.NotFound) {
			t.Fatalf("%+v may create a project: %v", m, err)
		}
	}
}

func TestAnAccountCanBeKeptFromCreatingProjects(t *testing.T) {
	w := newWorld(t)
	account := w.account(t, w.admin())
	token, _ := w.token(t, account)
	ok(t, access(t, w.machine(t, account, token), w.organization).CreateProject())
	no := false
	_, err := w.EditAccount(t.Context(), w.admin(), account, machine.AccountSettings{Name: w.org.Encrypt("x"), MayCreateProjects: &no})
	ok(t, err)
	want(t, access(t, w.machine(t, account, token), w.organization).CreateProject(), fault.NotFound, "Resource not found. This machine account may not create projects.")
}

func TestAReadOnlyTokenIsToldSo(t *testing.T) {
	w := newWorld(t)
	account := w.account(t, w.admin())
	request := w.newToken()
	request.ReadOnly = true
	record, _, err := w.CreateToken(t.Context(), w.admin(), account, request)
	ok(t, err)
	want(t, access(t, w.machine(t, account, record.ID), w.organization).WhyNot(), fault.NotFound, "This access token is read-only.")
	want(t, access(t, w.admin(), w.organization).WhyNot(), fault.NotFound, "Resource not found.")
}
